"""How processes find each other, and what they do together where there is only one. test_devices.py has two."""
import os

import jax
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.modes import start
from unet_jax.training import processes, sharding

NAMES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
AROUND = (*NAMES, 'SLURM_STEP_NUM_TASKS', 'SLURM_STEP_NODELIST', 'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX',
          *(name for names in processes.LAUNCHERS.values() for name in names if name), *processes.JOBS,
          'OMPI_MCA_orte_hnp_uri', 'JAX_COORDINATOR_PORT', 'JAX_LOCAL_DEVICE_IDS',
          'CUDA_VISIBLE_DEVICES')
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
        monkeypatch.setattr(processes.importlib.util, 'find_spec', lambda name: name in modules)
        monkeypatch.setattr(processes, 'glob', lambda _: ['/dev/accel0'] * accelerators)

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
    assert processes.known_cluster() == expected


def test_a_process_by_itself_joins_nobody(around, joined):
    around({})
    processes.join(None), processes.join(False)
    around(TASKS | dict(zip(NAMES, ('host:1', '2', '0'))))
    processes.join(False)
    assert joined == []


def test_a_known_cluster_is_asked_and_three_variables_say_all(around, joined):
    around(TASKS)
    processes.join(None)
    around(dict(zip(NAMES, ('host:1', '2', '1'))))
    processes.join(None)
    assert joined == [((), {}), (('host:1', 2, 1), {'cluster_detection_method': 'deactivate'})]


OMPI = {'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_LOCAL_RANK': '1',
        'OMPI_COMM_WORLD_LOCAL_SIZE': '2', 'PMIX_NAMESPACE': 'prterun-host-17@1', 'PMIX_RANK': '1'}
HYDRA = {'PMI_RANK': '1', 'PMI_SIZE': '2', 'MPI_LOCALRANKID': '1', 'MPI_LOCALNRANKS': '2'}
APART = {'OMPI_COMM_WORLD_LOCAL_SIZE': '1', 'OMPI_COMM_WORLD_LOCAL_RANK': '0', 'MPI_LOCALNRANKS': '1',
         'MPI_LOCALRANKID': '0'}  # a process a host


@pytest.mark.parametrize('environment', [OMPI, HYDRA, TASKS | OMPI], ids=['Open MPI', 'MPICH', 'in an allocation'])
def test_what_mpirun_starts_on_one_host_joins_at_a_port_of_its_own(around, joined, environment):
    around(environment)
    processes.join(None)
    around({'PMIX_NAMESPACE': 'prterun-host-18@1', 'PMI_JOBID': 'another', 'CUDA_VISIBLE_DEVICES': '1'})
    processes.join(None)
    (first, options), (second, given) = joined
    assert 'local_device_ids' not in given  # the launcher gave it one device already
    assert first[1:] == (2, 1) and first[0].startswith('127.0.0.1:') and int(first[0][10:]) in processes.PORTS
    assert options == {'cluster_detection_method': 'deactivate', 'local_device_ids': [1]} and second[0] != first[0]


def test_what_mpirun_starts_on_several_hosts_needs_the_first_ones_name(around, joined):
    around(HYDRA | APART)
    with pytest.raises(InputError, match='MPICH started .* number 1 of 2, on several hosts.*--nodistributed') as told:
        processes.join(None)
    assert (" sh -c 'JAX_COORDINATOR_ADDRESS=FIRST_HOST:61440 JAX_NUM_PROCESSES=$PMI_SIZE JAX_PROCESS_ID=$PMI_RANK "
            'exec python ') in str(told.value)
    processes.join(False)
    assert joined == []
    around({'JAX_COORDINATOR_ADDRESS': 'host:1'})
    processes.join(None)
    around({'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_LOCAL_RANK': '0',
            'OMPI_COMM_WORLD_LOCAL_SIZE': '1', 'OMPI_MCA_orte_hnp_uri': '4096.0;tcp://10.0.0.1:1'})
    os.environ.pop('JAX_COORDINATOR_ADDRESS')
    processes.join(None)  # Open MPI 4 says where, and jax reads it
    deactivate = {'cluster_detection_method': 'deactivate', 'local_device_ids': [0]}
    assert joined == [(('host:1', 2, 1), deactivate), ((), {'cluster_detection_method': 'ompi'})]


