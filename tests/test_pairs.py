"""Folders of images and masks in the spellings that people use, and what the values of masks mean."""
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default
from unet_jax import experiment
from unet_jax.annotations import audit, coco, mask_values, pairs
from unet_jax.annotations import frame as frames
from unet_jax.annotations.segmentation import rasterise
from unet_jax.errors import InputError
from unet_jax.formats import mask_file

SQUARE = np.zeros((12, 16), bool)
SQUARE[3:7, 4:9] = True
LAYOUTS = {
    'folders': ('images/{k}.jpg', 'masks/{k}.png'),
    'end of the name, same folder': ('{k}.tif', '{k}_mask.tif'),
    'beginning of the name': ('pictures/{k}.png', 'pictures/mask_{k}.png'),
    'nnU-Net words': ('imagesTr/{k}.bmp', 'labelsTr/{k}.png'),
    'two words': ('train_images/{k}.webp', 'train_masks/{k}.png'),
    'both': ('data/img/{k}.jpeg', 'data/gt/{k}-seg.png'),
    'ground truth': ('x/{k}.png', 'ground_truth/x/{k}.gif'),
    'a folder each': ('p{k}/image.png', 'p{k}/mask.png'),
}


def save(path: Path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **{'lossless': True} if path.suffix == '.webp' else {})


def write(root: Path, layout, count=8, mask=lambda k: np.uint8(SQUARE) * 255, size=(12, 16)):
    for k in range(count):
        save(root / layout[0].format(k=k), np.full(size, 10 + k, np.uint8))
        save(root / layout[1].format(k=k), mask(k))
    return root


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_gives_a_row_an_image_with_its_own_mask(tmp_path, layout):
    def mask(k):
        moved = np.zeros((12, 16), np.uint8)
        moved[k, :] = 255
        return moved

    frame = pairs.read_frame(write(tmp_path, layout, mask=mask))
    rows = frames.images(frame)
    assert len(rows) == len(frame) == 8 and set(frame.category_id) == {1}
    for row in rows.itertuples():
        k = int(np.asarray(Image.open(tmp_path / row.path).convert('L')).mean().round()) - 10
        drawn = rasterise(row.annotations[0][1], height=12, width=16, where='x')
        assert drawn[k].all() and drawn.sum() == 16, row.path


@pytest.mark.parametrize('values, ids, names', [
    ((0, 255), {255: 1}, {1: 'foreground'}), ((0, 1), {1: 1}, {1: 'foreground'}),
    ((0, 254), {254: 1}, {1: 'foreground'}),
    ((0, 1, 2, 4), {1: 1, 2: 2, 4: 4}, {1: 'value 1', 2: 'value 2', 4: 'value 4'}),
    ((0, 127, 255), {127: 1, 255: 2}, {1: 'value 127', 2: 'value 255'})])
def test_the_values_of_all_masks_decide_the_classes(values, ids, names):
    assert mask_values.decide([{v: {}} for v in values[1:]] + [{}], (), where='x') == (ids, names)


def test_values_can_be_named_and_merged_and_others_are_refused():
    given = ((1, 'core'), (4, 'rim'))
    assert mask_values.decide([{1: {}}, {4: {}}], given, where='x').names == {1: 'core', 2: 'rim'}
    with pytest.raises(InputError, match=r'hold the values \[2\]'):
        mask_values.decide([{1: {}}, {2: {}}], given, where='x')
    merged = mask_values.decide([{1: {}}, {4: {}}], ((1, 'tumour'), (4, 'tumour')), where='x')
    assert merged.names == {1: 'tumour'} and merged.ids == {1: 1, 4: 1}


