"""Calibration by hand and against single voxels; a temperature that is known is found; referral by hand."""
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from unet_jax.annotations import labels
from unet_jax.evaluation import calibration, referral
from unet_jax.inference.predictor import Predictor, to_bits
from unet_jax.inference.temperature import calibrated, uncalibrated


def drawn(count, temperature, seed=0):
    """(probabilities that are too sure by `temperature`, what is true)."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 2, count)
    true = rng.random(count) < 1 / (1 + np.exp(-logit))
    return (1 / (1 + np.exp(-logit * temperature))).astype(np.float32), true


def test_the_errors_by_hand():
    p = np.repeat(np.float32([0.1, 0.9, 0.5]), [50, 30, 20])
    true = np.repeat([True, False, True, False, True, False], [10, 40, 15, 15, 10, 10])
    found = calibration.scores(calibration.tally(p, true))
    assert found['ece'] == pytest.approx((50 * 0.1 + 30 * 0.4) / 100) and found['mce'] == pytest.approx(0.4)
    assert found['brier'] == pytest.approx(np.mean((p - true) ** 2.0))
    shown = np.array(calibration.reliability(calibration.tally(p, true)))
    assert shown == pytest.approx(np.array([[0.1, 0.2, 50], [0.5, 0.5, 20], [0.9, 0.5, 30]]))


def test_bins_of_equal_counts_cut_what_is_all_the_same_and_nothing_is_nan():
    half = calibration.tally(np.full(300, 0.5, np.float32), np.arange(300) % 2 == 0)
    assert calibration.scores(half)['ace'] == pytest.approx(0, abs=1e-9)
    assert calibration.scores(half * 0)['ece'] != calibration.scores(half * 0)['ece']
    assert calibration.summarise(np.zeros((2, 3, calibration.BINS)), ('a', 'b')) == {}


@pytest.mark.parametrize('temperature', [1, 3])
def test_the_tally_gives_what_single_voxels_give(temperature):
    p, true = drawn(40000, temperature)
    found = calibration.scores(calibration.tally(p.reshape(40, 10, 100), true.reshape(40, 10, 100)))
    bins = np.minimum((p * 15).astype(int), 14)
    gaps = [abs(p[bins == k].mean() - true[bins == k].mean()) for k in range(15)]
    order = np.argsort(p)
    equal = [abs(p[part].mean() - true[part].mean()) for part in np.array_split(order, 15)]
    assert found['ece'] == pytest.approx(sum(g * (bins == k).mean() for k, g in enumerate(gaps)), abs=1e-3)
    assert found['mce'] == pytest.approx(max(gaps), abs=0.02)
    assert found['ace'] == pytest.approx(np.mean(equal), abs=1e-3)
    assert found['brier'] == pytest.approx(np.mean((p - true) ** 2), abs=1e-4)


@pytest.mark.parametrize('temperature', [0.5, 1, 3])
def test_a_known_temperature_is_found_and_mends_the_errors(temperature):
    p, true = drawn(200000, temperature)
    counts = calibration.tally(p, true)
    found = calibration.fit(counts)
    assert found == pytest.approx(temperature, rel=0.03) and found == calibration.fit(counts)
    told = calibration.summarise(np.stack([counts]), ('WT',), (found,))['WT']
    assert told['after']['ece'] < 0.005 and (temperature == 1 or told['before']['ece'] > 10 * told['after']['ece'])
    assert told['after']['nll'] <= told['before']['nll'] + 1e-9
    alone = calibration.scores(calibration.tally(calibrated(p[:, None], [found])[:, 0], true))
    assert told['after']['ece'] == pytest.approx(alone['ece'], abs=1e-3)


def test_nothing_is_learnt_from_cases_that_are_all_one_thing():
    p = np.full(100, 0.9, np.float32)
    assert calibration.fit(calibration.tally(p, p > 0)) == calibration.fit(calibration.tally(p, p < 0)) == 1


def test_no_temperature_moves_a_mask_at_one_half_and_others_move_as_they_should():
    """Also of a softmax, whose regions are sums of channels: each rises by itself."""
    rng = np.random.default_rng(1)
    close = np.float32(0.5) + np.float32([-3, -1, 0, 1, 3]) * np.finfo(np.float32).epsneg
    p = np.concatenate([rng.random(5000, np.float32), close, np.float32([0, 1, 1e-30, 1.0000001])])
    p = np.stack([p, p[::-1], p], -1)
    temperatures = (0.1, 2.5, 10.0)
    half = uncalibrated(np.full(3, 0.5), temperatures).astype(np.float32)
    assert np.array_equal(half, np.full(3, 0.5)) and np.array_equal(p > half, p > 0.5)
    warm = calibrated(p, temperatures)
    assert warm.dtype == np.float32 and np.isfinite(warm).all() and warm.min() == 0 and warm.max() == 1
    order = np.argsort(p[:, 1])
    assert (np.diff(warm[order, 1]) >= 0).all()
    at = uncalibrated(np.full(3, 0.3), temperatures).astype(np.float32)
    assert np.array_equal(p > at, warm > 0.3) and not np.array_equal(p > at, p > 0.3)
    regions = (labels.Region('a', (1, 2), 1), labels.Region('b', (2,), 2))
    experiment = SimpleNamespace(config=SimpleNamespace(evaluation=SimpleNamespace(threshold=0.3)), regions=regions,
                                 classes=(1, 2), region_bits=(3, 2))
    predictor = Predictor(experiment, (), None, None, temperatures=temperatures[1:])
    bits = to_bits(predictor, p[:, 1:], voxel=1.0)
    there = warm[:, 1:] > 0.3
    assert np.array_equal(labels.region_masks(bits, (3, 2)), np.stack([there.any(-1), there[:, 1]], 1))


def test_the_box_is_that_of_the_reference_with_a_margin_in_mm():
    reference = np.zeros((60, 60, 30), bool)
    reference[30, 20:25, 3] = True
    assert calibration.box(reference, (1, 2, 5)) == (slice(20, 41), slice(15, 30), slice(1, 6))
    assert calibration.box(reference & False, (1, 1, 1)) is None


def test_confidence_is_the_dice_that_the_probabilities_expect():
    p = np.float32([[0.9, 0.8, 0.2, 0.1]])
    assert referral.confidence(p, p > 0.5) == pytest.approx(2 * 1.7 / (2 + 2))
    assert referral.confidence(p, p > 1) == pytest.approx(0.1)


def test_referral_by_hand():
    sure, dice = np.array([0.2, 0.9, 0.5, 0.5]), np.array([0.1, 1.0, 0.4, 0.8])
    assert referral.kept(sure, dice) == pytest.approx([2.3 / 4, 2.2 / 3, 1.6 / 2, 1.0])  # of the equals either goes
    table = pd.DataFrame({'case': list('abcde'), 'group': list('abcde'), 'region': 'WT',
                          'confidence': [*sure, 0.7], 'dice': [*dice, math.nan], 'tp': [1, 0, 1, 1, 0], 'fn': 0})
    found = referral.summarise(table)['WT']
    assert found['n'] == 4 and found['area'] == pytest.approx(np.mean([0.575, 2.2 / 3, 0.8, 1.0]))
    assert found['area_random'] == pytest.approx(0.575) and found['area_best'] >= found['area']
    assert found['curve'][0] == [0.0, pytest.approx(0.575)] and found['curve'][-1] == [0.75, 1.0]
    assert found['spearman'] == pytest.approx(pd.Series(sure).corr(pd.Series(dice), method='spearman'))
    assert found['low'] <= found['spearman'] <= found['high']
    assert found['with_region']['n'] == 3 and found['with_region']['area_random'] == pytest.approx(1.3 / 3)
    assert [said for said, _ in referral.lines({'WT': found})] == ['WT', 'WT, with region']


def test_confidence_that_says_nothing_has_no_correlation_and_no_area():
    table = pd.DataFrame({'case': range(9), 'group': range(9), 'region': 'WT', 'confidence': 0.5,
                          'dice': np.linspace(0, 1, 9), 'tp': 1, 'fn': 0})
    found = referral.summarise(table)['WT']
    assert found['spearman'] is None and found['area'] == pytest.approx(found['area_random'])
    assert referral.summarise(table.drop(columns='confidence')) == {}
