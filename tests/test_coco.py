import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config
from unet_jax import formats
from unet_jax.annotations import coco, frame
from unet_jax.annotations.audit import audit
from unet_jax.annotations.labels import region_masks
from unet_jax.annotations.segmentation import parse, rasterise
from unet_jax.errors import InputError
from unet_jax.experiment import create, read_frame, settle
from unet_jax.pipeline import decode

SIZE = {'height': 6, 'width': 8}
SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]
HEX = '13454b0a33fb53c0cc68d81c5f19b7d'


def image(i, name, width=8, height=6, **more):
    return {'id': i, 'file_name': name, 'width': width, 'height': height, **more}


def annotation(i, image, category=1, segmentation=SQUARE, bbox=(2, 1, 4, 3), **more):
    return {'id': i, 'image_id': image, 'category_id': category, 'segmentation': segmentation, 'bbox': list(bbox),
            **more}


def write(file, images, annotations, categories=((0, 'parent'), (1, 'core'), (2, 'oedema')), on_disk=None, bom=b''):
    """A JSON file, and a flat picture for each image in `on_disk` (None: as named, beside the JSON)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset = {'images': images, 'annotations': annotations,
               'categories': [{'id': i, 'name': n} for i, n in categories]}
    file.write_bytes(bom + json.dumps(dataset).encode())
    for name, width, height in on_disk or [(i['file_name'], i['width'], i['height']) for i in images]:
        picture = file.parent / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (width, height), len(name)).save(picture)


def roboflow(root, valid='valid'):
    write(root / 'train/_annotations.coco.json', [image(0, 'a.png'), image(1, 'b.png'), image(2, 'c.png')],
          [annotation(0, 0), annotation(1, 1, 2), annotation(2, 0, 2)])
    write(root / valid / '_annotations.coco.json', [image(0, 'd.png')], [annotation(0, 0)])
    write(root / 'test/_annotations.coco.json', [image(0, 'a.png')], [annotation(0, 0, 2)])
    return root


def single(root, annotations=(), images=None, **more):
    images = images or [image(1, 'a.png')]
    write(root / 'labels.json', images, list(annotations), **more)
    return root


@pytest.mark.parametrize('valid', ['valid', 'val', 'validation', 'Val'])
def test_subset_folders_are_the_subsets(tmp_path, valid):
    found = coco.read(roboflow(tmp_path, valid))
    assert list(found.columns) == [*frame.COLUMNS, 'iscrowd']
    assert found['subset'].tolist() == ['train'] * 4 + ['valid', 'test']


def test_ids_restart_in_every_subset_and_each_image_keeps_all_its_annotations(tmp_path):
    images = frame.images(coco.read(roboflow(tmp_path))).set_index('path')
    assert {path: [c for c, _ in row.annotations] for path, row in images.iterrows()} == {
        'train/a.png': [1, 2], 'train/b.png': [2], 'train/c.png': [], 'valid/d.png': [1], 'test/a.png': [2]}
    assert images['image_id'].tolist() == ['0', '1', '2', '0', '0']


def test_a_case_is_the_file_name_or_the_path_where_that_occurs_twice(tmp_path):
    images = frame.images(coco.read(roboflow(tmp_path))).set_index('path')
    assert images['case'].to_dict() == {'train/a.png': 'train/a.png', 'train/b.png': 'b.png', 'train/c.png': 'c.png',
                                        'valid/d.png': 'd.png', 'test/a.png': 'test/a.png'}


def test_the_unused_parent_category_is_no_class(tmp_path):
    found = coco.read(roboflow(tmp_path))
    assert frame.classes(found) == (1, 2) and frame.categories(found) == {1: 'core', 2: 'oedema'}


def test_instances_files_are_matched_with_their_image_folders(tmp_path):
    for name in ('train2017', 'val2017'):
        write(tmp_path / f'annotations/instances_{name}.json', [image(7, 'a.png')], [annotation(1, 7)],
              on_disk=[(f'../images/{name}/a.png', 8, 6)])
    (tmp_path / 'annotations/captions_val2017.json').write_text('[]')
    found = coco.read(tmp_path)
    assert found[['subset', 'path']].values.tolist() == [['train', 'images/train2017/a.png'],
                                                         ['valid', 'images/val2017/a.png']]


def test_one_file_beside_a_folder_is_split_by_source(tmp_path, caplog):
    names = [f'{i // 2}_jpg.rf.{HEX}{i % 2}.png' for i in range(40)]
    single(tmp_path, [annotation(i, i) for i in range(40)], [image(i, name) for i, name in enumerate(names)],
           on_disk=[(f'pictures/{name}', 8, 6) for name in names])
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        found = coco.read(tmp_path, split=(0.5, 0.25, 0.25), seed=1)
    assert found['subset'].value_counts().to_dict() == {'train': 20, 'valid': 10, 'test': 10}
    assert found['group'].nunique() == 20 and (found.groupby('group')['subset'].nunique() == 1).all()
    assert 'no subsets' in caplog.text
    assert not found.equals(coco.read(tmp_path, split=(0.5, 0.25, 0.25), seed=2))


def test_train_alone_is_split_too(tmp_path):
    write(tmp_path / 'train/_annotations.coco.json', [image(i, f'{i}.png') for i in range(20)], [])
    assert coco.read(tmp_path)['subset'].value_counts().to_dict() == {'train': 14, 'valid': 3, 'test': 3}
    assert set(coco.read(tmp_path, split=(1, 0, 0))['subset']) == {'train'}


def test_a_folder_that_does_not_exist_and_letter_case_are_overlooked(tmp_path):
    single(tmp_path, [annotation(1, 1)], [image(1, 'annotator\\desk/Y1.jpg')], on_disk=[('images/y1.JPG', 8, 6)])
    assert coco.read(tmp_path)[['file_name', 'path']].values.tolist() == [['annotator\\desk/Y1.jpg', 'images/y1.JPG']]


def test_masks_beside_an_image_folder_are_not_mistaken_for_images(tmp_path):
    single(tmp_path, images=[image(1, 'a.png')], on_disk=[('images/a.png', 8, 6), ('masks/a.png', 8, 6)])
    assert coco.read(tmp_path)['path'].tolist() == ['images/a.png']


def test_a_name_that_fits_several_files_is_an_error(tmp_path):
    single(tmp_path, images=[image(1, 'a.png')], on_disk=[('x/a.png', 8, 6), ('y/A.PNG', 8, 6)])
    with pytest.raises(InputError, match=r"labels.json: 1 names that fit several files .*a.png: \['x/a.png', 'y/A"):
        coco.read(tmp_path)


def test_the_place_that_the_name_says_comes_first(tmp_path):
    single(tmp_path, images=[image(1, 'x/a.png')], on_disk=[('x/a.png', 8, 6), ('y/a.png', 8, 6)])
    assert coco.read(tmp_path)['path'].tolist() == ['x/a.png']


def test_a_byte_order_mark_is_read_over(tmp_path):
    assert len(coco.read(single(tmp_path, [annotation(1, 1)], bom=b'\xef\xbb\xbf'))) == 1


@pytest.mark.parametrize('segmentation', [
    SQUARE, SQUARE[0], [[str(v) for v in SQUARE[0]]], [SQUARE[0], SQUARE[0]],
    {'size': [6, 8], 'counts': [13, 3, 3, 3, 3, 3, 3, 3, 14]}, {'size': [6, 8], 'counts': '=3300000;'}])
def test_every_form_of_segmentation_is_read(tmp_path, segmentation):
    found = coco.read(single(tmp_path, [annotation(1, 1, segmentation=segmentation, iscrowd=1)]))
    np.testing.assert_array_equal(*(rasterise(s, **SIZE, where='') for s in (found['segmentation'][0], SQUARE)))
    assert found['iscrowd'].tolist() == [1] and parse(found['segmentation'][0], **SIZE) == found['segmentation'][0]


def test_the_polygon_is_trusted_not_the_box(tmp_path):
    found = coco.read(single(tmp_path, [annotation(1, 1, bbox=(0, 0, 8, 6), area=48)]))
    assert rasterise(found['segmentation'][0], **SIZE, where='').sum() == 12


@pytest.mark.parametrize('segmentation', [[], None, [[]], [[], []], {}, ''])
def test_an_annotation_without_mask_follows_box_only(tmp_path, caplog, segmentation):
    single(tmp_path, [annotation(5, 1, segmentation=segmentation), annotation(6, 2)], [image(1, 'a.png'),
                                                                                       image(2, 'bb.png')])
    with pytest.raises(InputError, match="labels.json: 1 annotations that have a box only .*'box'.*annotation 5 of"):
        coco.read(tmp_path)
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        skipped = coco.read(tmp_path, box_only='skip')
    assert skipped['file_name'].tolist() == ['bb.png']  # a.png may show a tumour: it is no negative
    assert skipped.attrs['reader']['emptied']['first'] == ['labels.json: a.png']
    assert skipped.attrs['reader']['box_only'] == {'policy': 'skip', 'count': 1,
                                                   'first': ['labels.json: annotation 5 of a.png']}
    assert "box_only = 'skip' for 1" in caplog.text
    filled = coco.read(tmp_path, box_only='box')
    assert rasterise(filled['segmentation'][0], **SIZE, where='').sum() == 12
    assert filled.attrs['reader']['box_only']['count'] == 1


@pytest.mark.parametrize('segmentation, bbox, reason', [
    ([[1, 1, 5, 5]], (0, 0, 1, 1), '2 points'), ([[1, 1, 5, float('nan'), 2, 2]], (0, 0, 1, 1), 'nan'),
    ({'size': [8, 6], 'counts': [48]}, (0, 0, 1, 1), r'RLE of size \[8, 6\]'), ([], (0, 0, 0, 0), 'no area'),
    ([[90, 90, 99, 90, 99, 99]], (0, 0, 1, 1), 'covers no pixel'), ({'file': 'x'}, (0, 0, 1, 1), 'another file')])
def test_what_cannot_be_drawn_follows_broken_and_makes_no_image_a_negative(tmp_path, segmentation, bbox, reason):
    single(tmp_path, [annotation(5, 1, segmentation=segmentation, bbox=bbox), annotation(6, 2)],
           [image(1, 'a.png'), image(2, 'bb.png'), image(3, 'ccc.png')])
    with pytest.raises(InputError, match=f'labels.json: 1 annotations that cannot be drawn.*annotation 5 .*{reason}'):
        coco.read(tmp_path, box_only='box')
    found = coco.read(tmp_path, broken='skip')
    assert dict(zip(found['file_name'], found['category_id'].notna())) == {'bb.png': True, 'ccc.png': False}
    assert found.attrs['reader']['broken']['count'] == found.attrs['reader']['emptied']['count'] == 1
    with pytest.raises(InputError, match='no images that can be read. broken: 1, first .*emptied: 1, first .*a.png'):
        coco.read(single(tmp_path, [annotation(5, 1, segmentation=segmentation, bbox=bbox)]), broken='skip')


def test_a_polygon_that_cannot_be_drawn_leaves_its_neighbours(tmp_path):
    single(tmp_path, [annotation(5, 1, segmentation=[[3, 4, 5, 4], SQUARE[0], [1, 1, 2, 2, 3], []])])
    with pytest.raises(InputError, match='1 annotations that cannot be drawn.*5 of a.png: a polygon of 2 points'):
        coco.read(tmp_path)
    found = coco.read(tmp_path, broken='skip')
    assert rasterise(found['segmentation'][0], **SIZE, where='').sum() == 12
    assert 'its other polygons are kept' in found.attrs['reader']['broken']['first'][0]
    assert found.attrs['reader']['emptied']['count'] == 0


def test_a_box_outside_the_image_is_broken(tmp_path):
    single(tmp_path, [annotation(5, 1, segmentation=[], bbox=(50, 50, 2, 2))])
    with pytest.raises(InputError, match='cannot be drawn.*covers no pixel'):
        coco.read(tmp_path, box_only='box')


def test_an_image_that_is_not_on_disk_is_an_error_or_left_out(tmp_path):
    single(tmp_path, [annotation(1, 1), annotation(2, 2)], [image(1, 'a.png'), image(2, 'gone.png')],
           on_disk=[('a.png', 8, 6)])
    with pytest.raises(InputError, match='labels.json: 1 images not on disk in .*first: gone.png'):
        coco.read(tmp_path)
    found = coco.read(tmp_path, missing='skip')
    assert found['file_name'].tolist() == ['a.png']
    assert found.attrs['reader']['missing']['first'] == ['labels.json: gone.png']


def test_a_size_that_is_not_the_file_s_is_an_error_that_names_both(tmp_path):
    single(tmp_path, images=[image(1, 'a.png')], on_disk=[('a.png', 6, 8)])
    with pytest.raises(InputError, match=r'a.png is 6 × 8 pixels \(width × height\), its entry says 8 × 6'):
        coco.read(tmp_path)


def test_a_size_may_be_written_as_text_or_float(tmp_path):
    found = coco.read(single(tmp_path, images=[image(1, 'a.png', '8', 6.0)], on_disk=[('a.png', 8, 6)]))
    assert found[['width', 'height']].values.tolist() == [[8, 6]]


@pytest.mark.parametrize('mode, suffix', [('L', 'png'), ('RGB', 'jpg'), ('RGBA', 'png'), ('P', 'png'), ('CMYK', 'jpg'),
                                          ('I;16', 'png'), ('1', 'bmp'), ('L', 'tif')])
def test_images_of_every_mode_are_accepted(tmp_path, mode, suffix):
    single(tmp_path, images=[image(1, f'a.{suffix}')], on_disk=[('other.png', 1, 1)])
    Image.new(mode, (8, 6)).save(tmp_path / f'a.{suffix}')
    assert len(coco.read(tmp_path)) == 1


def test_the_orientation_flag_is_not_applied(tmp_path):
    single(tmp_path, images=[image(1, 'a.jpg')], on_disk=[('other.png', 1, 1)])
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new('L', (8, 6)).save(tmp_path / 'a.jpg', exif=exif)
    assert coco.read(tmp_path)[['width', 'height']].values.tolist() == [[8, 6]]


@pytest.mark.parametrize('text, message', [
    (b'{', 'labels.json: not JSON'), (b'\xff\xfe{\x00', 'labels.json: not JSON in UTF-8'), (b'[' * 99999, 'not JSON'),
    (b'[{"image_id": 1}]', 'a list of 1 results'), (b'3', 'keys absent'),
    (b'{"images": []}', '2 keys absent or no list, first: annotations; categories'),
    (b'{"images": [], "annotations": {}, "categories": []}', 'first: annotations'),
    (b'{"images": [], "annotations": [], "categories": []}', 'no images')])
def test_what_is_no_data_set_is_refused(tmp_path, text, message):
    (tmp_path / 'labels.json').write_bytes(text)
    with pytest.raises(InputError, match=message):
        coco.read(tmp_path)


@pytest.mark.parametrize('images, annotations, message', [
    ([image(1, 'a.png'), image(1, 'b.png')], [], '1 ids given twice in images, first: 1'),
    ([image(1, 'a.png'), image(2, 'A.png')], [], 'named by two entries'),
    ([image(1, 'a.png', None)], [], r"1 entries without one of \('id', 'file_name', 'width', 'height'\), first: imag"),
    ([image(1, 'a.png', 'wide')], [], "a.png has no size in its entry"),
    ([image(1, 'a.png', True, True)], [], "true and false are no sizes"),
    ([image(True, 'a.png')], [], r"1 ids that are neither numbers nor text, first: images\[0\] id 'True'"),
    ([image(1, 'a.png'), image('1.0', 'b.png')], [], '1 ids given twice in images, first: 1'),
    ([image(1, 'a.png')], [annotation(8, 3)], '1 annotations of an unknown image_id, first: annotation 8: 3'),
    ([image(1, 'a.png')], [annotation(8, 1, 7)], r"category_id \(known are \['0', '1', '2'\]\), first: .* 8: 7"),
    ([image(1, 'a.png')], [annotation(i, 3) for i in range(9)], '9 annotations of an unknown'),
    ([image(1, 'a.png')], ['x'], r"1 entries without .*annotations\[0\] x")])
def test_entries_that_do_not_fit_together_are_refused(tmp_path, images, annotations, message):
    single(tmp_path, annotations, images, on_disk=[('a.png', 8, 6)])
    with pytest.raises(InputError, match=message):
        coco.read(tmp_path)


def test_an_image_file_that_is_none_is_refused(tmp_path):
    single(tmp_path)
    (tmp_path / 'a.png').write_text('<html>')
    with pytest.raises(InputError, match='labels.json: 1 images unlike their entry, first: a.png cannot be opened'):
        coco.read(tmp_path)


def test_an_image_that_claims_a_hundred_megapixels_is_refused(tmp_path):
    single(tmp_path, images=[image(1, 'a.png', 10000, 10000)], on_disk=[('other.png', 1, 1)])
    Image.new('1', (10000, 10000)).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='a.png is 10000 × 10000 pixels; at most 64 megapixels'):
        coco.read(tmp_path)


def test_a_category_that_changes_its_name_between_subsets_is_an_error(tmp_path):
    roboflow(tmp_path)
    write(tmp_path / 'test/_annotations.coco.json', [image(0, 'a.png')], [annotation(0, 0)], ((1, 'oedema'),))
    with pytest.raises(InputError, match=r"two names in different subsets: \{1: \['core', 'oedema'\]\}"):
        coco.read(tmp_path)


def test_a_folder_without_annotations_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match='config.data.root .*no such folder.*_annotations.coco.json.*phantom'):
        coco.read(tmp_path / 'absent')
    with pytest.raises(InputError, match='config.data.root .*no COCO annotations there. Looked for'):
        coco.read(tmp_path)
    roboflow(tmp_path / 'unpacked')
    with pytest.raises(InputError, match='There is one in .*unpacked'):
        coco.read(tmp_path)


def test_two_files_for_one_subset_are_an_error(tmp_path):
    roboflow(roboflow(tmp_path), 'val')
    with pytest.raises(InputError, match=r"\['val/_annotations.coco.json', 'valid/_annotations.coco.json'\] would"):
        coco.read(tmp_path)
    single(tmp_path / 'flat')
    shutil.copy(tmp_path / 'flat/labels.json', tmp_path / 'flat/other.json')
    with pytest.raises(InputError, match=r"\['labels.json', 'other.json'\] would all be the data set"):
        coco.read(tmp_path / 'flat')


@pytest.mark.parametrize('policy', [{'box_only': 'fill'}, {'broken': 'box'}, {'missing': 'none'}])
def test_an_unknown_policy_is_refused(tmp_path, policy):
    with pytest.raises(InputError, match=f'{next(iter(policy))} is .* can be one of'):
        coco.read(single(tmp_path), **policy)


def test_the_brain_tumour_set_is_read_whole(shared_data):
    found = coco.read(shared_data / 'coco-brain-tumor')
    images = frame.images(found)
    assert images['subset'].value_counts().to_dict() == {'train': 1502, 'valid': 429, 'test': 215}
    assert images['annotations'].map(len).value_counts().to_dict() == {1: 2144, 0: 1, 2: 1}
    assert frame.categories(found) == {1: '0', 2: '1'} and set(images['width']) == set(images['height']) == {640}
    assert len(frame.apply_unannotated(found, 'skip')) == 2146


def test_val_is_valid_in_a_real_export(shared_data):
    images = frame.images(coco.read(shared_data / 'coco-val-folder'))
    assert images['subset'].value_counts().to_dict() == {'train': 154, 'valid': 20, 'test': 4}
    assert images['annotations'].map(len).max() == 5 and images['group'].nunique() == 110


def test_a_real_cvat_export_finds_its_50_images(shared_data):
    found = coco.read(shared_data / 'coco-cvat')
    assert len(found) == 53 and found['path'].nunique() == 50
    assert found.drop_duplicates('path')['path'].str.endswith('.JPG').sum() == 11
    assert all((shared_data / 'coco-cvat' / path).is_file() for path in found['path'])


def test_odd_real_files_are_read_or_refused(shared_data, tmp_path):
    formats = shared_data / 'coco-formats'
    instances = coco.read(formats / 'datumaro/coco_instances', box_only='box')
    assert instances['subset'].tolist() == ['train', 'valid', 'valid']
    stuff = coco.read(formats / 'datumaro/coco_stuff')
    assert [rasterise(s, height=h, width=w, where='').sum() for s, h, w in
            zip(stuff['segmentation'], stuff['height'], stuff['width'])] == [20, 20]
    with pytest.raises(InputError, match='instances_train.json: 1 annotations that have a box only'):
        coco.read(formats / 'datumaro/coco_instances')
    (tmp_path / 'berries').mkdir()
    for name in ('pycococreator_coco_example.json', '100.jpg'):
        shutil.copy(formats / name, tmp_path / 'berries')
    assert coco.read(tmp_path / 'berries')['iscrowd'].tolist() == [0, 0, 1]
    (tmp_path / 'test').mkdir()
    shutil.copy(formats / 'pkdarabi_test_utf8bom_annotations.coco.json', tmp_path / 'test/_annotations.coco.json')
    with pytest.raises(InputError, match='test/_annotations.coco.json: 215 images not on disk'):
        coco.read(tmp_path)
    results = formats / 'cocoapi_instances_val2014_fakesegm100_results.json'
    shutil.copy(results, tmp_path / 'test/_annotations.coco.json')
    with pytest.raises(InputError, match='a list of 734 results'):
        coco.read(tmp_path)


def test_an_image_that_cannot_be_opened_is_left_out_where_asked_but_never_of_the_test_subset(tmp_path):
    roboflow(tmp_path)
    (tmp_path / 'train/a.png').write_bytes(b'no image')
    before = coco.read(tmp_path, missing='skip', unreadable='skip')
    assert ('train', 'a.png') not in set(zip(before.subset, before.file_name))
    assert before.attrs['reader']['unreadable']['count'] == 1
    assert 'a.png cannot be opened' in before.attrs['reader']['unreadable']['first'][0]
    with pytest.raises(InputError, match='a.png cannot be opened'):
        coco.read(tmp_path)
    (tmp_path / 'test/a.png').write_bytes(b'no image')
    with pytest.raises(InputError, match='test/.*a.png cannot be opened'):
        coco.read(tmp_path, unreadable='skip')


def test_a_folder_that_is_not_there_never_gives_another_folders_file(tmp_path):
    names = [f'A/slice_{k}.png' for k in range(3)]
    single(tmp_path, images=[image(k, name) for k, name in enumerate(names)],
           on_disk=[(f'images/B/slice_{k}.png', 8, 6) for k in range(3)])
    with pytest.raises(InputError, match=r'3 images not on disk .*A/slice_0.png \(of that name, but in .*: B/s'):
        coco.read(tmp_path)


@pytest.mark.parametrize('names, files, expected', [
    (['A/s.png', 'B/s.png'], ['images/A/s.png', 'images/B/s.png'], ['images/A/s.png', 'images/B/s.png']),
    (['A/s.png', 'B/t.png'], ['images/A/s.png', 'images/t.png'], None),  # B tells entries apart: it must be there
    (['x/y/A/s.png', 'x/y/B/s.png'], ['images/A/s.png', 'images/B/s.png'], ['images/A/s.png', 'images/B/s.png']),
    (['/home/me/s.png', '/home/me/t.png'], ['images/s.png', 'images/t.png'], ['images/s.png', 'images/t.png']),
    (['x/A/s.png', 'x/s.png'], ['images/A/s.png', 'images/s.png'], ['images/A/s.png', 'images/s.png']),
    (['A/s.png', 'A/t.png'], ['images/s.png', 'images/t.png', 'images/A/u.png'], None),  # A is there, without them
    (['A/s.png', 'A/t.png'], ['images/s.png', 'images/A/t.png'], None),  # not for some entries only
    (['images/s.png'], ['images/s.png'], ['images/s.png']), (['s.png'], ['other/s.png'], ['other/s.png']),
    (['s.png'], ['other/s.png', 's.png'], ['s.png']), (['B/s.png'], ['images/A/B/s.png'], ['images/A/B/s.png']),
    (['te\u0301te/\u00e9.png'], ['images/t\u00e9te/e\u0301.PNG'], ['images/t\u00e9te/e\u0301.PNG'])])
def test_a_name_is_the_path_that_it_spells_or_the_end_of_one(tmp_path, names, files, expected):
    single(tmp_path, images=[image(k, name) for k, name in enumerate(names)], on_disk=[(f, 8, 6) for f in files])
    if expected:
        assert coco.read(tmp_path)['path'].tolist() == expected
    else:
        with pytest.raises(InputError, match='images not on disk'):
            coco.read(tmp_path)


def test_subsets_are_known_in_any_letter_case(tmp_path):
    for subset in ('Train', 'Validation', 'Test'):
        write(tmp_path / f'annotations/instances_{subset}.json', [image(7, f'{subset}.png')], [annotation(1, 7)],
              on_disk=[(f'../images/{subset.upper() if subset == "Test" else subset}/{subset}.png', 8, 6)])
    found = coco.read(tmp_path)
    assert found[['subset', 'path']].values.tolist() == [
        ['train', 'images/Train/Train.png'], ['valid', 'images/Validation/Validation.png'],
        ['test', 'images/TEST/Test.png']]


def test_another_json_beside_is_passed_over_by_what_it_holds_and_named(tmp_path):
    single(tmp_path, [annotation(1, 1)])
    (tmp_path / '._labels.json').write_bytes(b'\0\5')
    (tmp_path / 'via_project.json').write_text('{"_via_settings": {}}')
    (tmp_path / 'broken.json').write_text('{')
    (tmp_path / 'info.json').write_text(json.dumps({'images': [image(1, 'a.png')], 'annotations': [],
                                                    'categories': []}))
    found = coco.read(tmp_path)
    assert found['path'].tolist() == ['a.png'] and found['category_id'].tolist() == [1]
    assert [name.split(': ')[0] for name in found.attrs['reader']['other_json']['first']] == [
        'broken.json', 'via_project.json', 'info.json']
    (tmp_path / 'labels.json').unlink(), (tmp_path / 'info.json').unlink()
    with pytest.raises(InputError, match='no COCO annotations there. Passed over: broken.json.*via_project.json: '):
        coco.read(tmp_path)


def test_numbers_may_be_written_as_text_or_float(tmp_path):
    single(tmp_path, [annotation(1, '1.0', '1'), annotation(2, 1, 1.0), annotation(3, 'b7', 2, iscrowd='1')],
           [image(1.0, 'a.png', '8', '6.0'), image('b7', 'bb.png')],
           categories=[('0', 'parent'), (1, 'core'), ('2.0', 'oedema')], on_disk=[('a.png', 8, 6), ('bb.png', 8, 6)])
    found = coco.read(tmp_path)
    assert found['image_id'].tolist() == ['1', '1', 'b7'] and found['category_id'].tolist() == [1, 1, 2]
    assert found['iscrowd'].tolist() == [0, 0, 1]
    single(tmp_path, [annotation(1, 1, 'tumour')], categories=[('tumour', 'tumour')])
    with pytest.raises(InputError, match=r'1 category ids that are no whole numbers.*tumour \(tumour\)'):
        coco.read(tmp_path)


def turned(path, orientation, size=(8, 6)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('L', size).save(path, exif=exif)


def test_an_orientation_that_sizes_do_not_tell_is_reported_with_what_to_do(tmp_path, caplog):
    names = ['upright.jpg', 'half.jpg', 'quarter.jpg', 'square.png', 'squarish.webp']
    single(tmp_path, images=[image(k, name, *((6, 6) if 'sq' in name else (8, 6))) for k, name in enumerate(names)],
           on_disk=[('other.png', 1, 1)])
    for name, orientation in zip(names, (1, 3, 6, 8, 2)):
        turned(tmp_path / name, orientation, (6, 6) if 'sq' in name else (8, 6))
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        seen = coco.read(tmp_path).attrs['reader']['orientation']
    assert seen['count'] == 4 and seen['first'] == [
        'labels.json: half.jpg has EXIF orientation 3 (turned by 180 degrees), that the size does not tell',
        'labels.json: quarter.jpg has EXIF orientation 6 (turned by 90 degrees), annotated as stored',
        'labels.json: square.png has EXIF orientation 8 (turned by 90 degrees), that the size does not tell',
        'labels.json: squarish.webp has EXIF orientation 2 (mirrored), that the size does not tell']
    assert '3 images have an EXIF orientation that the size does not tell. Masks are laid over' in caplog.text
    assert 'auto-orient' in caplog.text
    single(tmp_path, images=[image(1, 'quarter.jpg', 6, 8)], on_disk=[('other.png', 1, 1)])
    with pytest.raises(InputError, match='its entry says 6 × 8, and EXIF orientation 6 turns it: .*auto-orient'):
        coco.read(tmp_path)


def test_an_orientation_is_said_before_predicting_too(tmp_path, caplog):
    for name, orientation in (('a.jpg', 1), ('b.jpg', 6)):
        turned(tmp_path / name, orientation)
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        formats.named('coco').find([str(tmp_path)], None)
    assert '1 images have an EXIF orientation, first b.jpg. They are segmented' in caplog.text


def test_all_endings_of_the_formats_that_are_read_are_known():
    assert set(coco.ENDINGS) == {e for e, f in Image.registered_extensions().items() if f in coco.IMAGE_FORMATS}


def pictures(folder, seeds):
    """Smooth random pictures, two of one seed nearly alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, seed in enumerate(seeds):
        small = np.random.default_rng(seed).integers(0, 200, (6, 8), np.uint8)
        Image.fromarray(small + np.uint8(k % 3)).resize((32, 24), Image.Resampling.BICUBIC).save(folder / f'{k}.png')


