"""Slices of patients: who they are, one scale for all of a patient's, neighbours as channels, scored as volumes."""
import json

import numpy as np
import pytest
from PIL import Image

from unet_jax.annotations import coco, pairs, patients
from unet_jax.errors import InputError


def names(*patterns, count=12):
    """A dozen slices of each, in the order of a folder's listing: 1, 10, 11, 12, 2, …"""
    return sorted(pattern.format(k=k) for pattern in patterns for k in range(1, count + 1))


@pytest.mark.parametrize('paths', [
    names('P1/{k}.png', 'P2/{k}.png'), names('P1/IM-0001-{k:04}.png', 'P2/IM-0001-{k:04}.png'),
    names('images/P1/I{k}.png', 'images/P2/I{k}.png'), names('P1-{k}.png', 'P2-{k}.png'),
    names('P1_slice_{k:03}.tif', 'P2_slice_{k:03}.tif')])
def test_folders_ends_of_names_and_dicom_like_stems_tell_patients(paths):
    found = dict(zip(paths, pairs.patients(paths), strict=True))
    assert {patient for patient, _ in found.values()} == {'P1', 'P2'}
    assert all(sorted(n for p, n in found.values() if p == who) == list(range(1, 13)) for who in ('P1', 'P2'))


def test_series_of_one_folder_are_volumes_of_their_own():
    paths = names('P1/IM-0001-{k:04}.png', 'P1/IM-0002-{k:04}.png', 'P2/IM-0001-{k:04}.png')
    found = pairs.patients(paths)
    assert {patient for patient, _ in found} == {'P1/IM-0001', 'P1/IM-0002', 'P2/IM-0001'}


def test_a_pattern_that_makes_two_images_one_slice_is_refused():
    with pytest.raises(InputError, match=r"a/x1.png and b/x1.png would both be slice 1 of 'x'"):
        patients.by_pattern(['a/x1.png', 'b/x1.png'], r'(x)(\d)')


def coco_set(root, people=6, slices=5, blank=(1,)):
    """A COCO set of slices: uint8 16×16, slice number `blank` of everyone the same black picture."""
    content = {'images': [], 'annotations': [], 'categories': [{'id': 1, 'name': 'tumour'}]}
    random = np.random.default_rng(0)
    for who in range(people):
        for k in range(1, slices + 1):
            i = len(content['images'])
            name = f'pat{who:02}_{k}.png'
            picture = np.uint8(random.integers(1, 255, (16, 16)) * (k not in blank))
            Image.fromarray(picture).save(root / name)
            content['images'].append({'id': i, 'file_name': name, 'width': 16, 'height': 16})
            if k == 2:
                content['annotations'].append({'id': i, 'image_id': i, 'category_id': 1,
                                               'segmentation': [[2, 2, 9, 2, 9, 9, 2, 9]], 'iscrowd': 0})
    (root / 'x.json').write_text(json.dumps(content))


def test_a_coco_set_with_a_pattern_is_split_by_patient_though_black_slices_are_equal(tmp_path):
    coco_set(tmp_path)
    frame = coco.read(tmp_path, group_pattern=r'(pat\d+)_(\d+)')
    images = frame.drop_duplicates('path')
    assert images.case.nunique() == 6 and set(images.subset) == {'train', 'valid', 'test'}
    assert (images.groupby('case').subset.nunique() == 1).all()
    assert all(sorted(part) == [1, 2, 3, 4, 5] for _, part in images.groupby('case').slice)
    alone = coco.read(tmp_path, group_pattern=r'(pat\d+)')
    assert alone.group.nunique() == 6 and alone.case.nunique() == 30 and alone.slice.isna().all()
