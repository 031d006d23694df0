"""An interrupted run writes what an uninterrupted one does, bit for bit and line for line."""
import json
import signal
import threading
import time

import jax
import numpy as np
import pandas as pd
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.pipeline import stream
from unet_jax.pipeline.cache import Samples
from unet_jax.training import checkpoint, loop
from unet_jax.training.journal import Journal

STEPS = 14


@pytest.fixture(scope='module', autouse=True)
def compiled_once():
    """Runs that mean the same program share it: a second start from the disk, without a second compilation."""
    create = loop.create_programs
    known = {}

    def once(experiment, *, devices, **options):
        key = experiment.config.to_json(), len(devices)
        if key not in known:
            known[key] = create(experiment, devices=devices, **options)
        return known[key]

    loop.create_programs = once
    yield
    loop.create_programs = create


def tiny(**train):
    config = get_config()
    with config.unlocked():
        config.data.update({'root': 'nowhere', 'size': (16, 16), 'categories': (1,),
                            'regions': (('tumour', (1,), 1),)})
        config.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,)})
        config.optimizer.update({'warmup': 2, 'learning_rate': 1e-2})
        config.train.update({'steps': STEPS, 'batch_size': 4, 'log_every': 3, 'evaluate_every': 6,
                             'checkpoint_every': 4, 'skip_nonfinite': 2, **train})
        config.evaluation.batch_size = 4
    return config.lock()


def made_up(count, seed=0):
    rng = np.random.default_rng(seed)
    label = np.zeros((count, 16, 16), np.uint8)
    for k, (y, x) in enumerate(rng.integers(0, 10, (count, 2))):
        label[k, y:y + 6, x:x + 6] = 1
    image = np.uint8(50 + 100 * label + rng.integers(0, 60, label.shape))[..., None]
    names = [f'{k}.png' for k in range(count)]
    return Samples(image, label, pd.DataFrame({'path': names, 'case': names, 'annotations': [()] * count}))


SAMPLES = {'train': made_up(10), 'valid': made_up(6, 1)}


def train(folder, *, samples=SAMPLES, devices=1, **settings) -> bool:
    folder.mkdir(exist_ok=True)
    return loop.train(create(tiny(**settings)), samples, folder, devices=jax.devices()[:devices])


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def state(folder, step=STEPS):
    programs = loop.create_programs(create(tiny()), devices=jax.devices()[:1])
    return checkpoint.restore(folder / 'checkpoints', step, programs.abstract, programs.shardings)


def same(a, b) -> bool:
    """Parameters, averages, optimiser state and metric lines."""
    leaves = zip(jax.tree.leaves(state(a)), jax.tree.leaves(state(b)), strict=True)
    return ((a / 'metrics.jsonl').read_bytes() == (b / 'metrics.jsonl').read_bytes()
            and all(np.array_equal(x, y) for x, y in leaves))


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp('straight')
    assert train(folder)
    return folder


def test_a_run_logs_at_the_steps_it_should(straight):
    assert [(line['step'], line['split']) for line in lines(straight)] == [
        (3, 'train'), (6, 'train'), (6, 'valid'), (9, 'train'), (12, 'train'), (12, 'valid'), (14, 'train'),
        (14, 'valid')]
    assert checkpoint.steps(straight / 'checkpoints')[-2:] == [12, 14]


class Killed(BaseException):
    """Stands for SIGKILL: nothing but what is on the disk is left."""


def at(monkeypatch, place, name, when, what):
    """`what()` just before the `when`th call of `place.name`."""
    original, calls = getattr(place, name), []

    def replaced(*args, **kwargs):
        calls.append(0)
        if len(calls) == when:
            what()
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, replaced)


def die():
    raise Killed


def half_a_checkpoint(folder):
    def write():
        (folder / 'checkpoints' / '8.orbax-checkpoint-tmp' / 'params').mkdir(parents=True)
        raise Killed
    return write


DEATHS = [(Journal, 'record', 3), (checkpoint.ocp, 'save_checkpointables', 1), (checkpoint, 'write_seal', 1),
          (checkpoint, 'write_seal', 2), (checkpoint, '_delete_old', 1), (stream, 'once', 1), (Journal, 'write', 2),
          (checkpoint.shutil, 'rmtree', 1), (Journal, 'record', 1)]


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path, straight, monkeypatch):
    for place, name, when in DEATHS:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            at(patch, place, name, when, half_a_checkpoint(tmp_path) if place is checkpoint.ocp else die)
            train(tmp_path)
    assert train(tmp_path)
    assert same(tmp_path, straight)
    assert checkpoint.steps(tmp_path / 'checkpoints') == checkpoint.steps(straight / 'checkpoints')
    assert all(p.name.isdigit() for p in (tmp_path / 'checkpoints').iterdir())


