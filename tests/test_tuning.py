"""Post-processing is taken where it helps patients on whom it was not tuned, and tells the gain of those alone."""
import json

import numpy as np
import pytest
from test_postprocess import NAMES, OF, boxes

from unet_jax.evaluation import tuning

TRUE = boxes(WT=[((5, 5, 5), 6)], TC=[((5, 5, 5), 5)])
SPECK = boxes(WT=[((16, 16, 16), 2)])
SMALL = boxes(ET=[((6, 6, 6), 3)])


def tune(*pairs, voxel=1.0, groups=None, probability=None):
    """Of pairs (prediction, reference)."""
    cases = [tuning.crop(str(k if groups is None else groups[k]), true, found,
                         found * np.float32(0.9) if probability is None else probability, voxel)
             for k, (found, true) in enumerate(pairs)]
    return tuning.tune(cases, region_bits=OF, names=NAMES, convention='brats')


def test_nothing_is_done_where_that_would_hurt_or_gain_nothing():
    found = tune(*[(TRUE, TRUE)] * 4)
    assert found['limits'] == {} and found['gains']['WT']['all']['difference'] == 0


def test_specks_are_removed_by_the_smallest_limit_that_does():
    found = tune(*[(TRUE | SPECK, TRUE)] * 4)
    assert found['limits'] == {'component': (10, 0, 0)}
    before = 2 * 216 / (2 * 216 + 8)
    assert found['gains']['WT']['component']['difference'] == pytest.approx(1 - before)
    assert found['gains']['WT']['all']['wins'] == 4


def test_limits_are_in_mm3():
    assert tune(*[(TRUE | SPECK, TRUE)] * 4, voxel=2.0)['limits'] == {'component': (25, 0, 0)}


def test_enhancing_tumour_that_is_not_there_is_removed():
    """Of cases without it alone: Dice of ET from 0 to 1; the other regions are untouched."""
    found = tune(*[(TRUE | SMALL, TRUE)] * 4)
    assert found['gains']['ET']['all_cases']['difference'] == 1 and found['gains']['ET']['all']['n'] == 0
    assert found['limits'] == {'component': (0, 0, 50)}


def test_no_tumour_that_is_there_is_given_for_gains_where_there_is_none():
    # Without ET of under 50 mm³ nine of ten cases gain 1 in ET and one loses 1: over all cases that would win.
    assert tune(*[(TRUE | SMALL, TRUE | SMALL)] * 2, *[(TRUE | SMALL, TRUE)] * 9)['limits'] == {}


def test_a_gain_that_one_patient_makes_up_is_none():
    """A limit that helps the one patient with a large speck removes the true small lesion of the others, and what is
    best on the others does not reach the speck: tuned on all, the gain would be there."""
    true = TRUE | SPECK
    odd = (TRUE | boxes(WT=[((14, 14, 14), 5)]), TRUE)
    pairs = [odd, *[(true, true)] * 3]
    alone = tuning.Scores([tuning.crop('a', true, found, found * np.float32(0.9), 1.0) for found, true in pairs],
                          np.ones((4, 3), bool), OF, 'brats', {})
    imagined = tuning.best(alone, range(4), {}, tuning.STEPS[2])
    assert imagined == {'component': (200, 0, 0)}
    found = tune(*pairs)
    assert found['limits'] == {} and found['gains']['WT']['all']['difference'] <= 0


def test_a_patient_is_never_on_both_sides_and_few_patients_are_not_tuned_on():
    pairs = [(TRUE | SPECK, TRUE)] * 6
    assert tune(*pairs, groups='aabbaa') == {'limits': {}, 'patients': 2, 'gains': {}}
    scores = tuning.Scores([tuning.crop(g, TRUE, TRUE, TRUE * np.float32(1), 1.0) for g in 'abcabc'], None, OF, '', {})
    assert tuning.split(scores, range(6)) == [[0, 3], [1, 4], [2, 5]]


def test_a_threshold_is_tuned_by_region_and_a_hole_is_filled_and_it_is_all_json():
    probability = np.where(TRUE, np.float32(0.35), np.float32(0))
    found = tune(*[(TRUE & False, TRUE)] * 3, probability=probability)
    assert found['limits'] == {'threshold': (0.2, 0.2, 0)} and found['gains']['TC']['all']['difference'] == 1
    hollow = TRUE.copy()
    hollow[7, 7, 7] = False
    found = tune(*[(hollow, TRUE)] * 3)
    assert json.loads(json.dumps(found))['limits'] == {'holes': [50, 50, 0]}


def test_cutting_to_the_box_changes_no_mask():
    rng = np.random.default_rng(0)
    probability = rng.random((12, 12, 12, 3), np.float32) * (rng.random((12, 12, 12, 1)) > 0.5)
    masks = probability > 0.5
    wide = [np.pad(a, [(4, 3)] * 3 + [(0, 0)]) for a in (masks, masks, probability)]
    case = tuning.crop('a', *wide, 1.0)
    limits = {'threshold': (0.3, 0, 0.7), 'holes': (50, 50, 50), 'component': (10, 25, 0), 'confidence': (0, 0.6, 0.6)}
    there = tuning.apply(wide[1], wide[2], limits, region_bits=OF, voxel=1.0)
    here = tuning.apply(case.masks, case.probability, limits, region_bits=OF, voxel=1.0)
    assert case.masks.shape == (14, 14, 14, 3) and np.array_equal(there[3:17, 3:17, 3:17], here)
    assert there.sum() == here.sum() > 0


def test_a_case_without_anything_is_scored_too():
    empty = np.zeros_like(TRUE)
    assert tune(*[(empty, empty)] * 3)['gains']['WT']['all']['n'] == 0
