"""What --mode=predict takes as volumes: folders and files, from wherever they are named."""
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from ml_collections import ConfigDict

from unet_jax import phantom
from unet_jax.annotations.schemas import MODALITIES
from unet_jax.errors import InputError
from unet_jax.formats.inputs import find_volumes
from unet_jax.pipeline import prepared

SHAPE = (6, 16, 18)


@pytest.fixture(scope='module')
def decathlon(tmp_path_factory):
    return phantom.write_nifti(tmp_path_factory.mktemp('decathlon'), cases=2, shape=SHAPE, year='MSD')


@pytest.fixture(scope='module')
def release(tmp_path_factory):
    return phantom.write_nifti(tmp_path_factory.mktemp('release'), cases=2, shape=SHAPE, year='2023')


def find(source):
    data = ConfigDict({'schema': '2023', 'modalities': MODALITIES, 'missing_modalities': False})
    rows, problems = find_volumes([str(source)] if source else [], data)
    assert not problems and rows.root.nunique() == 1
    return Path(rows.root.iloc[0]), rows


def image(root, row):
    settings = prepared.Settings(str(root), (8, 8, 8), 4, (1, 2, 3), (), '')
    return prepared.prepare(row, settings)[0]


def test_one_file_of_four_sequences_is_a_case_in_any_folder(decathlon, tmp_path):
    root, rows = find(decathlon / 'imagesTr')
    first = rows.iloc[0]
    path = tmp_path / 'case.nii.gz'
    shutil.copy(root / first.path, path)
    (tmp_path / 'notes.nii.gz').write_text('beside it, and not looked at')
    alone, (row,) = find(path)[0], find(path)[1].itertuples()
    assert (row.case, alone, row.schema) == ('case', tmp_path, '2023')
    assert np.array_equal(image(alone, row), image(root, first))


def test_the_folder_one_stands_in_is_found_by_its_name(decathlon, monkeypatch):
    monkeypatch.chdir(decathlon / 'imagesTr')
    root, rows = find('.')
    assert len(rows) == 2 and root == decathlon / 'imagesTr'


def test_one_file_of_a_case_stands_for_the_case(release, tmp_path):
    for path in release.rglob('*-t2f.nii.gz'):  # both cases in one folder
        for other in path.parent.iterdir():
            shutil.copy(other, tmp_path)
    name = next(release.rglob('*-t1c.nii.gz')).name
    root, rows = find(tmp_path / name)
    assert rows.case.tolist() == [name.removesuffix('-t1c.nii.gz')] and image(root, rows.iloc[0]).shape[-1] == 4


@pytest.mark.parametrize('name, message', [
    ('absent', 'no such file or folder'), ('a.txt', 'is no NIfTI file'),
    ('extra.nii', 'belongs to no case')])
def test_what_holds_no_case_is_refused(release, tmp_path, name, message):
    shutil.copytree(next(release.rglob('*-t2f.nii.gz')).parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / 'a.txt').write_text('text')
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), tmp_path / 'extra.nii')
    with pytest.raises(InputError, match=f'--input={"None" if name is None else ".*" + name}: {message}'):
        find(name and tmp_path / name)
