"""The command line: the whole arrow on phantoms, then restore, predict, resume, and messages for mistakes."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faster_coco_eval import mask as coco_mask
from PIL import Image

from unet_jax import lock
from unet_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SMALL = ['--config.data.size=32,32', '--config.model.features=(8,16)', '--config.model.encoder_blocks=(1,1)',
         '--config.model.decoder_blocks=(1,)', '--config.train.steps=12', '--config.train.batch_size=8',
         '--config.optimizer.warmup=5', '--config.train.log_every=4', '--config.train.evaluate_every=6',
         '--config.evaluation.batch_size=8', '--config.data.phantom.train=16', '--config.data.phantom.valid=6',
         '--config.data.phantom.test=8', '--config.data.phantom.size=64', '--config.evaluation.pictures=1']


def command(*arguments):
    return [sys.executable, str(ROOT / 'main.py'), *map(str, arguments)]


def environment(cache):
    return os.environ | {'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': str(cache),
                         'XLA_FLAGS': '--xla_backend_optimization_level=0'}


def run(*arguments, cache, cwd=ROOT):
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment(cache))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(work directory, cache folder, what the training printed)."""
    folder = tmp_path_factory.mktemp('run')
    done = run('--config=configs/phantom.py', f'--workdir={folder}/w', *SMALL, cache=folder / 'cache')
    assert done.returncode == 0, done.stderr
    return folder / 'w', folder / 'cache', done.stdout


def test_training_leaves_every_file_of_a_work_directory(trained):
    workdir, _, printed = trained
    for name in ('config.json', 'environment.json', 'annotations.parquet', 'annotations.csv', 'audit.json',
                 'metrics.jsonl', 'timing.jsonl', 'report.html', 'evaluation/test/cases.csv',
                 'evaluation/test/summary.json'):
        assert (workdir / name).stat().st_size > 0, name
    assert list((workdir / 'tensorboard').iterdir()) and list((workdir / 'pictures').glob('*.png'))
    assert f'{workdir}/report.html' in printed and 'convention brats' in printed


def test_the_frame_has_the_documented_columns_in_both_files(trained):
    columns = ['file_name', 'width', 'height', 'category_id', 'segmentation', 'subset']
    assert pd.read_csv(trained[0] / 'annotations.csv').columns[:6].tolist() == columns
    assert pd.read_parquet(trained[0] / 'annotations.parquet').columns[:6].tolist() == columns


def test_metric_lines_hold_training_every_four_steps_and_validation_every_six(trained):
    lines = [json.loads(line) for line in (trained[0] / 'metrics.jsonl').read_text().splitlines()]
    assert [(line['step'], line['split']) for line in lines] == [
        (4, 'train'), (6, 'valid'), (8, 'train'), (12, 'train'), (12, 'valid')]
    assert {'loss', 'learning_rate', 'gradient_norm'} <= lines[0].keys() and 'dice/tumour' in lines[1]


def test_the_summary_names_its_convention_and_an_interval_a_region(trained):
    summary = json.loads((trained[0] / 'evaluation/test/summary.json').read_text())
    assert summary['convention'] == 'brats' and summary['cases'] == 8
    dice = summary['regions']['tumour']['dice']
    assert dice['low'] <= dice['mean'] <= dice['high']
    cases = pd.read_csv(trained[0] / 'evaluation/test/cases.csv')
    assert len(cases) == 8 and cases.dice.mean() == pytest.approx(dice['mean'])