@pytest.mark.parametrize('kind, step', [('SIGTERM', 1), ('SIGINT', 6), ('SIGTERM', 7), ('SIGINT', 14)])
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on_to_the_same_bits(tmp_path, straight, monkeypatch, kind,
                                                                              step, caplog):
    with monkeypatch.context() as patch:
        at(patch, Journal, 'record', step, lambda: signal.raise_signal(getattr(signal, kind)))
        assert not train(tmp_path)
    assert checkpoint.newest_intact(tmp_path / 'checkpoints') == step and kind in caplog.text
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was before
    assert train(tmp_path)
    assert same(tmp_path, straight)


def test_a_signal_during_validation_saves_first_and_validates_when_the_run_goes_on(tmp_path, straight, monkeypatch):
    for _ in range(2):  # the second time in the validation that is made up for
        with monkeypatch.context() as patch:
            at(patch, stream, 'once', 1, lambda: signal.raise_signal(signal.SIGTERM))
            assert not train(tmp_path)
        assert checkpoint.best(tmp_path / 'checkpoints') is None
        assert checkpoint.newest_intact(tmp_path / 'checkpoints') == 6 and lines(tmp_path)[-1]['split'] == 'train'
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at(patch, checkpoint, 'write_seal', 1, die)  # the line is written, the seal does not know of it
        train(tmp_path)
    assert lines(tmp_path)[-1]['split'] == 'valid'
    assert train(tmp_path)
    assert same(tmp_path, straight)
    best = [checkpoint.best(folder / 'checkpoints') for folder in (tmp_path, straight)]
    assert best[0] == best[1] is not None


def test_a_finished_run_is_left_as_it_is(tmp_path, straight):
    before = {p: p.stat().st_mtime_ns for p in (straight / 'checkpoints').rglob('*')}
    assert train(straight)
    assert {p: p.stat().st_mtime_ns for p in (straight / 'checkpoints').rglob('*')} == before


def test_a_run_falls_back_from_a_damaged_checkpoint_to_the_same_bits(tmp_path, straight, caplog):
    assert train(tmp_path)
    newest = tmp_path / 'checkpoints' / str(STEPS)
    data = max((p for p in newest.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(content)
    assert train(tmp_path)
    assert 'falling back' in caplog.text and checkpoint.newest_intact(newest.parent) == STEPS
    assert same(tmp_path, straight)


def with_broken(indices, count=10) -> dict[str, Samples]:
    """Samples of which some are NaN throughout."""
    good = made_up(count)
    image = good.image.astype(np.float16)
    image[list(indices)] = np.nan
    return {'train': good._replace(image=image), 'valid': SAMPLES['valid']}


def test_a_non_finite_step_is_named_with_its_samples_and_skipped_also_when_the_run_is_interrupted(tmp_path, caplog):
    samples, whole, parts = with_broken([3]), tmp_path / 'whole', tmp_path / 'parts'
    assert train(whole, samples=samples)
    bad = {step for step in range(1, STEPS + 1)
           if 3 in stream.batch(samples['train'], seed=0, step=step - 1, batch_size=4)['index']}
    assert {p.name for p in (whole / 'nonfinite').iterdir()} == {f'step_{step}.json' for step in bad}
    for step in bad:
        text = (whole / 'nonfinite' / f'step_{step}.json').read_text()
        found = json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
        expected = stream.batch(samples['train'], seed=0, step=step - 1, batch_size=4)
        assert found['step'] == step and found['metrics']['loss'] == 'nan'
        assert [(s['index'], s['visit'], s['path']) for s in found['samples']] == [
            (i, v, f'{i}.png') for i, v in zip(expected['index'].tolist(), expected['visit'].tolist())]
    assert f'step {min(bad)}: loss nan' in caplog.text and '3.png' in caplog.text
    json.loads(f'[{",".join((whole / "metrics.jsonl").read_text().splitlines())}]', parse_constant=pytest.fail)
    shares = [line['finite'] for line in lines(whole) if line['split'] == 'train' and line['step'] % 3 == 0]
    assert shares == pytest.approx([np.mean([s not in bad for s in range(k, k + 3)]) for k in (1, 4, 7, 10)])
    with pytest.MonkeyPatch.context() as patch:
        at(patch, Journal, 'record', min(bad), lambda: signal.raise_signal(signal.SIGTERM))
        assert not train(parts, samples=samples)
    assert train(parts, samples=samples)
    assert same(whole, parts)


def test_too_many_non_finite_steps_in_a_row_end_the_run_with_the_last_good_state_saved(tmp_path, monkeypatch):
    samples = with_broken(range(10))
    with monkeypatch.context() as patch:  # an interruption does not start the count anew
        at(patch, Journal, 'record', 2, lambda: signal.raise_signal(signal.SIGTERM))
        assert not train(tmp_path, samples=samples)
    with pytest.raises(InputError, match=r'step 3: loss or gradient were not finite 3 times.*Step 3 is saved'):
        train(tmp_path, samples=samples)
    assert checkpoint.newest_intact(tmp_path / 'checkpoints') == 3
    programs = loop.create_programs(create(tiny()), devices=jax.devices()[:1])
    kept, fresh = state(tmp_path, 3), programs.create()
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(kept.params), jax.tree.leaves(fresh.params)))


