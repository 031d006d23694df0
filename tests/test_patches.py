"""Patches to train on and tiles to validate on: pure functions of seed and visit; every voxel is covered."""
import jax
import numpy as np
import pandas as pd
import pytest

from configs import brats3d
from configs.default import get_config
from unet_jax.experiment import create
from unet_jax.pipeline import patches, stream
from unet_jax.pipeline.prepared import Grid, Volume
from unet_jax.planning import memory
from unet_jax.training import space
from unet_jax.training import step as steps

SIZE = (8, 8, 8)


class Fake:
    """Cases in memory, with the interface of `Volumes`: each voxel of the image holds its own number."""

    def __init__(self, *volumes):
        self.volumes, self.folders = volumes, tuple(range(len(volumes)))
        self.rows = pd.DataFrame({'case': [f'case {k}' for k in range(len(volumes))], 'path': 'x',
                                  'spacing': [[5.0, 1.0, 2.0]] * len(volumes)})

    def __getitem__(self, index):
        return self.volumes[index]


def volume(shape, tumours=()):
    """`tumours`: (class, voxel) pairs."""
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(*shape, 1)
    label = np.zeros(shape, np.uint8)
    for k, place in tumours:
        label[place] |= 1 << k
    places = [np.argwhere(label & (1 << k)) for k in range(3)]
    return Volume(image, label, np.concatenate(places).astype(np.uint16), tuple(map(len, places)),
                  Grid(shape[::-1], 'SPL', 'LPS', (0, 0, 0), shape))


TWO = Fake(volume((20, 12, 9), [(0, (10, 6, 4)), (2, (3, 3, 3)), (2, (4, 3, 3)), (2, (4, 4, 3))]), volume((5, 30, 8)))


@pytest.mark.parametrize('overlap', [0.0, 0.25, 0.5, 0.75])
def test_windows_cover_every_voxel_and_share_what_is_asked_for(overlap):
    for length in range(9, 60):
        begin = patches.starts(length, side=8, overlap=overlap)
        steps = np.diff(begin)
        assert begin[0] == 0 and begin[-1] == length - 8 and (steps > 0).all()
        assert steps.max() <= max(1, round(8 * (1 - overlap)))


def test_a_volume_smaller_than_the_window_lies_in_its_middle():
    assert patches.starts(8, side=8, overlap=0.5) == [0]
    assert patches.starts(5, side=8, overlap=0.5) == [-1]
    assert patches.starts(1, side=8, overlap=0.5) == [-3]


def test_no_more_tiles_than_are_needed():
    assert [len(patches.starts(n, side=8, overlap=0.0)) for n in (8, 9, 16, 17, 24)] == [1, 2, 2, 3, 3]


def test_a_cut_beyond_the_border_is_zero_there():
    array = np.arange(1, 28).reshape(3, 3, 3)
    got = patches.extract(array, start=(-1, 1, 2), size=(3, 3, 3))
    assert got.shape == (3, 3, 3) and not got[0].any() and not got[:, 2].any() and not got[:, :, 1:].any()
    assert np.array_equal(got[1:, :2, 0], array[:2, 1:, 2])
    inside = patches.extract(array, start=(0, 0, 0), size=(2, 2, 2))
    inside[:] = 0
    assert array.min() == 1  # a copy, not a view into the cache


def test_a_patch_is_a_pure_function_of_case_seed_and_visit():
    samples = patches.Patches(TWO, TWO.rows, SIZE, 1 / 3, SIZE)
    first = [samples.sample(0, seed=1, visit=v)[0] for v in range(20)]
    assert all(np.array_equal(a, samples.sample(0, seed=1, visit=v)[0]) for v, a in enumerate(first))
    assert len({a.tobytes() for a in first}) > 10
    assert any(not np.array_equal(a, samples.sample(0, seed=2, visit=v)[0]) for v, a in enumerate(first))


def test_patches_reach_every_voxel_and_never_leave_the_volume():
    samples = patches.Patches(TWO, TWO.rows, SIZE, 0.0, SIZE)
    seen = set()
    for visit in range(1200):
        image, label, _ = samples.sample(0, seed=0, visit=visit)
        assert image.shape == (*SIZE, 1) and label.shape == SIZE and image.min() > 0
        seen |= set(image.ravel().astype(int).tolist())
    assert seen == set(range(1, 20 * 12 * 9 + 1))


