"""The same run on any number of devices, with whole or sharded state: same samples, same images, same losses."""
import json
import signal

import jax
import numpy as np
import pandas as pd
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.pipeline import stream
from unet_jax.pipeline.cache import Samples
from unet_jax.training import checkpoint, loop, sharding
from unet_jax.training import step as steps
from unet_jax.training.journal import Journal

STEPS, BATCH = 20, 8
CASES = {'1': (1, 1), '2': (2, 1), '4': (4, 1), '8': (8, 1), '8 sharded by 4': (8, 4)}  # (devices, fsdp)


def tiny(fsdp=1):
    """Features of 16: its 3×3 kernels are above `sharding.SMALL`, so that they are sharded."""
    config = get_config()
    with config.unlocked():
        config.data.update({'root': 'nowhere', 'size': (16, 16), 'categories': (1,),
                            'regions': (('tumour', (1,), 1),)})
        config.model.update({'features': (8, 16), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,)})
        config.optimizer.update({'warmup': 2, 'learning_rate': 1e-2})
        config.augment.update({'elastic': 1.0, 'intensity_probability': 0.5})
        config.train.update({'steps': STEPS, 'batch_size': BATCH, 'log_every': 1, 'evaluate_every': STEPS,
                             'checkpoint_every': STEPS, 'fsdp': fsdp})
        config.evaluation.batch_size = BATCH
    return config.lock()


def made_up(count, seed=0):
    rng = np.random.default_rng(seed)
    label = np.zeros((count, 16, 16), np.uint8)
    for k, (y, x) in enumerate(rng.integers(0, 10, (count, 2))):
        label[k, y:y + 6, x:x + 6] = 1
    image = np.uint8(50 + 100 * label + rng.integers(0, 60, label.shape))[..., None]
    names = [f'{k}.png' for k in range(count)]
    return Samples(image, label, pd.DataFrame({'path': names, 'case': names, 'annotations': [()] * count}))


SAMPLES = {'train': made_up(11), 'valid': made_up(6, 1)}


@pytest.fixture(scope='module', autouse=True)
def compiled_once():
    create_programs, known = loop.create_programs, {}

    def once(experiment, *, devices, **options):
        key = experiment.config.to_json(), len(devices)
        if key not in known:
            known[key] = create_programs(experiment, devices=devices, **options)
        return known[key]

    loop.create_programs = once
    yield
    loop.create_programs = create_programs


def train(folder, case) -> bool:
    devices, fsdp = CASES[case]
    folder.mkdir(exist_ok=True)
    return loop.train(create(tiny(fsdp)), SAMPLES, folder, devices=jax.devices()[:devices])


def curve(folder) -> np.ndarray:
    """(STEPS + 1,) the loss of every step, and the Dice of the validation."""
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [*range(1, STEPS + 1), STEPS]
    return np.array([line.get('loss', line.get('dice/tumour')) for line in lines])


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp('one')
    assert train(folder, '1')
    return curve(folder)


@pytest.mark.parametrize('case', [name for name in CASES if name != '1'])
def test_losses_and_validation_do_not_depend_on_the_devices(case, one, tmp_path):
    assert one[0] / one[STEPS - 1] > 1.15  # something is learnt
    assert train(tmp_path, case)
    assert curve(tmp_path) == pytest.approx(one, rel=1e-5)


def test_a_checkpoint_of_any_number_of_devices_goes_on_on_any_other(one, tmp_path, monkeypatch):
    stations = ['8 sharded by 4', '1', '8', '2', '8 sharded by 4', '4']
    for case in stations[:-1]:
        with monkeypatch.context() as patch:
            record, calls = Journal.record, []

            def stop_at_third(self, *args, record=record, calls=calls):
                calls.append(0)
                if len(calls) == 3:
                    signal.raise_signal(signal.SIGTERM)
                return record(self, *args)

            patch.setattr(Journal, 'record', stop_at_third)
            assert not train(tmp_path, case)
    assert checkpoint.steps(tmp_path / 'checkpoints')[-1] == 3 * (len(stations) - 1)
    assert train(tmp_path, stations[-1])
    assert curve(tmp_path) == pytest.approx(one, rel=1e-5)


