"""Data never runs code, never leads out of its folder, and never writes markup into the report."""
import ast
import json
import os
import types
from pathlib import Path

import h5py
import jax.numpy as jnp
import nibabel
import numpy as np
import optax
import pytest
from PIL import Image

from unet_jax import phantom
from unet_jax.annotations import brats_h5, coco, image_file, nifti
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.pipeline import decode
from unet_jax.training import checkpoint
from unet_jax.training import state as states

PACKAGE = Path(__file__).resolve().parents[1] / 'unet_jax'
FORBIDDEN = {'eval', 'exec', 'compile', '__import__'}
RUNS_CODE = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'torch'}
READS_PICKLES = {'read_pickle', 'to_pickle', 'allow_pickle', 'loadtxt', 'system', 'popen'}


def offences(source: str) -> list[str]:
    """Names in Python code by which data could become code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, 'module', None) or '']
            found += [name for name in names if name.partition('.')[0] in RUNS_CODE]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN:
            found.append(node.func.id)
        elif isinstance(node, ast.Attribute) and node.attr in READS_PICKLES:
            found.append(node.attr)
        elif isinstance(node, ast.keyword) and (node.arg == 'allow_pickle' or node.arg == 'shell'):
            found.append(node.arg)
    return found


@pytest.mark.parametrize('source', ['import pickle', 'from joblib import load', 'eval(text)', 'pd.read_pickle(path)',
                                    'np.load(path, allow_pickle=True)', 'run(text, shell=True)'])
def test_code_that_runs_data_is_recognised(source):
    assert offences(source)


def test_nothing_in_the_package_can_run_data_as_code():
    files = [*PACKAGE.rglob('*.py'), PACKAGE.parent / 'main.py']
    assert len(files) > 30
    assert {str(path): found for path in files if (found := offences(path.read_text(encoding='utf-8')))} == {}


def test_an_array_file_with_a_pickle_in_it_is_refused(tmp_path):
    np.save(tmp_path / 'a.npy', np.array([{'a': 1}], object))
    with pytest.raises(ValueError, match='allow_pickle=False'):
        np.load(tmp_path / 'a.npy', mmap_mode=None)


def test_a_checkpoint_holds_arrays_and_json_only(tmp_path):
    params = {'w': jnp.ones((8, 4))}
    state = states.create(params, optax.adam(1e-3))
    checkpoint.save(tmp_path, state, score=None, notes={}, keep=1)
    for path in (p for p in tmp_path.rglob('*') if p.is_file()):
        content = path.read_bytes()
        if path.name == 'commit_success.txt' or not content:  # a mark that orbax leaves: text, or nothing
            content.decode('ascii')
        elif not content.startswith(b'\x0c\xdb'):  # tensorstore's own format of arrays
            json.loads(content)


def written(root: Path, file_name: str) -> Path:
    """A COCO set in `root` whose one image is called so."""
    (root / 'images').mkdir(parents=True)
    data = {'images': [{'id': 1, 'file_name': file_name, 'width': 8, 'height': 8}], 'annotations': [],
            'categories': [{'id': 1, 'name': 'tumour'}]}
    (root / 'data.json').write_text(json.dumps(data))
    return root


def image(path: Path) -> Path:
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(path)
    return path


@pytest.mark.parametrize('name', ['../secret.png', '../../secret.png', '{absolute}', '..\\secret.png'])
def test_a_file_name_in_coco_json_cannot_leave_the_data_root(tmp_path, name):
    secret = image(tmp_path / 'secret.png')
    root = written(tmp_path / 'set', name.format(absolute=secret))
    with pytest.raises(InputError, match='secret.png'):
        coco.read(root)


def test_an_image_that_is_a_link_out_of_the_data_root_is_refused_and_one_inside_is_read(tmp_path):
    secret, root = image(tmp_path / 'secret.png'), written(tmp_path / 'set', 'a.png')
    (root / 'images' / 'a.png').symlink_to(secret)
    with pytest.raises(InputError, match=r'links out of .*images/a.png'):
        coco.read(root)
    (root / 'images' / 'a.png').unlink()
    (root / 'images' / 'a.png').symlink_to(image(root / 'real.png'))
    assert coco.read(root).path.tolist() == ['images/a.png']


@pytest.mark.parametrize('path', ['../secret.png', '{absolute}', 'link.png'])
def test_a_frame_cannot_make_the_decoder_read_outside_the_data_root(tmp_path, path):
    """The frame comes from a parquet file, which may be anyone's."""
    secret, root = image(tmp_path / 'secret.png'), tmp_path / 'set'
    root.mkdir()
    (root / 'link.png').symlink_to(secret)
    path = path.format(absolute=secret)
    row = types.SimpleNamespace(path=path, width=8, height=8, annotations=())
    settings = decode.Settings(str(root), (8, 8), 1, (1,))
    with pytest.raises(InputError, match='leads out of the data root'):
        decode.decode(row, settings)
    with pytest.raises(InputError, match='leads out of the data root'):
        frames.locate(root, path)
    assert frames.locate(root, 'a/../b.png') == root / 'a/../b.png'


