"""Several steps in one program, and images that stay in the devices' memory: the run is the same."""
import json
import logging

import jax
import numpy as np
import pytest
from test_devices import SAMPLES, STEPS, tiny

from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.training import checkpoint, dispatch, loop


def run(folder, *, devices, **train):
    """(lines of metrics.jsonl, last state) of a run with these fields of config.train."""
    config = tiny()
    with config.unlocked():
        config.train.update(train)
    experiment = create(config)
    assert loop.train(experiment, SAMPLES, folder, devices=jax.devices()[:devices])
    programs = loop.create_programs(experiment, devices=jax.devices()[:devices])
    state = checkpoint.restore(folder / 'checkpoints', STEPS, programs.abstract, programs.shardings)
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()], state


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp('plain'), devices=1, log_every=5)


@pytest.mark.parametrize('looped', [True, False], ids=['in a loop', 'in turn'])
@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('train', [{'steps_per_dispatch': 5}, {'resident': True},
                                   {'steps_per_dispatch': 5, 'resident': True}], ids=str)
def test_the_run_is_the_same(tmp_path, plain, devices, train, looped, monkeypatch):
    monkeypatch.setattr(dispatch, 'one_by_one', lambda mesh: not looped)
    lines, state = run(tmp_path, devices=devices, log_every=5, **train)
    assert [(x['step'], x['split']) for x in lines] == [(x['step'], x['split']) for x in plain[0]]
    for line, expected in zip(lines, plain[0], strict=True):
        np.testing.assert_allclose([line[k] for k in expected if k != 'split'],
                                   [v for k, v in expected.items() if k != 'split'], rtol=2e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain[1].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_resident_images_are_shared_out_and_gathered_by_index():
    config = tiny()
    with config.unlocked():
        config.train.resident = True
    mesh = loop.create_mesh(config, jax.devices()[:4])
    data = dispatch.resident(SAMPLES['train'], config.train, mesh)
    assert data['image'].shape == (12, 16, 16, 1)  # 11 images on four devices
    assert {shard.data.shape[0] for shard in data['image'].addressable_shards} == {3}
    index = np.array([10, 0, 3, 3, 7, 1, 2, 9], np.int32)
    found = jax.jit(lambda data, index: dispatch.gather(data, {'index': index}, mesh))(data, index)
    for name in ('image', 'label'):
        np.testing.assert_array_equal(found[name], getattr(SAMPLES['train'], name)[index])


def test_images_that_do_not_fit_come_from_the_host(monkeypatch, caplog):
    config = tiny()
    with config.unlocked():
        config.train.resident = True
    monkeypatch.setattr('unet_jax.training.sharding.device_memory', lambda: 100.0)
    with caplog.at_level(logging.WARNING):
        assert dispatch.resident(SAMPLES['train'], config.train, loop.create_mesh(config)) is None
    assert 'do not fit' in caplog.text and 'from the host' in caplog.text


def test_what_does_not_fall_between_programs_is_refused(tmp_path):
    with pytest.raises(InputError, match='must divide config.train.steps = 20'):
        run(tmp_path, devices=1, steps_per_dispatch=3)
