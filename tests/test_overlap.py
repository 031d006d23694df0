import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unet_jax.errors import InputError
from unet_jax.evaluation import overlap

SHAPES = st.one_of(st.tuples(*[st.integers(1, 6)] * 2), st.tuples(*[st.integers(1, 5)] * 3))
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(arrays.arrays(bool, shape), arrays.arrays(bool, shape)))
REFERENCE = np.array([[1, 1, 1], [0, 0, 0]], bool)
PREDICTION = np.array([[0, 1, 1], [1, 0, 0]], bool)
EMPTY = np.zeros_like(REFERENCE)


def test_counts_by_hand():
    assert overlap.counts(REFERENCE, PREDICTION) == (2, 1, 1, 2)


def test_ratios_by_hand():
    c = overlap.Counts(tp=2, fp=1, fn=2, tn=3)
    assert overlap.dice(c) == 4 / 7
    assert overlap.iou(c) == 2 / 5
    assert overlap.sensitivity(c) == 2 / 4
    assert overlap.specificity(c) == 3 / 4


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_counts_are_those_of_a_loop_over_voxels(pair):
    reference, prediction = pair
    seen = list(zip(reference.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    c = overlap.counts(reference, prediction)
    assert c == tuple(seen.count(kind) for kind in ((True, True), (False, True), (True, False), (False, False)))


@given(PAIRS)
@settings(max_examples=50, deadline=None)
def test_dice_and_iou_do_not_know_which_mask_is_the_reference_and_belong_together(pair):
    there, back = overlap.counts(*pair), overlap.counts(*pair[::-1])
    assert overlap.dice(there) == overlap.dice(back)
    assert overlap.sensitivity(there) == pytest.approx(overlap.ratio(back.tp, back.tp + back.fp), nan_ok=True)
    assert overlap.dice(there) == pytest.approx(2 * overlap.iou(there) / (1 + overlap.iou(there)))


@pytest.mark.parametrize('convention', overlap.CONVENTIONS)
def test_two_empty_masks_score_1_in_brats_and_nothing_elsewhere(convention):
    c = overlap.counts(EMPTY, EMPTY)
    expected = 1.0 if convention == 'brats' else float('nan')
    assert overlap.dice(c, convention=convention) == pytest.approx(expected, nan_ok=True)
    assert overlap.iou(c, convention=convention) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize('convention', overlap.CONVENTIONS)
@pytest.mark.parametrize('pair', [(REFERENCE, EMPTY), (EMPTY, REFERENCE)])
def test_one_empty_mask_scores_0(pair, convention):
    c = overlap.counts(*pair)
    assert overlap.dice(c, convention=convention) == overlap.iou(c, convention=convention) == 0


def test_rates_of_nothing_are_undefined():
    assert np.isnan(overlap.sensitivity(overlap.counts(EMPTY, REFERENCE)))
    assert np.isnan(overlap.specificity(overlap.counts(~EMPTY, REFERENCE)))


@pytest.mark.parametrize(('reference', 'prediction', 'message'), [
    (REFERENCE.astype(np.uint8), PREDICTION, 'uint8'),
    (REFERENCE, PREDICTION[:1], 'shape'),
    (REFERENCE[0], PREDICTION[0], 'dimensions'),
])
def test_masks_that_cannot_be_compared_are_refused(reference, prediction, message):
    with pytest.raises(InputError, match=message):
        overlap.counts(reference, prediction)


def test_an_unknown_convention_is_refused_with_the_choices():
    with pytest.raises(InputError, match='isles.*brats'):
        overlap.dice(overlap.Counts(1, 1, 1, 1), convention='isles')


def ones_and_nothing(test):
    for pair in ((EMPTY, EMPTY), (REFERENCE, EMPTY), (EMPTY, PREDICTION), (~EMPTY, ~EMPTY), (~EMPTY, EMPTY)):
        test = example(pair)(test)
    return settings(max_examples=40, deadline=None)(given(PAIRS)(test))


@ones_and_nothing
def test_all_four_are_those_of_medpy(pair):
    medpy = pytest.importorskip('medpy.metric.binary', reason='needs medpy: pip install -r requirements-test.txt')
    reference, prediction = pair
    c = overlap.counts(reference, prediction)
    assert overlap.dice(c, convention='nnunet') == pytest.approx(medpy.dc(prediction, reference), nan_ok=True)
    assert overlap.iou(c) == pytest.approx(medpy.jc(prediction, reference))
    if reference.any():  # else ours is undefined under every convention, as is specificity of a full image
        assert overlap.sensitivity(c) == pytest.approx(medpy.sensitivity(prediction, reference))
    if not reference.all():
        assert overlap.specificity(c) == pytest.approx(medpy.specificity(prediction, reference))


@ones_and_nothing
def test_dice_and_iou_are_those_of_monai(pair):
    torch = pytest.importorskip('torch', reason='needs MONAI and torch: make test-oracles')
    monai = pytest.importorskip('monai.metrics', reason='needs MONAI and torch: make test-oracles')
    reference, prediction = pair
    batches = [torch.tensor(mask[None, None]) for mask in (prediction, reference)]
    c = overlap.counts(reference, prediction)
    for ours, theirs in ((overlap.dice, monai.compute_dice), (overlap.iou, monai.compute_iou)):
        expected = theirs(*batches, ignore_empty=False).item() if reference.any() or prediction.any() else np.nan
        assert ours(c, convention='monai') == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_iou_is_that_of_pycocotools():
    coco = pytest.importorskip('pycocotools.mask', reason='needs pycocotools: pip install -r requirements-test.txt')
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 20, 31)) < 0.4
    encoded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (reference, prediction)]
    iou = coco.iou([encoded[1]], [encoded[0]], [0])[0, 0]
    assert overlap.iou(overlap.counts(reference, prediction)) == pytest.approx(iou, abs=1e-12)