@pytest.mark.parametrize('kind', ['16 bit', 'palette', 'colours', 'alpha', 'jpeg', 'soft', 'grey as RGB'])
def test_every_way_to_store_a_mask(tmp_path, kind):
    ending, mask = 'png', np.uint8(SQUARE) * 255
    if kind == '16 bit':
        image = Image.fromarray(np.uint16(SQUARE) * 40_000)
    elif kind == 'palette':
        image = Image.fromarray(np.uint8(SQUARE), 'P')
        image.putpalette([0, 0, 0, 128, 0, 0])
    elif kind == 'colours':
        image = Image.fromarray(np.uint8(SQUARE[..., None] * [200, 30, 0]))
    elif kind == 'alpha':
        image = Image.fromarray(np.uint8(np.stack([np.full_like(mask, 255)] * 3 + [mask], -1)))
    elif kind == 'jpeg':
        image, ending = Image.fromarray(mask), 'jpg'
    elif kind == 'soft':
        image = Image.fromarray(mask).resize((64, 48), Image.Resampling.BICUBIC).rotate(7, Image.Resampling.BICUBIC)
    else:
        image = Image.fromarray(np.stack([mask] * 3, -1))
    for k in range(8):
        save(tmp_path / f'images/{k}.png', np.zeros(image.size[::-1], np.uint8))
        (tmp_path / 'masks').mkdir(exist_ok=True)
        image.save(tmp_path / f'masks/{k}.{ending}', quality=60)
    row = frames.images(pairs.read_frame(tmp_path)).iloc[0]
    drawn = rasterise(row.annotations[0][1], height=row.height, width=row.width, where='x')
    if kind == 'soft':
        assert np.array_equal(drawn, np.asarray(image) > 127)
    else:
        assert len(row.annotations) == 1 and (drawn != SQUARE).mean() <= (0.02 if kind == 'jpeg' else 0)


def test_masks_of_our_own_show_colours_and_are_read_again_as_numbers(tmp_path):
    ids = np.zeros((12, 16), np.uint8)
    ids[2:5], ids[7:9] = 1, 5
    mask_file.write_png(tmp_path / 'a.png', ids)
    mask = Image.open(tmp_path / 'a.png')
    np.testing.assert_array_equal(np.asarray(mask), ids)
    shown = np.asarray(mask.convert('RGB'))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 3 and not shown[0, 0].any()
    np.testing.assert_array_equal(mask_values.values_of(mask), ids)


def test_two_colours_are_two_classes_and_a_union_of_masks_is_one(tmp_path):
    colours = np.zeros((12, 16, 3), np.uint8)
    colours[:3], colours[6:] = (255, 0, 0), (0, 0, 255)
    frame = pairs.read_frame(write(tmp_path / 'a', LAYOUTS['folders'], mask=lambda k: colours))
    assert sorted(set(frame.category)) == ['#0000ff', '#ff0000'] and len(frame) == 16
    write(tmp_path / 'b', LAYOUTS['end of the name, same folder'])
    save(tmp_path / 'b/0_mask_1.tif', np.uint8(~SQUARE) * 255)
    row = frames.images(pairs.read_frame(tmp_path / 'b')).iloc[0]
    assert rasterise(row.annotations[0][1], height=12, width=16, where='x').all()


def test_what_does_not_fit_is_named_and_can_be_left_out(tmp_path):
    root = write(tmp_path, LAYOUTS['folders'])
    (root / 'masks/3.png').unlink()
    with pytest.raises(InputError, match=r'1 images have no mask \(images/3.jpg\).*a black mask says.*on_error=skip'):
        pairs.read_frame(root)
    save(root / 'masks/99.png', SQUARE)
    save(root / 'masks/4.png', np.zeros((9, 9), np.uint8))
    frame = pairs.read_frame(root, on_error='skip')
    left = frame.attrs['reader']
    assert len(frame) == 6 and left['missing']['count'] == 2 and left['unreadable']['count'] == 1
    assert 'the mask is 9×9 pixels' in left['unreadable']['first'][0]
    with pytest.raises(InputError, match='no image with a mask there. Looked for pairs'):
        pairs.read_frame(root / 'images')
    write(tmp_path / 'empty', LAYOUTS['folders'], mask=lambda k: np.zeros((12, 16), np.uint8))
    with pytest.raises(InputError, match='every mask is empty'):
        pairs.read_frame(tmp_path / 'empty')


