"""The Kaggle slices from files to scored volumes, on real cases where they are and on phantoms everywhere."""
import json
import subprocess
import sys

import numpy as np
import pandas as pd
from PIL import Image
from test_main import ROOT, command, environment, run

from configs import brats
from unet_jax import phantom
from unet_jax.annotations import brats_h5
from unet_jax.modes.annotate import annotate

SMALL = ['--config=configs/brats.py', '--config.data.size=48,48', '--config.model.features=(8,16)',
         '--config.model.encoder_blocks=(1,1)', '--config.model.decoder_blocks=(1,)', '--config.train.batch_size=8',
         '--config.evaluation.batch_size=32', '--config.evaluation.pictures=1']
# what learns most in 200 steps, and in the least time: the resampling of the augmentation takes half a step
QUICK = ['--config.train.steps=200', '--config.train.evaluate_every=200', '--config.train.checkpoint_every=200',
         '--config.optimizer.learning_rate=1e-2', '--config.optimizer.warmup=10', '--config.optimizer.ema=0.9',
         '--config.augment.spatial_probability=0.0', '--config.augment.intensity_probability=0.0',
         '--config.evaluation.pictures=0']


def predict(workdir, source, folder):
    """The mask (H, W) of one slice."""
    done = run(f'--workdir={workdir}', '--mode=predict', f'--input={source}', f'--output={folder / "out"}',
               cache=folder / 'cache')
    assert done.returncode == 0, done.stderr
    (mask,) = (folder / 'out').glob('*.png')
    return np.asarray(Image.open(mask))


def test_phantom_slices_are_split_and_scored_by_volume_and_a_damaged_volume_is_left_out_and_told(tmp_path):
    root, workdir = phantom.write_brats_h5(tmp_path / 'set', volumes=7, shape=(6, 48, 48)), tmp_path / 'w'
    next(root.rglob('volume_3_slice_0.h5')).write_bytes(b'cut off')
    given = [*SMALL, f'--config.data.root={root}', f'--workdir={workdir}', '--config.train.steps=8',
             '--config.optimizer.warmup=2', '--config.train.evaluate_every=8', '--config.data.on_error=skip',
             '--config.data.max_skipped=0.2', '--config.evaluation.uncertainty=True']
    done = run(*given, cache=tmp_path / 'cache')
    assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(workdir / 'annotations.parquet')
    assert (frame.groupby('case').subset.nunique() == 1).all() and set(frame.subset) == {'train', 'valid', 'test'}
    assert frame.case.nunique() == 6 and 'volume_3' not in set(frame.case)
    skipped = json.loads((workdir / 'skipped.json').read_text())
    report = (workdir / 'report.html').read_text()
    assert len(skipped) == 6 and 'volume_3_slice_0.h5: is damaged' in next(iter(skipped))
    assert 'volume_3_slice_0.h5' in report and 'volume_3_slice_0.h5' in (workdir / 'audit.txt').read_text()
    summary = json.loads((workdir / 'evaluation/test/summary.json').read_text())
    assert set(summary['regions']) == {'WT', 'TC', 'ET'} and summary['units'] == 'mm'
    assert summary['cases'] == frame[frame.subset == 'test'].case.nunique()
    assert summary['mask_values'] == {'1': 'NCR/NET', '2': 'ED', '4': 'ET'}

    unsure = pd.read_csv(workdir / 'evaluation/test/cases.csv').filter(like='uncertainty')
    assert unsure.shape == (3 * summary['cases'], 4) and unsure.min(axis=None) >= 0 and unsure.max(axis=None) <= 1

    row = frame[frame.subset == 'test'].iloc[0]
    mask = predict(workdir, root / row.path, tmp_path)
    seen = np.asarray(Image.open((workdir / 'predictions/test' / row.path).with_suffix('.png')))
    assert np.array_equal(mask, seen) and set(np.unique(seen)) <= {0, 1, 2, 4}


def test_two_real_cases_in_the_kaggle_layout_run_through(tmp_path, shared_data):
    """Annotated, 200 steps on one patient, evaluated on the other, and predicted."""
    cases = [shared_data / name for name in ('brats2021-00006', 'brats2018/Brats18_2013_2_1')]
    root, workdir = tmp_path / 'set', tmp_path / 'w'
    tool = shared_data.parent / 'tools/make_brats_h5.py'
    subprocess.run([sys.executable, tool, root, *cases], check=True, cwd=ROOT)
    config = brats.get_config()
    config.data.update({'root': str(root), 'split': (0.5, 0.5, 0.0)})
    frame = annotate(config, workdir)
    paths = frame.path[frame.category_id == 4]
    assert frame.case.nunique() == 2 and frame.groupby('case').subset.nunique().eq(1).all()
    for path in paths.iloc[5::20]:
        image, mask = brats_h5.read_slice(root / path)
        enhancing, rest = mask[..., 2] > 0, (image != 0).any(-1) & (mask[..., 2] == 0)
        assert image[enhancing, 2].mean() > image[rest, 2].mean()  # channel 2 is T1ce

    given = [*SMALL, *QUICK, f'--config.data.root={root}', '--config.data.split=(0.5,0.5,0.0)', f'--workdir={workdir}']
    done = subprocess.run(command(*given), capture_output=True, text=True, cwd=ROOT,  # optimised: 4 times as fast
                          env=environment(tmp_path / 'cache') | {'XLA_FLAGS': ''})
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(workdir / 'evaluation/valid/cases.csv').set_index('region')
    assert list(scores.index) == ['WT', 'TC', 'ET'] and scores.case.nunique() == 1
    assert scores.volume_reference.gt(1000).all() and scores.dice['WT'] > 0.15  # 0.32 was reached
    middle = paths[frame.subset == 'valid'].iloc[len(paths) // 4]
    assert predict(workdir, root / middle, tmp_path).shape == (240, 240)
