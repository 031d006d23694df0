"""What the network sees of every augmentation that a shipped config turns on: about what its field says, and nothing
outside the brain. Each is run as training runs it, from a batch on the wire."""
import functools
import math

import jax
import numpy as np
import pytest
from scipy import ndimage

from configs import brats, brats3d, coco, phantom
from unet_jax.training import augment, space
from unet_jax.training import step as steps

CONFIGS = {'phantom': phantom.get_config, 'coco': coco.get_config, 'brats': brats.get_config,
           'brats3d': brats3d.get_config}
OFF = {'spatial_probability': 0.0, 'intensity_probability': 0.0, 'modality_dropout': 0.0}
INTENSITY = {'brightness': 0.0, 'contrast': 0.0, 'gamma': 0.0, 'noise': 0.0, 'blur': 0.0, 'low_resolution': 1.0}
COUNT = 64  # samples: the widest of so many uniform draws is above 0.9 of the limit but for a chance of 0.1 %


def only(name, fields=(), size=24, **changes):
    """The config `name` at a small size, with `fields` of its augmentation alone, always on."""
    config = CONFIGS[name]().copy_and_resolve_references()
    with config.unlocked():
        axes = len(config.data.size)
        config.data.size, kept = (size,) * axes, config.augment.to_dict()
        config.augment.update({**OFF, **INTENSITY, 'rotation': 0.0, 'scale': (1, 1), 'shift': 0.0, 'elastic': 0.0,
                               'flip': (False,) * axes, **{field: kept[field] for field in fields}})
        config.augment.update({'intensity_probability': float(any(f in INTENSITY for f in fields)),
                               'spatial_probability': float('rotation' in fields), **changes})
    return config


def on_the_wire(config, image, label=None):
    """A training batch of uint8 or float16 images."""
    count = len(image)
    label = np.zeros(image.shape[:-1], np.uint8) if label is None else label
    batch = {'image': image, 'label': label, 'visit': np.arange(count, dtype=np.uint32)}
    return batch | ({'spacing': np.ones((count, 3), np.float32)} if image.ndim == 5 else {})


def seen(config, batch):
    found = jax.jit(lambda b: steps.prepare(b, config, jax.random.key(1)))(batch)
    return jax.tree.map(np.asarray, found)


def has_outside(config):
    return config.data.format in ('brats_h5', 'nifti')


def images(config, size=None):
    """White noise of two channels in a disk or ball; around it 0, which is outside the brain or black."""
    size = size or tuple(config.data.size)
    rng, place = np.random.default_rng(0), np.indices(size) - (np.array(size).reshape(-1, *[1] * len(size)) - 1) / 2
    inside = np.sqrt((place ** 2).sum(0)) < 0.49 * min(size)
    shape = (COUNT, *size, 2)
    values = rng.normal(size=shape).astype(np.float16) if has_outside(config) else rng.integers(20, 250, shape)
    return (values * inside[..., None]).astype(np.float16 if has_outside(config) else np.uint8), inside


def brightness(before, after, inside, limit):
    """A factor about black."""
    flat = before.reshape(COUNT, -1), after.reshape(COUNT, -1)
    factors = np.array([np.polyfit(b, a, 1)[0] for b, a in zip(*flat)])
    black = before[:, ~inside]
    np.testing.assert_allclose(after[:, ~inside], black, atol=1e-5)
    want = (before - black[:, :1].reshape(COUNT, *[1] * (before.ndim - 2), -1)) * (
        factors.reshape(-1, *[1] * (before.ndim - 1)) - 1)
    np.testing.assert_allclose(after - before, want, atol=1e-4)
    reaches(factors - 1, limit)


def contrast(before, after, inside, limit):
    """A factor about the mean of what counts, within its range."""
    factors = []
    for b, a in zip(before[..., 0], after[..., 0]):
        b, a = counted(b, inside), counted(a, inside)
        middle = np.abs(b - b.mean()) < 0.4 * b.std()
        factors.append(np.polyfit(b[middle], a[middle], 1)[0])
        assert b.min() - 1e-5 <= a.min() and a.max() <= b.max() + 1e-5
    reaches(np.array(factors) - 1, limit)


def gamma(before, after, inside, limit):
    """A power of the range inside, with its mean and deviation; of a picture everything is inside."""
    exponents = []
    for b, a in zip(before[..., 0], after[..., 0]):
        b, a = counted(b, inside), counted(a, inside)
        assert abs(a.mean() - b.mean()) < 1e-3 and abs(a.std() - b.std()) < 1e-3
        x, y = ((v - v.min()) / np.ptp(v) for v in (b, a))
        middle = (x > 0.3) & (x < 0.7)
        exponents.append((np.log(y[middle]) / np.log(x[middle])).mean())
    reaches(np.log(exponents), math.log1p(limit))


