"""Post-processing: small components go, a little enhancing tumour becomes necrosis, regions stay nested."""
import numpy as np
import pytest

from unet_jax.annotations import labels, schemas
from unet_jax.inference import postprocess
from unet_jax.inference.postprocess import Limits

NAMES, CLASSES = ('WT', 'TC', 'ET'), schemas.classes('2021')
REGIONS = schemas.regions('2021')
OF = labels.region_bits(REGIONS, CLASSES)


def apply(masks, voxel=1.0, **limits):
    return postprocess.apply(masks, Limits(**limits), region_bits=OF, names=NAMES, voxel=voxel)


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
    assert np.array_equal(apply(masks, enhancing=9), masks)
    got = apply(masks, enhancing=10)
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
    got = postprocess.apply(masks, Limits(component=20), region_bits=region_bits,
                            names=tuple(r.name for r in regions), voxel=1.0)
    assert got[2, 2, 2, 0] and not got[10:12].any()
