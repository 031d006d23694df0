import cc3d
import numpy as np
import pytest
from scipy import ndimage

from unet_jax.errors import InputError
from unet_jax.evaluation import lesions, overlap, surface

MM = (1.0, 1.0, 1.0)
SHAPE = (24, 24, 48)


def boxes(*corners: tuple[int, int, int], size: tuple[int, int, int] = (4, 4, 4)) -> np.ndarray:
    """Boxes (64 mm³ by default: more than any threshold) at the given corners."""
    mask = np.zeros(SHAPE, bool)
    for corner in corners:
        mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def scores(reference, prediction, challenge='MEN', spacing=MM):
    """(Dice, HD95, found, missed, invented); MEN dilates by one voxel, which is easy to follow."""
    found = lesions.lesion_wise(reference, prediction, spacing=spacing, challenge=challenge)
    return tuple(value for name, value in found.items() if name != 'lesion_nsd')


LEFT = boxes((10, 10, 10))


def test_a_perfect_prediction_scores_1_and_0():
    two = boxes((10, 10, 10), (10, 10, 30))
    assert scores(two, two) == (1, 0, 2, 0, 0)


@pytest.mark.parametrize(('gap', 'expected'), [(2, (2 / 3, 6, 1, 0, 0)), (3, (1 / 2, 374 / 2, 1, 1, 0))])
def test_parts_whose_dilations_touch_are_one_lesion(gap, expected):
    # One voxel of dilation on either side closes a gap of two. HD95: the far side of the part that was missed.
    both = LEFT | boxes((10, 10, 14 + gap))
    assert scores(both, LEFT) == pytest.approx(expected)


def test_a_larger_dilation_joins_parts_further_apart():
    both = LEFT | boxes((10, 10, 14 + 6))
    assert scores(both, both, 'GLI')[2] == 1
    assert scores(both, both, 'MEN')[2] == 2


def test_a_missed_lesion_scores_0_and_374():
    assert scores(LEFT, np.zeros(SHAPE, bool)) == (0, 374, 0, 1, 0)


def test_what_touches_the_dilated_lesion_belongs_to_it():
    beside = boxes((10, 10, 14))  # shares no voxel with the lesion, but its first layer is in the dilation
    assert scores(LEFT, beside)[0] == 0
    assert scores(LEFT, beside)[1] < 5
    assert scores(LEFT, beside)[2:] == (1, 0, 0)
    assert scores(LEFT, boxes((10, 10, 15)))[2:] == (0, 1, 1)


def test_the_dilation_reaches_over_edges_but_not_over_corners():
    assert scores(LEFT, boxes((14, 14, 13), size=(1, 1, 1)))[2:] == (1, 0, 0)
    assert scores(LEFT, boxes((14, 14, 14), size=(1, 1, 1)))[2:] == (0, 1, 1)


def test_whole_components_are_compared_with_the_undilated_lesion():
    long = boxes((10, 10, 10), size=(4, 4, 20))  # far beyond the dilation
    dice, distance, *_ = scores(LEFT, long)
    assert dice == 2 * 64 / (64 + 320)
    assert distance == surface.hd95(LEFT, long, spacing=MM, convention='deepmind')


def test_all_components_that_touch_a_lesion_are_taken_together():
    halves = boxes((10, 10, 10), (10, 10, 13), size=(4, 4, 1))
    assert scores(LEFT, halves)[0] == 2 * 32 / (64 + 32)
    assert scores(LEFT, halves)[2:] == (1, 0, 0)


def test_a_component_that_reaches_two_lesions_belongs_to_both():
    two = boxes((10, 10, 10), (10, 10, 20))
    bridge = boxes((10, 10, 10), size=(4, 4, 14))
    assert scores(two, bridge)[0] == 2 * 64 / (64 + 224)
    assert scores(two, bridge)[2:] == (2, 0, 0)


def test_predicted_voxels_that_meet_at_a_corner_are_one_component():
    tail = boxes((14, 14, 14), size=(1, 1, 9))
    assert scores(LEFT, LEFT | tail)[2:] == (1, 0, 0)
    assert scores(LEFT, LEFT | tail)[0] == 2 * 64 / (64 + 64 + 9)


def test_every_invented_component_costs_whatever_its_size():
    specks = boxes((0, 0, 0), (0, 0, 5), size=(1, 1, 1))
    assert scores(LEFT, LEFT | specks) == pytest.approx((1 / 3, 2 * 374 / 3, 1, 0, 2))


@pytest.mark.parametrize(('size', 'spacing', 'challenge', 'counted'), [
    ((5, 5, 2), MM, 'MEN', 0), ((5, 5, 2), (1.0, 1.0, 1.01), 'MEN', 1), ((3, 17, 1), MM, 'MEN', 1),
    ((2, 1, 1), MM, 'MET', 0), ((3, 1, 1), MM, 'MET', 1)])
