import json
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError

POLYGON = [[0.0, 0.0, 4.0, 0.0, 4.0, 2.5]]


def row(name='a.png', subset='train', image_id='0', **more):
    return {'file_name': name, 'width': 8, 'height': 6, 'subset': subset, 'image_id': image_id,
            'path': f'{subset}/{name}', 'group': name, 'case': f'{subset}/{name}', **more}


def drawn(category=1, segmentation=POLYGON, **more):
    return row(category_id=category, segmentation=segmentation, category=f'class {category}', **more)


def test_the_columns_stand_in_the_agreed_order_and_added_ones_behind():
    frame = frames.build([drawn(spacing=[1.0, 2.0], iscrowd=0)])
    assert list(frame.columns[:6]) == ['file_name', 'width', 'height', 'category_id', 'segmentation', 'subset']
    assert tuple(frame.columns) == (*frames.COLUMNS, 'spacing', 'iscrowd')


def test_the_types_are_those_of_the_contract():
    frame = frames.build([drawn(slice=np.int64(3)), row('b.png', image_id='1')])
    assert frame.dtypes[['width', 'height']].tolist() == ['int64', 'int64']
    assert frame.dtypes[['category_id', 'slice']].astype(str).tolist() == ['Int64', 'Int64']
    assert frame['category_id'][1] is pd.NA and frame['slice'][1] is pd.NA
    assert frame['segmentation'][1] is None and frame['category'][1] is None
    assert frame['segmentation'][0] == POLYGON and frame['category'][0] == 'class 1'


@pytest.mark.parametrize('bad, message', [
    (row(subset='val'), 'subset is none of'),
    (row(width=0), 'width and height must be positive'),
    (row(width=2.5), 'column width: 2.5 is not a whole number'),
    (row(width=None), 'column width'),
    (row(path=''), 'no path'),
    (row(group=None), 'no group'),
    (row(category_id=1), 'both or neither'),
    (row(segmentation=POLYGON), 'both or neither'),
    (drawn(category=1.5), 'column category_id: 1.5 is not a whole number'),
    (drawn(segmentation=[[0, 0, 1, float('nan'), 1, 1]]), 'JSON compliant'),
    (drawn(mask=object()), 'object cannot be kept'),
])
def test_a_row_that_breaks_the_contract_is_refused(bad, message):
    with pytest.raises(InputError, match=message):
        frames.build([row('fine.png', image_id='9'), bad])


def test_rows_of_one_image_must_agree():
    with pytest.raises(InputError, match=r'row 1 .*width differs'):
        frames.build([drawn(), drawn() | {'width': 9}])
    with pytest.raises(InputError, match='has an empty row besides'):
        frames.build([drawn(), row()])
    with pytest.raises(InputError, match='lies in several subsets or groups'):
        frames.build([drawn(subset='train') | {'case': 'x'}, drawn(subset='test') | {'case': 'x'}])


def test_ids_restart_in_every_subset():
    frame = frames.build([drawn(1, subset='train'), drawn(2, subset='test')])
    images = frames.images(frame)
    assert images['subset'].tolist() == ['train', 'test']
    assert [[c for c, _ in a] for a in images['annotations']] == [[1], [2]]


def test_an_image_has_all_its_annotations_in_order_of_first_appearance():
    other = [[1.0, 1.0, 2.0, 1.0, 2.0, 2.0]]
    frame = frames.build([drawn(1), row('b.png', image_id='1'), drawn(2, other)])
    images = frames.images(frame)
    assert list(images.columns) == [*frames.IMAGE_COLUMNS, 'annotations']
    assert images['file_name'].tolist() == ['a.png', 'b.png']
    assert images['annotations'].tolist() == [((1, POLYGON), (2, other)), ()]
    assert [type(c) for c, _ in images['annotations'][0]] == [int, int]


def test_classes_are_the_categories_with_annotations_or_those_chosen():
    frame = frames.build([drawn(4), drawn(1), row('b.png', image_id='1')])
    assert frames.classes(frame) == (1, 4)
    assert frames.classes(frame, (4,)) == (4,)
    assert frames.classes(frame, [4, 1, 4]) == (1, 4)
    with pytest.raises(InputError, match=r'names \[2\]; the data has annotations of \[1, 4\]'):
        frames.classes(frame, (1, 2))


def test_categories_are_named_by_the_id_where_there_is_no_name():
    frame = frames.build([drawn(4), row('b.png', image_id='1', category_id=2, segmentation=POLYGON, category='')])
    assert frames.categories(frame) == {2: '2', 4: 'class 4'}


