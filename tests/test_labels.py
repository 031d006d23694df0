"""Bit-set labels: packing, regions, painting."""
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unet_jax.annotations import audit, coco, labels
from unet_jax.annotations import frame as frames
from unet_jax.annotations.labels import Region
from unet_jax.errors import InputError
from unet_jax.formats import mask_file
from unet_jax.pipeline import decode

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
    region_bits = labels.region_bits(BRATS, CLASSES)
    traced = labels.region_masks(jnp.asarray(bits), region_bits)
    assert np.array_equal(labels.region_masks(bits, region_bits), np.asarray(traced))


def test_more_than_32_classes_and_unknown_ids_are_refused():
    with pytest.raises(InputError, match='33 categories'):
        labels.bits_dtype(33)
    with pytest.raises(InputError, match=r'\[9\]'):
        labels.region_bits((Region('x', (9,), 9),), CLASSES)
    with pytest.raises(InputError, match=r'\[3\]'):
        labels.from_ids(np.array([0, 3]), CLASSES)


@pytest.mark.parametrize('classes, written', [((1, 4), (1, 4)), ((7, 65535), (7, 65535)), ((0, 3), (1, 2)),
                                              ((1, 70000), (1, 2)), ((-1, 5), (1, 2))])
def test_a_class_is_never_written_as_background_nor_beyond_16_bits(classes, written, tmp_path):
    """Category id 0 may be a class, ids may be large."""
    bits = np.array([[0, 1], [2, 2]], np.uint8)
    assert labels.values(classes) == written
    assert labels.to_ids(bits, classes).tolist() == [[0, written[0]], [written[1]] * 2]
    mask_file.write_png(tmp_path / 'a.png', labels.to_ids(bits, classes))
    assert np.array_equal(labels.from_ids(np.asarray(Image.open(tmp_path / 'a.png')), classes), bits)
    mask_file.write_coco(tmp_path / 'a.json', dict(zip(classes, 'ab')), [])
    categories = json.loads((tmp_path / 'a.json').read_text())['categories']
    told = [c.get('pixel_value', c['id']) for c in categories]
    assert tuple(told) == written and [c['id'] for c in categories] == list(classes)


def test_an_annotated_category_0_is_a_class_and_an_unused_one_is_none(tmp_path):
    for drawn, classes in ((0, (0,)), (1, (1,))):
        Image.new('L', (8, 8)).save(tmp_path / 'a.png')
        (tmp_path / 'labels.json').write_text(json.dumps({
            'images': [{'id': 1, 'file_name': 'a.png', 'width': 8, 'height': 8}],
            'annotations': [{'id': 1, 'image_id': 1, 'category_id': drawn, 'segmentation': [[1, 1, 5, 1, 5, 5]]}],
            'categories': [{'id': 0, 'name': 'tumours'}, {'id': 1, 'name': 'tumour'}]}))
        frame = coco.read(tmp_path, split=(1, 0, 0))
        assert frames.classes(frame) == classes
        row = next(frames.images(frame).itertuples())
        bits = decode.decode_label(row, decode.Settings(str(tmp_path), (8, 8), 1, classes))
        assert np.array_equal(labels.to_ids(bits, classes), bits) and bits.any()
        notes = ' '.join(audit.audit(frame, tmp_path)['notes'])
        assert ('masks will hold 1 for id 0' in notes) == (drawn == 0)