def test_evaluating_needs_only_the_work_directory_wherever_it_was_moved_and_takes_overrides(trained, tmp_path):
    old, cache, _ = trained
    workdir = tmp_path / 'moved'
    before = json.loads((old / 'evaluation/test/summary.json').read_text())
    old.rename(workdir)
    done = run('--workdir=moved', '--mode=evaluate', '--subset=valid', '--checkpoint=latest',
               '--config.evaluation.convention=nnunet', '--config.evaluation.pictures=0',
               '--config.evaluation.uncertainty=True', cache=cache, cwd=tmp_path)
    workdir.rename(old)
    workdir = old
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / 'evaluation/valid/summary.json').read_text())
    assert summary['convention'] == 'nnunet' and summary['cases'] == 6 and summary['checkpoint'] == 12
    assert json.loads((workdir / 'evaluation/test/summary.json').read_text()) == before
    unsure = pd.read_csv(workdir / 'evaluation/valid/cases.csv').filter(like='uncertainty')
    assert unsure.shape == (6, 4) and unsure.min(axis=None) >= 0 and unsure.max(axis=None) <= 1
    assert summary['regions']['tumour']['uncertainty_score']['challenge'] == 'QU-BraTS'
    assert 'uncertainty score (QU-BraTS)' in done.stdout
    assert 'Filtered TP, AUC' in (workdir / 'report.html').read_text()


def test_prediction_writes_the_masks_that_evaluation_saw(trained, tmp_path):
    workdir, cache, _ = trained
    source = workdir / 'phantoms' / 'test'
    config = ['--config=configs/phantom.py', *SMALL]  # instead of the saved one: its categories are left to the data
    done = run(*config, f'--workdir={workdir}', '--mode=predict', f'--input={source}/*.png', f'--output={tmp_path}',
               cache=cache)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / 'predictions.json').read_text())
    assert len(data['images']) == 8 and data['categories'] == [{'id': 1, 'name': 'tumour'}]
    for image in data['images']:
        mask = np.asarray(Image.open(tmp_path / Path(image['file_name']).with_suffix('.png')))
        seen = np.asarray(Image.open(workdir / 'predictions/test/test' / Path(image['file_name']).with_suffix('.png')))
        assert mask.shape == (image['height'], image['width']) == (64, 64) and np.array_equal(mask, seen)
        drawn = sum(coco_mask.decode(a['segmentation']) for a in data['annotations'] if a['image_id'] == image['id'])
        assert np.array_equal(mask > 0, np.broadcast_to(drawn, mask.shape) > 0)
    assert len(list((tmp_path / 'overlays').rglob('*.png'))) == 8


def test_sigterm_saves_and_says_how_to_go_on(tmp_path, trained):
    """And going on gives the metric lines of a run that was never interrupted, nor took two steps a dispatch."""
    cache, log = trained[1], tmp_path / 'log'
    arguments = ['--config=configs/phantom.py', f'--workdir={tmp_path}/w', *SMALL,
                 '--config.train.steps_per_dispatch=2']
    with open(log, 'w') as file:
        process = subprocess.Popen(command(*arguments), stdout=file, stderr=file, cwd=ROOT, env=environment(cache))
        metrics, deadline = tmp_path / 'w/metrics.jsonl', time.time() + 120
        while not (metrics.exists() and metrics.read_text()) and time.time() < deadline:
            time.sleep(0.02)
        with pytest.raises(InputError, match=f'in use by process {process.pid} .*main.py'), lock.held(tmp_path / 'w'):
            pass  # another command may not write there
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, log.read_text()
    steps = [int(p.name) for p in (tmp_path / 'w/checkpoints').iterdir()]
    if max(steps) < 12:  # else the last step was done before the signal came
        assert f'python main.py --mode=train --workdir={tmp_path}/w' in log.read_text() and not max(steps) % 2
    assert not (tmp_path / 'w' / lock.FILE).exists()
    done = run('--mode=train', f'--workdir={tmp_path}/w', cache=cache)
    assert done.returncode == 0, done.stderr
    assert metrics.read_text() == (trained[0] / 'metrics.jsonl').read_text()


@pytest.mark.parametrize('arguments, message', [
    (['--config=configs/phantom.py', '--mod=train'], "'mod'"),
    (['--config=configs/coco.py'], 'config.data.root is empty'),
    (['--config=configs/brats.py', '--config.data.root=/nowhere'], 'configs/phantom.py'),
])
def test_mistakes_get_a_message_instead_of_a_traceback(arguments, message, tmp_path):
    with_config = any(a.startswith('--config=') for a in arguments)
    done = run(*arguments, *([f'--workdir={tmp_path}/w'] if with_config else []), cache=tmp_path)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr
