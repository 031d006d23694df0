"""A model file runs without jax, and engines other than jax answer only where they agree with it."""
import json
import logging
import subprocess
import sys

import jax
import nibabel
import numpy as np
import pytest
from PIL import Image
from test_api import SHAPE, save_images, save_volumes

import unet_jax
from unet_jax import phantom
from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.inference import engines, members, model_file
from unet_jax.inference import predictor as inference
from unet_jax.modes import portable
from unet_jax.workdir import load_config

pytest.importorskip('onnx', reason='needs the package onnx (pip install .[export])')
pytest.importorskip('onnxruntime', reason='needs the package onnxruntime (pip install .[export])')

WITHOUT = "import sys, runpy\nfor name in ('jax', 'unet_jax', 'scipy'): sys.modules[name] = None\n" \
          "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"


def packed(run, folder):
    """What export puts beside the parameters, as files in `folder`."""
    folder.mkdir()
    config = load_config(run)
    experiment = create(config)
    params = inference.restore(config, [run], 'best')[0].params[0]
    files, told = portable.files(experiment, model_file.flatten(params), params, run, None)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return told


def segmented(folder, source, output):
    """run.py's answer in a process that has no jax."""
    return subprocess.run([sys.executable, '-c', WITHOUT, f'{folder}/run.py', str(source), str(output)],
                          capture_output=True, text=True)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """(the work directory of images, a folder of three, of sizes of their own)."""
    parent = tmp_path_factory.mktemp('images')
    (parent / 'in/deep').mkdir(parents=True)
    for name, shape in (('a.png', (16, 16)), ('deep/b.png', (30, 20)), ('c.tif', (9, 40))):
        Image.fromarray(np.random.default_rng(shape[0]).integers(0, 255, shape, np.uint8)).save(parent / 'in' / name)
    return save_images(parent / 'run', threshold=0.505), parent / 'in'


@pytest.fixture(scope='module')
def volumes(tmp_path_factory):
    """(the work directory of resampled, turned volumes, the folder of two cases)."""
    parent = tmp_path_factory.mktemp('volumes')
    data = phantom.write_nifti(parent / 'data', cases=2, shape=SHAPE)
    for path in data.rglob('*_seg.nii*'):
        path.unlink()
    return save_volumes(parent / 'run', **{'data.spacing': (1.25, 1.0, 1.5), 'data.orientation': 'RAS',
                                           'data.modalities': ('flair', 't1', 't1ce', 't2')}), data


def test_a_folder_and_an_image_without_jax_get_the_same_bytes(images, tmp_path):
    run, source = images
    told = packed(run, tmp_path / 'model')
    assert 'made-up samples' in told
    found = segmented(tmp_path / 'model', source, tmp_path / 'out')
    assert found.returncode == 0 and '3 masks' in found.stdout
    ours, sums = unet_jax.load(run), 0
    for name, mask in (('a.png', 'a.png'), ('deep/b.png', 'deep/b.png'), ('c.tif', 'c.png')):
        expected = ours(source / name).save(tmp_path / 'expected.png')
        assert (tmp_path / 'out' / mask).read_bytes() == expected.read_bytes()
        sums += np.asarray(Image.open(expected)).mean() / 3
    assert 0.02 < sums < 0.98
    assert segmented(tmp_path / 'model', source / 'a.png', tmp_path / 'one').returncode == 0
    assert (tmp_path / 'one/a.png').read_bytes() == (tmp_path / 'out/a.png').read_bytes()
    (source / 'a.png').rename(tmp_path / 'a.png')
    (source / 'a.png').write_bytes(b'no image')
    broken = segmented(tmp_path / 'model', source, tmp_path / 'two')
    (tmp_path / 'a.png').replace(source / 'a.png')
    assert broken.returncode == 1 and 'a.png: cannot be read as an image' in broken.stderr
    assert (tmp_path / 'two/c.png').exists()


def test_volumes_without_jax_get_our_masks_in_all_but_one_voxel_of_100_000(volumes, tmp_path):
    run, source = volumes
    packed(run, tmp_path / 'model')
    found = segmented(tmp_path / 'model', source, tmp_path / 'out')
    assert found.returncode == 0, found.stderr
    ours = unet_jax.load(run)
    for case in sorted(path for path in source.iterdir() if path.is_dir()):
        expected = nibabel.load(ours(case).save(tmp_path / 'expected.nii.gz'))
        got = nibabel.load(tmp_path / f'out/{case.name}.nii.gz')
        a, b = (np.asarray(one.dataobj) for one in (expected, got))
        assert (a != b).sum() <= 1 and len(np.unique(a)) > 1
        assert np.array_equal(expected.affine, got.affine) and expected.header == got.header
    next(case.glob('*_t2.nii*')).rename(tmp_path / 'away')
    lacking = segmented(tmp_path / 'model', case, tmp_path / 'less')
    assert lacking.returncode == 1 and f'{case.name}: has no t2; its name would end with' in lacking.stderr


