"""Made-up heads and the data sets written of them."""
import json

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from unet_jax import phantom
from unet_jax.errors import InputError


@pytest.fixture(scope='module')
def head():
    return phantom.volume(3, (24, 64, 56))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def redraw(annotations, size):
    drawn = np.zeros((size, size), bool)
    for annotation in annotations:
        drawn |= coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], size, size))) > 0
    return drawn


def test_a_volume_has_four_channels_and_brats_labels(head):
    image, label = head
    assert image.shape == (24, 64, 56, 4) and image.dtype == np.float32 and np.isfinite(image).all()
    assert label.shape == (24, 64, 56) and label.dtype == np.uint8 and set(np.unique(label)) == {0, 1, 2, 4}


def test_a_slice_has_the_size_asked_for():
    image, label = phantom.slice_(1, 80)
    assert image.shape == (80, 80, 4) and label.shape == (80, 80)


def test_the_seed_alone_decides():
    for make in (lambda seed: phantom.slice_(seed, 48), lambda seed: phantom.volume(seed, (4, 32, 32))):
        assert all(np.array_equal(a, b) for a, b in zip(make(5), make(5)))
        assert not np.array_equal(make(5)[0], make(6)[0])


def test_a_stripped_volume_is_exactly_zero_outside_the_brain_in_all_channels(head):
    image, label = head
    outside = (image == 0).all(-1)
    assert outside[0].all() and outside[12, 0].all() and 0.2 < outside[12].mean() < 0.7
    assert (image[~outside] > 0).all() and not label[outside].any()


def test_tumour_parts_look_as_they_do_in_each_sequence(head):
    (flair, t1, t1ce, t2), label = np.moveaxis(head[0], -1, 0), head[1]
    healthy = (flair > 0) & (label == 0)
    assert t1ce[label == 4].mean() > 1.2 * t1ce[healthy].mean()
    assert t1ce[label == 4].mean() > 1.3 * t1[label == 4].mean()
    assert flair[label == 2].mean() > 1.1 * flair[healthy].mean()
    assert t1[label == 1].mean() < t1[healthy].mean() and t2[label == 1].mean() > t2[healthy].mean()


def test_oedema_surrounds_the_core():
    distances = []
    for seed in range(12):
        _, label = phantom.slice_(seed, 96)
        if (label == 4).any() and (label == 2).any():
            depth = ndimage.distance_transform_edt(label > 0)
            distances.append(depth[np.isin(label, (1, 4))].mean() - depth[label == 2].mean())
    assert len(distances) > 8 and np.mean(distances) > 1


def test_no_tumour_where_none_is_asked_for():
    assert not phantom.slice_(0, 64, tumour=False)[1].any()
    assert not phantom.volume(0, (4, 32, 32), tumour=False)[1].any()


def test_thresholding_does_not_solve_the_task():
    """The best threshold, chosen for every image by looking at its mask, stays below a Dice of 0.8."""
    scores = []
    for seed in range(40):
        image, label = phantom.slice_(seed, 96)
        scores.append(max(dice(image[..., 0] > t, label > 0) for t in np.linspace(0.2, 1.2, 40)))
    assert 0.4 < np.mean(scores) < 0.8


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    return phantom.write_coco(tmp_path_factory.mktemp('phantom') / 'coco', train=24, valid=4, test=3, size=96, seed=2)


def test_coco_has_the_layout_of_a_roboflow_export(coco):
    for subset, count in (('train', 24), ('valid', 4), ('test', 3)):
        data = json.loads((coco / subset / '_annotations.coco.json').read_text())
        assert {c['id']: c['name'] for c in data['categories']} == {1: 'tumour'}
        assert len(data['images']) == count == len(list((coco / subset).glob('*.png')))
        assert len({a['id'] for a in data['annotations']}) == len(data['annotations'])
        assert {a['image_id'] for a in data['annotations']} <= {i['id'] for i in data['images']}
        for image in data['images']:
            with Image.open(coco / subset / image['file_name']) as picture:
                assert picture.mode == 'L' and picture.size == (image['width'], image['height']) == (96, 96)


def test_coco_has_images_without_tumour_and_with_several_parts(coco):
    data = json.loads((coco / 'train/_annotations.coco.json').read_text())
    counts = [sum(a['image_id'] == image['id'] for a in data['annotations']) for image in data['images']]
    assert min(counts) == 0 and max(counts) > 1


def test_images_of_different_subsets_and_numbers_differ(coco):
    pixels = {path: Image.open(path).tobytes() for path in coco.rglob('*.png')}
    assert len(set(pixels.values())) == len(pixels) == 31


def test_polygons_are_redrawn_as_the_mask_they_came_from():
    drawn = 0
    for seed in range(30):
        mask = phantom.slice_(seed, 96)[1] > 0
        annotations = [phantom._annotation(part) for part in phantom._parts(mask)]
        assert dice(redraw(annotations, 96), mask) >= 0.99
        assert sum(a['area'] for a in annotations) == mask.sum()
        drawn += 1
    assert drawn == 30


