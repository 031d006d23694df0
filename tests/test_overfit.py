"""Four images are learnt by heart: nothing between file and loss is out of line."""
import json

import jax
import pytest

from configs.default import get_config
from unet_jax import phantom
from unet_jax.annotations import frame as frames
from unet_jax.experiment import create, read_frame, settle
from unet_jax.pipeline import cache
from unet_jax.training import loop


def overfit(config, rows_of, folder, steps):
    """The Dice of each region on the four images themselves after `steps`."""
    with config.unlocked():
        config.data.size = (64, 64)
        config.model.update({'features': (16, 32, 64), 'encoder_blocks': (1, 1, 1), 'decoder_blocks': (1, 1)})
        config.augment.update({'spatial_probability': 0.0, 'intensity_probability': 0.0, 'flip': (False, False)})
        config.optimizer.update({'learning_rate': 5e-3, 'warmup': 10, 'ema': 0.9})
        config.train.update({'steps': steps, 'batch_size': 4, 'evaluate_every': steps, 'checkpoint_every': steps})
        config.evaluation.batch_size = 4
    frame = read_frame(config)
    experiment = create(settle(config, frame))
    rows = rows_of(frames.images(frame)).reset_index(drop=True)
    samples = cache.open_samples(rows, experiment.settings, folder / 'cache')
    assert loop.train(experiment, {'train': samples, 'valid': samples}, folder, devices=jax.devices()[:1])
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return {k: v for k, v in json.loads(lines[-1]).items() if k.startswith('dice/')}


def four_annotated(images):
    return images[[bool(annotations) for annotations in images.annotations]][:4]


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
