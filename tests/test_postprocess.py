"""Post-processing: small components go, a little enhancing tumour becomes necrosis, regions stay nested."""
import numpy as np
import pytest

from unet_jax.annotations import labels, schemas
from unet_jax.inference import postprocess

NAMES, CLASSES = ('WT', 'TC', 'ET'), schemas.classes('2021')
REGIONS = schemas.regions('2021')
OF = labels.region_bits(REGIONS, CLASSES)


def apply(masks, voxel=1.0, probability=None, **limits):
    """Limits are the same for every region, or of each."""
    limits = {name: value if isinstance(value, tuple) else (value,) * 3 for name, value in limits.items()}
    probability = np.where(masks, np.float32(0.9), np.float32(0.1)) if probability is None else probability
    return postprocess.apply(masks, probability, limits, region_bits=OF, voxel=voxel)


def boxes(**regions):
    """(20, 20, 20, 3) with a box (corner, side) for every one named; a region lies in the outer ones too."""
    masks = np.zeros((20, 20, 20, 3), bool)
    for name, places in regions.items():
        for (x, y, z), side in places:
            masks[x:x + side, y:y + side, z:z + side, :NAMES.index(name) + 1] = True
    return masks


def test_nothing_changes_without_limits():
    masks = np.random.default_rng(0).random((5, 6, 7, 3)) > 0.5
    assert np.array_equal(apply(masks), masks)


def test_components_below_the_limit_go_and_equal_ones_stay():
    masks = boxes(WT=[((0, 0, 0), 2), ((10, 10, 10), 3)])
    assert np.array_equal(apply(masks, component=8), masks)
    assert np.array_equal(apply(masks, component=9), boxes(WT=[((10, 10, 10), 3)]))
    assert not apply(masks, component=28).any()


def test_limits_are_in_mm3():
    masks = boxes(WT=[((0, 0, 0), 2), ((10, 10, 10), 3)])
    assert np.array_equal(apply(masks, component=9, voxel=2.0), masks)
    assert np.array_equal(apply(masks, component=17, voxel=2.0), boxes(WT=[((10, 10, 10), 3)]))


def test_corners_that_touch_are_one_component():
    masks = boxes(WT=[((0, 0, 0), 2), ((2, 2, 2), 2)])
    assert np.array_equal(apply(masks, component=16), masks)


def test_what_the_whole_tumour_loses_the_inner_regions_lose_too():
    got = apply(boxes(WT=[((10, 10, 10), 6)], ET=[((0, 0, 0), 2)]), component=20)
    assert np.array_equal(got, boxes(WT=[((10, 10, 10), 6)]))


def test_what_an_inner_region_loses_the_outer_ones_keep():
    got = apply(boxes(WT=[((5, 5, 5), 6)], ET=[((6, 6, 6), 2)]), component=20)
    assert np.array_equal(got, boxes(WT=[((5, 5, 5), 6)]))


def test_an_inner_region_counts_for_the_outer_ones_as_it_is_painted():
    masks = np.zeros((20, 20, 20, 3), bool)
    masks[3:6, 3:6, 3:6, 2] = True  # ET alone, 27 voxels
    assert apply(masks, component=20)[4, 4, 4].all()


def test_a_little_enhancing_tumour_becomes_necrosis():
    masks = boxes(TC=[((5, 5, 5), 6)], ET=[((6, 6, 6), 2), ((9, 9, 9), 1)])
    assert np.array_equal(apply(masks, whole=(0, 0, 9)), masks)
    got = apply(masks, whole=(0, 0, 10))
    assert not got[..., 2].any() and np.array_equal(got[..., :2], masks[..., :2])
    ids = labels.to_ids(labels.paint(got, REGIONS, CLASSES), CLASSES)
    assert ids[6, 6, 6] == 1 and set(np.unique(ids)) == {0, 1}


@pytest.mark.parametrize('name', ['2024-GLI', 'MSD'])
def test_regions_beside_each_other_are_cleaned_apart(name):
    regions, classes = schemas.regions(name), schemas.classes(name)
    region_bits = labels.region_bits(regions, classes)
    masks = np.zeros((20, 20, 20, len(region_bits)), bool)
    masks[1:4, 1:4, 1:4, 0] = True
    masks[10:12, 10:12, 10:12, -1] = True
    limits = {'component': (20,) * len(region_bits)}
    got = postprocess.apply(masks, masks * np.float32(0.9), limits, region_bits=region_bits, voxel=1.0)
    assert got[2, 2, 2, 0] and not got[10:12].any()


def test_each_region_has_a_limit_of_its_own():
    masks = boxes(WT=[((0, 0, 0), 2), ((8, 8, 8), 8)], TC=[((9, 9, 9), 2)])
    assert np.array_equal(apply(masks, component=(9, 0, 0)), boxes(WT=[((8, 8, 8), 8)], TC=[((9, 9, 9), 2)]))
    assert np.array_equal(apply(masks, component=(0, 9, 0)), boxes(WT=[((0, 0, 0), 2), ((8, 8, 8), 8)]))


def test_a_threshold_of_one_region_leaves_the_others_but_for_nesting():
    masks = np.zeros((20, 20, 20, 3), bool)
    probability = np.zeros(masks.shape, np.float32)
    probability[2:12, 2:12, 2:12, 0], probability[4:10, 4:10, 4:10, 1] = 0.65, 0.45
    masks[..., 0] = probability[..., 0] > 0.5
    assert apply(masks, probability=probability, threshold=(0, 0.4, 0))[..., 1].sum() == 6 ** 3
    raised = apply(masks, probability=probability, threshold=(0.7, 0.4, 0))
    assert raised[..., 0].sum() == raised[..., 1].sum() == 6 ** 3  # what is core is tumour


@pytest.mark.parametrize('flat', [False, True])
def test_only_enclosed_holes_are_filled_and_only_small_ones(flat):
    mask = np.ones((9, 9, 9), bool)
    mask[2, 2, 2] = mask[5:7, 5:7, 5:7] = mask[0, 0, 0] = mask[4, 4, 0] = False
    mask[4, 4, 1:4] = False  # a channel to the border
    if flat:
        mask = np.pad(np.ones((5, 5), bool), 2)
        mask[4, 4] = mask[3, 3] = False  # they touch at a corner alone
    masks = np.stack([mask] * 3, -1)
    got = apply(masks, holes=1)[..., 0]
    if flat:
        assert got.sum() == 25
    else:
        assert got[2, 2, 2] and not got[5:7, 5:7, 5:7].any() and not got[0, 0, 0] and not got[4, 4, :4].any()
        assert apply(masks, holes=8)[5:7, 5:7, 5:7].all()


def test_lesions_of_little_confidence_go_whatever_their_size():
    masks, probability = boxes(WT=[((0, 0, 0), 6), ((10, 10, 10), 2)]), np.zeros((20, 20, 20, 3), np.float32)
    probability[:6, :6, :6, 0], probability[10:, 10:, 10:, 0] = 0.55, 0.95
    assert np.array_equal(apply(masks, probability=probability, confidence=0.6), boxes(WT=[((10, 10, 10), 2)]))
    assert np.array_equal(apply(masks, probability=probability, confidence=0.5), masks)


def test_words_name_regions_and_units():
    limits = {'component': (50, 0, 100), 'threshold': (0.4, 0, 0)}
    assert postprocess.told(limits, NAMES) == 'threshold WT 0.4; component WT 50 mm³, ET 100 mm³'
    assert 'nothing' in postprocess.told({}, NAMES)
