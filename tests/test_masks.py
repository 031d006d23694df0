"""One rule from probabilities to masks: in numpy and in jax, whichever way regions are listed, and the same masks in
validation, by which the best checkpoint is chosen, as in evaluation."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from test_patches import Fake
from test_together import tiny

from unet_jax.annotations import labels, schemas
from unet_jax.annotations.labels import Region
from unet_jax.errors import InputError
from unet_jax.evaluation import cases
from unet_jax.experiment import create
from unet_jax.inference import postprocess, sliding_window
from unet_jax.inference import predictor as inference
from unet_jax.inference.predictor import Predictor
from unet_jax.pipeline import patches
from unet_jax.pipeline.cache import Samples
from unet_jax.pipeline.prepared import Grid, Volume
from unet_jax.training import loop, sharding, state, step, validation

CLASSES = (1, 2, 3, 4)
REGIONS = schemas.regions('2024-GLI')  # WT ⊃ TC ⊃ ET, and RC beside them


def listed(order):
    return tuple(REGIONS[r] for r in order)


@pytest.mark.parametrize('order', list(itertools.permutations(range(4))))
def test_the_order_of_the_list_changes_no_map_in_numpy_or_jax(order):
    probability = np.random.default_rng(0).random((9, 8, 7, 4), np.float32)
    expected = labels.from_probabilities(probability, threshold=0.5, regions=REGIONS, classes=CLASSES)
    for numbers in (np, jnp):
        bits = labels.from_probabilities(numbers.asarray(probability[..., order]), threshold=0.5,
                                         regions=listed(order), classes=CLASSES)
        assert bits.dtype == np.uint8 and np.array_equal(bits, expected)


def test_what_is_read_back_is_nested_and_painted_again_it_stays():
    region_bits = labels.region_bits(REGIONS, CLASSES)
    masks = np.array(list(itertools.product([False, True], repeat=4)))
    read = labels.region_masks(labels.paint(masks, REGIONS, CLASSES), region_bits)
    wt, tc, et, rc = masks.T
    assert np.array_equal(read, np.stack([wt | tc | et, tc | et, et, rc], -1))
    assert np.array_equal(labels.region_masks(labels.paint(read, REGIONS, CLASSES), region_bits), read)


def test_post_processed_masks_are_those_that_are_painted():
    """So the limits are tuned on the masks that are scored."""
    region_bits, masks = labels.region_bits(REGIONS, CLASSES), np.random.default_rng(1).random((9, 9, 9, 4)) > 0.8
    read = labels.region_masks(labels.paint(masks, REGIONS, CLASSES), region_bits)
    cleaned = postprocess.apply(read, read * np.float32(0.9), {'component': (4,) * 4, 'whole': (0, 0, 300, 0)},
                                region_bits=region_bits, voxel=1.0)
    assert cleaned.sum() < read.sum() and not cleaned[..., 2].any()
    assert np.array_equal(labels.region_masks(labels.paint(cleaned, REGIONS, CLASSES), region_bits), cleaned)


@pytest.mark.parametrize('regions, message', [
    ((Region('a', (1, 2), 1), Region('b', (2, 3), 3)), "'b' and 'a' share category ids .2., and neither"),
    ((Region('a', (1, 2), 1), Region('b', (2, 1), 2)), "'b' and 'a' share"),
    ((Region('whole', (1, 2), 2), Region('core', (2,), 2)), "'whole' would be written as category id 2.*'core'"),
    ((Region('core', (2,), 2), Region('whole', (1, 2), 2)), "'whole' would be written as category id 2.*'core'"),
    ((Region('a', (1,), 2),), "'a' would be written as category id 2, which is none of its own"),
    ((Region('a', (1,), 1), Region('a', (2,), 2)), "'a' comes twice")])
def test_regions_of_which_no_map_can_be_written_are_refused_by_name(regions, message):
    with pytest.raises(InputError, match=message):
        labels.region_bits(regions, CLASSES)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_both_orders_are_trained_to_the_same_maps(activation, monkeypatch):
    """The network's logits are the parameters themselves."""
    label = np.array([[0, 1, 2, 4], [8, 4, 4, 0]], np.uint8)[None]  # every class
    found = []
    monkeypatch.setattr(step.unet, 'apply', lambda module, params, image: params)
    for order in ((0, 1, 2, 3), (2, 3, 1, 0)):
        config = tiny(0)
        with config.unlocked():
            config.augment.update({'flip': (False, False), 'spatial_probability': 0.0, 'intensity_probability': 0.0})
            config.loss.activation = activation
        region_bits = labels.region_bits(listed(order), CLASSES)
        optimizer = optax.sgd(3.0)
        train = jax.jit(step.make_train_step(config, None, optimizer, region_bits, lambda count: 0.1))
        begun = state.create(jnp.zeros((1, 2, 4, 4 + (activation == 'softmax'))), optimizer)
        batch = {'image': jnp.zeros((1, 2, 4, 1)), 'label': jnp.asarray(label), 'visit': jnp.zeros(1, jnp.uint32),
                 'valid': jnp.ones(1)}
        for _ in range(60):
            begun, _ = train(begun, batch)
        probability = step.probabilities(config, begun.params, region_bits)
        found.append(labels.from_probabilities(probability, threshold=0.5, regions=listed(order), classes=CLASSES))
    assert np.array_equal(found[0], label) and np.array_equal(found[1], label)


# --- the masks of validation are those of evaluation ---