def test_an_engine_answers_as_jax_and_averages_members_itself(images):
    run, source = images
    given = [np.asarray(Image.open(source / name)) for name in ('a.png', 'c.tif')]
    found, calls = {}, []
    for engine in ('jax', 'onnxruntime'):
        one = unet_jax.load(run, changes={'evaluation.engine': engine})
        network = one.network
        other = jax.tree.map(lambda x: -x, network.params[0])  # a second member, unlike the first
        network = network._replace(params=(network.params[0], other), program=counted(network.program, calls))
        found[engine] = [answer.probabilities['tumour'] for answer in
                         (one._replace(network=network)(given) + one._replace(network=network)(given))]
    assert len(calls) == 4 + 2  # each member once a call; then once, to be compared with
    for a, b in zip(found['jax'], found['onnxruntime']):
        assert np.abs(a - b).max() < 1e-5 and a.std() > 1e-3


def counted(program, calls):
    return lambda params, batch: calls.append(1) or program(params, batch)


def test_an_engine_that_differs_is_refused_or_passed_over(images, monkeypatch, caplog):
    run, source = images
    load = engines.load

    def wrong(model, way):
        run = load(model, way)

        def other(batch):
            found = run(batch).copy()
            found[0, 3, 4:8, 0] = np.where(found[0, 3, 4:8, 0] > 0.505, [0.4, 0.4, 0, 0.4], [0.6, 0.6, 1, 0.6])
            return found
        return other

    monkeypatch.setattr(engines, 'load', wrong)
    network = unet_jax.load(run, changes={'evaluation.engine': 'onnxruntime'})
    with pytest.raises(InputError, match=r'onnxruntime [\d.]+, float32 does not agree with jax: 4 of 2048 voxels .*'
                                         r', where 1 may be; most of all voxel \(3, 6\) of sample 0, region 0, with'):
        network(source / 'a.png')
    with pytest.raises(InputError, match='model.onnx does not agree with the network on made-up samples'):
        packed(run, source.parent / 'refused')
    config = load_config(run)
    one = inference.restore_members(config, members.choose([run], 'best'))
    one = one._replace(settle=engines.chooser('auto', jax.devices()[:1]))
    batch = {'image': np.zeros((8, 16, 16, 1), np.uint8)}
    with caplog.at_level(logging.WARNING):
        assert inference.settled(one, batch).program is one.program
    assert 'does not agree with jax' in caplog.text and 'So jax is used' in caplog.text


def test_jax_answers_where_nothing_else_is_installed_or_devices_are_several(monkeypatch):
    device = jax.devices()[:1]
    assert [way.engine for way in engines.wanted('auto', device)][-1] == 'onnxruntime'
    assert engines.wanted('auto', jax.devices()) == engines.wanted('jax', device) == []
    monkeypatch.setattr(engines, 'installed', lambda name: False)
    assert engines.wanted('auto', device) == []
    with pytest.raises(InputError, match="config.evaluation.engine is 'openvino', which needs packages"):
        engines.wanted('openvino', device)


def test_the_voxel_where_probabilities_differ_most_is_named():
    expected = np.zeros((2, 400, 200, 2), np.float32)
    found = expected.copy()
    found[0, 1, 1, 0] = found[1, 5, 7, 1] = 0.6
    assert engines.disagreement(expected, found, 0.5) == ''  # two of 160,000
    found[0, 9, 2, 0] = np.nan
    assert 'voxel (9, 2) of sample 0, region 0' in engines.disagreement(expected, found, 0.5)
    assert '3 of 160000 voxels are in other masks, where 2 may be' in engines.disagreement(expected, found, 0.5)


def test_run_json_paints_and_nests_as_our_masks(volumes, tmp_path):
    packed(volumes[0], tmp_path / 'model')
    about = json.loads((tmp_path / 'model/run.json').read_text())
    assert [(r['name'], r['value'], r['inside']) for r in about['regions']] == [
        ('WT', 2, [1, 2]), ('TC', 1, [2]), ('ET', 4, [])]
    assert about['endings']['t1ce'][0] == 't1ce' and about['left_out'] == ''