def noise(before, after, inside, limit):
    """Normal, of a deviation between 0 and the limit, in units of the image's own."""
    where = inside if (before[:, ~inside] == 0).all() else np.ones_like(inside)
    added = (after - before)[:, where]
    sigma = added.std((1, 2)) / before[:, where].std((1, 2))
    assert 0.9 * limit < sigma.max() < 1.05 * limit and sigma.min() < 0.1 * limit
    assert abs(sigma.mean() - limit / 2) < 0.12 * limit and np.abs(added.mean((1, 2))).max() < 0.05


def blur(before, after, inside, limit):
    """By the deviation that is left of white noise, far from the border."""
    deep = ndimage.distance_transform_edt(inside) > 4
    left = after[:, deep].std((1, 2)) / before[:, deep].std((1, 2))
    impulse = np.zeros([31] * inside.ndim)
    impulse[(15,) * inside.ndim] = 1
    most, least = (np.sqrt((ndimage.gaussian_filter(impulse, s) ** 2).sum()) for s in (0.5, 0.5 + limit))
    assert least * 0.72 < left.min() < least * 1.3 and most * 0.8 < left.max() < most * 1.1


def low_resolution(before, after, inside, limit):
    """By which of the possible coarse grids gives what is seen."""
    side, deep = inside.shape[0], ndimage.distance_transform_edt(inside) > 3
    smooth, found = jax.jit(jax.vmap(lambda x, sigma, factor: augment.smooth(x, sigma=sigma, factor=factor),
                                    (0, None, None))), []
    coarse = np.arange(side // 4, side + 1)
    errors = [np.abs(np.asarray(smooth(before, 0.0, side / n)) - after)[:, deep].max((1, 2)) for n in coarse]
    assert np.min(errors, 0).max() < 1e-3
    found = coarse[np.argmin(errors, 0)]
    assert round(side / limit) <= found.min() < side / (0.85 * limit) and found.max() >= side - 1


def counted(image, inside):
    """(n,) the inside of an image that is 0 outside, else all of it, since a picture has no outside."""
    return image[inside] if (image[~inside] == 0).all() else image.ravel()


def reaches(values, limit):
    """Between -limit and limit, and near both ends."""
    assert np.abs(values).max() <= limit * 1.01 and values.max() > 0.85 * limit and values.min() < -0.85 * limit


@functools.cache
def fields_of(kind):
    """{(config, field): value} of the transforms of grey values that shipped configs turn on; equal ones once."""
    found = {}
    for name in CONFIGS:
        fields = CONFIGS[name]().augment
        for field, off in INTENSITY.items():
            if fields.intensity_probability > 0 and fields[field] != off:
                same = len(CONFIGS[name]().data.size), has_outside(CONFIGS[name]()), field, fields[field]
                found.setdefault(same, (name, field))
    return list(found.values())


@pytest.mark.parametrize('name, field', fields_of('intensity'))
def test_grey_values_change_by_what_the_field_says_and_outside_stays_0(name, field):
    config = only(name, [field])
    image, inside = images(config)
    before = seen(only(name), on_the_wire(config, image))[0]
    after = seen(config, on_the_wire(config, image))[0]
    globals()[field](before, after, inside, config.augment[field])
    if has_outside(config):
        assert not after[:, ~inside].any() and not before[:, ~inside].any()
    else:
        assert abs(before.mean()) < 1e-3 and abs(before.std() - 1) < 1e-3


def angles_and_zoom(matrix):
    """Of `space.rotation_matrix`(angles) / zoom."""
    zoom = np.linalg.det(matrix) ** (-1 / len(matrix))
    m = matrix * zoom
    if len(m) == 2:
        return [math.atan2(-m[0, 1], m[0, 0])], zoom
    return [math.atan2(-m[0, 1], m[0, 0]), -math.asin(m[0, 2]), math.atan2(-m[1, 2], m[2, 2])], zoom


@pytest.mark.parametrize('name', CONFIGS)
def test_turns_zooms_shifts_and_bends_by_what_the_fields_say(name):
    """Of an image whose values are their own coordinates; the middle of it, which comes from inside."""
    config = only(name, ['rotation', 'scale', 'shift', 'elastic'])
    fields, axes = config.augment, len(config.data.size)
    size = space.cut_size(config) if axes == 3 else tuple(config.data.size)
    ramps = np.moveaxis(np.indices(size), 0, -1) * 4 + 4
    image = np.broadcast_to(ramps, (COUNT, *size, axes)).astype(np.float16 if has_outside(config) else np.uint8)
    plain, after = (seen(c, on_the_wire(c, image))[0] for c in (only(name), config))
    middle = (slice(8, 16),) * axes
    steps_ = [np.ptp(plain[0, ..., a]) / (config.data.size[a] - 1) for a in range(axes)]
    source = ((after - plain[:1, :1, :1, :1] if axes == 3 else after - plain[:1, :1, :1]) / steps_)[:, *middle]
    place = np.stack(np.meshgrid(*[np.arange(8) - 3.5] * axes, indexing='ij'), -1).reshape(-1, axes)
    design = np.concatenate([place, np.ones((len(place), 1))], 1)
    angles, zooms, shifts, bends = [], [], [], []
    for one in source.reshape(COUNT, -1, axes):
        fit, *_ = np.linalg.lstsq(design, one, rcond=None)
        turned, zoom = angles_and_zoom(fit[:axes].T)
        angles += [np.degrees(turned)]
        zooms += [zoom]
        shifts += [fit[axes] - 11.5]
        bends += [np.abs(one - design @ fit).mean()]
    low, high = fields.scale
    if fields.elastic:
        # the middle third of a grid of six is bent by about its deviation, and the fit takes most of it as a shift
        assert 0.5 * fields.elastic < np.std(shifts) < 1.3 * fields.elastic and np.mean(bends) > 0.02
        assert 0.6 * fields.rotation < np.abs(angles).max()
        return
    assert max(bends) < 0.01
    assert 0.9 * fields.rotation < np.abs(angles).max() < 1.01 * fields.rotation
    assert low * 0.99 < min(zooms) < low ** 0.7 and high ** 0.8 < max(zooms) < high * 1.01
    reach = fields.shift * config.data.size[0]
    assert 0.9 * reach <= np.abs(shifts).max() <= 1.01 * reach + 1e-2


@pytest.mark.parametrize('name', CONFIGS)
def test_everything_at_once_changes_the_image_and_leaves_outside_alone(name):
    turned = ['rotation', 'scale', 'shift', 'elastic', 'flip']
    config = only(name, [*turned, *INTENSITY])
    batch = on_the_wire(config, *images(config, space.cut_size(config) if len(config.data.size) == 3 else None)[:1])
    after, turned = (seen(c, batch)[0] for c in (config, only(name, turned)))
    plain = seen(only(name), batch)[0]
    changed = [np.abs(a - b).max((*range(1, a.ndim),)) for a, b in ((after, turned), (turned, plain))]
    assert min(map(np.min, changed)) > 0.05  # every sample, by grey values and by place
    if has_outside(config):
        outside = (turned == 0).all(-1)
        assert np.array_equal((after == 0).all(-1), outside) and outside.any()


@pytest.mark.parametrize('name', CONFIGS)
def test_mirrors_half_of_the_samples_along_each_axis_that_may_be(name):
    config = only(name, ['flip'])
    batch = on_the_wire(config, images(config)[0])
    after, plain = (seen(c, batch)[0] for c in (config, only(name)))
    for axis, on in enumerate(config.augment.flip):
        others = [a + 1 for a, may in enumerate(config.augment.flip) if may and a != axis]
        views = [()]
        for a in others:
            views += [(*view, a) for view in views]
        mirrored = [any(np.array_equal(a, np.flip(p, [v - 1 for v in (*view, axis + 1)])) for view in views)
                    for a, p in zip(after, plain)]
        assert 0.3 < np.mean(mirrored) < 0.7 if on else not any(mirrored)


def test_black_borders_count_for_nothing_and_look_as_black_does():
    """A picture that is wider than high, fitted into a square: as if it had no border."""
    wide = np.random.default_rng(0).integers(1, 255, (12, 24, 1)).astype(np.uint8)
    fitted = np.zeros((24, 24, 1), np.uint8)
    fitted[6:18] = wide
    (whole, _), (inside, black) = (steps.normalise(image, True) for image in (wide, fitted))
    np.testing.assert_allclose(inside[6:18], whole, atol=1e-5)
    np.testing.assert_allclose(inside[:6], np.broadcast_to(black, (6, 24, 1)), atol=1e-5)
    config = only('coco', ['rotation'], rotation=40.0)
    batch = on_the_wire(config, np.full((COUNT, 24, 24, 1), 200, np.uint8) * np.uint8(np.eye(24)[..., None] + 1))
    found, blacks = seen(config, batch)[0], np.asarray(steps.normalise(batch['image'][0], True)[1])
    lowest = found.min((1, 2, 3)) - blacks[0]
    assert lowest.min() > -1e-3 and (lowest < 1e-3).mean() > 0.7  # what turns into view is black, not grey


def test_a_slice_is_standardised_inside_alone_where_that_is_asked_for():
    config = only('brats')
    image, inside = images(config)
    found, black = steps.normalise(image[0] * np.float16(3) + np.float16(1) * (image[0] != 0), True)
    assert black is None and not found[~inside].any()
    np.testing.assert_allclose([found[inside].mean(0), found[inside].std(0)], [[0, 0], [1, 1]], atol=1e-2)