NESTED = (Region('ET', (2,), 2), Region('WT', (1, 2), 1))  # inner first, and neither's mask holds the other's


@pytest.fixture
def experiment(monkeypatch):
    """One whose network answers with 1 - image: its channels are the regions, and it finds all in padding."""
    monkeypatch.setattr(loop.steps, 'make_predict_step', lambda *_: answer)

    def make(size):
        config = tiny(0)
        with config.unlocked():
            config.data.update({'size': size, 'categories': (1, 2), 'regions': NESTED, 'channels': 2})
            config.augment.flip = (False,) * len(size)
        return create(config.lock())

    return make


def answer(params, batch):
    return 1 - batch['image'].astype(jnp.float32)


def validated(experiment, samples, devices=1):
    programs = loop.create_programs(experiment, devices=jax.devices()[:devices])
    params = programs.create().ema_params
    return validation.validate(experiment, programs.overlap, programs.mesh, params, samples)


def scored(experiment, found):
    """{'dice/<region>', 'dice_all/<region>'} of cases, by the measures of evaluation."""
    table = pd.DataFrame([line for case in found for line in cases.score(experiment, case)])
    means = {}
    for region, rows in table.groupby('region'):
        there = rows[rows.tp + rows.fn > 0]
        means |= {f'dice/{region}': there.dice.mean(), f'dice_all/{region}': rows.dice.mean()}
    return means


def made_up(shape, seed, empty=()):
    """(image, label): probabilities that are right in about two thirds, and not nested."""
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([0, 0, 0, 1, 2], np.uint8), shape)
    label = np.zeros_like(label) if empty else label
    true = np.stack([label == 2, label > 0], -1)
    right = rng.random(true.shape) < 2 / 3
    return np.where(true == right, 0.125, 0.875).astype(np.float16), label


def test_volumes_are_validated_by_the_masks_that_are_scored_every_voxel_once(experiment):
    found = experiment((8, 8, 8))
    shapes = [(20, 13, 9), (5, 17, 8), (8, 8, 8)]  # tiles that overlap; beyond the border; one
    volumes = []
    for k, shape in enumerate(shapes):
        image, label = made_up(shape, k, empty=k == 2)
        volumes.append(Volume(image, label, np.zeros((0, 3)), (0, 0), Grid(shape, 'LPS', 'LPS', (0, 0, 0), shape)))
    tiles = patches.tiles(Fake(*volumes), (8, 8, 8))
    assert np.prod(np.diff(tiles.owned(np.arange(len(tiles.rows))))[..., 0], 1).sum() == sum(map(np.prod, shapes))
    predictor = Predictor(found, (1.0,), jax.jit(answer), sharding.create_mesh(jax.devices()[:1]))
    expected = []
    for k, volume in enumerate(volumes):
        bits = sliding_window.segment(predictor, volume)
        expected.append(cases.Case(str(k), str(k), (1.0,) * 3, volume.label, bits))
    assert validated(found, tiles) == pytest.approx(scored(found, expected), abs=1e-9)
    assert validated(found, tiles, devices=4) == validated(found, tiles)


def test_images_are_validated_by_the_masks_that_are_scored_and_padding_counts_for_nothing(experiment):
    """Six images in batches of four: the last two of the second batch are padding, in which the network finds all."""
    found = experiment((16, 16))
    image, label = map(np.stack, zip(*(made_up((16, 16), k, empty=k > 2) for k in range(6)), strict=True))
    names = [f'{k}.png' for k in range(6)]
    samples = Samples(image, label, pd.DataFrame({'path': names, 'case': names, 'height': 16, 'width': 16}))
    predictor = Predictor(found, (1.0,), jax.jit(answer), sharding.create_mesh(jax.devices()[:1]))
    expected = [cases.Case(names[k], names[k], (1.0, 1.0), label[k], bits)
                for k, p in inference.enlarged(predictor, samples)
                for bits in [inference.to_bits(predictor, p, voxel=1.0)]]
    assert validated(found, samples) == pytest.approx(scored(found, expected), abs=1e-9)


# --- the best checkpoint is chosen by the cases that have the region ---

def test_cases_that_lack_a_region_do_not_choose_the_checkpoint(experiment):
    """A network that finds nothing has Dice 1 in four of six images, and must not beat one that finds half."""
    found, scores = experiment((16, 16)), []
    label = np.zeros((6, 16, 16), np.uint8)
    label[:2, 4:8, 4:8] = 1
    names = pd.DataFrame({'path': list('abcdef'), 'case': list('abcdef')})
    for wt in (np.zeros_like(label), np.where(np.arange(16) < 6, label, 0)):  # nothing; half of it and no false voxel
        wt[2:, 0, 0] = wt.any()  # and then a false pixel in each image without
        image = 1 - np.stack([np.zeros(wt.shape), wt], -1).astype(np.float16)
        results = validated(found, Samples(image, label, names))
        assert results['dice/ET'] is None and results['dice_all/ET'] == 1
        scores.append((validation.choose_by(results), results['dice_all/WT']))
    assert scores == [(0.0, pytest.approx(4 / 6)), (pytest.approx(2 / 3), pytest.approx(4 / 18))]


def test_where_no_case_has_any_region_the_fall_back_is_said(caplog):
    assert validation.choose_by({'dice/a': None, 'dice/b': None, 'dice_all/a': 0.5, 'dice_all/b': 1.0}) == 0.75
    assert 'no validation case has any of the regions' in caplog.text
