import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from unet_jax.annotations import segmentation as segmentations
from unet_jax.annotations.segmentation import kind, parse, rasterise
from unet_jax.errors import InputError

oracle = pytest.importorskip('pycocotools.mask', reason='the reference rasteriser is a test dependency')

SIZE = {'height': 6, 'width': 8}
SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]


def square(height=6, width=8):
    mask = np.zeros((height, width), bool)
    mask[1:4, 2:6] = True
    return mask


def draw(segmentation, height=6, width=8):
    return rasterise(segmentation, height=height, width=width, where='x.json, annotation 1')


def runs(mask):
    flat = np.concatenate([[False], mask.T.ravel()])  # columns first, starting with background
    starts = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff([0, *(starts - 1), mask.size]).tolist()


def by_pycocotools(polygons, height, width):
    return oracle.decode(oracle.merge(oracle.frPyObjects(polygons, height, width))).astype(bool)


@pytest.mark.parametrize('form', [
    [SQUARE], SQUARE, tuple(SQUARE), [[int(v) for v in SQUARE]], [[str(v) for v in SQUARE]],
    [f' {v} ' for v in SQUARE], [SQUARE + SQUARE[:2]], [SQUARE, SQUARE],
    {'size': [6, 8], 'counts': runs(square())}, {'size': [6.0, 8], 'counts': [float(v) for v in runs(square())]},
    {'size': [6, 8], 'counts': oracle.encode(np.asfortranarray(square(), np.uint8))['counts']},
    {'size': (6, 8), 'counts': oracle.encode(np.asfortranarray(square(), np.uint8))['counts'].decode()},
])
def test_every_form_draws_the_same_square(form):
    mask = draw(form)
    assert mask.shape == (6, 8) and mask.dtype == bool
    np.testing.assert_array_equal(mask, square())


def test_several_polygons_are_drawn_as_their_union():
    left, right = [0, 0, 3, 0, 3, 6, 0, 6], [2, 0, 8, 0, 8, 3, 2, 3]
    np.testing.assert_array_equal(draw([left, right]), draw([left]) | draw([right]))


def test_the_area_is_that_of_the_union():
    left, crowd = [0, 0, 3, 0, 3, 6, 0, 6], {'size': [6, 8], 'counts': runs(square())}
    text = {'size': [6, 8], 'counts': oracle.encode(np.asfortranarray(square(), np.uint8))['counts']}
    assert segmentations.area([left, crowd, text], **SIZE, where='') == (draw(left) | square()).sum()
    assert segmentations.area([], **SIZE, where='') == 0
    with pytest.raises(InputError, match='x: a polygon of 1 points'):
        segmentations.area([[1, 1]], **SIZE, where='x')


def test_points_outside_are_clipped_to_the_image():
    upper = np.arange(6)[:, None] < 3 + np.zeros(8)
    np.testing.assert_array_equal(draw([[-50, -50, 300, -50, 300, 3, -50, 3]]), upper)


REFUSED = [
    ([], 'no polygon'), ([[]], 'no polygon'), ([[], []], 'no polygon'), ({}, 'RLE of size None'),
    ([[0, 0, '4_0', 0, 4, 4]], '4_0'), ([[1, 1, 2, 2]], '2 points'), ([[1, 1, 2, 2, 3]], 'not pairs'),
    ([SQUARE, [1, 1]], '1 points'), ([[0, 0], [4, 0], [4, 4]], '1 points'),
    ([[0, 0, 1, float('nan'), 1, 1]], 'nan is not a number'), ([[0, 0, 1, float('inf'), 1, 1]], 'inf is not a number'),
    ([[0, 0, 1, -1e9, 1, 1]], 'within ±100000'), ([[0, 0, 1, 10 ** 400, 1, 1]], 'is not a number'),
    ([[0, 0, 'nan', 0, 1, 1]], 'nan'), ([[0, 0, 'x', 0, 1, 1]], 'coordinate x'), ([[0, 0, None, 0, 1, 1]], 'None'),
    ([[0, 0, True, 0, 1, 1]], 'True'), ([SQUARE, 3.0], 'mixed'), ([[SQUARE]], 'coordinate'),
    ([[0, 0, 9e4, 9e4] * 20], 'outline'), (None, 'neither'), ('polygon', 'neither'), (3, 'neither'),
    ({'size': [8, 6], 'counts': [48]}, r'RLE of size \[8, 6\]'), ({'counts': [48]}, 'RLE of size None'),
    ({'size': [6, 8]}, 'counts'), ({'size': [6, 8], 'counts': [47]}, 'RLE of 47 pixels'),
    ({'size': [6, 8], 'counts': [-1, 49]}, 'whole'), ({'size': [6, 8], 'counts': [0.5, 47.5]}, 'whole'),
    ({'size': [6, 8], 'counts': ['x']}, 'whole'), ({'size': [6, 8], 'counts': [float('inf')]}, 'whole'),
    ({'size': [6, 8], 'counts': []}, 'RLE of 0 pixels'), ({'size': [6, 8], 'counts': ''}, 'counts'),
    ({'size': [6, 8], 'counts': 'ü'}, 'counts'), ({'size': [6, 8], 'counts': '0'}, 'does not describe'),
    ({'size': [6, 8], 'counts': 'P' * 99}, 'does not describe'), ({'size': ['a', 8], 'counts': [48]}, 'a is not'),
    ({'file': 'a.h5', 'channel': 0}, 'reference to the mask in a.h5'),
]


