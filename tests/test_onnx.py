"""The ONNX model of a network answers as the network does, whatever it is made of, and what it cannot say is refused
by name."""
import jax
import numpy as np
import pytest
from test_together import tiny

from unet_jax.errors import InputError
from unet_jax.experiment import create, init_params
from unet_jax.inference import model_file, onnx_graph
from unet_jax.model import unet
from unet_jax.training.step import make_predict_step

pytest.importorskip('onnx', reason='needs the package onnx (pip install .[export])')
onnxruntime = pytest.importorskip('onnxruntime', reason='needs the package onnxruntime (pip install .[export])')

NESTED = (('WT', (1, 2), 2), ('TC', (1,), 1))
VOLUMES = {'data.format': 'nifti', 'data.size': (14, 12, 9), 'data.channels': 2, 'data.modalities': ('flair', 't1'),
           'data.categories': (1, 2), 'data.names': ('NCR', 'ED'), 'data.regions': NESTED,
           'augment.flip': (True, False, True), 'data.schema': '2021'}
CASES = {
    'plain': {},
    'odd size, RGB, flips': {'data.size': (18, 13), 'data.channels': 3, 'evaluation.flips': True,
                             'augment.flip': (True, True)},
    'residual, group, stem': {'model.block': 'residual', 'model.norm': 'group', 'model.groups': 2, 'model.stem': 2,
                              'model.activation': 'silu', 'data.size': (20, 16)},
    'softmax, gates, supervision': {
        'loss.activation': 'softmax', 'model.attention_gates': True, 'model.features': (4, 6, 8),
        'model.encoder_blocks': (1, 2, 1), 'model.decoder_blocks': (1, 1), 'model.deep_supervision': 1,
        'data.categories': (1, 2), 'data.names': ('NCR', 'ED'), 'data.regions': NESTED},
    'no norm, max, raw': {'model.norm': 'none', 'model.downsample': 'max', 'data.standardise': False,
                          'model.activation': 'gelu'},
    'of patients, neighbours': {'data.standardise': 'patient', 'data.neighbours': 1},
    'neighbours': {'data.neighbours': 1, 'model.activation': 'relu6'},
    'volume': VOLUMES | {'evaluation.flips': True},
    'volume, thick slices': VOLUMES | {
        'model.block': 'residual', 'model.strides': ((1, 1, 1), (2, 2, 1)), 'model.kernels': ((3, 3, 1), (3, 3, 3)),
        'model.attention_gates': True, 'model.stem': 2, 'model.activation': 'mish', 'loss.activation': 'softmax'}}


def configured(changes):
    config = tiny(0)
    with config.unlocked():
        for name, value in changes.items():
            section, _, field = name.partition('.')
            config[section][field] = value
    return config.lock()


def made(changes, count=1, seed=0):
    """(experiment, parameters of `count` members that are nothing like fresh ones)."""
    experiment = create(configured(changes))
    random = np.random.default_rng(seed)
    fresh = init_params(experiment)
    return experiment, [jax.tree.map(lambda x: np.float32(x + random.normal(0, 0.3, x.shape)), fresh)
                        for _ in range(count)]


def batch_of(experiment, count=2):
    """Samples as they go to the device; the first with a margin of nothing, the last nothing at all."""
    settings, random = experiment.settings, np.random.default_rng(1)
    shape = count, *settings.size, settings.inputs
    if experiment.format.dtype is np.uint8:
        image = random.integers(0, 255, shape).astype(np.uint8)
    else:
        image = random.normal(5, 2, shape).astype(np.float16)
    image[0, :3] = image[0, :, -2:] = image[-1] = 0
    scale = {'scale': np.float32(random.uniform(0.3, 0.5, (count, 2, settings.channels)))} \
        if onnx_graph.patient(experiment) else {}
    return {'image': image} | scale


def ours(experiment, members, batch):
    step = jax.jit(make_predict_step(experiment.config, experiment.module, experiment.region_bits))
    return np.mean([step(params, batch) for params in members], 0)


def run(model, batch):
    return onnxruntime.InferenceSession(model).run(None, batch)[0]


@pytest.mark.parametrize('name', CASES)
def test_probabilities_are_those_of_the_network(name):
    experiment, members = made(CASES[name], count=2 if name == 'plain' else 1)
    batch = batch_of(experiment, 3)
    found = run(onnx_graph.build(experiment, [model_file.flatten(params) for params in members]), batch)
    expected = ours(experiment, members, batch)
    assert found.shape == expected.shape and expected.std() > 0.01
    assert np.abs(found - expected).max() < 2e-5


def test_what_onnx_is_not_written_of_is_refused_by_name(monkeypatch):
    experiment, members = made({})
    params = model_file.flatten(members[0])
    with pytest.raises(InputError, match='of the parameter encoder_1_block_0/squeeze/kernel'):
        onnx_graph.build(experiment, [params | {'encoder_1_block_0/squeeze/kernel': np.zeros((4, 4))}])
    with pytest.raises(InputError, match='config.model.name: Other is no network that ONNX is written of'):
        other = type('Other', (), {})()
        onnx_graph.build(experiment._replace(module=other), [params])
    monkeypatch.setattr(unet, 'ACTIVATIONS', ('sparse_plus',))
    with pytest.raises(InputError, match="config.model.activation = 'sparse_plus': ONNX is not written of it"):
        onnx_graph.build(experiment._replace(module=experiment.module.clone(activation='sparse_plus')), [params])
