"""Augmentation against scipy and numpy, and the promise that it depends on nothing but the key."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage

from configs.default import get_config
from unet_jax.training import augment as aug
from unet_jax.training import space

SHAPES = [(20, 27), (10, 12, 9)]
OFF = dict(spatial_probability=0.0, brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0, blur=0.0, low_resolution=0.0)


def options(axes=2, **fields):
    config = get_config().augment
    with config.unlocked():
        config.update({'flip': (False,) * axes, **fields})
    return config


def example(shape, channels=2, dtype=np.uint8, seed=0):
    """White noise, the hardest image to interpolate, and a blocky label with bits 0, 1, both, and the highest."""
    rng = np.random.default_rng(seed)
    image = rng.normal(1, 2, (*shape, channels)).astype(np.float32)
    values = np.array([0, 1, 2, 3, 1 << np.dtype(dtype).itemsize * 8 - 1], dtype)
    label = values[rng.integers(0, 5, [-(-n // 4) for n in shape])]
    for axis in range(len(shape)):
        label = label.repeat(4, axis)
    return image, label[tuple(slice(n) for n in shape)]


def batch(shape, size):
    images, labels = zip(*(example(shape, seed=i) for i in range(size)))
    return jax.random.split(jax.random.key(7), size), np.stack(images), np.stack(labels)


def compiled(config):
    return jax.jit(jax.vmap(functools.partial(aug.augment, config=config)))


def per_channel(function, image):
    return np.stack([function(image[..., c]) for c in range(image.shape[-1])], -1)


@jax.jit
def moved(image, label, matrix, shift, displacement=None):
    return space.resample(image, label, space.coordinates(label.shape, matrix, shift, displacement))


def random_map(shape, seed=0):
    """A rotation of up to 90 degrees about each axis, zoomed, and a shift of several pixels: corners fall outside."""
    rng = np.random.default_rng(seed)
    angles = jnp.asarray(rng.uniform(-1.5, 1.5, len(shape) * (len(shape) - 1) // 2), jnp.float32)
    return space.rotation_matrix(angles, len(shape)) / 1.3, jnp.asarray(rng.uniform(-4, 4, len(shape)), jnp.float32)


@pytest.fixture(scope='module', params=SHAPES, ids=['2-D', '3-D'])
def everything(request):
    """The compiled function with every option on (elastic in 3-D only), eight examples, and what became of them."""
    axes = len(request.param)
    elastic = dict(elastic=2.0, elastic_grid=4) if axes == 3 else {}
    run = compiled(options(axes, flip=(True,) * axes, intensity_probability=1.0, **elastic))
    given = batch(request.param, 8)
    return run, given, run(*given)


def test_everything_at_once_keeps_shapes_and_types_and_is_finite(everything):
    _, (_, images, labels), (image, label) = everything
    assert image.shape == images.shape and image.dtype == jnp.float32 and np.isfinite(image).all()
    assert label.shape == labels.shape and label.dtype == jnp.uint8
    assert all(not np.allclose(a, b) for a, b in zip(image, images))


@pytest.mark.parametrize('shape', SHAPES)
def test_resample_equals_scipy_map_coordinates(shape):
    image, label = example(shape)
    source = np.random.default_rng(1).uniform(-3, np.array(shape) + 2, (*shape, len(shape))).astype(np.float32)
    source = np.moveaxis(source, -1, 0)
    got_image, got_label = jax.jit(space.resample)(image, label, list(source))
    want = per_channel(lambda c: ndimage.map_coordinates(c, source, order=1, mode='grid-constant'), image)
    np.testing.assert_allclose(got_image, want, atol=1e-4)
    want = ndimage.map_coordinates(label, source, order=0, mode='grid-constant')
    np.testing.assert_array_equal(got_label, want)


@pytest.mark.parametrize('shape', SHAPES)
def test_rotation_scaling_and_shift_equal_scipy_affine_transform(shape):
    image, label = example(shape)
    matrix, shift = random_map(shape)
    got_image, got_label = moved(image, label, matrix, shift)
    centre = (np.array(shape) - 1) / 2
    matrix = np.asarray(matrix, float)
    offset = centre + np.asarray(shift, float) - matrix @ centre
    affine = functools.partial(ndimage.affine_transform, matrix=matrix, offset=offset, mode='grid-constant')
    np.testing.assert_allclose(got_image, per_channel(lambda c: affine(c, order=1), image), atol=1e-4)
    np.testing.assert_array_equal(got_label, affine(label, order=0))
    assert (got_label == 0).sum() > (label == 0).sum()  # outside is background


def test_rotation_matrix_is_a_rotation_and_a_quarter_turn_is_rot90():
    matrix = np.asarray(jax.jit(space.rotation_matrix, static_argnums=1)(jnp.array([0.3, -0.8, 1.1]), 3))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-6)
    image, label = example((12, 12))
    quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(space.rotation_matrix(jnp.array([np.pi / 2]), 2), quarter, atol=1e-6)
    got_image, got_label = moved(image, label, quarter, jnp.zeros(2))
    np.testing.assert_allclose(got_image, np.rot90(image, -1), atol=1e-4)
    np.testing.assert_array_equal(got_label, np.rot90(label, -1))


def test_a_displacement_is_added_to_the_source_in_pixels():
    image, label = example((20, 27))
    field = jnp.stack([jnp.full((20, 27), 3.0), jnp.full((20, 27), -2.0)])
    got_image, got_label = moved(image, label, jnp.eye(2), jnp.zeros(2), field)
    np.testing.assert_array_equal(got_image[:17, 2:], image[3:, :-2])
    np.testing.assert_array_equal(got_label[:17, 2:], label[3:, :-2])
    assert not got_image[17:].any() and not got_image[:, :2].any()


def test_elastic_displacement_has_the_size_asked_for_and_is_smooth():
    config = options(spatial_probability=1.0, rotation=0.0, scale=(1, 1), shift=0.0, elastic=3.0, elastic_grid=5)
    draw = jax.jit(jax.vmap(lambda k: jnp.stack(space.random_coordinates(jnp.zeros(8), k, (40, 60), config))))
    field = np.asarray(draw(jax.random.split(jax.random.key(0), 64))) - np.indices((40, 60))
    assert 1.8 < field.std() < 3.3  # 3 at the control points, less between them
    assert abs(field.mean()) < 0.3
    assert np.abs(np.diff(field, axis=2)).mean() < 0.25 * field.std()


@pytest.mark.parametrize('shape', SHAPES)
def test_blur_equals_scipy_gaussian_filter_normalised_at_the_border(shape):
    image, _ = example(shape)
    blur = functools.partial(ndimage.gaussian_filter, sigma=1.3, mode='constant', truncate=9)
    want = per_channel(blur, image.astype(float)) / blur(np.ones(shape))[..., None]
    np.testing.assert_allclose(jax.jit(aug.smooth)(image, sigma=1.3, factor=1), want, atol=1e-4)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('factor', [1.37, 2.0])
def test_low_resolution_equals_scipy_zoom_down_nearest_and_up_linear(shape, factor):
    image, _ = example(shape)
    coarse = np.round(np.array(shape) / factor)
    zoom = functools.partial(ndimage.zoom, grid_mode=True, mode='nearest')
    want = per_channel(lambda c: zoom(zoom(c, coarse / shape, order=0), shape / coarse, order=1), image)
    np.testing.assert_allclose(jax.jit(aug.smooth)(image, sigma=0, factor=factor), want, atol=1e-4)


def test_low_resolution_comes_after_the_blur():
    image, _ = example((20, 27))
    smooth = jax.jit(aug.smooth)
    one_by_one = smooth(smooth(image, sigma=1.1, factor=1), sigma=0, factor=1.6)
    np.testing.assert_allclose(smooth(image, sigma=1.1, factor=1.6), one_by_one, atol=1e-5)


def inside_of(image):
    """Half of the image, in stripes."""
    return np.arange(image.shape[0]).reshape(-1, *[1] * (image.ndim - 1)) % 2 == np.zeros(image.shape[:-1] + (1,))


def test_contrast_and_gamma_equal_numpy_per_channel_inside_and_change_nothing_outside():
    image = example((20, 27))[0]
    inside = inside_of(image)
    stripes = image[::2]
    mean, low, high, deviation = (f(stripes, axis=(0, 1)) for f in (np.mean, np.min, np.max, np.std))
    for factor in (0.7, 1.3):
        found = np.asarray(aug.contrast(image, inside, jnp.float32(factor)))
        want = np.clip((stripes - mean) * factor + mean, low, high)
        np.testing.assert_allclose(found[::2], want, atol=1e-5)
        np.testing.assert_array_equal(found[1::2], image[1::2])
    bent = ((stripes - low) / (high - low)) ** 1.4
    want = (bent - bent.mean((0, 1))) / bent.std((0, 1)) * deviation + mean
    found = np.asarray(jax.jit(aug.gamma)(image, inside, 1.4))
    np.testing.assert_allclose(found[::2], want, atol=1e-4)
    np.testing.assert_array_equal(found[1::2], image[1::2])


def test_a_constant_and_an_empty_inside_stay_as_they_are():
    flat = np.full((4, 4, 1), 2.5, np.float32)
    for inside in (np.ones((4, 4, 1), bool), np.zeros((4, 4, 1), bool)):
        for changed in (aug.gamma(flat, inside, jnp.float32(0.8)), aug.contrast(flat, inside, jnp.float32(1.3)),
                        aug.noise(jax.random.key(0), flat, inside, jnp.float32(0.3))):
            np.testing.assert_array_equal(changed, flat)


def test_noise_is_normal_in_units_of_the_channels_own_deviation_and_only_inside():
    image = example((64, 64))[0] * np.float32([1, 50])
    inside = inside_of(image)
    added = np.asarray(aug.noise(jax.random.key(0), image, inside, 0.2)) - image
    assert not added[1::2].any()
    np.testing.assert_allclose(added[::2].std((0, 1)) / image[::2].std((0, 1)), 0.2, rtol=0.05)
    np.testing.assert_allclose(added[::2].mean((0, 1)) / image[::2].std((0, 1)), 0, atol=0.02)


def test_brightness_multiplies_by_one_factor_within_its_range():
    config = options(**{**OFF, 'brightness': 0.15}, intensity_probability=1.0)
    keys, images, labels = batch((8, 8), 64)
    factor = np.asarray(compiled(config)(keys, images, labels)[0]) / images
    np.testing.assert_allclose(factor, factor[:, :1, :1, :1].repeat(8, 1).repeat(8, 2).repeat(2, 3), rtol=1e-5)
    assert 0.85 <= factor.min() < 0.9 and 1.1 < factor.max() <= 1.15 + 1e-6


@pytest.mark.parametrize('shape', SHAPES)
def test_flip_mirrors_the_chosen_axes_and_twice_is_the_identity(shape):
    image, label = example(shape)
    mirrored, flip = jnp.arange(len(shape)) != 1, jax.jit(space.flip)
    once = flip(image, mirrored)
    np.testing.assert_array_equal(once, np.flip(image, [a for a in range(len(shape)) if a != 1]))
    np.testing.assert_array_equal(flip(once, mirrored), image)
    np.testing.assert_array_equal(flip(flip(label, mirrored), mirrored), label)


def test_image_and_label_are_flipped_together_on_half_the_visits_along_the_allowed_axis_only():
    config = options(**{**OFF, 'flip': (False, True)})
    image = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    keys = jax.random.split(jax.random.key(0), 1000)
    label = image[..., 0].astype(np.uint8)
    images, labels = jax.jit(jax.vmap(lambda k: aug.augment(k, image, label, config)))(keys)
    np.testing.assert_array_equal(images[..., 0], labels)
    flipped = (np.asarray(images) == image[:, ::-1]).all((1, 2, 3))
    assert (flipped | (np.asarray(images) == image).all((1, 2, 3))).all()
    assert 0.44 < flipped.mean() < 0.56


def test_what_chance_turns_off_changes_no_bit():
    keys, images, labels = batch((20, 27), 2)
    never = options(spatial_probability=1e-30, intensity_probability=1e-30, elastic=2.0)
    image, label = compiled(never)(keys, images, labels)
    np.testing.assert_array_equal(image, images)
    np.testing.assert_array_equal(label, labels)


def test_an_option_of_zero_is_not_compiled():
    image, label = example((8, 8))
    marks = {'spatial_probability': 'gather', 'noise': 'erf_inv', 'blur': 'dot_general', 'contrast': 'reduce_sum',
             'low_resolution': 'dot_general', 'gamma': 'pow'}

    def program(**fields):
        arguments = jax.random.key(0), image, label
        return str(jax.make_jaxpr(functools.partial(aug.augment, config=options(**{**OFF, **fields})))(*arguments))

    nothing = program()
    for field, primitive in marks.items():
        assert f' {primitive}' in program(**{field: 1.5 if field == 'low_resolution' else 0.5})
        assert f' {primitive}' not in nothing
    with_all = {**dict.fromkeys(OFF, 0.5), 'low_resolution': 1.5}
    assert ' erf_inv' not in program(**{**with_all, 'intensity_probability': 0.0})


@pytest.mark.parametrize('dtype', [np.uint8, np.uint32])
def test_labels_are_moved_but_no_combination_of_bits_is_invented(dtype):
    config = options(flip=(True, True), spatial_probability=1.0, intensity_probability=0.0)
    image, label = example((24, 24), dtype=dtype)
    keys = jax.random.split(jax.random.key(3), 8)
    labels = np.asarray(jax.jit(jax.vmap(lambda k: aug.augment(k, image, label, config)[1]))(keys))
    assert labels.dtype == dtype and set(np.unique(labels)) == set(np.unique(label))
    assert (labels != label).any((1, 2)).all()


def test_a_sample_depends_on_its_key_and_not_on_its_batch_its_place_or_the_devices(everything):
    """Up to rounding: XLA sums in another order for another batch shape. That moves the means and products of images
    of variance 4 by up to 3e-6, elastic coordinates by 2e-6 pixels, the other coordinates, hence labels, not at all.
    """
    run, (keys, images, labels), (want_image, want_label) = everything

    def same(order, got):
        np.testing.assert_allclose(got[0], want_image[order], atol=2e-5)
        assert (got[1] != want_label[order]).mean() <= (0 if labels.ndim == 3 else 1e-3)

    order = np.array([6, 2, 0, 7, 1, 3, 5, 4])
    same(order, run(keys[order], images[order], labels[order]))
    if labels.ndim == 4:
        return  # what follows compiles twice more, and 2-D shows it
    same(np.array([5]), run(keys[5:6], images[5:6], labels[5:6]))
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ('data',)), PartitionSpec('data'))
    same(slice(None), jax.device_get(run(*jax.device_put((keys, images, labels), sharding))))


def test_another_key_gives_another_example(everything):
    run, (keys, images, labels), (image, _) = everything
    assert all(not np.allclose(a, b) for a, b in zip(run(keys[::-1], images, labels)[0], image))


def test_rotation_scale_and_shift_stay_in_their_ranges_and_fill_them():
    config = options(spatial_probability=0.8, rotation=15.0, scale=(0.7, 1.25), shift=0.05)
    draw = jax.jit(jax.vmap(lambda u: jnp.stack(space.random_coordinates(u, None, (100, 60), config))))
    source = np.asarray(draw(jax.random.uniform(jax.random.key(0), (500, 8))), float)  # (500, 2, 100, 60)
    down, right = source[:, :, -1, 0] - source[:, :, 0, 0], source[:, :, 0, -1] - source[:, :, 0, 0]
    angle = np.degrees(np.arctan2(down[:, 1], down[:, 0]))
    zoom = 99 / np.hypot(*down.T)
    np.testing.assert_allclose(zoom, 59 / np.hypot(*right.T), rtol=1e-4)
    shift = source.mean((2, 3)) - [49.5, 29.5]
    assert 13 < np.abs(angle).max() < 15.001 and abs(angle.mean()) < 1.5
    assert 0.7 - 1e-4 < zoom.min() < 0.73 and 1.2 < zoom.max() < 1.25 + 1e-4
    assert 4 < np.abs(shift[:, 0]).max() < 5.001 and 2.4 < np.abs(shift[:, 1]).max() < 3.001
    assert 0.74 < (np.abs(angle) > 1e-6).mean() < 0.86


def test_draw_is_uniform_with_its_probability_and_off_otherwise():
    uniform = jax.random.uniform(jax.random.key(0), (8, 2000))
    values = np.asarray(aug.draw(uniform, 0.3, low=2, high=4, off=1))
    on = values[values != 1]
    assert 0.25 < len(on) / 2000 < 0.35
    assert 2 <= on.min() < 2.05 and 3.95 < on.max() < 4 and abs(on.mean() - 3) < 0.1


def test_modalities_are_dropped_with_their_probability_and_one_always_stays():
    config = options(2, **OFF, modality_dropout=0.4)
    image, label = jnp.ones((2000, 2, 2, 4)), jnp.zeros((2000, 2, 2), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 2000)
    kept = np.asarray(compiled(config)(keys, image, label)[0])
    assert ((kept == 0) | (kept == 1)).all() and (kept == kept[:, :1, :1]).all()  # whole channels, unchanged or gone
    kept = kept[:, 0, 0] == 1
    assert kept.any(1).all() and np.allclose(kept.mean(0), 0.6 + 0.4 ** 4 / 4, atol=0.04)
    together = np.corrcoef(kept.T) - np.eye(4)
    assert np.abs(together).max() < 0.1 and len(np.unique(kept, axis=0)) == 15
    alone = np.asarray(compiled(options(2, **OFF, modality_dropout=1.0))(keys, image, label)[0])[:, 0, 0]
    assert (alone.sum(1) == 1).all()
