"""Runs of several seeds in one program: each as it would be alone, resumed alike."""
import json
import signal

import jax
import numpy as np
import pandas as pd
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.pipeline.cache import Samples
from unet_jax.training import checkpoint, loop, together
from unet_jax.training.journal import Journal

STEPS, SEEDS = 8, (0, 5)


def tiny(seed, **train):
    config = get_config()
    with config.unlocked():
        config.seed = seed
        config.data.update({'root': 'nowhere', 'size': (16, 16), 'categories': (1,), 'names': ('tumour',),
                            'regions': (('tumour', (1,), 1),)})
        config.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,)})
        config.augment.update({'intensity_probability': 0.5, 'blur': 0.0, 'low_resolution': 1.0, 'gamma': 0.0})
        config.optimizer.update({'warmup': 2, 'learning_rate': 1e-2})
        config.train.update({'steps': STEPS, 'batch_size': 4, 'log_every': 1, 'evaluate_every': 4,
                             'checkpoint_every': 2, 'skip_nonfinite': 1, **train})
        config.evaluation.batch_size = 4
    return config.lock()


def made_up(count, seed=0):
    rng = np.random.default_rng(seed)
    label = np.zeros((count, 16, 16), np.uint8)
    for k, (y, x) in enumerate(rng.integers(0, 10, (count, 2))):
        label[k, y:y + 6, x:x + 6] = 1
    image = np.float16(50 + 100 * label + rng.integers(0, 60, label.shape))[..., None] / 255
    names = [f'{k}.png' for k in range(count)]
    return Samples(image, label, pd.DataFrame({'path': names, 'case': names, 'annotations': [()] * count}))


SAMPLES = {'train': made_up(10), 'valid': made_up(6, 1)}


def members(folder, samples=SAMPLES, **settings):
    found = [together.Member(create(tiny(seed, **settings)), samples, folder / f'seed_{seed}') for seed in SEEDS]
    for member in found:
        member.folder.mkdir(parents=True, exist_ok=True)
    return found


@pytest.fixture(scope='module', autouse=True)
def compiled_once():
    """A second start from the disk without a second compilation."""
    originals, known = (loop.create_programs, together.create_program), {}

    def once(make):
        def made(experiment, *rest, **more):
            key = make, experiment.config.to_json(), str(rest), str(more)
            if key not in known:
                known[key] = make(experiment, *rest, **more)
            return known[key]
        return made

    loop.create_programs, together.create_program = map(once, originals)
    yield
    loop.create_programs, together.create_program = originals


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp('both')
    assert together.train(members(folder), devices=jax.devices()[:2])
    return folder


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_a_run_among_others_is_the_run_alone(both, tmp_path):
    for member in members(tmp_path)[1:]:
        assert loop.train(member.experiment, SAMPLES, member.folder, devices=jax.devices()[:1])
        found, expected = lines(both / member.folder.name), lines(member.folder)
        assert [(x['step'], x['split']) for x in found] == [(x['step'], x['split']) for x in expected]
        for name in ('loss', 'dice/tumour', 'learning_rate'):
            values = [[x[name] for x in side if name in x] for side in (found, expected)]
            assert values[0] == pytest.approx(values[1], rel=1e-5)
        folders = [folder / 'checkpoints' for folder in (both / member.folder.name, member.folder)]
        assert checkpoint.best(folders[0]) == checkpoint.best(folders[1])
        programs = loop.create_programs(member.experiment, devices=jax.devices()[:1])
        states = [checkpoint.restore(f, STEPS, programs.abstract, programs.shardings) for f in folders]
        for a, b in zip(*(jax.tree.leaves((s.params, s.ema_params)) for s in states), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # Adam enlarges the rounding of small gradients


def test_the_seeds_differ_in_weights_order_and_augmentation(both):
    first, second = (lines(both / f'seed_{seed}') for seed in SEEDS)
    assert abs(first[0]['loss'] - second[0]['loss']) > 1e-4


def test_an_interrupted_set_of_runs_ends_with_the_same_bits(both, tmp_path, monkeypatch, capsys):
    class Killed(BaseException):
        pass

    save, record, calls = checkpoint.save, Journal.record, []

    def killed_between_the_members(folder, state, **more):
        if int(state.step) == 6 and 'seed_5' in str(folder):
            raise Killed  # the first member has step 6, the second has not
        save(folder, state, **more)

    def stopped(self, step, *args):
        calls.append(step)
        if calls.count(3) == 1:
            signal.raise_signal(signal.SIGTERM)
        return record(self, step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, 'record', stopped)
        assert not together.train(members(tmp_path), devices=jax.devices()[:2])
    assert [checkpoint.steps(tmp_path / f'seed_{s}/checkpoints')[-1] for s in SEEDS] == [3, 3]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, 'save', killed_between_the_members)
        together.train(members(tmp_path), devices=jax.devices()[:2])
    assert [checkpoint.steps(tmp_path / f'seed_{s}/checkpoints')[-1] for s in SEEDS] == [6, 4]
    assert together.train(members(tmp_path), devices=jax.devices()[:2])
    said = capsys.readouterr().out
    assert all(f'seed {seed}, step {STEPS}: validation dice/tumour' in said for seed in SEEDS)
    for seed in SEEDS:
        name = f'seed_{seed}'
        assert (tmp_path / name / 'metrics.jsonl').read_bytes() == (both / name / 'metrics.jsonl').read_bytes()
        programs = loop.create_programs(create(tiny(seed)), devices=jax.devices()[:2])
        states = [checkpoint.restore(folder / name / 'checkpoints', STEPS, programs.abstract, programs.shardings)
                  for folder in (tmp_path, both)]
        assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, states)))


def test_one_member_whose_loss_is_not_finite_ends_all_with_everything_saved(tmp_path):
    broken = np.full_like(SAMPLES['train'].image, np.nan)
    found = members(tmp_path)
    found[1] = found[1]._replace(samples={**SAMPLES, 'train': SAMPLES['train']._replace(image=broken)})
    with pytest.raises(InputError, match=r'step 2: loss or gradient were not finite 2 times.*seed_5.*Step . is saved'):
        together.train(found, devices=jax.devices()[:2])
    steps = [checkpoint.newest_intact(member.folder / 'checkpoints') for member in found]
    assert steps[0] == steps[1] >= 2


def test_seeds_without_a_common_step_are_not_started_anew(both, tmp_path):
    folders = [both / 'seed_0/checkpoints', tmp_path / 'seed_5/checkpoints']
    with pytest.raises(InputError, match='no step is there.*seed_5.*none'):
        together.common_step(folders)
    assert together.common_step([tmp_path / 'a', tmp_path / 'b']) == 0
