"""The sliding window: constant and identity networks, blending by hand, windows at borders and beyond them."""
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.annotations import labels
from unet_jax.inference import sliding_window
from unet_jax.inference.predictor import Predictor
from unet_jax.inference.temperature import uncertainty
from unet_jax.pipeline.prepared import Grid, Volume
from unet_jax.training import sharding

SIZE = (8, 8, 8)
REGIONS = (labels.Region('a', (1,), 1), labels.Region('b', (2,), 2))


def predictor(program, *params, regions=1, channels=1, overlap=0.5, batch_size=3, size=SIZE):
    """One whose network is `program(params, batch)`."""
    evaluation = SimpleNamespace(batch_size=batch_size, threshold=0.5, overlap=overlap)
    experiment = SimpleNamespace(config=SimpleNamespace(evaluation=evaluation), regions=REGIONS[:regions],
                                 classes=(1, 2), region_bits=labels.region_bits(REGIONS[:regions], (1, 2)),
                                 settings=SimpleNamespace(size=size, channels=channels))
    return Predictor(experiment, params or (1.0,), jax.jit(program), sharding.create_mesh(jax.devices()[:1]))


def volume(image, grid=None):
    shape = image.shape[:3]
    return Volume(image, np.zeros(shape, np.uint8), np.zeros((0, 3)), (0,),
                  grid or Grid(shape, 'LPS', 'LPS', (0, 0, 0), shape))


def segment(predictor, prepared, **options):
    """Region masks (X, Y, Z, R)."""
    bits = sliding_window.segment(predictor, prepared, **options)
    return labels.region_masks(bits, predictor.experiment.region_bits)


def unsure_of(predictor, prepared):
    return uncertainty(sliding_window.probability(sliding_window.blend(predictor, prepared)))


def averaged(predictor, image, keep=(1.0,)):
    """The blended probabilities (X, Y, Z, R) themselves."""
    layout = sliding_window.arrange(image.shape[:3], size=predictor.experiment.settings.size,
                                    overlap=predictor.experiment.config.evaluation.overlap)
    total, sums = sliding_window.accumulate(predictor, image, layout, np.asarray(keep, image.dtype))
    inside = tuple(slice(b, b + n) for b, n in zip(layout.margin, image.shape))
    return np.asarray(sliding_window.mean(total, sums))[inside]


@pytest.mark.parametrize('shape', [(8, 8, 8), (20, 13, 9), (5, 30, 8), (3, 4, 5)])
@pytest.mark.parametrize('overlap', [0.0, 0.5, 0.75])
def test_weights_sum_to_one_everywhere(shape, overlap):
    constant = predictor(lambda p, batch: jnp.full((*batch['image'].shape[:-1], 1), 0.7), overlap=overlap)
    got = averaged(constant, np.ones((*shape, 1), np.float32))
    assert got.shape == (*shape, 1) and np.allclose(got, 0.7, atol=1e-6)


@pytest.mark.parametrize('shape', [(8, 8, 8), (20, 13, 9), (5, 30, 8)])
def test_a_network_that_returns_its_input_gives_the_volume_back(shape):
    image = np.random.default_rng(0).random((*shape, 2)).astype(np.float16)
    image[np.abs(image - 0.5) < 0.01] = 0.6  # blending may round either way at the threshold
    identity = predictor(lambda p, batch: batch['image'].astype(jnp.float32), regions=2, channels=2)
    assert np.allclose(averaged(identity, image, (1, 1)), image, atol=1e-6)
    assert np.array_equal(segment(identity, volume(image)), image > 0.5)


def test_one_window_is_the_network_applied_once():
    image = np.random.default_rng(1).random((*SIZE, 1)).astype(np.float32)
    blur = predictor(lambda p, batch: jnp.cumsum(batch['image'], 1) * jnp.arange(8.0)[:, None] / 64)
    assert np.allclose(averaged(blur, image), blur.program(1.0, {'image': image[None]})[0], atol=1e-6)