def test_holes_and_diagonal_neighbours_survive_in_polygons():
    rng = np.random.default_rng(0)
    ring = np.zeros((40, 40), bool)
    ring[5:30, 5:30], ring[10:20, 10:14], ring[22:25, 8:27] = True, False, False
    for mask in (ring, rng.random((40, 40)) < 0.6):
        annotations = [phantom._annotation(part) for part in phantom._parts(mask)]
        assert dice(redraw(annotations, 40), mask) >= 0.97
        assert all(len(polygon) >= 6 for a in annotations for polygon in a['segmentation'])
    left, top, width, height = phantom._annotation(ring)['bbox']
    assert (left, top, width, height) == (5, 5, 25, 25)


def test_a_complete_folder_is_kept_whatever_the_settings(tmp_path):
    settings = {'train': 1, 'valid': 1, 'test': 1, 'size': 32}
    folder = phantom.write_coco(tmp_path / 'a', **settings)
    before = (folder / 'phantom.json').stat().st_mtime_ns
    assert (phantom.write_coco(folder, **settings) / 'phantom.json').stat().st_mtime_ns == before
    with pytest.raises(InputError, match="a: holds phantoms of other settings, .*'train': 1.*delete that folder"):
        phantom.write_coco(folder, **settings | {'train': 2})
    (tmp_path / 'config.json').touch()  # a run has begun with them
    phantom.write_coco(folder, **settings | {'train': 2})
    assert len(list((folder / 'train').glob('*.png'))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'config.json'}


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.txt').write_text('years of work')
    with pytest.raises(InputError, match='mine'):
        phantom.write_coco(tmp_path / 'mine', train=1, valid=1, test=1, size=32)
    assert (tmp_path / 'mine/thesis.txt').exists()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, '_write_png', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        phantom.write_coco(tmp_path / 'a', train=1, valid=1, test=1, size=32)
    assert not list(tmp_path.iterdir())


def test_h5_slices_have_the_layout_of_the_kaggle_set(tmp_path):
    root = phantom.write_brats_h5(tmp_path / 'h5', volumes=2, shape=(6, 32, 40))
    data = root / 'BraTS2020_training_data/content/data'
    table = pd.read_csv(root / 'BraTS20 Training Metadata.csv')
    assert list(table.columns) == ['slice_path', 'target', 'volume', 'slice', 'label0_pxl_cnt', 'label1_pxl_cnt',
                                   'label2_pxl_cnt', 'background_ratio']
    assert len(table) == 12 == len(list(data.glob('volume_*_slice_*.h5')))
    for row in table.itertuples():
        with h5py.File(data / f'volume_{row.volume}_slice_{row.slice}.h5') as f:
            image, mask = f['image'][()], f['mask'][()]
        assert image.shape == (40, 32, 4) and image.dtype == np.float64 and mask.dtype == np.uint8
        assert mask.sum((0, 1)).tolist() == [row.label0_pxl_cnt, row.label1_pxl_cnt, row.label2_pxl_cnt]
        assert np.allclose(image.mean((0, 1)), 0) and all(np.isclose(s, 1) or s == 0 for s in image.std((0, 1)))
    assert table.target.sum() > 0


@pytest.mark.parametrize(('year', 'case', 'values'), [
    ('2018', 'HGG/Brats18_MADE_1_1/Brats18_MADE_1_1_t1ce.nii.gz', {0, 1, 2, 4}),
    ('2019', 'HGG/BraTS19_MADE_1_1/BraTS19_MADE_1_1_t1ce.nii.gz', {0, 1, 2, 4}),
    ('2020', 'BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz', {0, 1, 2, 4}),
    ('2021', 'BraTS2021_00001/BraTS2021_00001_t1ce.nii.gz', {0, 1, 2, 4}),
    ('2023', 'BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1c.nii.gz', {0, 1, 2, 3}),
    ('2024-GLI', 'BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1c.nii.gz', {0, 1, 2, 3, 4}),
    ('2024-PED', 'BraTS-PED-00001-000/BraTS-PED-00001-000-t1c.nii.gz', {0, 1, 2, 3, 4}),
    ('MSD', 'imagesTr/BRATS_001.nii.gz', {0, 1, 2, 3}),
])
def test_nifti_cases_are_named_and_labelled_as_in_each_release(tmp_path, year, case, values):
    root = phantom.write_nifti(tmp_path / year, cases=4, shape=(16, 40, 32), year=year)
    image = nibabel.load(root / case)
    paths = [*root.rglob('*seg.nii.gz'), *root.glob('labelsTr/*')]
    labels = [np.asarray(nibabel.load(path).dataobj) for path in paths]
    assert len(labels) == 4 and image.shape[:3] == (32, 40, 16) == labels[0].shape
    assert set(np.unique(labels)) == values
    assert nibabel.aff2axcodes(image.affine) == ('L', 'P', 'S')
