import json

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config
from unet_jax.annotations import coco, frame
from unet_jax.annotations.audit import audit, table
from unet_jax.errors import InputError
from unet_jax.experiment import create, read_frame, settle
from unet_jax.modes.annotate import annotate

HEX = '13454b0a33fb53c0cc68d81c5f19b7d'
RECTANGLE = [[2, 2, 10, 2, 10, 6, 2, 6]]  # 32 of 40 × 20 pixels
TRIANGLE = [[0, 0, 20, 0, 20, 20]]


def smooth(seed):
    """A smooth random picture (20, 40) of its own."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 8), np.uint8)
    return np.asarray(Image.fromarray(small).resize((40, 20), Image.Resampling.BICUBIC))


@pytest.fixture
def data_set(tmp_path):
    """Four train and three test images; one test image is a brighter train image, one a copy of a train source."""
    pictures = {'train': {f'1_jpg.rf.{HEX}0.png': smooth(1), 'b.png': smooth(2), 'c.png': smooth(3),
                          'd.png': smooth(4)},
                'test': {f'1_jpg.rf.{HEX}1.png': smooth(5), 'f.png': smooth(2) // 2 + 60, 'g.png': smooth(7)}}
    drawn = {'train': [(0, 1, RECTANGLE), (0, 2, TRIANGLE), (1, 1, RECTANGLE), (2, 1, RECTANGLE)],
             'test': [(0, 1, RECTANGLE), (1, 1, []), (1, 2, RECTANGLE), (2, 1, [[1, 1]]), (2, 2, RECTANGLE)]}
    for subset, images in pictures.items():
        (tmp_path / subset).mkdir()
        for name, picture in images.items():
            Image.fromarray(picture).save(tmp_path / subset / name)
        (tmp_path / subset / '_annotations.coco.json').write_text(json.dumps({
            'images': [{'id': i, 'file_name': name, 'width': 40, 'height': 20} for i, name in enumerate(images)],
            'annotations': [{'id': k, 'image_id': i, 'category_id': c, 'segmentation': s, 'bbox': [0, 0, 2, 2]}
                            for k, (i, c, s) in enumerate(drawn[subset])],
            'categories': [{'id': 1, 'name': 'core'}, {'id': 2, 'name': 'oedema'}]}))
    return tmp_path


def read(root):
    return coco.read(root, box_only='skip', broken='skip', missing='skip', split=(1.0, 0.0, 0.0))


def test_images_annotations_and_categories_are_counted(data_set):
    found = audit(read(data_set), data_set)
    assert found['subsets']['train'] == {
        'images': 4, 'annotations': 4, 'without annotation': 1, 'several annotations': 1, 'groups': 4, 'cases': 4,
        'categories': {'1': 3, '2': 1}}
    assert found['all']['images'] == 7 and found['all']['annotations'] == 7
    assert found['categories'] == {'1': 'core', '2': 'oedema'}
    assert found['sizes'] == [{'width': 40, 'height': 20, 'images': 7}]


def test_kinds_and_what_the_reader_left_out_are_counted(data_set):
    found = audit(read(data_set), data_set)
    assert found['kinds'] == {'polygon': 1, 'rectangle': 6} and found['rectangles'] == 6 / 7
    left_out = {name: seen['count'] for name, seen in found['reader'].items()}
    assert left_out == {'box_only': 1, 'broken': 1, 'missing': 0, 'unreadable': 0, 'emptied': 0, 'orientation': 0,
                        'other_json': 0}
    assert not any('box supervision' in note for note in found['notes'])


def test_boxes_in_disguise_are_called_by_their_name(data_set):
    found = read(data_set)
    found = audit(found[found['category_id'].isna() | (found['category_id'] == 1)].reset_index(drop=True), data_set)
    assert found['rectangles'] == 1 and 'box supervision: Dice measures box overlap' in table(found)


def test_files_missing_on_either_side_are_named(data_set):
    (data_set / 'test/g.png').rename(data_set / 'test/h.png')
    found = audit(read(data_set), data_set)
    assert found['unlisted'] == {'count': 1, 'first': ['test/h.png']}
    assert found['reader']['missing']['first'] == ['test/_annotations.coco.json: g.png']


def test_copies_of_a_source_in_two_subsets_are_a_leak(data_set):
    assert audit(read(data_set), data_set)['leaking_groups'] == {'count': 1, 'first': ['1']}


def test_near_duplicates_across_subsets_are_found(data_set):
    twins = audit(read(data_set), data_set)['twins']
    assert twins['subsets'] == [{'subset': 'test', 'in': 'train', 'images': 1, 'of': 3, 'pairs': 1}]
    assert twins['count'] == 1
    assert (twins['pairs'][0]['a'], twins['pairs'][0]['b']) == ('test/f.png', 'train/b.png')
    assert 0.99 < twins['pairs'][0]['correlation'] <= 1.00001


def test_pairs_are_capped_and_counted_in_full(data_set):
    found = read(data_set)
    rows = found.assign(image_id=found.index.astype(str)).to_dict('records')
    rows = [row | {'image_id': f'{k}', 'path': f'{k}/{row["path"]}', 'case': f'{k}/{row["path"]}', 'group': str(k)}
            for k, row in enumerate(rows * 6)]
    twins = audit(frame.build(rows), data_set, thumbnail=lambda row: smooth(0), area=lambda row: 0.0)['twins']
    train = sum(row['subset'] == 'train' for row in rows)
    assert twins['subsets'][0]['images'] == len(rows) - train
    assert len(twins['pairs']) == 50 and twins['count'] == train * (len(rows) - train)


def test_flat_images_are_twins_of_nothing(data_set):
    assert audit(read(data_set), data_set, thumbnail=lambda row: np.full((8, 8), 7.0))['twins']['count'] == 0


def test_areas_are_shares_of_the_image_over_the_images_with_tumour(data_set):
    areas = audit(read(data_set), data_set, categories=(1,))['areas']
    assert areas['train'] == {'images': 3, 'quantiles': [pytest.approx(32 / 800)] * 7}
    both = audit(read(data_set), data_set)['areas']['train']
    assert both['quantiles'][0] == pytest.approx(0.04) and both['quantiles'][-1] > 0.2
    given = audit(read(data_set), data_set, area=lambda row: 0.5 if row.subset == 'test' else 0.0)['areas']
    assert given['train'] == {'images': 0, 'quantiles': []} and given['all'] == {'images': 3, 'quantiles': [0.5] * 7}


def test_masks_in_other_files_are_counted_by_their_reader(tmp_path):
    rows = [{'file_name': f'{i}.h5', 'width': 4, 'height': 4, 'subset': s, 'image_id': str(i), 'path': f'{i}.h5',
             'group': str(i), 'case': str(i), 'category_id': 1,
             'segmentation': {'file': f'{i}.h5', 'channel': 0, 'pixels': 4}}
            for i, s in enumerate(('train', 'test'))]
    found = audit(frame.build(rows), tmp_path)
    assert found['areas']['all'] == {'images': 2, 'quantiles': [0.25] * 7}
    assert found['twins'] is None and found['rectangles'] is None
    assert len(found['notes']) == 1 and 'image files only' in table(found)
    found = audit(frame.build(rows), tmp_path, thumbnail=lambda row: smooth(0), area=lambda row: 0.5)
    assert found['twins']['count'] == 1 and found['areas']['all']['quantiles'][3] == 0.5


def test_deep_images_are_compared_by_their_true_values(data_set):
    deep = smooth(4).astype(np.uint16) * 200 + 1000  # all above 255
    for path in ('train/d.png', 'test/g.png'):
        Image.fromarray(deep).save(data_set / path)
    pairs = audit(read(data_set), data_set)['twins']['pairs']
    assert ('test/g.png', 'train/d.png') in [(p['a'], p['b']) for p in pairs]


def test_an_image_that_cannot_be_decoded_is_an_error_by_name(data_set):
    found = read(data_set)
    (data_set / 'train/b.png').write_bytes((data_set / 'train/b.png').read_bytes()[:60])
    with pytest.raises(InputError, match='b.png: cannot be read as an image'):
        audit(found, data_set)


def test_the_audit_is_json_and_the_table_aligned(data_set):
    found = audit(read(data_set), data_set)
    text = table(json.loads(json.dumps(found)))
    assert text == table(found)
    head = text.split('\n\n')[0].splitlines()
    assert len({len(line) for line in head}) == 1 and head[0].split() == ['train', 'test', 'all']
    assert head[1].split() == ['images', '4', '3', '7']
    assert 'near-duplicates (correlation > 0.98): 1 of 3 images of test have one in train' in text


def test_a_chosen_category_is_told_from_the_rest(data_set):
    assert 'category 2 (oedema, not used)' in table(audit(read(data_set), data_set, categories=(1,)))


def test_the_brain_tumour_set_is_audited(shared_data):
    root = shared_data / 'coco-brain-tumor'
    found = audit(coco.read(root), root)
    assert (found['all']['images'], found['all']['annotations'], found['all']['without annotation']) == (2146, 2146, 1)
    assert found['rectangles'] == 1 and found['unlisted']['count'] == found['leaking_groups']['count'] == 0
    twins = {(s['subset'], s['in']): s['images'] for s in found['twins']['subsets']}
    assert abs(twins['test', 'train'] - 13) <= 1  # two pairs lie within 0.0004 of the limit


def test_the_regrouped_set_has_no_twins_and_no_boxes(shared_data):
    found = audit(coco.read(shared_data / 'br35h'), shared_data / 'br35h')
    assert found['twins']['count'] == 0 and found['rectangles'] == 0 and found['all']['without annotation'] == 0


def test_an_image_that_cannot_be_decoded_is_an_error_or_counted(data_set):
    frame_ = read(data_set)
    path = data_set / frame_.path.iloc[0]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=path.name):
        audit(frame_, data_set)
    found = audit(frame_, data_set, on_error='skip')
    assert found['undecodable']['count'] == 1 and path.name in found['undecodable']['first'][0]
    assert 'images that cannot be decoded: 1, first' in table(found)


def config_of(root, **data):
    config = get_config()
    config.data.update({'root': str(root), **data})
    return config


def spoil(data_set):
    """A test image that cannot be opened, one that is missing and a train image that is cut short, besides a box and a
    polygon of one point."""
    (data_set / 'test/f.png').write_bytes(b'no image')
    (data_set / 'test/g.png').unlink()
    path = data_set / 'train/b.png'
    path.write_bytes(path.read_bytes()[:200])


def test_annotate_goes_through_and_names_all_that_is_wrong(data_set, tmp_path, capsys):
    annotations = data_set / 'train/_annotations.coco.json'
    given = json.loads(annotations.read_text())
    given['images'].append({'id': 4, 'file_name': 'e.png', 'width': 40, 'height': 20})
    Image.fromarray(smooth(8)).save(data_set / 'train/e.png')
    given['annotations'] += [{'id': 8, 'image_id': 3, 'category_id': 1, 'segmentation': [], 'bbox': [0, 0, 2, 2]},
                             {'id': 9, 'image_id': 3, 'category_id': 1, 'segmentation': [[1, float('nan')] * 3]}]
    annotations.write_text(json.dumps(given))
    spoil(data_set)
    config = config_of(data_set, unannotated='error')
    annotate(config, tmp_path / 'w')
    found = json.loads((tmp_path / 'w/audit.json').read_text())
    for kind, what in (('box_only', 'annotation 8 of d.png'), ('broken', 'annotation 9 of d.png'),
                       ('missing', 'g.png'), ('unreadable', 'f.png cannot be opened'), ('emptied', 'd.png'),
                       ('unannotated', 'train/e.png')):
        assert found['reader'][kind]['count'] == 1, kind
        assert what in found['reader'][kind]['first'][0] and what in (tmp_path / 'w/audit.txt').read_text()
    assert found['undecodable']['count'] == 1 and 'train/b.png' in found['undecodable']['first'][0]
    assert 'reader, box_only = error: 1 (training will stop at them), first' in capsys.readouterr().out
    before = (tmp_path / 'w/annotations.parquet').read_bytes()
    (tmp_path / 'w/config.json').write_text('{}')  # a run has begun on this frame
    annotate(config_of(data_set, unannotated='skip'), tmp_path / 'w')
    assert (tmp_path / 'w/annotations.parquet').read_bytes() == before
    assert 'unannotated = skip' in (tmp_path / 'w/audit.txt').read_text()
    for policy in ({}, {'box_only': 'skip'}, {'box_only': 'skip', 'broken': 'skip', 'unannotated': 'negative'}):
        with pytest.raises(InputError):
            annotate(config_of(data_set, **policy), tmp_path / 't', training=True)


def test_annotate_takes_one_json_file_of_several_and_images_that_are_all_missing(data_set, tmp_path):
    copy = data_set / 'train/other.json'
    copy.write_bytes((data_set / 'train/_annotations.coco.json').read_bytes())
    config = config_of(copy, split=(1.0, 0, 0))
    rows = annotate(config, tmp_path / 'a')
    assert set(rows['path']) == {path.name for path in (data_set / 'train').glob('*.png')}
    assert create(settle(config, rows)).settings.root == str(data_set / 'train')
    for path in (data_set / 'train').glob('*.png'):
        path.unlink()
    assert annotate(config, tmp_path / 'b').empty
    assert json.loads((tmp_path / 'b/audit.json').read_text())['reader']['missing']['count'] == 4
    with pytest.raises(InputError, match='other.json: 4 images not on disk'):
        annotate(config, tmp_path / 'c', training=True)


@pytest.mark.parametrize('name, counts', [
    ('coco-val-folder', {}), ('coco-cvat', {}), ('coco-formats/pycococreator_coco_example.json', {}),
    ('coco-formats/pkdarabi_test_utf8bom_annotations.coco.json', {'missing': 215}),
    ('coco-formats/datumaro/coco_roboflow', {'box_only': 1, 'emptied': 1}),
    ('coco-formats/datumaro/coco_instances', {'box_only': 1, 'emptied': 1}),
    ('coco-formats/datumaro/coco_instances/annotations/instances_val.json', {}),
    ('coco-formats/datumaro/coco_stuff', {})])
def test_every_real_data_set_is_annotated(shared_data, tmp_path, name, counts):
    rows = annotate(config_of(shared_data / name), tmp_path)
    assert {kind: seen['count'] for kind, seen in rows.attrs['reader'].items() if seen['count']} == counts


def test_images_that_are_left_out_for_want_of_annotations_are_counted(data_set):
    config = config_of(data_set, box_only='skip', broken='skip', unannotated='skip')
    rows = read_frame(config)
    assert rows.attrs['reader']['unannotated']['count'] == 1 and rows['category_id'].notna().all()
    assert 'reader, unannotated = skip: 1, first train/d.png' in table(audit(rows, data_set))


def test_folds_and_split_files_are_followed_or_refused(data_set, tmp_path):
    lenient = {'box_only': 'skip', 'broken': 'skip'}
    single = data_set / 'train/_annotations.coco.json'
    seen = []
    for fold in range(2):
        rows = read_frame(config_of(single, folds=2, fold=fold, split=(1.0, 0, 0), **lenient))
        seen += rows.drop_duplicates('path').query('subset == "valid"')['path'].tolist()
    assert len(seen) == len(set(seen)) == 4
    file = tmp_path / 'splits.json'
    file.write_text(json.dumps({'train': seen[:2], 'valid': seen[2:3], 'test': seen[3:]}))
    rows = read_frame(config_of(single, split_file=str(file), **lenient))
    assert set(rows.loc[rows['subset'] == 'test', 'path']) == {seen[3]}
    rows = read_frame(config_of(data_set, **lenient))
    file.write_text(json.dumps({'train': rows['case'].unique().tolist(), 'valid': [], 'test': []}))
    with pytest.raises(InputError, match='splits.json: images of several subsets have one id'):
        read_frame(config_of(data_set, split_file=str(file), **lenient))


def test_a_format_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="config.data.format is 'dicom'; choose one of 'coco'"):
        read_frame(config_of(tmp_path, format='dicom'))


@pytest.mark.parametrize('format, words', [
    ('coco', ('_annotations.coco.json', 'Kaggle', 'pkdarabi/brain-tumor-image-dataset-semantic-segmentation')),
    ('brats_h5', ('volume_N_slice_K.h5', 'Kaggle', 'awsaf49/brats2020-training-data')),
    ('nifti', ('.nii.gz', 'synapse.org', 'Task01_BrainTumour'))])
def test_missing_data_are_told_where_to_come_from(format, words, tmp_path):
    for root in ('', tmp_path / 'absent'):
        with pytest.raises(InputError) as error:
            read_frame(config_of(root, format=format))
        assert all(word in str(error.value) for word in (*words, 'config.data.root', 'configs/phantom.py'))
