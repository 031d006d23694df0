"""Four images, and one volume, are learnt by heart: nothing between file and loss is out of line."""
import json
from functools import partial
from types import SimpleNamespace

import jax
import pytest

from configs import brats3d
from configs.default import get_config
from unet_jax import phantom
from unet_jax.annotations import frame as frames
from unet_jax.experiment import create, read_frame, settle
from unet_jax.modes import volume_kind
from unet_jax.pipeline import cache
from unet_jax.training import dispatch, loop


def overfit(config, rows_of, folder, steps):
    """The Dice of each region on the four images themselves after `steps`."""
    with config.unlocked():
        config.data.size = (64, 64)
        config.model.update({'features': (16, 32, 64), 'encoder_blocks': (1, 1, 1), 'decoder_blocks': (1, 1)})
        config.train.batch_size = config.evaluation.batch_size = 4
    by_heart(config, steps)
    frame = read_frame(config)
    experiment = create(settle(config, frame))
    rows = rows_of(frames.images(frame)).reset_index(drop=True)
    samples = cache.open_samples(rows, experiment.settings, folder / 'cache')
    return dice_after_training(experiment, {'train': samples, 'valid': samples}, folder)


def by_heart(config, steps):
    with config.unlocked():
        config.augment.update({'spatial_probability': 0.0, 'intensity_probability': 0.0,
                               'flip': (False,) * len(config.data.size)})
        config.optimizer.update({'learning_rate': 5e-3, 'warmup': 10, 'ema': 0.9})
        config.train.update({'steps': steps, 'evaluate_every': steps, 'checkpoint_every': steps})


def dice_after_training(experiment, samples, folder):
    """{'dice/<region>': Dice on the valid samples, in the network's own pixels}."""
    assert loop.train(experiment, samples, folder, devices=jax.devices()[:1])
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return {k: v for k, v in json.loads(lines[-1]).items() if k.startswith('dice/')}


def four_annotated(images):
    return images[[bool(annotations) for annotations in images.annotations]][:4]


@pytest.fixture(autouse=True)
def optimised(monkeypatch):
    """Steps that run two hundred times are worth the compiler's time, which conftest.py saves in other tests."""
    options = {'xla_backend_optimization_level': 3}
    patched = SimpleNamespace(**vars(jax) | {'jit': partial(jax.jit, compiler_options=options)})
    monkeypatch.setattr(dispatch, 'jax', patched)


@pytest.fixture
def config():
    return get_config()


def test_four_phantoms(config, tmp_path):
    with config.unlocked():
        config.data.format, config.data.root = 'coco', str(phantom.write_coco(tmp_path / 'set', train=8, valid=1,
                                                                             test=1, size=64))
    assert overfit(config, four_annotated, tmp_path, 200)['dice/tumour'] > 0.98


def test_four_real_images(config, tmp_path, shared_data):
    config.data.root = str(shared_data / 'br35h')
    assert overfit(config, four_annotated, tmp_path, 200)['dice/Tumor'] > 0.98


def test_a_phantom_volume(tmp_path):
    """By the small variant for volumes, made smaller still."""
    config = brats3d.get_config('small')
    root = phantom.write_nifti(tmp_path / 'set', cases=1, shape=(24, 48, 48), seed=1)
    with config.unlocked():
        config.data.update({'root': str(root), 'cache': str(tmp_path / 'cache'), 'size': (32, 32, 16),
                            'split': (1, 0, 0), 'foreground': 0.8})
        config.model.update({'stem': 1, 'features': (16, 32), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,),
                             'deep_supervision': 0})
    by_heart(config, 100)
    frame = read_frame(config)
    experiment = create(settle(config, frame))
    rows = volume_kind.rows(experiment, frame)
    dice = dice_after_training(experiment, volume_kind.training_samples(experiment, train=rows, valid=rows), tmp_path)
    assert dice['dice/WT'] > 0.95 and dice['dice/TC'] > 0.9 and dice['dice/ET'] > 0.6
