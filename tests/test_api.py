"""The project from Python: the same masks as the command line's, to the byte, and messages for what cannot be used."""
import gc
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nibabel
import numpy as np
import optax
import pytest
from PIL import Image
from test_main import environment
from test_together import tiny

import unet_jax
from unet_jax import api, phantom, workdir
from unet_jax.annotations.schemas import MODALITIES
from unet_jax.errors import InputError
from unet_jax.experiment import create, init_params
from unet_jax.modes import predict
from unet_jax.training import checkpoint, state

SHAPE = (18, 22, 20)  # (D, H, W) of the volumes, whose files hold (H, W, D)


def save_run(config, folder):
    """The work directory of a run that was never trained."""
    folder.mkdir()
    workdir.save_config(folder, config)
    begun = state.create(init_params(create(config)), optax.sgd(0.1))
    checkpoint.save(folder / 'checkpoints', begun, score=None, notes={}, keep=1)
    return folder


def save_images(parent, *, threshold, **data):
    config = tiny(3)
    config.data.update(data)
    config.evaluation.update({'batch_size': 8, 'threshold': threshold})  # the devices of this process
    return save_run(config, parent)


def save_volumes(folder, **data):
    config = unet_jax.get_config('brats3d:small', {
        'data.size': (16, 16, 16), 'data.root': str(folder), 'data.schema': '2020', 'data.categories': (1, 2, 4),
        'data.names': ('NCR/NET', 'ED', 'ET'), 'data.channels': 4, 'data.modalities': MODALITIES,
        'model.features': (4, 8),
        'evaluation.batch_size': 8, 'evaluation.overlap': 0.1,
        'data.regions': (('WT', (1, 2, 4), 2), ('TC', (1, 4), 1), ('ET', (4,), 4)), 'model.stem': 1,
        'model.encoder_blocks': (1, 1), 'model.decoder_blocks': (1,), 'model.deep_supervision': 0, **data})
    return save_run(config, folder)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """(the work directory of images, a folder of three, of sizes of their own)."""
    parent = tmp_path_factory.mktemp('images')
    for k, shape in enumerate([(16, 16), (30, 20), (9, 40)]):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, shape, np.uint8)).save(parent / f'{k}.png')
    return save_images(parent / 'run', threshold=0.505), parent


@pytest.fixture(scope='module')
def volumes(tmp_path_factory):
    """(the work directory of volumes, the folders of two cases)."""
    parent = tmp_path_factory.mktemp('volumes')
    data = phantom.write_nifti(parent / 'data', cases=2, shape=SHAPE)
    return save_volumes(parent / 'run'), sorted(path for path in data.iterdir() if path.is_dir())


@pytest.fixture(scope='module')
def predictor(volumes):
    return unet_jax.load(volumes[0], changes={'evaluation.threshold': 0.5})


def files(case):
    return {name: case / f'{case.name}_{name}.nii.gz' for name in MODALITIES}


def arrays(case):
    return {name: np.asarray(nibabel.load(path).dataobj) for name, path in files(case).items()}


def write_by_mode(run, sources, output, **changes):
    config = api.changed(workdir.load_config(run), changes)
    predict.predict(config, run, sources=list(map(str, sources)), output=str(output), which='best')


def test_masks_of_images_are_those_of_the_command_line_to_the_byte(images, tmp_path):
    run, folder = images
    paths = sorted(folder.glob('*.png'))
    write_by_mode(run, paths, tmp_path / 'cli')
    predictor = unet_jax.load(str(run))
    for given in (paths, [np.asarray(Image.open(path)) for path in paths]):
        for found, path in zip(predictor(given), paths):
            assert found.save(tmp_path / 'api' / path.name).read_bytes() == (tmp_path / 'cli' / path.name).read_bytes()
            assert found.masks['tumour'].shape == np.asarray(Image.open(path)).shape
            assert np.array_equal(found.ids > 0, found.masks['tumour']) and math.isnan(found.volumes_ml['tumour'])
            assert np.array_equal(found.masks['tumour'], found.probabilities['tumour'] > 0.505)
    marked = predictor(paths)
    assert any(0 < found.masks['tumour'].mean() < 1 for found in marked)  # else any two masks would be alike
    alone = predictor(paths[1], spacing=(2, 2, 5))
    assert np.array_equal(alone.probabilities['tumour'], marked[1].probabilities['tumour'])
    assert alone.volumes_ml['tumour'] == pytest.approx(alone.masks['tumour'].sum() * 0.02)
    with pytest.raises(InputError, match='the mask of 1.png would overwrite an input'):
        alone.save(paths[1])
    with pytest.raises(InputError, match='mask.nii: the mask is written as .png'):
        alone.save('mask.nii')


