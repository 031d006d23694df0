"""What is fitted on validation cases is applied alike by evaluation, prediction, the API and the model file."""
import json
import shutil

import nibabel
import numpy as np
import optax
import pandas as pd
import pytest
from PIL import Image
from test_ensembles import begin, rows

import unet_jax
from configs import brats3d
from unet_jax import phantom, workdir
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.experiment import create, init_params, read_frame, settle
from unet_jax.modes.evaluate import evaluate
from unet_jax.modes.export import export
from unet_jax.modes.predict import predict
from unet_jax.training import checkpoint, state

ON = {'calibrate': True, 'postprocess': True, 'uncertainty': True, 'batch_size': 8, 'pictures': 1}


@pytest.fixture(scope='module')
def volumes(tmp_path_factory):
    """(work directory of a network that was never trained, its config, data set): 3 validation and 2 test phantoms."""
    place = tmp_path_factory.mktemp('tuned')
    phantom.write_nifti(place / 'set', cases=8, shape=(12, 20, 20), year='2023')
    config = brats3d.get_config('small')
    with config.unlocked():
        config.data.update({'root': str(place / 'set'), 'size': (16, 16, 16)})
        config.model.update({'features': (8, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,),
                             'deep_supervision': 0})
        config.evaluation.update(ON)
    frame = read_frame(config)
    names = sorted(frame.case.unique())
    order = dict(zip(names, 'valid valid test valid train train test train'.split(), strict=True))
    frame = frame.assign(subset=frame.case.map(order))  # two of valid and one of test have a tumour
    config = settle(config.lock(), frame)
    frames.save(frame, place / 'run')
    workdir.save_config(place / 'run', config)
    begun = state.create(init_params(create(config)), optax.sgd(0.1))
    checkpoint.save(place / 'run/checkpoints', begun, score=None, notes={}, keep=1)
    evaluate(config, place / 'run', subset='test', which='latest')
    return place / 'run', config, place / 'set'


def read(folder, name):
    return json.loads((folder / name).read_text())


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


def test_evaluation_tells_calibration_before_and_after_confidence_and_gains(volumes):
    run, _, _ = volumes
    summary, kept = read(run, 'evaluation/test/summary.json'), read(run, 'calibration.json')
    for name, entry in summary['calibration'].items():
        assert entry['temperature'] == kept['temperatures'][name] != 1
        assert kept['valid'][name]['after']['ece'] < kept['valid'][name]['before']['ece']
        assert entry['after'] != entry['before'] and entry['voxels'] > 0
    assert set(summary['referral']) == {'WT', 'TC', 'ET'} and summary['referral']['WT']['n'] == 2
    limits = read(run, 'postprocess.json')
    assert limits['patients'] == 3 and set(limits['gains']) == {'WT', 'TC', 'ET'}
    assert limits['temperatures'] == list(kept['temperatures'].values())
    assert summary['postprocess'] == {key: limits[key] for key in ('limits', 'patients', 'gains')}
    cases = pd.read_csv(run / 'evaluation/test/cases.csv')
    there = cases.tp + cases.fn > 0
    assert there.sum() == 3 and (cases.ece.between(0, 1) == there).all() and (cases.brier.between(0, 1) == there).all()
    assert cases.confidence.between(0, 1).all()
    page = (run / 'report.html').read_text()
    assert all(f'<h2>{title}</h2>' in page for title in ('Calibration', 'Confidence', 'Post-processing'))
    assert '"uncertainty":[' in page.replace(': ', ':')  # of the viewer
    for path in (run / 'predictions/test').glob('*.nii.gz'):
        unsure = nibabel.load(run / 'predictions/test/uncertainty' / path.name)
        assert unsure.shape == (*nibabel.load(path).shape, 3) and np.asarray(unsure.dataobj).max() <= 100
        assert np.array_equal(unsure.affine, nibabel.load(path).affine)


