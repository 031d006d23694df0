"""The score of QU-BraTS: areas by hand, the published definition as a loop, and maps from probabilities."""
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unet_jax.errors import InputError
from unet_jax.evaluation.uncertainty import THRESHOLDS, qu_brats
from unet_jax.inference.temperature import uncertainty

REFERENCE = np.array([[1, 1, 0, 0]], bool)
PREDICTION = np.array([[1, 0, 1, 0]], bool)  # one true positive, false negative, false positive, true negative


def scores(reference, prediction, unsure, brain=None):
    """(score, area of Dice, of filtered true positives, of filtered true negatives)."""
    unsure = np.broadcast_to(np.asarray(unsure, np.uint8), reference.shape)
    return tuple(qu_brats(reference, prediction, uncertainty=unsure, brain=brain).values())


def test_who_is_always_sure_gets_two_thirds_and_a_third_of_dice():
    assert scores(REFERENCE, PREDICTION, 0) == pytest.approx(((0.5 + 2) / 3, 0.5, 0, 0))


def test_unsure_where_wrong_and_sure_where_right_is_nearly_perfect():
    # Dice is 1 up to the threshold 97.5 and 1/2 at 100: the last of 40 trapezia is 2.5 * 0.75.
    dice = (39 * 2.5 + 2.5 * 0.75) / 100
    assert scores(REFERENCE, PREDICTION, [[0, 100, 100, 0]]) == pytest.approx(((dice + 2) / 3, dice, 0, 0))


def test_unsure_of_everything_is_perfect_on_nothing_and_costs_all_that_was_right():
    # Nothing is kept below 100: Dice of nothing is 1, all true positives and negatives are filtered out.
    dice, lost = (39 * 2.5 + 2.5 * 0.75) / 100, (39 * 2.5 + 2.5 * 0.5) / 100
    assert scores(REFERENCE, PREDICTION, 100) == pytest.approx(((dice + 2 * (1 - lost)) / 3, dice, lost, lost))


def test_a_threshold_keeps_what_is_equal_to_it():
    # The false positive (uncertainty 50) is kept from the threshold 50 on: Dice 1 at 20 thresholds, then 2/3.
    reference, prediction = np.array([[1, 0]], bool), np.array([[1, 1]], bool)
    dice = (19 * 2.5 + 2.5 * (1 + 2 / 3) / 2 + 20 * 2.5 * 2 / 3) / 100
    assert scores(reference, prediction, [[0, 50]])[1] == pytest.approx(dice)
    assert scores(reference, prediction, [[0, 51]])[1] > dice


def test_true_negatives_count_inside_the_brain_only():
    reference, prediction = np.array([[1, 0, 0, 0, 0]], bool), np.array([[1, 0, 0, 0, 0]], bool)
    unsure, brain = [[0, 100, 0, 0, 0]], np.array([[1, 1, 1, 0, 0]], bool)
    lost = (39 * 2.5 + 2.5 / 2) / 100
    assert scores(reference, prediction, unsure)[3] == pytest.approx(lost / 4)
    assert scores(reference, prediction, unsure, brain)[3] == pytest.approx(lost / 2)


def test_two_empty_masks_are_right_and_lose_no_true_positives():
    empty = np.zeros((2, 3, 4), bool)
    assert scores(empty, empty, 0) == (1, 1, 0, 0)


def by_the_definition(reference, prediction, unsure):
    """Threshold by threshold, in the order of the challenge's text."""
    curves = []
    tp, tn = reference & prediction, ~reference & ~prediction
    for threshold in THRESHOLDS:
        kept = unsure <= threshold
        both, either = (tp & kept).sum(), (reference & kept).sum() + (prediction & kept).sum()
        lost = [(right & ~kept).sum() / max(right.sum(), 1) for right in (tp, tn)]
        curves.append([2 * both / either if either else 1.0, *lost])
    dice, *lost = [sum((a + b) / 2 * 0.025 for a, b in zip(c, c[1:])) for c in np.transpose(curves).tolist()]
    return [(dice + sum(1 - x for x in lost)) / 3, dice, *lost]


CASES = st.tuples(*[st.integers(1, 5)] * 3).flatmap(lambda shape: st.tuples(
    *[arrays.arrays(bool, shape)] * 2, arrays.arrays(np.uint8, shape, elements=st.integers(0, 100))))
CORNER = np.zeros((3, 2, 2), bool)


@example((CORNER, CORNER, np.full(CORNER.shape, 3, np.uint8)))
@example((CORNER, ~CORNER, np.full(CORNER.shape, 97, np.uint8)))
@settings(max_examples=30, deadline=None)
@given(CASES)
def test_any_case_scores_as_threshold_by_threshold(case):
    assert scores(*case) == pytest.approx(by_the_definition(*case))


@pytest.mark.parametrize('unsure', [np.full((1, 4), 0.5), np.full((1, 4), 101, np.uint8), np.zeros((4, 1), np.uint8)])
def test_maps_that_do_not_fit_are_refused(unsure):
    with pytest.raises(InputError, match='expected uint8 .1, 4. from 0 to 100'):
        qu_brats(REFERENCE, PREDICTION, uncertainty=unsure)


def test_one_half_is_most_unsure_and_both_ends_are_sure():
    probability = np.array([0, 0.1, 0.25, 0.5, 0.75, 0.997, 1], np.float32)
    assert uncertainty(probability).tolist() == [0, 20, 50, 100, 50, 1, 0]
