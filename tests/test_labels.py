"""Bit-set labels: packing, regions, painting."""
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.annotations import labels
from unet_jax.annotations.labels import Region
from unet_jax.errors import InputError

BRATS = (Region('WT', (1, 2, 4), 2), Region('TC', (1, 4), 1), Region('ET', (4,), 4))
CLASSES = (1, 2, 4)


def test_brats_regions_are_the_published_unions_of_labels():
    ids = np.array([0, 1, 2, 4], np.uint8)
    masks = labels.region_masks(labels.from_ids(ids, CLASSES), labels.region_bits(BRATS, CLASSES))
    assert masks.tolist() == [[False, False, False], [True, True, False], [True, False, False], [True, True, True]]


def test_painting_nested_regions_writes_the_label_numbers_of_the_challenge():
    masks = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]], bool)
    assert labels.to_ids(labels.paint(masks, BRATS, CLASSES), CLASSES).tolist() == [0, 2, 1, 4, 4]


def test_painted_nested_regions_are_read_back_as_painted():
    masks = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    bits = labels.paint(masks, BRATS, CLASSES)
    assert np.array_equal(labels.region_masks(bits, labels.region_bits(BRATS, CLASSES)), masks)


def test_a_region_beside_nested_ones_is_painted_on_its_own():
    regions = (Region('WT', (1, 2, 3), 2), Region('TC', (1, 3), 1), Region('ET', (3,), 3), Region('RC', (4,), 4))
    masks = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    bits = labels.paint(masks, regions, (1, 2, 3, 4))
    assert labels.to_ids(bits, (1, 2, 3, 4)).tolist() == [1, 3, 4, 2]
    assert np.array_equal(labels.region_masks(bits, labels.region_bits(regions, (1, 2, 3, 4))), masks)


def test_overlapping_categories_keep_all_their_pixels():
    regions = (Region('a', (1,), 1), Region('b', (7,), 7))
    masks = np.array([[1, 0], [1, 1], [0, 1]], bool)
    bits = labels.paint(masks, regions, (1, 7))
    assert np.array_equal(labels.region_masks(bits, labels.region_bits(regions, (1, 7))), masks)
    assert labels.to_ids(bits, (1, 7)).tolist() == [1, 7, 7]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 32), st.integers(0, 2 ** 32 - 1))
def test_packing_then_taking_each_bit_is_the_identity(count, seed):
    masks = np.random.default_rng(seed).random((5, 4, count)) < 0.5
    bits = labels.pack(masks, labels.bits_dtype(count))
    assert np.array_equal(labels.region_masks(bits, tuple(1 << k for k in range(count))), masks)


def test_region_masks_are_the_same_in_numpy_and_jax():
    bits = np.arange(8, dtype=np.uint8).reshape(2, 4)
    of = labels.region_bits(BRATS, CLASSES)
    assert np.array_equal(labels.region_masks(bits, of), np.asarray(labels.region_masks(jnp.asarray(bits), of)))


def test_more_than_32_classes_and_unknown_ids_are_refused():
    with pytest.raises(InputError, match='33 categories'):
        labels.bits_dtype(33)
    with pytest.raises(InputError, match=r'\[9\]'):
        labels.region_bits((Region('x', (9,), 9),), CLASSES)
    with pytest.raises(InputError, match=r'\[3\]'):
        labels.from_ids(np.array([0, 3]), CLASSES)