def test_masks_of_volumes_are_those_of_the_command_line_to_the_byte(volumes, predictor, tmp_path):
    run, (case, other) = volumes
    write_by_mode(run, [case.parent], tmp_path / 'cli', **{'evaluation.threshold': 0.5})
    written = tmp_path / 'cli' / f'{case.name}.nii.gz'
    mixed = files(case) | {'t1': arrays(case)['t1']}
    for given in (case, files(case), mixed):
        found = predictor(given)
        assert found.save(tmp_path / 'api' / written.name).read_bytes() == written.read_bytes()
    assert all(0.01 < found.masks[region].mean() < 0.99 for region in ('WT', 'TC'))  # else masks would be alike anyway
    affine = nibabel.load(files(case)['t1']).affine
    held = predictor(arrays(case), affine=affine)
    assert np.array_equal(held.ids, found.ids) and held.volumes_ml == found.volumes_ml
    again = nibabel.load(held.save(tmp_path / 'held.nii'))
    assert np.array_equal(np.asarray(again.dataobj), found.ids) and np.allclose(again.affine, affine)
    assert [one.volumes_ml for one in predictor([case, other])] == [found.volumes_ml, predictor(other).volumes_ml]
    assert found.volumes_ml['WT'] == pytest.approx(found.masks['WT'].sum() / 1000)
    assert predictor.network.program._cache_size() == 1 and 'volumes_ml' in repr(found)
    for region in predictor.regions:
        p, unsure = found.probabilities[region], found.uncertainty[region]
        assert p.shape == unsure.shape == found.ids.shape and unsure[p == 0].max(initial=0) == 0
        assert np.allclose(unsure, 200 * np.minimum(p, 1 - p), atol=1)


def test_arrays_with_a_spacing_lie_as_the_network_looks_and_may_be_written(predictor, volumes, tmp_path):
    """The network looks at LPS, as phantoms do not lie: turned by hand they give the file's answer, turned."""
    case = volumes[1][0]
    turned = {name: nibabel.load(path) for name, path in files(case).items()}
    to = nibabel.orientations.axcodes2ornt('LPS')
    turned = {name: np.asarray(image.as_reoriented(nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), to)).dataobj) for name, image in turned.items()}
    found = predictor(turned, spacing=(1, 1, 2))
    assert found.volumes_ml['WT'] == pytest.approx(2 * predictor(case).volumes_ml['WT'])
    image = nibabel.load(found.save(tmp_path / 'x.nii.gz'))
    assert nibabel.aff2axcodes(image.affine) == ('L', 'P', 'S') and image.header.get_zooms() == (1, 1, 2)


def test_what_cannot_be_used_is_named(volumes, predictor, images, tmp_path):
    whole = arrays(volumes[1][0])
    hurt = whole['t1'].astype(np.float32)
    hurt[0, 0, 0] = np.nan
    for case, options, message in [
            (whole | {'t1': whole['t1'][0]}, {}, r't1: is an array of shape \(22, 18\); expected three axes'),
            (whole | {'t1': whole['t1'][:-1]}, {}, r'not have one shape: flair \(20, 22, 18\), t1 \(19, 22, 18\)'),
            (whole | {'t1': hurt}, {}, 't1: 1 voxels are not finite'),
            (whole | {'dwi': hurt}, {}, 'dwi: no such sequence; this network was trained with flair, t1, t1ce, t2'),
            ({'flair': whole['flair']}, {}, 't1, t1ce, t2: missing, and this network was always shown'),
            (whole, {'spacing': None}, 'spacing is missing: a volume in memory'),
            (whole, {'spacing': (1, 1)}, r'spacing is \(1, 1\); give mm along each of the three axes'),
            (whole, {'spacing': (1, 1, -1)}, 'spacing is'),
            (whole, {'affine': np.eye(3), 'spacing': None}, 'affine is'),
            (files(volumes[1][0]), {'affine': np.eye(4), 'spacing': None}, 'files know it themselves'),
            ([files(volumes[1][0]), 'nowhere'], {}, 'case 2 of 2: nowhere: no such file or folder'),
            (files(volumes[1][0]), {'spacing': (1, 1, 3)}, r'flair.nii.gz: has a spacing of \(1.0, 1.0, 1.0\) mm'),
            (whole['t1'], {}, 'a volume is given as {sequence: array or path}'),
            (whole | {'t1': 'nowhere.nii'}, {}, 'nowhere.nii: no such file'),
            (volumes[1][0].parent, {'spacing': None}, 'holds 2 cases; hand over a list'),
            (tmp_path / 'nowhere', {}, 'nowhere: no such file or folder'),
            ({name: np.zeros((4, 4, 4)) for name in whole}, {}, 'the volume: no voxel is other than the background')]:
        with pytest.raises(InputError, match=message):
            predictor(case, **{'spacing': (1, 1, 1), **options})
    shown = unet_jax.load(images[0])
    for case, message in [(np.zeros((4, 4, 4, 1)), r'shape \(4, 4, 4, 1\); expected \(height, width\)'),
                          (np.full((4, 4), np.nan), 'not finite'), (np.array(['a']), 'an array of numbers'),
                          (whole, 'this network looks at images, not at sequences')]:
        with pytest.raises(InputError, match=message):
            shown(case)