@pytest.mark.parametrize('names, found', [
    (['P1/P1_1.tif', 'P1/P1_2.tif', 'P1/P1_10.tif', 'P2/P2_1.tif', 'P2/P2_2.tif', 'P2/P2_3.tif'],
     [('P1', 1), ('P1', 2), ('P1', 10), ('P2', 1), ('P2', 2), ('P2', 3)]),
    (['s07-001.png', 's07-002.png', 's07-003.png', 's9-001.png', 's9-002.png', 's9-003.png'],
     [('s07', 1), ('s07', 2), ('s07', 3), ('s9', 1), ('s9', 2), ('s9', 3)]),
    (['images/yes_1.png', 'images/yes_2.png', 'images/no_1.png', 'images/no_2.png'],  # words, no identifiers
     [('images/yes_1', None), ('images/yes_2', None), ('images/no_1', None), ('images/no_2', None)]),
    (['glioma/1.png', 'glioma/2.png', 'none/1.png', 'none/2.png'],
     [('glioma/1', None), ('glioma/2', None), ('none/1', None), ('none/2', None)])])
def test_slices_of_a_patient_are_told_from_images(names, found):
    assert pairs.patients(names) == found


def test_a_pattern_decides_who_is_a_patient():
    names = ['a_x1.png', 'a_x2.png', 'b_x1.png']
    assert pairs.patients(names, r'^(\w)_x(\d+)') == [('a', 1), ('a', 2), ('b', 1)]
    for pattern, message in ((r'^(\w)_y', 'fits every path such as a_x1.png'), ('(', 'a regular expression')):
        with pytest.raises(InputError, match=message):
            pairs.patients(names, pattern)


def test_real_patients_are_whole_and_in_order(shared_data):
    frame = pairs.read_frame(shared_data / 'lgg-pairs')
    images = frame.drop_duplicates('path')
    assert audit.audit(frame, shared_data / 'lgg-pairs')['unlisted']['count'] == 0
    assert len(images) == 609 and images.case.nunique() == 16 and len(frame[frame.category_id.notna()]) == 169
    assert (images.groupby('case').subset.nunique() == 1).all()
    assert all(sorted(part) == list(range(1, len(part) + 1)) for _, part in images.groupby('case').slice)


@pytest.mark.parametrize('name', ['br35h'])
def test_a_real_coco_set_as_pairs_has_the_same_masks_to_the_pixel(shared_data, tmp_path, name):
    frame = coco.read(shared_data / name)
    rows = frames.images(frame).iloc[::9]
    for k, row in enumerate(rows.itertuples()):
        mask = np.zeros((row.height, row.width), bool)
        for _, drawn in row.annotations:
            mask |= rasterise(drawn, height=row.height, width=row.width, where=row.path)
        (tmp_path / row.subset / 'images').mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_data / name / row.path, tmp_path / row.subset / 'images' / f'{k}.jpg')
        save(tmp_path / row.subset / 'masks' / f'{k}.png', np.uint8(mask) * 255)
    found = frames.images(pairs.read_frame(tmp_path))
    assert len(found) == len(rows) and set(found.subset) == {'train', 'valid', 'test'}
    for row in found.itertuples():
        true = rows.iloc[int(Path(row.path).stem)]
        union = np.zeros((row.height, row.width), bool)
        for _, drawn in true.annotations:
            union |= rasterise(drawn, height=row.height, width=row.width, where='x')
        assert np.array_equal(rasterise(row.annotations[0][1], height=row.height, width=row.width, where='x'), union)


def test_a_folder_of_pairs_goes_through_the_config(tmp_path):
    config = default.get_config()
    with config.unlocked():
        config.data.update({'format': 'pairs', 'root': str(write(tmp_path, LAYOUTS['folders'])), 'size': (16, 16)})
    frame = experiment.read_frame(config)
    assert experiment.create(experiment.settle(config, frame)).names == ('foreground',)