def test_what_is_cut_for_turning_has_the_patch_in_its_middle_and_is_0_beyond_the_volume():
    cut = (13, 10, 12)
    small = patches.Patches(TWO, TWO.rows, SIZE, 0.5, SIZE)
    large, whole = small._replace(cut=cut), np.pad(TWO[0].image[..., 0], 20)
    for visit in range(40):
        (image, label, _), (around, labels, spacing) = (s.sample(0, seed=0, visit=visit) for s in (small, large))
        middle = tuple(slice((c - n) // 2, (c - n) // 2 + n) for c, n in zip(cut, SIZE))
        assert np.array_equal(around[middle], image) and np.array_equal(labels[middle], label)
        start = np.argwhere(whole == image[0, 0, 0, 0])[0] - [m.start for m in middle]
        assert np.array_equal(around[..., 0], whole[tuple(slice(s, s + c) for s, c in zip(start, cut))])
        assert spacing.tolist() == [2, 1, 5] and spacing.dtype == np.float32  # the file's axes point as SPL


def test_a_training_batch_of_volumes_tells_the_size_of_its_voxels_and_one_that_is_turned_has_the_networks_size():
    config = get_config()
    with config.unlocked():
        config.data.update({'size': SIZE, 'standardise': False})
        config.augment.update({'flip': (False,) * 3, 'spatial_probability': 1.0, 'rotation': 20.0,
                               'intensity_probability': 0.0})
    samples = patches.Patches(TWO, TWO.rows, SIZE, 0.0, space.cut_size(config))
    batch = stream.batch(samples, seed=5, step=3, batch_size=4)
    assert batch['spacing'].shape == (4, 3) and batch['image'].shape == (4, *space.cut_size(config), 1)
    image, label = steps.prepare(batch, config, jax.random.key(0))
    assert image.shape == (4, *SIZE, 1) and label.shape == (4, *SIZE)
    as_cubes = steps.prepare({**batch, 'spacing': np.ones((4, 3), np.float32)}, config, jax.random.key(0))[0]
    assert not np.allclose(image, as_cubes)
    config.train.spatial = 16  # devices that share the first axis: more comes over the wire, the same is seen
    wide = stream.batch(samples._replace(cut=space.wire_size(config)), seed=5, step=3, batch_size=4)
    assert wide['image'].shape[1] % 16 == 0 and wide['image'].shape != batch['image'].shape
    for a, b in zip(steps.prepare(wide, config, jax.random.key(0)), (image, label)):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_a_training_batch_of_volumes_has_the_shapes_and_types_that_the_plan_counts_with():
    config = brats3d.get_config('small').copy_and_resolve_references()
    with config.unlocked():
        config.data.update({'root': 'nowhere', 'size': (8, 8, 8), 'categories': (1, 2, 4), 'channels': 1,
                            'regions': (('WT', (1, 2, 4), 2),)})
        config.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,),
                             'deep_supervision': 0})
    samples = patches.Patches(TWO, TWO.rows, SIZE, 1 / 3, space.wire_size(config))
    batch = stream.batch(samples, seed=0, step=0, batch_size=2)
    expected = memory.abstract_batch(create(config), 2)
    assert {k: v.shape for k, v in batch.items()} == {k: v.shape for k, v in expected.items()}
    assert {k: v.dtype for k, v in batch.items() if k != 'image'} == {
        k: v.dtype for k, v in expected.items() if k != 'image'}  # these made-up volumes are float32


def test_foreground_patches_have_each_class_alike_however_rare():
    draws = [patches.uniform(seed=0, visit=v) for v in range(300)]
    chosen = [patches.position(TWO[0], (1, 1, 1), draw, foreground=1.0) for draw in draws]
    bits = np.array([TWO[0].label[place] for place in chosen])
    assert set(bits.tolist()) == {1, 4} and 110 < (bits == 1).sum() < 190  # of four voxels one


@pytest.mark.parametrize('share', [0.0, 1 / 3, 1.0])
def test_the_share_of_foreground_is_the_one_asked_for(share):
    hits = [TWO[0].label[patches.position(TWO[0], (1, 1, 1), patches.uniform(seed=0, visit=v), foreground=share)] > 0
            for v in range(600)]
    assert abs(np.mean(hits) - share) < 0.06


def test_a_case_without_tumour_gives_patches_from_anywhere():
    image, label, _ = patches.Patches(TWO, TWO.rows, SIZE, 1.0, SIZE).sample(1, seed=0, visit=0)
    assert image.shape == (*SIZE, 1) and not label.any()
    assert not image[0].any() and not image[6:].any() and image[1:6].all()  # five voxels of eight, in the middle


def test_tiles_cover_every_voxel_of_every_case():
    tiles = patches.tiles(TWO, SIZE)
    image, label = tiles.take(np.arange(len(tiles.rows)))
    assert image.shape == (len(tiles.rows), *SIZE, 1) and len(tiles.rows) == 3 * 2 * 2 + 1 * 4 * 1
    for k, name in enumerate(TWO.rows.case):
        mine = (tiles.rows.case == name).to_numpy()
        assert set(image[mine].ravel().astype(int)) - {0} == set(range(1, TWO[k].label.size + 1))
        assert label[mine].any() == TWO[k].label.any()


def test_the_stream_gives_the_same_patches_to_any_number_of_processes():
    samples = patches.Patches(TWO, TWO.rows, SIZE, 1 / 3, SIZE)
    whole = stream.batch(samples, seed=5, step=3, batch_size=4)
    parts = [stream.dataset(samples, seed=5, batch_size=4, process=p, processes=2)[3] for p in range(2)]
    order = np.argsort(np.concatenate([part['visit'] for part in parts]))
    assert np.array_equal(np.concatenate([part['image'] for part in parts])[order], whole['image'])
    assert whole['image'].shape == (4, *SIZE, 1) and set(whole['index']) <= {0, 1}


def test_validation_batches_hold_every_tile_once():
    tiles = patches.tiles(TWO, SIZE)
    batches = list(stream.once(tiles, batch_size=6))
    assert [int(b['valid'].sum()) for b in batches] == [6, 6, 4]
    assert sorted(i for b in batches for i in b['index'][b['valid'] > 0]) == list(range(16))
