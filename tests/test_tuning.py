"""The limits of post-processing are those that score best, and 0 where nothing helps."""
import json

import numpy as np
import pytest
from test_postprocess import NAMES, OF, boxes

from unet_jax.evaluation import tuning

TRUE = boxes(WT=[((5, 5, 5), 6)], TC=[((5, 5, 5), 5)])


def tune(*cases, voxel=1.0):
    cases = ((true, found, voxel) for found, true in cases)
    return tuning.tune(cases, region_bits=OF, names=NAMES, convention='brats')


def test_nothing_is_removed_where_that_would_hurt():
    found = tune((TRUE, TRUE))
    assert (found['component'], found['enhancing']) == (0, 0) and found['dice'] == {'without': 1.0, 'with': 1.0}


def test_specks_are_removed_by_the_smallest_limit_that_does():
    found = tune((TRUE | boxes(WT=[((16, 16, 16), 2)]), TRUE))
    assert (found['component'], found['enhancing']) == (10, 0) and found['dice']['with'] == 1.0
    assert found['dice']['without'] < 1


def test_enhancing_tumour_that_is_not_there_is_removed():
    found = tune((TRUE | boxes(ET=[((6, 6, 6), 3)]), TRUE))  # Dice of ET from 0 to 1; 27 mm³
    assert found['enhancing'] == 50 or found['component'] == 50
    assert found['dice_all'] == {'without': pytest.approx(2 / 3), 'with': 1.0}
    assert found['dice'] == {'without': 1.0, 'with': 1.0}  # the cases that have the region lose nothing


def test_no_tumour_that_is_there_is_given_for_gains_where_there_is_none():
    # Without ET of under 50 mm³ nine of ten cases gain 1 in ET and one loses 1: over all cases that would win.
    small = boxes(ET=[((6, 6, 6), 3)])
    found = tune((TRUE | small, TRUE | small), *[(TRUE | small, TRUE)] * 9)
    assert (found['component'], found['enhancing']) == (0, 0) and found['dice'] == {'without': 1.0, 'with': 1.0}
    assert max(trial['dice_all'] for trial in found['tried']) > found['dice_all']['with']


def test_limits_are_in_mm3_and_over_all_cases():
    noisy = TRUE | boxes(WT=[((16, 16, 16), 2)])
    assert tune((noisy, TRUE), (noisy, TRUE), voxel=2.0)['component'] == 25


def test_every_trial_is_recorded_as_json():
    found = json.loads(json.dumps(tune((TRUE, TRUE))))
    assert len(found['tried']) == len(tuning.COMPONENTS) * len(tuning.ENHANCING)
    best = max(found['tried'], key=lambda trial: trial['dice'])
    assert best['dice'] == found['dice']['with']


def test_a_case_without_anything_is_scored_too():
    empty = np.zeros_like(TRUE)
    found = tune((empty, empty))
    assert found['dice_all']['without'] == 1.0 and found['dice']['without'] is None
