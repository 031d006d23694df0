"""Turning and zooming: in mm, from patches cut large enough, so that nothing is made up."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import brats3d
from configs.default import get_config
from unet_jax.training import augment, space


def options(axes, size, **fields):
    """A config whose spatial transforms are always on."""
    config = get_config()
    with config.unlocked():
        config.data.size = size
        config.augment.update({'flip': (False,) * axes, 'spatial_probability': 1.0, 'intensity_probability': 0.0,
                               'shift': 0.0, 'scale': (1, 1), **fields})
    return config


def extreme(axes, angles):
    """The uniform draws for which every angle is `angles` (-1 to 1) times config.augment.rotation comes out."""
    return jnp.asarray([0.0, 0.5, 0.5, 0.5, 0.5, *(0.5 + 0.5 * np.array([*angles, 0, 0])[:3])], jnp.float32)


def turned(label, size, config, uniform, spacing=None):
    source = space.random_coordinates(uniform, None, size, config.augment, within=label.shape, spacing=spacing)
    return np.asarray(space.resample(label[..., None].astype(np.float32), label, source)[1])


def distance(size, spacing):
    """(*size) mm from the middle."""
    place = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(size, spacing, strict=True)]
    return np.sqrt(sum(p ** 2 for p in np.meshgrid(*place, indexing='ij')))


@pytest.mark.parametrize('angles', [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.3, -0.3, 0.3)])
def test_a_ball_in_flat_voxels_turned_by_45_degrees_stays_a_ball(angles):
    """Within half a voxel's diagonal; in voxels instead of mm it would become an ellipsoid."""
    spacing, radius = (1.0, 1.0, 5.0), 20.0
    config = options(3, (50, 50, 12), rotation=45.0)
    config.data.spacing = spacing
    ball = (distance(space.cut_size(config), spacing) < radius).astype(np.uint8)
    far = np.abs(distance((50, 50, 12), spacing) - radius) > np.sqrt(1 + 1 + 25) / 2
    want = distance((50, 50, 12), spacing) < radius
    found = turned(ball, (50, 50, 12), config, extreme(3, angles), jnp.asarray(spacing))
    assert np.array_equal(found[far] > 0, want[far]) and found.sum() == pytest.approx(want.sum(), rel=0.05)
    if any(angles[1:]):
        in_voxels = turned(ball, (50, 50, 12), config, extreme(3, angles))
        assert (in_voxels[far] > 0).sum() != want[far].sum() or (in_voxels[far] > 0)[~want[far]].any()


def test_a_disk_in_an_image_that_is_not_square_stays_a_disk():
    config = options(2, (60, 120), rotation=45.0)
    disk = (distance((60, 120), (1, 1)) < 25).astype(np.uint8)
    found = turned(disk, (60, 120), config, extreme(2, (1,)))
    assert (found != disk)[np.abs(distance((60, 120), (1, 1)) - 25) > 1].sum() == 0


@pytest.mark.parametrize('size, spacing', [((24, 40), None), ((12, 16, 20), None), ((16, 16, 6), (1.0, 1.0, 5.0)),
                                           ((12, 12, 12), (1.0, 1.0, 5.0))])
def test_of_a_constant_larger_than_what_is_cut_nothing_but_the_constant_is_seen(size, spacing):
    """Whatever is drawn, with everything on; the last patch is so long in mm that turning it must zoom in."""
    config = options(len(size), size, rotation=40.0, scale=(0.6, 1.4), shift=0.1, elastic=1.5, elastic_grid=3)
    cut = space.cut_size(config)
    draw = jax.jit(jax.vmap(functools.partial(augment.augment, config=config.augment, size=size, spacing=None
                                              if spacing is None else jnp.asarray(spacing))))
    image, label = np.full((100, *cut, 1), 3, np.float32), np.ones((100, *cut), np.uint8)
    found, bits = draw(jax.random.split(jax.random.key(0), 100), image, label)
    np.testing.assert_allclose(found, 3, atol=1e-4)
    assert np.all(bits == 1) and bits.shape == (100, *size)


def test_what_is_cut_has_room_for_the_widest_turn_in_one_plane_and_half_the_zoom():
    config = options(3, (100, 100, 50), rotation=30.0, scale=(0.25, 1.0))
    one = np.cos(np.radians(30)) + np.sin(np.radians(30))
    assert space.cut_size(config)[0] == np.ceil(100 * one * 2 + 2)
    across = 50 * np.cos(np.radians(30)) + 100 * np.sin(np.radians(30))
    assert space.cut_size(config)[2] == np.ceil(across * 2 + 2)
    config.data.spacing, config.train.spatial = (1.0, 1.0, 2.0), 16
    assert space.cut_size(config)[2] == space.wire_size(config)[2] == np.ceil(50 * one * 2 + 2)
    assert space.wire_size(config)[0] % 16 == 0 <= space.wire_size(config)[0] - space.cut_size(config)[0] < 16
    assert [space.cut_size(brats3d.get_config(size))[0] for size in ('full', 'small')] == [211, 107]
    config.augment.spatial_probability = 0.0
    assert space.cut_size(config) == (100, 100, 50)


def test_a_patch_that_is_not_turned_is_the_middle_of_what_was_cut():
    """To the bit, mirrored or not, with odd and even margins."""
    rng = np.random.default_rng(0)
    for cut, size in (((13, 14, 12), (8, 9, 12)), ((21, 18), (12, 12))):
        axes = len(size)
        config = options(axes, size, rotation=30.0, flip=(True,) + (False,) * (axes - 1), spatial_probability=1e-30)
        image = rng.normal(size=(*cut, 2)).astype(np.float32)
        label = rng.integers(0, 9, cut, dtype=np.uint8)
        middle = tuple(slice((c - n) // 2, (c - n) // 2 + n) for c, n in zip(cut, size))
        seen = set()
        for k in range(8):
            found, bits = augment.augment(jax.random.key(k), image, label, config.augment, size=size)
            mirrored = not np.array_equal(found, image[middle])
            seen.add(mirrored)
            step = -1 if mirrored else 1
            assert np.array_equal(found, image[middle][::step]) and np.array_equal(bits, label[middle][::step])
        assert seen == {True, False}
