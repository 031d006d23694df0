"""Checkpoints: exact, sealed, kept by rule, restored onto other device counts."""
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unet_jax.errors import InputError
from unet_jax.training import checkpoint, sharding
from unet_jax.training import state as states


def make(step, seed=0):
    params = {'w': jax.random.normal(jax.random.key(seed), (16, 3)), 'b': jnp.full(3, float(step))}
    state = states.create(params, optax.adam(1e-3))
    return states.State(jnp.asarray(step, jnp.int32), params, state.ema_params, state.opt_state)


def save(folder, step, score=None, keep=2):
    checkpoint.save(folder, make(step), score=score, notes={'window': [{'loss': 0.1 + 0.2}]}, keep=keep)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(tmp_path, devices):
    save(tmp_path, 5)
    mesh = sharding.create_mesh(jax.devices()[:devices])
    restored = checkpoint.restore(tmp_path, 5, make(0, seed=9), sharding.replicated(mesh))
    assert equal(restored, make(5)) and int(restored.step) == 5
    assert len(restored.params['w'].sharding.device_set) == devices
    assert checkpoint.read_seal(tmp_path, 5)['notes'] == {'window': [{'loss': 0.1 + 0.2}]}


def test_a_sharded_state_is_restored_whole_or_onto_other_shards_bit_for_bit(tmp_path):
    state = states.create({'w': jax.random.normal(jax.random.key(0), (64, 48))}, optax.adam(1e-3))
    meshes = [sharding.create_mesh(jax.devices()[:n], fsdp=f) for n, f in [(8, 4), (8, 1), (2, 2)]]
    checkpoint.save(tmp_path, jax.device_put(state, sharding.of_state(state, meshes[0])), score=None, notes={}, keep=1)
    for mesh, rows in zip(meshes, [16, 64, 32]):
        restored = checkpoint.restore(tmp_path, 0, jax.eval_shape(lambda: state), sharding.of_state(state, mesh))
        assert equal(restored, state)
        assert restored.params['w'].addressable_shards[0].data.shape == (rows, 48)


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, score in [(1, 0.5), (2, 0.9), (3, None), (4, 0.7), (5, 0.8)]:
        save(tmp_path, step, score)
    assert checkpoint.steps(tmp_path) == [2, 4, 5]
    assert checkpoint.best(tmp_path) == 2
    assert [checkpoint.choose(tmp_path, w) for w in ('best', 'latest', '4')] == [2, 5, 4]


def test_the_first_of_equal_scores_is_the_best(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, 0.5, keep=3)
    assert checkpoint.best(tmp_path) == 1


def test_damaged_newer_steps_neither_go_nor_push_out_what_is_saved_after_the_fallback(tmp_path):
    save(tmp_path, 1, 0.9, keep=1), save(tmp_path, 4, 0.1, keep=2), save(tmp_path, 5, 0.2, keep=2)
    for step in (4, 5):
        damage_bit(largest(tmp_path / str(step)))
    assert checkpoint.newest_intact(tmp_path) == 1
    save(tmp_path, 2, keep=1)
    assert checkpoint.steps(tmp_path) == [1, 2, 4, 5] and checkpoint.newest_intact(tmp_path) == 2


@pytest.mark.parametrize('seal', ['[]', 'null', '3'])
def test_a_seal_that_is_no_object_is_damage(tmp_path, seal):
    save(tmp_path, 1), save(tmp_path, 2)
    (tmp_path / '2' / checkpoint.SEAL).write_text(seal)
    assert checkpoint.newest_intact(tmp_path) == 1 and checkpoint.best(tmp_path) in (None, 1)


def damage_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def largest(folder):
    files = (p for p in folder.rglob('*') if p.is_file() and p.name != checkpoint.SEAL)
    return max(files, key=lambda p: p.stat().st_size)


