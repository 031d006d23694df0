"""The same run on any number of devices, with whole or sharded state: same samples, same images, same losses."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from configs import brats3d
from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.pipeline import stream
from unet_jax.pipeline.cache import Samples
from unet_jax.training import checkpoint, loop, sharding, space
from unet_jax.training import step as steps
from unet_jax.training.journal import Journal

ROOT = Path(__file__).resolve().parents[1]
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
                             'checkpoint_every': STEPS // 2, 'fsdp': fsdp})
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


def compiled_once(create_programs):
    """`create_programs` that gives those of an earlier call with the same config and devices."""
    known = {}

    def once(experiment, *, devices=None, **options):
        key = experiment.config.to_json(), len(devices or ())
        if key not in known:
            known[key] = create_programs(experiment, devices=devices, **options)
        return known[key]

    return once


@pytest.fixture(scope='module', autouse=True)
def without_second_compilations():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, 'create_programs', compiled_once(loop.create_programs))
        yield


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


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """The folder in which two processes of peer.py have worked, and what process 0 left with.

    In sharded/ they went on from the checkpoint that one process made after ten steps.
    """
    folder = tmp_path_factory.mktemp('pair')
    for name in ('whole', 'sharded', 'killed'):
        (folder / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 10)
        assert not train(folder / 'sharded', '1')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = os.environ | {'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_LOCAL_SIZE': '2',  # as mpirun starts them
                           'JAX_COORDINATOR_PORT': str(port), 'PYTHONPATH': str(ROOT),
                           'XLA_FLAGS': '--xla_backend_optimization_level=0'}
    logs = [open(folder / f'{k}.log', 'w') for k in range(2)]  # noqa: SIM115  (the processes write to them)
    started = [subprocess.Popen([sys.executable, ROOT / 'tests/peer.py', folder], stdout=log, stderr=log,
                                env=common | {'OMPI_COMM_WORLD_RANK': str(k), 'OMPI_COMM_WORLD_LOCAL_RANK': str(k)})
               for k, log in enumerate(logs)]
    try:
        statuses = [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert (folder / 'lost.txt').exists(), [(folder / f'{k}.log').read_text()[-3000:] for k in range(2)]
    return folder, statuses


def stop_at(patch, step):
    """SIGTERM at the `step`th step from now."""
    record, calls = Journal.record, []

    def stopping(self, *args):
        calls.append(0)
        if len(calls) == step:
            signal.raise_signal(signal.SIGTERM)
        return record(self, *args)

    patch.setattr(Journal, 'record', stopping)


def test_two_processes_train_as_one(one, pair):
    assert curve(pair[0] / 'whole') == pytest.approx(one, rel=1e-5)


def test_two_processes_share_a_state_and_go_on_from_the_checkpoint_of_one(one, pair):
    assert checkpoint.steps(pair[0] / 'sharded/checkpoints') == [10, STEPS]
    assert curve(pair[0] / 'sharded') == pytest.approx(one, rel=1e-5)


def test_one_process_goes_on_from_the_checkpoint_of_two_that_shared_the_state(one, pair, tmp_path):
    """And has all of it: a run that goes on writes the losses of the last steps anew."""
    shutil.copytree(pair[0] / 'whole', tmp_path / 'w')
    shutil.rmtree(tmp_path / f'w/checkpoints/{STEPS}')
    assert train(tmp_path / 'w', '1')
    assert curve(tmp_path / 'w') == pytest.approx(one, rel=1e-5)
    programs = loop.create_programs(create(tiny(1)), devices=jax.devices()[:1])
    found, expected = (checkpoint.restore(folder / 'checkpoints', STEPS, programs.abstract, programs.shardings)
                       for folder in (pair[0] / 'sharded', tmp_path / 'w'))
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_augmented_batches_are_the_same_bit_for_bit_in_two_processes(pair):
    """As sets: each process holds its own stride of the samples."""
    prepare = jax.jit(lambda batch: steps.prepare(batch, tiny(), jax.random.key(3)))
    with np.load(pair[0] / 'augmented.npz') as found:
        for step in range(3):
            batch = stream.batch(SAMPLES['train'], seed=0, step=step, batch_size=BATCH)
            strided = np.concatenate([np.arange(BATCH)[p::2] for p in range(2)])
            for k, expected in enumerate(prepare(batch)):
                assert np.array_equal(found[f'arr_{2 * step + k}'], np.asarray(expected)[strided])


def test_two_processes_gather_agree_and_leave_work_to_the_first(pair):
    told = json.loads((pair[0] / 'told.json').read_text())
    assert told == {'devices': 2, 'gathered': [{'process': 0}, {'process': 1}, {'process': 1}],
                    'agreed': [False, False, True, False], 'alone': [1, 0]}  # the answer is that of the call before


def test_a_process_whose_peer_is_killed_ends_and_says_so(pair):
    assert pair[1] == [2, -signal.SIGKILL]
    said = (pair[0] / 'lost.txt').read_text()
    assert 'another process of this run ended' in said and 'Start the same command again' in said


@pytest.mark.parametrize('case', [name for name in CASES if name != '1'])
def test_losses_and_validation_do_not_depend_on_the_devices(case, one, tmp_path):
    assert one[0] / one[STEPS - 1] > 1.15  # something is learnt
    assert train(tmp_path, case)
    assert curve(tmp_path) == pytest.approx(one, rel=1e-5)


def test_a_checkpoint_of_any_number_of_devices_goes_on_on_any_other(one, tmp_path, monkeypatch):
    stations = ['8 sharded by 4', '1', '8', '2', '8 sharded by 4', '4']
    for case in stations[:-1]:
        with monkeypatch.context() as patch:
            stop_at(patch, 3)
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


def test_augmented_volumes_are_the_same_bit_for_bit_on_any_number_of_devices():
    """Cut larger than the network's size, in voxels that are not cubes, with an outside."""
    config = brats3d.get_config().copy_and_resolve_references()
    with config.unlocked():
        config.data.size = (12, 10, 8)
        config.augment.update({'spatial_probability': 0.7, 'intensity_probability': 0.7, 'elastic': 1.0, 'shift': 0.1,
                               'modality_dropout': 0.2})
    rng, cut, found = np.random.default_rng(0), space.cut_size(config), []
    image = rng.normal(size=(8, *cut, 4)).astype(np.float16) * (rng.random((8, *cut, 1)) < 0.9)
    batch = {'image': image.astype(np.float16), 'label': rng.integers(0, 8, (8, *cut), dtype=np.uint8),
             'visit': np.arange(8, dtype=np.uint32), 'spacing': rng.uniform(0.5, 5, (8, 3)).astype(np.float32)}
    for devices in (1, 4):
        mesh = sharding.create_mesh(jax.devices()[:devices])
        split = sharding.split(mesh)
        prepare = jax.jit(lambda b: steps.prepare(b, config, jax.random.key(3)), in_shardings=split,
                          out_shardings=split)
        found.append(jax.device_get(prepare(sharding.put(batch, mesh))))
    assert all(np.array_equal(a, b) for a, b in zip(*found)) and found[0][0].shape == (8, 12, 10, 8, 4)


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
        whole = np.broadcast_to(np.array([(0, 32), (0, 16), (0, 16)], np.int32), (2, 3, 2))
        counts = np.asarray(programs.overlap(programs.create().ema_params, batch, whole)[0])
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
