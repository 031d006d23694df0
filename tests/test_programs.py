"""The training steps of shipped configs, built and run: the large one's structure, and the program that users run."""
import jax
import numpy as np

from configs import brats3d, coco
from unet_jax.experiment import create
from unet_jax.model import convolution, convolution_cpu, unet
from unet_jax.training import loop, sharding


def batch(experiment, dtype):
    """Noise with a bright ball, which every class claims, in each sample."""
    settings, rng = experiment.settings, np.random.default_rng(0)
    count = experiment.config.train.batch_size
    grid = np.stack(np.meshgrid(*map(np.arange, settings.size), indexing='ij'), -1)
    ball = np.linalg.norm(grid - np.array(settings.size) / 2, axis=-1) < min(settings.size) / 4
    noise = rng.uniform(0, 1, (count, *settings.size, settings.channels)) + ball[..., None]
    label = np.broadcast_to(ball, noise.shape[:-1]).astype(np.uint8)
    return {'image': (noise * 100).astype(dtype), 'label': label * 7 % (1 << len(experiment.classes)),
            'index': np.arange(count, dtype=np.int32), 'visit': np.arange(count, dtype=np.uint32),
            'valid': np.ones(count, np.float32),
            **({'spacing': np.ones((count, 3), np.float32)} if experiment.format.volumetric else {})}


def leaves(tree):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]


def test_the_step_of_brats3d_in_the_form_of_accelerators(monkeypatch):
    """Its own levels, blocks, heads, loss and bfloat16; a few channels and voxels. Every parameter moves."""
    monkeypatch.setattr(unet, 'for_devices', lambda module, devices: module.clone(form=convolution.XLA))
    config = brats3d.get_config()
    with config.unlocked():
        config.data.update({'root': 'nowhere', 'size': (64, 32, 32), 'channels': 2, 'categories': (1, 2, 3),
                            'regions': (('WT', (1, 2, 3), 2), ('TC', (1, 3), 1), ('ET', (3,), 3))})
        config.model.features = (4, 5, 6, 7, 8, 8)
    experiment = create(config.lock())
    programs = loop.create_programs(experiment, devices=jax.devices()[:1])
    before = programs.create()
    values = leaves(before.params)  # its memory becomes that of the state after
    state, metrics = programs.train(before, sharding.put(batch(experiment, np.float16), programs.mesh))
    assert metrics['finite'] == 1 and 0 < float(metrics['loss']) < 3
    assert all(np.any(a != b) for a, b in zip(values, leaves(state.params), strict=True))
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype('float32')}
    heads = jax.eval_shape(lambda p, x: unet.apply_deep(experiment.module, p, x), state.params,
                           jax.ShapeDtypeStruct((1, 64, 32, 32, 2), np.float32))
    assert [x.shape[1:] for x in heads] == [(64 >> k, 32 >> k, 32 >> k, 3) for k in range(4)]


def test_the_step_that_users_run_is_that_of_the_other_tests(monkeypatch):
    """Of one device, as optimised as without the tests' flags (conftest.py), where both forms of the CPU are taken:
    after a step the parameters are those of the barely optimised program of two devices."""
    monkeypatch.setattr(convolution_cpu, 'WORTH', 0)
    config = coco.get_config()
    with config.unlocked():
        config.data.update({'root': 'nowhere', 'size': (64, 64), 'categories': (1,), 'regions': (('one', (1,), 1),)})
        config.model.update({'features': (32, 64), 'encoder_blocks': (1, 2), 'decoder_blocks': (1,)})
        config.optimizer.update({'name': 'sgd', 'arguments': (), 'warmup': 0})
    experiment = create(config.lock())
    host, found = batch(experiment, np.uint8), []
    for devices, level in ((1, 3), (2, 0)):
        programs = loop.create_programs(experiment, devices=jax.devices()[:devices])
        state = programs.create()
        compiled = programs.train.lower(state, host).compile({'xla_backend_optimization_level': level})
        state, metrics = compiled(state, sharding.put(host, programs.mesh))
        found.append((metrics['loss'], metrics['gradient_norm'], state.params))
    for one, other in zip(*map(leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