@pytest.mark.parametrize('harm', [damage_bit, lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.unlink()])
def test_damage_is_noticed_and_the_newest_good_step_is_used(tmp_path, harm, caplog):
    save(tmp_path, 1), save(tmp_path, 2)
    harm(largest(tmp_path / '2'))
    before = sorted(tmp_path.rglob('*'))
    assert checkpoint.newest_intact(tmp_path) == 1
    assert 'damaged' in caplog.text and sorted(tmp_path.rglob('*')) == before
    with pytest.raises(InputError, match=r'Intact: \[1\]'):
        checkpoint.choose(tmp_path, '2')


def test_damage_of_any_one_file_is_noticed_whatever_it_is(tmp_path):
    save(tmp_path / 'a', 1)
    files = sorted(p.relative_to(tmp_path / 'a') for p in (tmp_path / 'a' / '1').rglob('*') if p.is_file())
    assert len(files) > 10 and checkpoint.damage(tmp_path / 'a', 1) is None
    for name in files:
        content = (tmp_path / 'a' / name).read_bytes()
        flipped = bytes(byte ^ (at == len(content) // 2) for at, byte in enumerate(content))
        for changed in {None, content[:-1], content + b'x', flipped} - {content}:
            broken = shutil.copytree(tmp_path / 'a', tmp_path / 'b')
            (broken / name).unlink() if changed is None else (broken / name).write_bytes(changed)
            assert checkpoint.damage(broken, 1), name
            shutil.rmtree(broken)


@pytest.mark.parametrize('harm', [damage_bit, lambda p: p.write_text('{}'), lambda p: p.write_bytes(b'')])
def test_a_damaged_seal_is_noticed_and_does_not_end_the_run(tmp_path, harm, caplog):
    save(tmp_path, 1, 0.5), save(tmp_path, 2, 0.9)
    harm(tmp_path / '2' / checkpoint.SEAL)
    assert checkpoint.newest_intact(tmp_path) == 1
    assert checkpoint.best(tmp_path) == 1 and 'passed over' in caplog.text
    save(tmp_path, 3, 0.7)
    assert checkpoint.choose(tmp_path, 'best') == 3


def test_a_run_whose_every_checkpoint_is_damaged_is_not_started_anew(tmp_path):
    save(tmp_path, 1), save(tmp_path, 2)
    for step in (1, 2):
        damage_bit(largest(tmp_path / str(step)))
    with pytest.raises(InputError, match='every checkpoint is damaged: 1, 2'):
        checkpoint.newest_intact(tmp_path)


def test_a_validation_that_was_made_up_for_adds_the_score_and_keeps_the_checksums(tmp_path):
    save(tmp_path, 1)
    checkpoint.amend(tmp_path, 1, score=0.5, notes={'a': 1}, keep=2)
    assert checkpoint.best(tmp_path) == checkpoint.newest_intact(tmp_path) == 1
    assert checkpoint.read_seal(tmp_path, 1)['notes'] == {'a': 1}


def test_what_a_killed_run_left_half_written_or_half_deleted_goes_and_nothing_else(tmp_path):
    save(tmp_path, 1)
    for name in ('2.orbax-checkpoint-tmp', '.0.deleted', '3.replaced-7-1', 'mine'):
        (tmp_path / name).mkdir()
    checkpoint.clean(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['1', '3.replaced-7-1', 'mine']


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(tmp_path):
    small = tmp_path / 'small'
    small.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', small], capture_output=True).returncode:
        pytest.skip('mounting a small file system needs rights that this user does not have')
    try:
        big = jax.random.normal(jax.random.key(0), (60_000,))  # 0.24 MB, saved four times over
        state = states.create({'w': big}, optax.adam(1e-3))
        with pytest.raises(InputError, match=r'could not be written .*No space left.* MB are free') as refusal:
            for step in range(1, 9):
                done = step - 1
                state = states.State(jnp.asarray(step, jnp.int32), state.params, state.ema_params, state.opt_state)
                checkpoint.save(small, state, score=None, notes={}, keep=9)
        assert done > 0 and checkpoint.steps(small) == list(range(1, done + 1))
        assert f'as they were: {checkpoint.steps(small)}' in str(refusal.value)
        assert checkpoint.newest_intact(small) == done
        checkpoint.clean(small)
        shutil.rmtree(small / '1')  # room is made
        checkpoint.save(small, state, score=None, notes={}, keep=9)
        assert checkpoint.newest_intact(small) == done + 1
    finally:
        subprocess.run(['umount', small], check=True)


def test_a_disk_without_room_for_all_checkpoints_is_told_before_the_first(tmp_path, monkeypatch, caplog):
    w = jnp.zeros((300, 1000))  # 1.2 MB, saved four times over
    state = states.create({'w': w}, optax.adam(1e-3))
    shapes = jax.eval_shape(lambda: states.create({'w': w}, optax.adam(1e-3)))
    folder = tmp_path / 'not' / 'yet'
    for free, told in ((int(4 * 4.9e6), False), (int(4 * 4.7e6), True)):
        monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda _, free=free: type('Usage', (), {'free': free}))
        checkpoint.tell_of_room([folder], shapes, keep=2)
        assert (f'{tmp_path}: checkpoints of 0.00 GB each, up to 4 at a time' in caplog.text) == told
    caplog.clear()
    checkpoint.save(folder, state, score=None, notes={}, keep=2)
    taken = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    assert taken < 5e6  # zeros are compressed; what lies there need not be found again
    monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': int(19.3e6) - taken}))
    checkpoint.tell_of_room([folder], shapes, keep=2)
    assert not caplog.text


def test_a_step_without_a_seal_was_cut_off_and_is_moved_aside_until_there_is_a_new_one(tmp_path, monkeypatch):
    save(tmp_path, 1), save(tmp_path, 2)
    (tmp_path / '2' / checkpoint.SEAL).unlink()
    assert checkpoint.newest_intact(tmp_path) == 1
    with monkeypatch.context() as patch, pytest.raises(InputError, match='could not be written'):
        patch.setattr(checkpoint, 'write_seal', lambda *_, **__: (_ for _ in ()).throw(OSError('full')))
        save(tmp_path, 2)
    assert checkpoint.newest_intact(tmp_path) == 1 and list(tmp_path.glob('2.replaced-*'))
    save(tmp_path, 2)
    assert checkpoint.newest_intact(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ['1', '2']


def test_only_the_averaged_parameters_are_read_for_prediction(tmp_path):
    save(tmp_path, 3)
    everywhere = sharding.replicated(sharding.create_mesh(jax.devices()[:1]))
    assert equal(checkpoint.restore_params(tmp_path, 3, make(0).params, everywhere), make(3).ema_params)


def test_what_is_not_there_is_named_with_the_choices(tmp_path):
    with pytest.raises(InputError, match='holds no checkpoint'):
        checkpoint.choose(tmp_path, 'best')
    save(tmp_path, 1)
    with pytest.raises(InputError, match=r"choose 'best', 'latest' or one of \[1\]"):
        checkpoint.choose(tmp_path, '7')


def test_another_network_is_refused(tmp_path):
    save(tmp_path, 1)
    everywhere = sharding.replicated(sharding.create_mesh(jax.devices()[:1]))
    with pytest.raises(InputError, match='does not fit'):
        checkpoint.restore_params(tmp_path, 1, {'other': jnp.zeros(3)}, everywhere)


def test_a_run_with_another_optimiser_state_is_told_to_start_anew_and_still_predicts(tmp_path):
    """As one that was begun before weight decay acted on kernels alone, whose state lacks a node."""
    params = make(0).params
    begun = states.create(params, optax.adamw(1e-3))
    like = states.create(params, optax.adamw(1e-3, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)))
    checkpoint.save(tmp_path, begun, score=None, notes={}, keep=1)
    where = sharding.replicated(sharding.create_mesh(jax.devices()[:1]))
    with pytest.raises(InputError, match='optimiser had another state .*: start anew in another .*Evaluating'):
        checkpoint.restore(tmp_path, 0, like, where)
    assert equal(checkpoint.restore_params(tmp_path, 0, params, where), params)
