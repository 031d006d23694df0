"""Averaging of checkpoints, and which runs may be averaged."""
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from configs import phantom
from unet_jax import workdir
from unet_jax.errors import InputError
from unet_jax.inference import predictor
from unet_jax.pipeline.cache import Samples
from unet_jax.training import sharding


def test_probabilities_of_several_checkpoints_are_averaged():
    image = np.arange(5 * 4 * 4, dtype=np.float32).reshape(5, 4, 4, 1) / 80
    samples = Samples(image, np.zeros((5, 4, 4), np.uint8), pd.DataFrame({'path': list('abcde')}))
    experiment = SimpleNamespace(config=SimpleNamespace(evaluation=SimpleNamespace(batch_size=2)))
    program = jax.jit(lambda params, batch: jnp.abs(batch['image'] - params))
    mesh = sharding.create_mesh(jax.devices()[:1])
    found = dict(predictor.probabilities(predictor.Predictor(experiment, (0.0, 1.0, 0.5), program, mesh), samples))
    assert list(found) == [0, 1, 2, 3, 4]
    expected = (image + (1 - image) + np.abs(image - 0.5)) / 3
    assert np.allclose(np.stack(list(found.values())), expected, atol=1e-6)


def run_of(folder, change=lambda config: None):
    folder.mkdir()
    config = phantom.get_config()
    with config.unlocked():
        change(config)
    workdir.save_config(folder, config)
    return config


def test_runs_that_differ_in_seed_fold_or_training_may_be_averaged(tmp_path):
    def change(config):
        config.seed, config.data.fold, config.train.steps, config.model.dtype = 5, 1, 7, 'bfloat16'

    config = run_of(tmp_path / 'a')
    run_of(tmp_path / 'b', change)
    predictor.check_alike(config, tmp_path / 'b')


@pytest.mark.parametrize('field, value', [
    ('model.features', (8, 16, 32)), ('data.regions', (('WT', (1, 2), 1),)), ('data.channels', 3),
    ('loss.activation', 'softmax'), ('data.standardise', False), ('data.orientation', 'RAS'),
    ('data.categories', (1, 2)), ('data.modalities', ('flair', 't1')), ('data.size', (64, 64))])
def test_another_network_or_input_is_refused_naming_the_field(tmp_path, field, value):
    config = run_of(tmp_path / 'a')
    part, name = field.split('.')
    run_of(tmp_path / 'b', lambda other: other[part].update({name: value}))
    with pytest.raises(InputError, match=f'b holds another network: {field} is '):
        predictor.check_alike(config, tmp_path / 'b')
