"""The Kaggle slices from files to scored volumes, on real cases where they are and on phantoms everywhere."""
import json
import subprocess
import sys

import numpy as np
import pandas as pd
from PIL import Image
from test_main import ROOT, run

from unet_jax import phantom

SMALL = ['--config.data.size=48,48', '--config.model.features=(8,16,32)', '--config.model.encoder_blocks=(1,1,1)',
         '--config.model.decoder_blocks=(1,1)', '--config.train.steps=8', '--config.train.batch_size=8',
         '--config.train.evaluate_every=8', '--config.evaluation.batch_size=32', '--config.evaluation.pictures=1']


def arrow(root, folder, *overrides):
    """annotate, train and evaluate, predict; the work directory."""
    workdir = folder / 'w'
    given = ['--config=configs/brats.py', f'--config.data.root={root}', f'--workdir={workdir}', *SMALL, *overrides]
    for mode in ('annotate', 'train'):
        done = run(*given, f'--mode={mode}', cache=folder / 'cache')
        assert done.returncode == 0, done.stderr
    return workdir


def test_phantom_slices_are_split_by_volume_and_scored_by_volume(tmp_path):
    phantom.write_brats_h5(tmp_path / 'set', volumes=6, shape=(6, 48, 48))
    workdir = arrow(tmp_path / 'set', tmp_path, '--config.evaluation.uncertainty=True')
    frame = pd.read_parquet(workdir / 'annotations.parquet')
    assert (frame.groupby('case').subset.nunique() == 1).all() and set(frame.subset) == {'train', 'valid', 'test'}
    summary = json.loads((workdir / 'evaluation/test/summary.json').read_text())
    assert set(summary['regions']) == {'WT', 'TC', 'ET'} and summary['units'] == 'mm'
    assert summary['cases'] == frame[frame.subset == 'test'].case.nunique()

    unsure = pd.read_csv(workdir / 'evaluation/test/cases.csv').filter(like='uncertainty')
    assert unsure.shape == (3 * summary['cases'], 4) and unsure.min(axis=None) >= 0 and unsure.max(axis=None) <= 1

    row = frame[frame.subset == 'test'].iloc[0]
    done = run(f'--workdir={workdir}', '--mode=predict', f'--input={tmp_path / "set" / row.path}',
               f'--output={tmp_path / "out"}', cache=tmp_path / 'cache')
    assert done.returncode == 0, done.stderr
    (mask,) = (tmp_path / 'out').glob('*.png')
    seen = np.asarray(Image.open((workdir / 'predictions/test' / row.path).with_suffix('.png')))
    assert np.array_equal(np.asarray(Image.open(mask)), seen) and set(np.unique(seen)) <= {0, 1, 2, 4}


def test_real_cases_in_the_kaggle_layout_run_through(tmp_path, shared_data):
    names = ('brats2021-00006', 'brats2018/Brats18_2013_2_1', 'brats2021-00006')
    cases = [shared_data / name for name in names]
    tool = shared_data.parent / 'tools/make_brats_h5.py'
    subprocess.run([sys.executable, tool, tmp_path / 'set', *cases], check=True, cwd=ROOT)
    workdir = arrow(tmp_path / 'set', tmp_path, '--config.data.split=(0.34,0.33,0.33)')
    cases = pd.read_csv(workdir / 'evaluation/test/cases.csv')
    assert cases.region.tolist() == ['WT', 'TC', 'ET'] and cases.case.nunique() == 1
    assert cases.volume_reference.gt(1000).all()