def test_two_windows_are_blended_by_their_gaussian_weights():
    """Each window answers with its first voxel, 0 or 1, everywhere."""
    image = np.zeros((12, 8, 8, 1), np.float32)
    image[4] = 1
    first = predictor(lambda p, batch: jnp.broadcast_to(batch['image'][:, :1], batch['image'].shape))
    weight = np.exp(-0.5 * ((np.arange(8) - 3.5) / 1) ** 2)  # the deviation is an eighth of the side
    expected = np.array([0] * 4 + [weight[k] / (weight[k] + weight[k + 4]) for k in range(4)] + [1] * 4)
    assert np.allclose(averaged(first, image)[:, 0, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize('batch_size', [1, 2, 7, 64])
def test_the_batch_size_changes_nothing(batch_size):
    image = np.random.default_rng(2).random((17, 9, 12, 1)).astype(np.float32)

    def program(p, batch):  # a window's answer depends on all of it
        return batch['image'] * batch['image'].mean((1, 2, 3), keepdims=True)

    few, many = (averaged(predictor(program, batch_size=n), image) for n in (3, batch_size))
    assert np.allclose(few, many, atol=1e-6)


def test_several_checkpoints_are_averaged():
    image = np.ones((10, 8, 8, 1), np.float32)
    scaled = predictor(lambda p, batch: batch['image'] * p, 0.1, 0.4, 0.7)
    assert np.allclose(averaged(scaled, image), 0.4, atol=1e-6)


def test_modalities_that_are_not_kept_are_zero():
    image = np.random.default_rng(3).random((8, 9, 8, 2)).astype(np.float16)
    image[np.abs(image - 0.5) < 0.01] = 0.6
    identity = predictor(lambda p, batch: batch['image'].astype(jnp.float32), regions=2, channels=2)
    got = segment(identity, volume(image), keep=(False, True))
    assert not got[..., 0].any() and np.array_equal(got[..., 1], image[..., 1] > 0.5)


def test_a_cropped_and_turned_volume_comes_back_in_the_files_voxels():
    file = np.random.default_rng(4).random((11, 10, 9)).astype(np.float32)
    low, high = (1, 2, 0), (9, 10, 8)  # of the turned volume
    turned = file.transpose(2, 0, 1)[:, ::-1]  # axes S, R, P from L, P, S
    box = turned[tuple(map(slice, low, high))]
    prepared = volume(box[..., None], Grid(file.shape, 'LPS', 'SRP', low, high))
    got = segment(predictor(lambda p, batch: batch['image']), prepared)[..., 0]
    inside = np.zeros(turned.shape, bool)
    inside[tuple(map(slice, low, high))] = True
    assert np.array_equal(got, (file > 0.5) & inside[:, ::-1].transpose(1, 2, 0))


def test_probabilities_not_masks_of_a_resampled_volume_are_interpolated():
    """A plane half-way up a ramp of probabilities comes back to within half of a fine voxel."""
    ramp = np.linspace(0.05, 0.95, 10, dtype=np.float32)[:, None, None, None] * np.ones((1, 8, 8, 1), np.float32)
    prepared = volume(ramp, Grid((40, 8, 8), 'LPS', 'LPS', (0, 0, 0), (40, 8, 8)))
    ramps = predictor(lambda p, batch: batch['image'], size=SIZE)
    got, unsure = segment(ramps, prepared), unsure_of(ramps, prepared)
    assert got.shape == unsure.shape == (40, 8, 8, 1)
    assert np.array_equal(got[:, 4, 4, 0], np.arange(40) >= 20)
    assert unsure[18:22, 4, 4, 0].min() > 90 and unsure[[0, -1], 4, 4, 0].max() < 15


def test_uncertainty_lies_on_the_files_voxels_and_is_0_where_nobody_looked():
    image = np.random.default_rng(5).random((9, 8, 10)).astype(np.float32)
    prepared = volume(image[..., None], Grid((12, 9, 10), 'LPS', 'LPS', (2, 0, 0), (11, 8, 10)))
    got = unsure_of(predictor(lambda p, batch: batch['image']), prepared)
    assert got.dtype == np.uint8 and got.shape == (12, 9, 10, 1)
    expected = np.rint(100 - 100 * np.abs(2 * image - 1))
    assert np.abs(got[2:11, :8, :, 0] - expected).max() <= 1 and (got[2:11, :8, :, 0] == expected).mean() > 0.9
    assert not got[:2].any() and not got[11:].any() and not got[:, 8].any()