def test_slices_that_are_links_out_of_the_data_root_are_refused(tmp_path):
    phantom.write_brats_h5(tmp_path / 'whole', volumes=1, shape=(4, 32, 32))
    (first,) = (tmp_path / 'whole').rglob('volume_*_slice_0.h5')
    secret = first.rename(tmp_path / 'secret.h5')
    first.symlink_to(secret)
    with pytest.raises(InputError, match=rf'{first.name}: leads out of the data root'):
        brats_h5.read_frame(tmp_path / 'whole')


def test_volumes_that_are_links_out_of_the_data_root_are_refused(tmp_path):
    folder = tmp_path / 'set' / 'BraTS20_Training_001'
    folder.mkdir(parents=True)
    for name in ('flair', 't1', 't1ce', 't2', 'seg'):
        nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)),
                     folder / f'BraTS20_Training_001_{name}.nii.gz')
    secret = (folder / 'BraTS20_Training_001_t1.nii.gz').rename(tmp_path / 'secret.nii.gz')
    (folder / 'BraTS20_Training_001_t1.nii.gz').symlink_to(secret)
    with pytest.raises(InputError, match=r'_t1.nii.gz: leads out of the data root'):
        nifti.read_frame(tmp_path / 'set')


def pointing(kind: str, path: Path, other: Path) -> None:
    """An HDF5 file whose 'image' lies in `other`."""
    with h5py.File(path, 'w') as f:
        if kind == 'external link':
            f['image'] = h5py.ExternalLink(str(other), '/image')
        elif kind == 'soft link to one':
            f['there'] = h5py.ExternalLink(str(other), '/image')
            f['image'] = h5py.SoftLink('/there')
        elif kind == 'external storage':
            f.create_dataset('image', (8, 8, 4), 'f4', external=[(str(other), 0, 8 * 8 * 4 * 4)])
        else:
            layout = h5py.VirtualLayout((8, 8, 4), 'f4')
            layout[:] = h5py.VirtualSource(str(other), 'image', (8, 8, 4))
            f.create_virtual_dataset('image', layout)


@pytest.mark.parametrize('kind', ['external link', 'soft link to one', 'external storage', 'virtual dataset'])
def test_a_dataset_that_lies_in_another_file_is_refused_by_name(tmp_path, kind):
    with h5py.File(tmp_path / 'other.h5', 'w') as f:
        f['image'] = np.random.default_rng(0).normal(size=(8, 8, 4)).astype('f4')
    pointing(kind, tmp_path / 'volume_1_slice_0.h5', tmp_path / 'other.h5')
    with pytest.raises(InputError, match='volume_1_slice_0.h5.*only data in the file itself'):
        brats_h5.read_slice(tmp_path / 'volume_1_slice_0.h5')


def test_an_image_of_a_kind_that_pillow_hands_to_another_program_is_not_opened(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n')
    with pytest.raises(InputError, match='a.png: cannot be read as an image'):
        image_file.read(path, 1)
    assert not os.path.exists(tmp_path / 'showpage')