def test_valid_is_taken_from_train_by_group_where_there_are_train_and_test_only(tmp_path, caplog):
    names = [f'{k // 2}_jpg.rf.{HEX}{k % 2}.png' for k in range(40)]
    write(tmp_path / 'train/_annotations.coco.json', [image(k, name) for k, name in enumerate(names)], [])
    write(tmp_path / 'test/_annotations.coco.json', [image(0, 't.png')], [])
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        found = coco.read(tmp_path, split=(0.6, 0.2, 0.2))
    assert found['subset'].value_counts().to_dict() == {'train': 30, 'valid': 10, 'test': 1}
    assert (found.groupby('group')['subset'].nunique() == 1).all()
    assert 'has train and test but no valid: 10 of the 40 images in train are valid now' in caplog.text
    assert set(coco.read(tmp_path, split=(0.8, 0.0, 0.2))['subset']) == {'train', 'test'}


@pytest.mark.parametrize('layout', ['one', 'train and test'])
def test_a_split_keeps_near_copies_together(tmp_path, caplog, layout):
    seeds = [k // 2 for k in range(60)]
    where = tmp_path if layout == 'one' else tmp_path / 'train'
    pictures(where, seeds)
    write(where / '_annotations.coco.json', [image(k, f'{k}.png', 32, 24) for k in range(60)], [],
          on_disk=[('other.gif', 1, 1)])
    if layout != 'one':
        write(tmp_path / 'test/_annotations.coco.json', [image(0, 't.png')], [])
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        found = coco.read(tmp_path)
    found = found[found['file_name'] != 't.png']
    assert found['subset'].nunique() == (3 if layout == 'one' else 2) and found['group'].nunique() == 60
    seed = found['file_name'].str.removesuffix('.png').astype(int) // 2
    assert (found.groupby(seed)['subset'].nunique() == 1).all()
    assert '30 groups hold a copy or near copy' in caplog.text


def test_images_that_are_all_alike_are_split_as_ever_but_equal_files_stay_together(tmp_path, caplog):
    pictures(tmp_path, [0] * 30)  # three different ones, ten times each
    write(tmp_path / 'labels.json', [image(k, f'{k}.png', 32, 24) for k in range(30)], [],
          on_disk=[('other.gif', 1, 1)])
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        found = coco.read(tmp_path)
    assert '30 of 30 images are near copies of one another' in caplog.text
    kind = found['file_name'].str.removesuffix('.png').astype(int) % 3
    assert found['subset'].nunique() == 3 and (found.groupby(kind)['subset'].nunique() == 1).all()


def test_categories_of_one_name_are_one_region_and_said_aloud(tmp_path, caplog):
    single(tmp_path, [annotation(1, 1, 1), annotation(2, 2, 2), annotation(3, 3, 5)],
           [image(1, 'a.png'), image(2, 'bb.png'), image(3, 'ccc.png')],
           categories=[(0, 'Tumor'), (1, 'Tumor'), (2, 'Tumor'), (5, 'Cyst')])
    config = get_config()
    config.data.root = str(tmp_path)
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        found = read_frame(config)
    assert "categories 1 and 2 are all called 'Tumor': they are one region" in caplog.text
    settled = settle(config, found)
    assert settled.data.categories == (1, 2, 5)
    assert settled.data.regions == (('Tumor', (1, 2), 2), ('Cyst', (5,), 5))
    assert any("'Tumor'" in note for note in audit(found, tmp_path)['notes'])
    experiment = create(settled)
    row = frame.images(found).iloc[0]
    bits = decode.decode_label(row, experiment.settings)
    assert region_masks(bits, experiment.region_bits).sum((0, 1)).tolist() == [12, 0]
    with config.unlocked():
        config.data.categories = (2, 5)
    assert settle(config, found).data.regions == (('Tumor', (2,), 2), ('Cyst', (5,), 5))