class Reading:
    """An array whose element `broken` is not to be had."""

    def __init__(self, array, broken, happens):
        self.array, self.broken, self.happens = array, broken, happens
        self.ndim = array.ndim

    def __getitem__(self, index):
        if index == self.broken:
            self.happens()
        return self.array[index]


def test_hung_input_ends_the_run_with_a_reason_and_what_was_reached_saved(tmp_path, straight):
    good, released = SAMPLES['train'], threading.Event()
    order = [i for step in range(STEPS)
             for i in stream.batch(good, seed=0, step=step, batch_size=4)['index'].tolist()]
    step = next(k // 4 for k, i in enumerate(order) if i == order[9 * 4 - 1] and i not in order[:k])
    hung = good._replace(image=Reading(good.image, order[4 * step + 3], released.wait))
    hung_at = next(k // 4 for k, i in enumerate(order) if i == order[4 * step + 3])
    before = threading.active_count()
    with pytest.raises(InputError, match=rf'batch of step {hung_at + 1} is not there after 1 s: .*hangs'):
        train(tmp_path, samples={**SAMPLES, 'train': hung}, input_timeout=1.0)
    released.set()
    assert checkpoint.newest_intact(tmp_path / 'checkpoints') == (hung_at or None)
    assert train(tmp_path) and same(tmp_path, straight)
    time.sleep(0.5)
    assert threading.active_count() <= before  # no reader is left


def test_a_signal_while_input_is_waited_for_saves_at_once_and_the_run_goes_on_to_the_same_bits(tmp_path, straight):
    good, released = SAMPLES['train'], threading.Event()
    order = [i for step in range(STEPS)
             for i in stream.batch(good, seed=0, step=step, batch_size=4)['index'].tolist()]
    last = max(range(10), key=order.index)  # the sample that comes in last, so that steps come before it
    hung_at = order.index(last) // 4
    with pytest.MonkeyPatch.context() as patch:
        at(patch, Journal, 'waiting', hung_at + 1, threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start)
        hung = good._replace(image=Reading(good.image, last, released.wait))
        assert not train(tmp_path, samples={**SAMPLES, 'train': hung}, input_timeout=100.0)
    released.set()
    assert checkpoint.newest_intact(tmp_path / 'checkpoints') == hung_at > 0
    assert train(tmp_path) and same(tmp_path, straight)


def test_a_sample_that_cannot_be_read_ends_the_run_with_its_own_reason(tmp_path):
    def happens():
        raise InputError('7.png: cut short')

    good = SAMPLES['train']
    broken = good._replace(image=Reading(good.image, 7, happens))
    with pytest.raises(InputError, match='7.png: cut short'):
        train(tmp_path, samples={**SAMPLES, 'train': broken})


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_the_number_of_reading_threads_changes_nothing(threads):
    data = stream.dataset(SAMPLES['train'], seed=0, batch_size=4)
    batches = stream.iterate(data, start=3, threads=threads, ahead=2)
    for step in range(3, 20):
        found, expected = next(batches), stream.batch(SAMPLES['train'], seed=0, step=step, batch_size=4)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    batches.close()
