"""Predicted volumes as NIfTI: what nibabel reads back lies on the input, voxel by voxel and in millimetres."""
import nibabel
import numpy as np
import pytest

from unet_jax.formats import mask_file

SHAPE = (7, 6, 5)
AFFINES = {
    'as in BraTS': [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]],
    'flipped': [[1, 0, 0, -90], [0, -1, 0, 126], [0, 0, -1, 72], [0, 0, 0, 1]],
    'axes exchanged': [[0, 0, -1.2, 80], [0.9, 0, 0, -100], [0, 1, 0, -60], [0, 0, 0, 1]],
    'rotated': [[0.866, -0.5, 0, 10], [0.5, 0.866, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1]],
    'anisotropic': [[-0.5, 0, 0, 60], [0, 0.5, 0, -60], [0, 0, 5, -30], [0, 0, 0, 1]],
}
IDS = np.random.default_rng(0).choice([0, 1, 2, 4], SHAPE).astype(np.uint8)


def scan(path, affine, data=None, **header):
    image = nibabel.Nifti1Image(np.arange(210, dtype=np.int16).reshape(SHAPE) if data is None else data, affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def written(tmp_path, like):
    path = tmp_path / 'out' / 'mask.nii.gz'
    mask_file.write_nifti(path, IDS, like=like)
    return nibabel.load(path)


@pytest.mark.parametrize('name', AFFINES)
def test_shape_affine_and_codes_are_those_of_the_input(tmp_path, name):
    like = scan(tmp_path / 'scan.nii.gz', np.array(AFFINES[name], float))
    before, after = nibabel.load(like), written(tmp_path, like)
    assert after.shape == before.shape and np.array_equal(after.affine, before.affine)
    for code in ('qform_code', 'sform_code', 'xyzt_units', 'pixdim'):
        assert np.array_equal(after.header[code], before.header[code]), code
    assert np.array_equal(after.get_qform(), before.get_qform())
    assert np.array_equal(np.asarray(after.dataobj), IDS)


def test_a_qform_without_an_sform_is_kept_so(tmp_path):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.header.set_qform(np.array(AFFINES['rotated']), code=1)
    nibabel.save(image, tmp_path / 'scan.nii')
    before, after = nibabel.load(tmp_path / 'scan.nii'), written(tmp_path, tmp_path / 'scan.nii')
    assert np.allclose(after.affine, before.affine, atol=1e-5)
    assert (after.header['qform_code'], after.header['sform_code']) == (1, 0)


def test_a_tumour_lies_at_the_same_millimetres(tmp_path):
    """Resampled by nibabel into a common space, prediction and input still coincide."""
    data = np.zeros(SHAPE, np.float32)
    data[IDS > 0] = 100
    like = scan(tmp_path / 'scan.nii.gz', np.array(AFFINES['axes exchanged'], float), data)
    before, after = (nibabel.as_closest_canonical(i) for i in (nibabel.load(like), written(tmp_path, like)))
    assert np.array_equal(before.affine, after.affine)
    assert np.array_equal(before.get_fdata() > 0, after.get_fdata() > 0)


def test_labels_are_plain_bytes_however_the_input_was_scaled(tmp_path):
    like = scan(tmp_path / 'scan.nii', np.eye(4), scl_slope=0.5, scl_inter=-3, cal_max=900, descrip=b'FSL5.0')
    after = written(tmp_path, like)
    assert after.get_data_dtype() == np.uint8 and after.header.get_slope_inter() in ((None, None), (1, 0))
    assert np.array_equal(after.get_fdata(), IDS) and after.header['cal_max'] == 0
    assert after.header['descrip'].item() == b'FSL5.0'


def test_a_four_dimensional_input_gives_a_three_dimensional_label(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((*SHAPE, 4), np.float32), np.array(AFFINES['anisotropic']))
    nibabel.save(image, tmp_path / 'scan.nii.gz')
    after = written(tmp_path, tmp_path / 'scan.nii.gz')
    assert after.shape == SHAPE and np.array_equal(after.affine, image.affine)


def test_a_second_version_of_the_format_is_read_and_the_first_written(tmp_path):
    nibabel.save(nibabel.Nifti2Image(np.zeros(SHAPE, np.int16), np.array(AFFINES['flipped'])), tmp_path / 'scan.nii')
    after = written(tmp_path, tmp_path / 'scan.nii')
    assert type(after) is nibabel.Nifti1Image and np.array_equal(after.affine, AFFINES['flipped'])


def test_nothing_half_written_is_left(tmp_path):
    written(tmp_path, scan(tmp_path / 'scan.nii', np.eye(4)))
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mask.nii.gz']