def test_prediction_the_model_file_and_the_api_give_what_evaluation_gave(volumes, tmp_path):
    """By limits that surely change something; calibrated probabilities are compared with a threshold of their own."""
    config, root = volumes[1].copy_and_resolve_references(), volumes[2]
    run = shutil.copytree(volumes[0], tmp_path / 'run')
    config.evaluation.threshold = 0.45
    evaluate(config, run, subset='test', which='latest')
    told = read(run, 'postprocess.json') | {'limits': {'threshold': dict(WT=0.6, TC=0.7, ET=0), 'component':
                                                       dict(WT=50, TC=0, ET=20), 'whole': dict(WT=0, TC=0, ET=9999)}}
    (run / 'postprocess.json').write_text(json.dumps(told))
    evaluate(config, run, subset='test', which='latest')
    assert read(run, 'evaluation/test/summary.json')['postprocess']['limits'] == told['limits']
    export(config, run, output=f'{tmp_path}/model.zip', which='latest')
    masks = sorted((run / 'predictions/test').glob('*.nii.gz'))
    sources = [str(next(root.rglob(path.name.removesuffix('.nii.gz')))) for path in masks]
    assert len(masks) == 2
    predict(config, run, sources=sources, output=str(tmp_path / 'a'), which='latest')
    model = workdir.load_config(tmp_path / 'model.zip')
    predict(model, tmp_path / 'model.zip', sources=sources, output=str(tmp_path / 'b'), which='best')
    load = unet_jax.load(tmp_path / 'model.zip')
    plain = unet_jax.load(run, checkpoint='latest', changes={
        'evaluation.calibrate': False, 'evaluation.postprocess': False, 'evaluation.threshold': 0.45})
    warm = unet_jax.load(tmp_path / 'model.zip', changes={'evaluation.postprocess': False})(sources[0])
    wt, tc, et = warm.probabilities.values()
    for name, most in (('WT', np.max([wt, tc, et], 0)), ('TC', np.maximum(tc, et)), ('ET', et)):
        assert np.array_equal(warm.masks[name], most > 0.45)
    for path, source in zip(masks, sources, strict=True):
        unsure = voxels(run / 'predictions/test/uncertainty' / path.name)
        for folder in (tmp_path / 'a', tmp_path / 'b'):
            assert np.array_equal(voxels(folder / path.name), voxels(path))
            assert np.allclose(voxels(folder / 'uncertainty' / path.name), unsure.max(-1) / 100, atol=0.006)
        found, raw = load(source), plain(source)
        assert np.array_equal(found.ids, voxels(path)) and not np.array_equal(raw.ids, found.ids)
        assert raw.masks['ET'].any() and not found.masks['ET'].any()
        assert np.array_equal(found.uncertainty['WT'], unsure[..., 0])
        assert np.array_equal(raw.probabilities['WT'] > 0.5, found.probabilities['WT'] > 0.5)
        assert not np.allclose(raw.probabilities['WT'], found.probabilities['WT'])


def test_calibration_alone_moves_no_mask_at_one_half(volumes, tmp_path):
    run, config, _ = volumes
    found = []
    for calibrate in (False, True):
        config = config.copy_and_resolve_references()
        config.evaluation.update({'calibrate': calibrate, 'postprocess': False, 'uncertainty': False})
        out = evaluate(config, run, subset='test', which='latest', output=f'{tmp_path}/{calibrate}')
        found.append((pd.read_csv(out / 'evaluation/test/cases.csv'),
                      [path.read_bytes() for path in sorted((out / 'predictions/test').glob('*.nii.gz'))]))
    (before, masks), (after, same) = found
    assert masks == same and (before.dice == after.dice).all() and (before.ece != after.ece).any()


def test_what_an_older_version_tuned_is_tuned_anew_and_said(volumes, tmp_path, caplog):
    run, config, root = volumes
    shutil.copytree(run, tmp_path / 'run')
    old = {'checkpoint': 0, 'convention': 'brats', 'threshold': 0.5, 'flips': False, 'overlap': 0.5,
           'chosen_by': 'cases with the region', 'component': 50, 'enhancing': 0}
    (tmp_path / 'run/postprocess.json').write_text(json.dumps(old))
    with pytest.raises(InputError, match='postprocess.json: holds nothing for'):
        predict(config, tmp_path / 'run', sources=[str(root)], output=str(tmp_path / 'out'), which='latest')
    evaluate(config, tmp_path / 'run', subset='test', which='latest')
    assert 'postprocess.json: was made for version of an older version' in caplog.text
    assert read(tmp_path / 'run', 'postprocess.json') == read(run, 'postprocess.json')


def test_images_are_calibrated_and_post_processed_too(tmp_path):
    made = rows('train', ['a']) + rows('valid', ['v0', 'v1', 'v2', 'v3']) + rows('test', ['t0', 't1'])
    config = begin(tmp_path / 'run', tmp_path / 'set', made)
    config.evaluation.update(ON)
    evaluate(config, tmp_path / 'run', subset='test', which='best')
    summary, limits = (read(tmp_path / 'run', name) for name in ('evaluation/test/summary.json', 'postprocess.json'))
    assert summary['calibration']['tumour']['after']['ece'] < summary['calibration']['tumour']['before']['ece']
    assert limits['patients'] == 4 and limits['gains']['tumour']['all']['n'] == 4
    predict(config, tmp_path / 'run', sources=[f'{tmp_path}/set'], output=f'{tmp_path}/out', which='best')
    for name in ('t0.png', 't1.png'):
        here, there = tmp_path / 'out', tmp_path / 'run/predictions/test'
        assert np.array_equal(*(np.asarray(Image.open(folder / name)) for folder in (here, there)))
        maps = [np.asarray(Image.open(folder / 'uncertainty' / name)) / 65535 for folder in (here, there)]
        assert np.allclose(*maps, atol=0.006)
    assert 'px' in (tmp_path / 'run/report.html').read_text()
