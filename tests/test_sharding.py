"""How processes find each other, and what they do together where there is only one. test_devices.py has two."""
import os
import types

import jax
import numpy as np
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.modes import start
from unet_jax.training import sharding

NAMES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
AROUND = (*NAMES, 'SLURM_STEP_NUM_TASKS', 'SLURM_STEP_NODELIST', 'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX')
TASKS = {'SLURM_STEP_NUM_TASKS': '2', 'SLURM_STEP_NODELIST': 'a,b'}
POD = {'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '0'}


@pytest.fixture
def around(monkeypatch):
    """Sets what is around this process: its environment, and (by name) installed modules and devices of a TPU."""
    for name in AROUND:
        monkeypatch.delenv(name, raising=False)

    def put(environment, modules=(), accelerators=False):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sharding.importlib.util, 'find_spec', lambda name: name in modules)
        monkeypatch.setattr(sharding, 'glob', lambda _: ['/dev/accel0'] * accelerators)

    return put


@pytest.fixture
def joined(monkeypatch):
    """The calls of jax.distributed.initialize: (arguments, options)."""
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *given, **options: calls.append((given, options)))
    return calls


@pytest.mark.parametrize('environment, modules, accelerators, expected', [
    ({}, (), False, None),
    (TASKS, (), False, 'SLURM'),
    (TASKS | {'SLURM_STEP_NUM_TASKS': '1'}, (), False, None),  # a script by hand in an allocation
    (POD, ('kubernetes',), False, None),  # JAX_PLATFORMS is cpu
    (POD | {'JAX_PLATFORMS': 'cuda'}, ('kubernetes',), False, 'Kubernetes'),
    (POD | {'JAX_PLATFORMS': 'cuda'}, (), False, None),
    ({'JAX_PLATFORMS': 'tpu'}, ('libtpu',), True, 'Cloud TPU'),
    ({'JAX_PLATFORMS': 'tpu'}, ('libtpu',), False, None),
], ids=str)
def test_a_cluster_is_known_by_what_it_leaves_around(around, environment, modules, accelerators, expected):
    around(environment, modules, accelerators)
    assert sharding.known_cluster() == expected


def test_a_process_by_itself_joins_nobody(around, joined):
    around({})
    sharding.join(None), sharding.join(False)
    around(TASKS | dict(zip(NAMES, ('host:1', '2', '0'))))
    sharding.join(False)
    assert joined == []


def test_a_known_cluster_is_asked_and_three_variables_say_all(around, joined):
    around(TASKS)
    sharding.join(None)
    around(dict(zip(NAMES, ('host:1', '2', '1'))))
    sharding.join(None)
    assert joined == [((), {}), (('host:1', 2, 1), {'cluster_detection_method': 'deactivate'})]


def test_two_of_the_three_variables_are_not_taken_for_none(around, joined):
    around(dict(zip(NAMES[:2], ('host:1', '2'))))
    with pytest.raises(InputError, match='JAX_PROCESS_ID: not in the environment.*--nodistributed'):
        sharding.join(None)
    around(TASKS)  # where the cluster knows the rest
    sharding.join(None)
    assert joined == [((), {})]


@pytest.mark.parametrize('error', [KeyError('SLURM_LOCALID'), ImportError('no module kubernetes'),
                                   OSError('no route'), IndexError('list index'), RuntimeError('timed out')], ids=repr)
def test_whatever_goes_wrong_in_joining_is_a_message(around, monkeypatch, error):
    around(TASKS)

    def initialize():
        raise error

    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    with pytest.raises(InputError, match=r'did not find each other \(.*Error.*docs/scaling.md'):
        sharding.join(None)


def test_a_number_that_is_none_is_a_message(around, joined):
    around(dict(zip(NAMES, ('host:1', 'two', '0'))))
    with pytest.raises(InputError, match='two'):
        sharding.join(True)


@pytest.mark.parametrize('deterministic', [True, False])
def test_the_flags_are_set_before_the_processes_join_which_jax_refuses_once_it_has_started(monkeypatch, deterministic):
    config, seen = get_config(), []
    config.train.deterministic = deterministic
    before = os.environ['XLA_FLAGS']
    monkeypatch.setenv('XLA_FLAGS', before)  # so that it is put back
    monkeypatch.setattr(start.xla_bridge, 'backends_are_initialized', lambda: False)
    monkeypatch.setattr(sharding, 'join', lambda _: seen.append(os.environ['XLA_FLAGS']))
    monkeypatch.setattr(jax.config, 'update', lambda *_: None)
    start.start(config, None)
    assert ('--xla_gpu_deterministic_ops=true' in seen[0].split()) == deterministic and before.strip() in seen[0]


def test_one_process_is_everybody():
    assert sharding.gather([1, 'a']) == [1, 'a']
    assert sharding.agreement(sharding.create_mesh())(True) is True
    done = []
    with sharding.first_process_first('work'):
        sharding.by_the_first(lambda: done.append(1), 'work')
    assert done == [1]


def test_an_error_of_the_network_is_another_matter_where_there_are_several_processes(monkeypatch):
    broken = ValueError('UNKNOWN: Gloo all-reduce failed: Connection closed by peer')
    assert not sharding.lost(broken)
    with pytest.raises(ValueError, match='Gloo'), sharding.among_peers():
        raise broken
    left = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(sharding.atexit, 'register', lambda *what: left.append(what))
    assert sharding.lost(broken) and not sharding.lost(ValueError('bad value'))
    with pytest.raises(InputError, match='another process of this run ended.*Gloo'), sharding.among_peers():
        raise broken
    with pytest.raises(KeyError), sharding.among_peers():
        raise KeyError('mine')
    assert left == [(sharding.leave, 2)] * 2


def test_the_memory_of_a_device_is_its_own_or_its_share_of_the_computers(monkeypatch):
    whole = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    assert sharding.device_memory() == pytest.approx(whole / jax.local_device_count())
    gpu = types.SimpleNamespace(memory_stats=lambda: {'bytes_limit': 7})
    monkeypatch.setattr(jax, 'local_devices', lambda: [gpu])
    assert sharding.device_memory() == 7


def test_large_arrays_are_cut_along_the_longest_axis_that_divides_and_small_ones_are_whole():
    mesh = sharding.create_mesh(jax.devices(), fsdp=4)
    shapes = {'kernel': (3, 3, 16, 64), 'odd': (33, 37), 'small': (8,), 'last': (64, 64)}
    tree = {name: np.zeros(shape) for name, shape in shapes.items()}
    found = {name: tuple(where.spec) for name, where in sharding.of_state(tree, mesh).items()}
    assert found == {'kernel': (None, None, None, 'fsdp'), 'odd': (), 'small': (), 'last': (None, 'fsdp')}
