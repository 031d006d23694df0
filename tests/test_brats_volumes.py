"""NIfTI volumes from files to scored and written volumes, on phantoms everywhere and on real cases where they are."""
import json
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest
from faster_coco_eval import mask as coco_mask
from test_main import run

from unet_jax import phantom

SMALL = ['--config.data.size=16,16,16', '--config.model.features=(8,8)', '--config.model.encoder_blocks=(1,1)',
         '--config.model.decoder_blocks=(1,)', '--config.model.deep_supervision=0', '--config.train.steps=4',
         '--config.optimizer.warmup=2', '--config.train.evaluate_every=2', '--config.train.checkpoint_every=2',
         '--config.evaluation.pictures=1', '--config.augment.modality_dropout=0.3']


def given(root, folder, *overrides):
    return ['--config=configs/brats3d.py:small', f'--config.data.root={root}', f'--workdir={folder}', *overrides]


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(work directory, data set, cache) of a run on six phantoms."""
    folder = tmp_path_factory.mktemp('run')
    root = phantom.write_nifti(folder / 'set', cases=6, shape=(14, 24, 26), year='2023')
    done = run(*given(root, folder / 'w', *SMALL), cache=folder / 'cache')
    assert done.returncode == 0, done.stderr
    return folder / 'w', root, folder / 'cache'


def test_a_run_keeps_patients_apart_and_writes_its_split(trained):
    frame = pd.read_parquet(trained[0] / 'annotations.parquet')
    assert (frame.groupby('group').subset.nunique() == 1).all() and set(frame.subset) == {'train', 'valid', 'test'}
    split = json.loads((trained[0] / 'splits.json').read_text())
    assert {case: s for s, cases in split.items() for case in cases} == dict(zip(frame.case, frame.subset))


def test_the_audit_tells_grids_release_and_volumes(trained):
    audit = json.loads((trained[0] / 'audit.json').read_text())['volumes']
    assert audit['schemas'] == ['2023'] and audit['grids'] == [{'voxels': [26, 24, 14], 'mm': [1, 1, 1], 'cases': 6}]
    labels = [voxels(path) for path in trained[1].glob('*/*-seg.nii.gz')]
    tumours = sorted((label > 0).sum() / 1000 for label in labels if label.any())
    assert audit['ml']['tumour']['all'][0] == pytest.approx(tumours[0])
    assert audit['ml']['tumour']['all'][-1] == pytest.approx(tumours[-1])


def test_volumes_are_scored_in_mm_with_lesions_and_regions(trained):
    summary = json.loads((trained[0] / 'evaluation/test/summary.json').read_text())
    assert set(summary['regions']) == {'WT', 'TC', 'ET'} and summary['units'] == 'mm'
    assert summary['regions']['WT']['lesion_dice']['challenge'] == 'GLI'
    frame = pd.read_parquet(trained[0] / 'annotations.parquet')
    cases = pd.read_csv(trained[0] / 'evaluation/test/cases.csv')
    assert set(cases.case) == set(frame[frame.subset == 'test'].case)
    for row in cases[cases.region == 'WT'].itertuples():
        label = voxels(trained[1] / row.case / f'{row.case}-seg.nii.gz')
        found = voxels(trained[0] / f'predictions/test/{row.case}.nii.gz')
        assert row.volume_reference == (label > 0).sum() and row.volume_prediction == (found > 0).sum()
        assert row.tp == ((label > 0) & (found > 0)).sum()
    assert list((trained[0] / 'pictures').glob('*BraTS-GLI*.png'))


def test_predictions_of_unlabelled_cases_are_those_that_evaluation_saw_on_the_inputs_grid(trained, tmp_path):
    workdir, root, cache = trained
    seen = sorted((workdir / 'predictions/test').iterdir())
    for path in seen:
        name = path.name.removesuffix('.nii.gz')
        shutil.copytree(root / name, tmp_path / 'in' / name, ignore=shutil.ignore_patterns('*seg*'))
    done = run(f'--workdir={workdir}', '--mode=predict', f'--input={tmp_path / "in"}', f'--output={tmp_path / "out"}',
               cache=cache)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / 'out').glob('*.nii.gz')) == [p.name for p in seen]
    assert len(list((tmp_path / 'out/overlays').iterdir())) == len(seen)
    for path in seen:
        written, name = nibabel.load(tmp_path / 'out' / path.name), path.name.removesuffix('.nii.gz')
        scan = nibabel.load(root / name / f'{name}-t2f.nii.gz')
        assert np.array_equal(np.asarray(written.dataobj), voxels(path)) and written.get_data_dtype() == np.uint8
        assert written.shape == scan.shape and np.array_equal(written.affine, scan.affine)
        assert set(np.unique(voxels(path))) <= {0, 1, 2, 3}


def test_checkpoints_are_averaged_limits_tuned_and_recorded_and_modalities_left_out(trained):
    workdir, _, cache = trained
    done = run(f'--workdir={workdir}', '--mode=evaluate', '--subset=valid', '--checkpoint=2,4',
               '--config.evaluation.postprocess=True', '--config.evaluation.modality_subsets=True',
               '--config.evaluation.uncertainty=True', cache=cache)
    assert done.returncode == 0, done.stderr
    home = workdir / 'ensembles/checkpoints_2+4'
    summary = json.loads((home / 'evaluation/valid/summary.json').read_text())
    limits = json.loads((home / 'postprocess.json').read_text())
    assert summary['checkpoint'] == limits['checkpoint'] == '2, 4'
    assert summary['postprocess'] == {'limits': {}, 'patients': limits['patients'], 'gains': {}}
    assert limits['patients'] < 3 and 'Post-processing does nothing' in done.stdout
    scores = pd.read_csv(home / 'evaluation/valid/cases.csv').set_index(['case', 'region']).dice
    fewer = pd.read_csv(home / 'evaluation/valid/modalities.csv')
    assert fewer.modalities.nunique() == 15 and len(fewer) == 15 * len(scores)
    full = fewer[fewer.modalities == 'flair+t1+t1ce+t2'].set_index(['case', 'region']).dice
    unsure = pd.read_csv(home / 'evaluation/valid/cases.csv').filter(like='uncertainty')
    assert unsure.shape == (len(scores), 4) and unsure.min(axis=None) >= 0 and unsure.max(axis=None) <= 1
    assert np.allclose(full[scores.index], scores) and 'flair+t1+t1ce+t2' in done.stdout


def test_limits_that_were_never_tuned_are_asked_for(trained, tmp_path):
    workdir, root, cache = trained
    done = run(f'--workdir={workdir}', '--mode=predict', f'--input={root}', f'--output={tmp_path}',
               '--checkpoint=4', '--config.evaluation.postprocess=True', cache=cache)
    assert done.returncode == 2 and 'postprocess.json: holds nothing for' in done.stderr


@pytest.mark.parametrize('overrides, message', [
    (['--config.data.size=16,16'], 'have 3 sides; give'),
    (['--config.data.schema=2020'], 'label values [3]; release 2020 has'),
    (['--config.data.schema=2022'], "config.data.schema is '2022'; give one of auto, 2018"),
    (['--config.data.split=1,0,0'], "no image in the subset 'valid'")])
def test_mistakes_get_a_message(trained, tmp_path, overrides, message):
    done = run(*given(trained[1], tmp_path / 'w', *overrides), cache=tmp_path)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr


def test_the_real_oddities_get_their_errors_and_their_rounding(tmp_path, shared_data):
    oddities = shared_data / 'nifti-oddities'
    done = run(*given(oddities / 'native-shapes', tmp_path / 'a'), '--mode=annotate', cache=tmp_path)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert done.stderr.count('affine') == 4 and '(256, 224, 26)' in done.stderr
    done = run(*given(oddities / 'scaled-label', tmp_path / 'b', "--config.data.modalities=('flair',)"),
               '--mode=annotate', cache=tmp_path)
    assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(tmp_path / 'b/annotations.parquet')
    stored = np.rint(nibabel.load(oddities / 'scaled-label/BraTS20_Training_010_seg.nii.gz').get_fdata())
    assert frame.category_id.tolist() == [1, 2, 4]
    found = [coco_mask.decode(rle | {'counts': rle['counts'].encode()}) for rle in map(json.loads, frame.segmentation)]
    assert all(np.array_equal(mask.reshape(stored.shape, order='F'), stored == v)
               for mask, v in zip(found, (1, 2, 4), strict=True))