def test_pmix_alone_does_not_say_of_how_many(around, joined):
    around({'PMIX_RANK': '0'})
    with pytest.raises(InputError, match='PMIx started.*does not say of how many.*JAX_NUM_PROCESSES=HOW_MANY'):
        processes.join(None)
    around({'SLURM_STEP_NUM_TASKS': '1'})  # one task by itself
    processes.join(None)
    around(TASKS)
    processes.join(None)  # srun --mpi=pmix
    assert joined == [((), {})]


def test_two_of_the_three_variables_are_not_taken_for_none(around, joined):
    around(dict(zip(NAMES[:2], ('host:1', '2'))))
    with pytest.raises(InputError, match='JAX_PROCESS_ID: not in the environment.*--nodistributed'):
        processes.join(None)
    around(TASKS)  # where the cluster knows the rest
    processes.join(None)
    assert joined == [((), {})]


@pytest.mark.parametrize('error', [KeyError('SLURM_LOCALID'), ImportError('no module kubernetes'),
                                   OSError('no route'), IndexError('list index'), RuntimeError('timed out')], ids=repr)
def test_whatever_goes_wrong_in_joining_is_a_message(around, monkeypatch, error):
    around(TASKS)

    def initialize():
        raise error

    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    with pytest.raises(InputError, match=r'did not find each other \(.*Error.*docs/scaling.md'):
        processes.join(None)


def test_a_number_that_is_none_is_a_message(around, joined):
    around(dict(zip(NAMES, ('host:1', 'two', '0'))))
    with pytest.raises(InputError, match='two'):
        processes.join(True)


@pytest.mark.parametrize('deterministic', [True, False])
def test_the_flags_are_set_before_the_processes_join_which_jax_refuses_once_it_has_started(monkeypatch, deterministic):
    config, seen = get_config(), []
    config.train.deterministic = deterministic
    before = os.environ['XLA_FLAGS']
    monkeypatch.setenv('XLA_FLAGS', before)  # so that it is put back
    monkeypatch.setattr(start.xla_bridge, 'backends_are_initialized', lambda: False)
    monkeypatch.setattr(processes, 'join', lambda _: seen.append(os.environ['XLA_FLAGS']))
    monkeypatch.setattr(jax.config, 'update', lambda *_: None)
    start.start(config, None)
    assert ('--xla_gpu_deterministic_ops=true' in seen[0].split()) == deterministic and before.strip() in seen[0]


def test_one_process_is_everybody():
    assert processes.gather([1, 'a']) == [1, 'a']
    assert processes.agreement(sharding.create_mesh())(True) is True
    done = []
    with processes.first_process_first('work'):
        processes.by_the_first(lambda: done.append(1), 'work')
    assert done == [1]


def test_an_error_of_the_network_is_another_matter_where_there_are_several_processes(monkeypatch):
    broken = ValueError('UNKNOWN: Gloo all-reduce failed: Connection closed by peer')
    assert not processes.lost(broken)
    with pytest.raises(ValueError, match='Gloo'), processes.among_peers():
        raise broken
    left = []
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(processes.atexit, 'register', lambda *what: left.append(what))
    assert processes.lost(broken) and not processes.lost(ValueError('bad value'))
    with pytest.raises(InputError, match='another process of this run ended.*Gloo'), processes.among_peers():
        raise broken
    with pytest.raises(KeyError), processes.among_peers():
        raise KeyError('mine')
    assert left == [(processes.leave, 2)] * 2