def test_a_run_or_file_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(InputError, match='nowhere is no work directory; train first'):
        unet_jax.load(tmp_path / 'nowhere')
    (tmp_path / 'x.zip').touch()
    with pytest.raises(InputError, match='x.zip'):
        unet_jax.load(tmp_path / 'x.zip')
    with pytest.raises(InputError, match='config.train.step: no such field; did you mean config.train.steps'):
        unet_jax.get_config('phantom', {'train.step': 3})
    with pytest.raises(InputError, match='--config=nothing: no such file, and none of the shipped configs'):
        unet_jax.train('nothing', tmp_path / 'w')
    assert not (tmp_path / 'w').exists()


def test_a_network_that_was_trained_without_some_sequences_takes_what_is_there(volumes, tmp_path):
    whole = arrays(volumes[1][0])
    predictor = unet_jax.load(save_volumes(tmp_path / 'run', **{'augment.modality_dropout': 0.2}))
    few = predictor({name: whole[name] for name in ('t2', 'flair')}, spacing=(1, 1, 1))
    names = predictor.sequences
    blank = nibabel.Nifti1Image(np.zeros_like(whole['t1']), np.eye(4))
    by_hand = predictor({name: whole[name] if name in ('t2', 'flair') else np.asarray(blank.dataobj)
                         for name in names}, spacing=(1, 1, 1))
    assert np.array_equal(few.probabilities['WT'], by_hand.probabilities['WT'])
    with pytest.raises(InputError, match='no sequence was given'):
        predictor({}, spacing=(1, 1, 1))


def test_slices_in_memory_are_those_of_their_files(tmp_path):
    folder = phantom.write_brats_h5(tmp_path / 'data', volumes=1, shape=(4, 20, 24))
    path = sorted(folder.rglob('*.h5'))[1]
    run = save_images(tmp_path / 'run', threshold=0.505, format='brats_h5', channels=4, standardise=False,
                      modalities=MODALITIES)
    predictor = unet_jax.load(run)
    import h5py
    with h5py.File(path) as file:
        image = file['image'][()]
    by_name = {name: image[..., k] for k, name in enumerate(predictor.sequences)}
    answers = predictor([path, image, by_name])
    assert all(np.array_equal(one.probabilities['tumour'], answers[0].probabilities['tumour']) for one in answers)
    with pytest.raises(InputError, match='t2: missing'):
        predictor({name: by_name[name] for name in ('flair', 't1', 't1ce')})


def test_threads_get_what_one_gets(images):
    run, folder = images
    predictor, paths = unet_jax.load(run), sorted(folder.glob('*.png'))
    alone, found = [predictor(path).probabilities['tumour'] for path in paths], {}

    def ask(k):
        found[k] = predictor(paths[k % 3]).probabilities['tumour']

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[k], alone[k % 3]) for k in range(9))


def memory():
    """MB that this process has in memory."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='reads /proc')
def test_a_hundred_calls_take_no_more_memory_and_compile_once(images):
    predictor, image = unet_jax.load(images[0]), np.random.default_rng(0).integers(0, 255, (500, 500), np.uint8)
    for _ in range(20):
        predictor(image)
    gc.collect()
    before = memory()
    for _ in range(100):
        predictor(image)
    gc.collect()
    assert memory() - before < 30  # what the 100 answers hold: 100 × 1.75 MB
    assert predictor.network.program._cache_size() == 1


PAGE = """
import re, sys
from pathlib import Path
names = {}
for block in re.findall(r'```python\\n(.*?)```', Path(sys.argv[1]).read_text(encoding='utf-8'), re.DOTALL):
    exec(block, names)
trained, scores, found = (names[name] for name in ('trained', 'scores', 'found'))
assert trained.finished and scores.summary['subset'] == 'valid' and trained.evaluated[0].summary['subset'] == 'test'
assert all(path.exists() for path in (names['annotated'].audit, scores.cases, scores.report, scores.masks))
assert found.masks['tumour'].shape == (300, 200) and found.volumes_ml['tumour'] >= 0
"""


def test_every_block_of_the_page_runs_in_its_order(volumes, tmp_path):
    """In a process of its own, so that programs are those that test_main.py has compiled."""
    page = Path(__file__).resolve().parents[1] / 'docs/api.md'
    assert {*unet_jax.__all__} <= {*re.findall(r'\w+', page.read_text(encoding='utf-8'))}
    (tmp_path / 'runs').mkdir()
    shutil.copytree(volumes[0], tmp_path / 'runs/brats3d')
    shutil.copytree(volumes[1][0], tmp_path / 'BraTS20_Training_001')
    done = subprocess.run([sys.executable, '-c', PAGE, page], cwd=tmp_path, capture_output=True, text=True,
                          env=environment(tmp_path / 'cache') | {'PYTHONPATH': str(page.parents[1])})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'masks/BraTS20_Training_001.nii.gz').exists()
    assert 'the image: holds values that are not finite\n' in done.stdout
