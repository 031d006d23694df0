"""Copies of a volume stay on one side of every split; folds leave a test subset of the data set's own alone."""
import gzip
import logging
import shutil

import pytest
from test_coco import image, pictures, write

from unet_jax import phantom
from unet_jax.annotations import brats_h5, coco, frame, nifti, pairs

SHAPE = (12, 32, 32)  # smaller heads have no tumour


def copied_nifti(root):
    """Six cases, of which the second is the first again under another patient's name, packed at another time."""
    phantom.write_nifti(root, cases=6, shape=SHAPE, year='2021')
    one, two = 'BraTS2021_00001', 'BraTS2021_00002'
    for path in sorted((root / one).iterdir()):
        target = root / two / path.name.replace(one, two)
        with gzip.GzipFile(target, 'wb', mtime=1) as packed:
            packed.write(gzip.decompress(path.read_bytes()))
        assert target.read_bytes() != path.read_bytes()
    return {one, two}


def copied_h5(root):
    phantom.write_brats_h5(root, volumes=6, shape=SHAPE)
    for path in root.rglob('volume_1_slice_*.h5'):
        shutil.copyfile(path, path.with_name(path.name.replace('volume_1', 'volume_2')))
    next(root.glob('*.csv')).unlink()  # it counts the labels of the volume that is gone
    return {'volume_1', 'volume_2'}


@pytest.mark.parametrize('make, read', [(copied_nifti, nifti.read_frame), (copied_h5, brats_h5.read_frame)])
def test_a_volume_and_its_copy_under_another_name_are_split_together(make, read, tmp_path, caplog):
    pair = make(tmp_path / 'data')
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        for seed in range(8):  # apart by chance in about half of the splits
            cases = read(tmp_path / 'data', seed=seed, split=(0.5, 0.25, 0.25)).drop_duplicates('case')
            cases = cases.set_index('case')
            assert cases.group.nunique() == 6 and cases.subset[list(pair)].nunique() == 1
    assert '1 groups hold a copy of a volume in another group' in caplog.text


def test_volumes_of_one_size_are_no_copies(tmp_path, caplog):
    phantom.write_nifti(tmp_path, cases=4, shape=SHAPE, year='2021')
    for path in tmp_path.rglob('*.nii.gz'):  # unpacked all have one size
        path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert nifti.read_frame(tmp_path).case.nunique() == 4 and 'copy of a volume' not in caplog.text


def coco_with_subsets(root):
    for subset, seeds in (('train', range(8)), ('valid', range(8, 12)), ('test', range(12, 15))):
        pictures(root / subset, seeds)
        names = [f'{k}.png' for k in range(len(seeds))]  # the same names and ids in every subset
        write(root / subset / '_annotations.coco.json', [image(k, name, 32, 24) for k, name in enumerate(names)], [],
              on_disk=[('other.gif', 1, 1)])
    return coco.read


def pairs_with_subsets(root):
    for subset, seeds in (('train', range(8)), ('valid', range(8, 12)), ('test', range(12, 15))):
        pictures(root / subset / 'images', seeds)
        pictures(root / subset / 'masks', seeds)
    return pairs.read_frame


@pytest.mark.parametrize('make', [coco_with_subsets, pairs_with_subsets])
def test_folds_are_made_of_what_is_not_test(make, tmp_path):
    read, seen = make(tmp_path), []
    for fold in range(3):
        found = frame.images(read(tmp_path, folds=3, fold=fold))
        assert found.subset.value_counts().to_dict() == {'train': 8, 'valid': 4, 'test': 3}
        assert found.path[found.subset == 'test'].str.startswith('test/').all()
        seen += found.path[found.subset == 'valid'].tolist()
    assert len(set(seen)) == len(seen) == 12 and not any(path.startswith('test/') for path in seen)