def test_only_lesions_above_the_threshold_in_mm3_count(size, spacing, challenge, counted):
    lesion = boxes((2, 2, 2), size=size)
    expected = (0, 374, 0, 1, 0) if counted else (1, 0, 0, 0, 0)
    assert scores(lesion, np.zeros(SHAPE, bool), challenge, spacing) == expected


def test_a_lesion_too_small_to_count_still_absorbs_what_touches_it():
    small = boxes((2, 2, 2), size=(2, 2, 2))
    assert scores(small, small) == (1, 0, 0, 0, 0)
    assert scores(LEFT | small, LEFT | small) == (1, 0, 1, 0, 0)


def test_nothing_on_either_side_is_perfect_and_an_invention_on_nothing_is_not():
    nothing = np.zeros(SHAPE, bool)
    assert scores(nothing, nothing) == (1, 0, 0, 0, 0)
    assert scores(nothing, LEFT) == (0, 374, 0, 0, 1)


def test_lesions_at_the_border_score_as_in_the_middle():
    reference, prediction = boxes((0, 0, 0), (20, 20, 44)), boxes((0, 1, 0), (20, 19, 44))
    padded = [np.pad(mask, 5) for mask in (reference, prediction)]
    assert scores(reference, prediction, 'GLI') == pytest.approx(scores(*padded, 'GLI'))


def lesion_by_lesion(reference, prediction, spacing, dilation, threshold):
    """The rules in the order of the challenge's text, on the whole volume, each lesion dilated by itself."""
    element = ndimage.generate_binary_structure(3, 2)
    components, n = ndimage.label(reference, np.ones((3, 3, 3)))
    dilated, _ = ndimage.label(ndimage.binary_dilation(reference, element, iterations=dilation), np.ones((3, 3, 3)))
    parts, n_parts = ndimage.label(prediction, np.ones((3, 3, 3)))
    home = {c: dilated[components == c][0] for c in range(1, n + 1)}
    matched, dices, nsds, distances = set(), [], [], []
    for lesion in sorted(set(home.values())):
        mask = np.isin(components, [c for c in home if home[c] == lesion])
        near = ndimage.binary_dilation(mask, element, iterations=dilation)
        touching = set(parts[near].tolist()) - {0}
        matched |= touching
        if mask.sum() * np.prod(spacing) <= threshold:
            continue
        found = np.isin(parts, list(touching))
        dices.append(overlap.dice(overlap.counts(mask, found)))
        nsds.append(surface.surface_dice(mask, found, spacing=spacing, tolerance=1.3))
        distances.append(surface.hd95(mask, found, spacing=spacing, convention='deepmind') if touching else 374)
    invented = n_parts - len(matched)
    total = len(dices) + invented
    return (sum(dices) / total, sum(nsds) / total, (sum(distances) + 374 * invented) / total) if total else (1, 1, 0)


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('challenge', ['MEN', 'MET', 'GLI'])
def test_random_masks_score_as_lesion_by_lesion(seed, challenge):
    rng = np.random.default_rng(seed)
    shape, spacing = (11, 16, 21), ((1.0, 1.0, 1.0), (0.9, 1.3, 6.0))[seed % 2]
    masks = [ndimage.binary_dilation(rng.random(shape) < 0.004, iterations=int(rng.integers(1, 3))) for _ in range(2)]
    expected = lesion_by_lesion(*masks, spacing, *lesions.CHALLENGES[challenge])
    found = lesions.lesion_wise(*masks, spacing=spacing, challenge=challenge, tolerance=1.3)
    assert tuple(found.values())[:3] == pytest.approx(expected)


def test_the_challenges_have_their_published_parameters():
    assert {name: tuple(c) for name, c in lesions.CHALLENGES.items()} == {
        'GLI': (3, 50), 'SSA': (3, 50), 'PED': (3, 50), 'MEN': (1, 50), 'MET': (1, 2)}


def test_images_and_unknown_challenges_are_refused():
    with pytest.raises(InputError, match='volumes only'):
        lesions.lesion_wise(LEFT[10], LEFT[10], spacing=(1.0, 1.0))
    with pytest.raises(InputError, match='ISLES.*GLI'):
        lesions.lesion_wise(LEFT, LEFT, spacing=MM, challenge='ISLES')


def test_the_reach_of_a_lesion_is_the_lesion_dilated():
    reach = lesions.reaches(LEFT | boxes((10, 10, 30)), 2)
    assert cc3d.connected_components(reach > 0, connectivity=26).max() == reach.max() == 2
    near = ndimage.binary_dilation(LEFT, ndimage.generate_binary_structure(3, 2), iterations=2)
    assert ((reach == 1) == near).all()