@pytest.mark.parametrize('form, reason', REFUSED)
def test_what_cannot_be_drawn_is_refused_with_place_and_reason(form, reason):
    with pytest.raises(InputError, match=f'x.json, annotation 1: .*{reason}'):
        draw(form)
    assert kind(form, **SIZE)[0] == ('reference' if 'reference' in reason else 'broken')


coordinates = st.floats(-40, 60, allow_subnormal=False) | st.integers(-10, 30)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(coordinates, min_size=6, max_size=14).filter(lambda p: len(p) % 2 == 0), min_size=1,
                max_size=3), st.integers(1, 24), st.integers(1, 24))
def test_random_polygons_are_drawn_as_pycocotools_draws_them(polygons, height, width):
    expected = by_pycocotools([[float(v) for v in p] for p in polygons], height, width)
    np.testing.assert_array_equal(rasterise(polygons, height=height, width=width, where=''), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2 ** 32 - 1))
def test_run_lengths_give_the_mask_back(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    size = [height, width]
    counts = oracle.encode(np.asfortranarray(mask, np.uint8))['counts']
    for form in (runs(mask), counts, counts.decode()):
        drawn = rasterise({'size': size, 'counts': form}, height=height, width=width, where='')
        np.testing.assert_array_equal(drawn, mask)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127), min_size=1, max_size=20) | st.text(max_size=5))
@example('PPPPPPPPPPPPPPPP')
def test_any_text_as_run_lengths_is_drawn_or_refused(counts):
    try:
        assert draw({'size': [6, 8], 'counts': counts}).shape == (6, 8)
    except InputError:
        pass


@pytest.mark.parametrize('form, expected', [
    ([SQUARE], 'rectangle'), ([SQUARE + SQUARE[:2]], 'rectangle'), (SQUARE[2:] + SQUARE[:2], 'rectangle'),
    ([[2, 1, 2, 4, 6, 4, 6, 1]], 'rectangle'), ([SQUARE, SQUARE], 'polygon'),
    ([[2, 1, 6, 1, 6, 4.5, 2, 4]], 'polygon'), ([[2, 1, 6, 4, 6, 1, 2, 4]], 'polygon'), ([SQUARE[:6]], 'polygon'),
    ([[4, 0, 7, 3, 4, 6, 1, 3]], 'polygon'), ({'size': [6, 8], 'counts': runs(square())}, 'rle'),
    ({'file': 'a.h5', 'channel': 2}, 'reference')])
def test_kinds_are_told_apart(form, expected):
    assert kind(form, **SIZE) == (expected, '')


def test_an_empty_segmentation_is_a_box_only_where_the_box_is_one():
    assert kind([], **SIZE, bbox=[1, 1, 2, 2]) == ('box_only', '')
    assert kind(None, **SIZE, bbox=['1', 1, 2.5, 2]) == ('box_only', '')
    for bbox in (None, [], [1, 1, 0, 2], [1, 1, 2], [1, 1, float('nan'), 2], 'box'):
        what, reason = kind([], **SIZE, bbox=bbox)
        assert what == 'broken' and ('bbox' in reason or 'coordinate' in reason)


def test_what_covers_no_pixel_is_broken():
    for form in ([[20, 20, 30, 20, 30, 30]], [[3, 3, 3, 3, 3, 3]], {'size': [6, 8], 'counts': [48]}):
        assert kind(form, **SIZE) == ('broken', 'covers no pixel of the image')


def test_a_filled_box_covers_width_times_height_pixels():
    outline = segmentations.box_polygon([2, 1, 4, 3])
    np.testing.assert_array_equal(draw(outline), square())
    assert kind(outline, **SIZE) == ('rectangle', '')


def test_the_plain_form_is_json_and_stays_as_it_is():
    for form in (SQUARE, {'size': (6, 8), 'counts': b'T1`0'}, {'size': [6, 8], 'counts': (8, 40)}):
        plain = parse(form, **SIZE)
        assert parse(json.loads(json.dumps(plain)), **SIZE) == plain


def test_the_masks_that_cvat_drew_are_drawn_to_the_pixel(shared_data):
    dataset = json.loads((shared_data / 'coco-cvat/annotations_coco_cvat.json').read_text())
    for image in dataset['images']:
        polygons = [a['segmentation'] for a in dataset['annotations'] if a['image_id'] == image['id']]
        mask = np.any([rasterise(p, height=image['height'], width=image['width'], where='') for p in polygons], axis=0)
        stem = image['file_name'].rsplit('/', 1)[-1].rsplit('.', 1)[0]
        expected = np.asarray(Image.open(shared_data / f'coco-cvat/masks/class/{stem}.png').convert('RGB')).any(-1)
        np.testing.assert_array_equal(mask, expected, err_msg=stem)
    assert len(dataset['images']) == 50


def test_an_uncompressed_crowd_is_the_mask_it_was_made_from(shared_data):
    dataset = json.loads((shared_data / 'coco-formats/pycococreator_coco_example.json').read_text())
    crowd = next(a for a in dataset['annotations'] if a['iscrowd'])
    expected = np.asarray(Image.open(shared_data / 'coco-formats/100_crowd_1.png').convert('L')) > 0
    np.testing.assert_array_equal(rasterise(crowd['segmentation'], height=256, width=256, where=''), expected)


def test_compressed_results_are_decoded_as_pycocotools_decodes_them(shared_data):
    results = json.loads((shared_data / 'coco-formats/cocoapi_instances_val2014_fakesegm100_results.json').read_text())
    for result in results[::5]:
        rle = result['segmentation']
        height, width = rle['size']
        drawn = rasterise(rle, height=height, width=width, where='')
        np.testing.assert_array_equal(drawn, oracle.decode(rle).astype(bool))