def test_unannotated_images_are_kept_dropped_or_refused(caplog):
    frame = frames.build([drawn(), row('b.png', image_id='1'), row('c.png', image_id='2')])
    assert frames.apply_unannotated(frame, 'negative') is frame
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        kept = frames.apply_unannotated(frame, 'skip')
    assert kept['file_name'].tolist() == ['a.png'] and kept.index.tolist() == [0]
    counted = {'policy': 'skip', 'count': 2, 'first': ['train/b.png', 'train/c.png']}
    assert kept.attrs['reader']['unannotated'] == counted
    assert len(frames.apply_unannotated(frame, 'error', audit=True)) == 3
    assert '2 images without annotation left out' in caplog.text
    with pytest.raises(InputError, match='2 images have no annotation, first train/b.png'):
        frames.apply_unannotated(frame, 'error')
    with pytest.raises(InputError, match="unannotated is 'drop'"):
        frames.apply_unannotated(frame, 'drop')
    assert len(frames.apply_unannotated(kept, 'error')) == 1


texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), min_size=1, max_size=8)
numbers = st.floats(-1e5, 1e5) | st.integers(-99, 99)
segmentations = st.one_of(
    st.lists(st.lists(numbers, min_size=6, max_size=8), min_size=1, max_size=2),
    st.builds(lambda c: {'size': [6, 8], 'counts': c}, texts | st.lists(st.integers(0, 48), max_size=4)),
    st.builds(lambda f, k: {'file': f, 'channel': k}, texts, st.integers(0, 3)),
    st.builds(lambda f, k: {'file': f, 'label': k}, texts, st.integers(1, 4)))
annotations = st.none() | st.tuples(st.integers(0, 10 ** 12), segmentations, st.none() | texts)
added = st.none() | st.integers(-9, 9) | texts | st.booleans() | st.lists(st.floats(0, 9), max_size=3)


@st.composite
def rows_of_frames(draw):
    rows = []
    for i, name in enumerate(draw(st.lists(texts, max_size=4))):
        annotation = draw(annotations)
        category, segmentation, called = annotation or (None, None, None)
        rows.append(row(name, draw(st.sampled_from(frames.SUBSETS)), str(i), category_id=category, category=called,
                        segmentation=segmentation, slice=draw(st.none() | st.integers(0, 154)), note=draw(added),
                        spacing=draw(st.none() | st.floats(0.1, 9))) | {'case': str(i), 'group': name})
    return rows


@settings(max_examples=40, deadline=None)
@given(rows_of_frames())
def test_saving_and_loading_gives_the_same_frame(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp('frame')
    frame = frames.build(rows)
    frames.save(frame, folder)
    for name in ('annotations.parquet', 'annotations.csv'):
        loaded = frames.load(folder / name)
        pd.testing.assert_frame_equal(loaded, frame, check_exact=True)
        assert loaded['segmentation'].tolist() == frame['segmentation'].tolist()
        assert [x is None for x in loaded['category']] == [x is None for x in frame['category']]


@pytest.mark.parametrize('name', ['NA', 'nan', '007', '1e5', 'Größe,"ü"\n漢.png', ' a ', 'True', '-', "'"])
def test_names_that_look_like_something_else_come_back_as_they_were(tmp_path, name):
    frame = frames.build([drawn(name=name, note=name) | {'category': name}, row('b.png', image_id='1')])
    frames.save(frame, tmp_path)
    for file in ('annotations.parquet', 'annotations.csv'):
        pd.testing.assert_frame_equal(frames.load(tmp_path / file), frame)


def test_bytes_and_tuples_become_plain_json_values():
    frame = frames.build([drawn(1, {'size': (6, 8), 'counts': b'X1'}), drawn(2, ((np.float32(1.5), 1, 2, 2, 3, 3),))])
    assert frame['segmentation'].tolist() == [{'size': [6, 8], 'counts': 'X1'}, [[1.5, 1, 2, 2, 3, 3]]]


def test_the_csv_holds_the_segmentation_as_json(tmp_path):
    frames.save(frames.build([drawn(), row('b.png', image_id='1')]), tmp_path)
    table = pd.read_csv(tmp_path / 'annotations.csv')
    assert json.loads(table['segmentation'][0]) == POLYGON and pd.isna(table['segmentation'][1])


def test_the_parquet_file_keeps_the_attributes(tmp_path):
    frame = frames.build([drawn()])
    frame.attrs['reader'] = {'broken': {'count': 2, 'first': ['ü']}}
    frames.save(frame, tmp_path)
    assert frames.load(tmp_path / 'annotations.parquet').attrs == frame.attrs


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    frames.save(frames.build([drawn()]), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {'annotations.parquet', 'annotations.csv'}

    def half(self, path, **_):
        path.write_bytes(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(pd.DataFrame, 'to_parquet', half)
    with pytest.raises(OSError, match='disk full'):
        frames.save(frames.build([drawn(), row('b.png', image_id='1')]), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_file_that_is_no_frame_is_refused_by_name(tmp_path):
    (tmp_path / 'x.parquet').write_bytes(b'PAR1 no')
    (tmp_path / 'x.csv').write_text('a,b\n1,2\n')
    (tmp_path / 'y.csv').write_text('')
    for name in ('x.parquet', 'x.csv', 'y.csv', 'absent.csv', 'absent.parquet'):
        with pytest.raises(InputError, match=name):
            frames.load(tmp_path / name)