def test_large_parameters_and_their_optimiser_state_lie_in_pieces_where_asked():
    programs = loop.create_programs(create(tiny(4)), devices=jax.devices())
    state = programs.create()
    kernel = state.params['encoder_1_block_0']['first']['conv']['kernel']
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    pieces = [x for x in jax.tree.leaves(state.opt_state) if x.shape == kernel.shape]
    assert pieces and all(x.addressable_shards[0].data.size == x.size // 4 for x in pieces)


def test_augmented_batches_are_the_same_bit_for_bit_on_any_number_of_devices():
    config, key = tiny(), jax.random.key(3)
    found = {}
    for devices in (1, 2, 4, 8):
        mesh = sharding.create_mesh(jax.devices()[:devices])
        split = sharding.split(mesh)
        prepare = jax.jit(lambda batch: steps.prepare(batch, config, key), in_shardings=split, out_shardings=split)
        found[devices] = [jax.device_get(prepare(sharding.put(stream.batch(
            SAMPLES['train'], seed=0, step=step, batch_size=BATCH), mesh))) for step in range(8)]
    for devices in (2, 4, 8):
        for (image, label), (expected, bits) in zip(found[devices], found[1], strict=True):
            assert np.array_equal(image, expected) and np.array_equal(label, bits)


def volumes(count=2):
    rng = np.random.default_rng(0)
    label = (rng.uniform(size=(count, 32, 16, 16)) < 0.3).astype(np.uint8)
    image = (label[..., None] + rng.normal(size=(*label.shape, 2))).astype(np.float16)
    numbers = np.arange(count)
    return {'image': image, 'label': label, 'index': numbers.astype(np.int32), 'visit': numbers.astype(np.uint32),
            'valid': np.ones(count, np.float32)}


def of_volumes(**train):
    """Plain gradient descent at rate 1: parameters after a step are those before it minus the gradient."""
    config = get_config()
    with config.unlocked():
        config.data.update({'root': 'nowhere', 'size': (32, 16, 16), 'categories': (1,), 'channels': 2,
                            'regions': (('tumour', (1,), 1),)})
        config.augment.update({'flip': (True, True, True), 'intensity_probability': 0.0})
        config.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,)})
        config.optimizer.update({'name': 'sgd', 'arguments': (), 'learning_rate': 1.0, 'schedule': 'constant',
                                 'warmup': 0, 'clip': 0.0, 'ema': 0.0})
        config.train.update({'steps': 3, 'batch_size': 2, **train})
        config.evaluation.batch_size = 2
    return create(config.lock())


def test_a_volume_cut_over_devices_gives_the_output_and_gradient_of_one_device():
    results, memory = {}, {}
    for devices, spatial in ((1, 1), (8, 4), (8, 8)):  # 8, 4: two groups, a sample each
        programs = loop.create_programs(of_volumes(spatial=spatial), devices=jax.devices()[:devices])
        batch = sharding.put(volumes(), programs.mesh)
        shard = batch['image'].addressable_shards[0].data.shape
        assert shard == (2 * spatial // devices, 32 // spatial, 16, 16, 2)
        counts = np.asarray(programs.overlap(programs.create().ema_params, batch)[0])
        step = programs.train.lower(programs.create(), batch).compile()
        state, metrics = step(programs.create(), batch)
        memory[devices, spatial] = step.memory_analysis().temp_size_in_bytes  # of each device
        results[devices, spatial] = (counts, float(metrics['loss']), jax.device_get(state.params))
    assert memory[8, 4] < 0.4 * memory[1, 1]
    counts, loss, params = results[1, 1]
    start = jax.device_get(programs.create().params)
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (params, start))))
    assert moved > 1e-3  # there is a gradient
    for found in (results[8, 4], results[8, 8]):
        assert np.array_equal(found[0], counts) and found[1] == pytest.approx(loss, rel=1e-6)
        for a, b in zip(*map(jax.tree.leaves, (found[2], params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * moved)


@pytest.mark.parametrize('train, message', [({'spatial': 3}, 'config.train.spatial is 3'),
                                            ({'fsdp': 4, 'spatial': 4}, 'config.train.spatial is 4 .and fsdp 4')])
def test_a_cut_that_does_not_fit_the_devices_is_refused(train, message):
    with pytest.raises(InputError, match=message):
        loop.create_programs(of_volumes(**train), devices=jax.devices())


def test_a_size_that_cannot_be_cut_evenly_is_refused():
    mesh = sharding.create_mesh(jax.devices(), spatial=8)
    with pytest.raises(InputError, match=r'config.data.size is \(12, 8, 8\).* 8 parts'):
        sharding.check_size((12, 8, 8), mesh)
