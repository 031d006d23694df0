"""The processes of one run: how they find each other, wait for each other, agree, and end where one is lost."""
import atexit
import importlib.util
import json
import os
import queue
import shlex
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import glob
from itertools import count
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from unet_jax.errors import InputError
from unet_jax.signals import Interrupted
from unet_jax.training import sharding

PATIENCE = 24 * 3600  # seconds that processes wait while process 0 reads and prepares the data
# Of each launcher of MPI programs: rank, size, and both among the processes of the host
LAUNCHERS = {'Open MPI': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK',
                          'OMPI_COMM_WORLD_LOCAL_SIZE'),
             'MPICH': ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS'),  # and Intel MPI
             'PMIx': ('PMIX_RANK', 'JAX_NUM_PROCESSES', '', '')}  # the rest is told to users of its library only
JOBS = ('PMIX_NAMESPACE', 'OMPI_MCA_ess_base_jobid', 'PMI_JOBID')  # the name of a job
PORTS = range(61440, 65536)  # the end of the ephemeral ports, as jax chooses under SLURM
meetings = count()  # every process meets the others equally often, and a meeting's name must be new


def known_cluster() -> str | None:
    """The cluster around this process of which `jax.distributed.initialize` finds out the rest, or None.

    Under SLURM only where srun started several tasks, so that a script run by hand in an allocation stays alone.
    """
    if int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1 and 'SLURM_STEP_NODELIST' in os.environ:
        return 'SLURM'
    if os.environ.get('JAX_PLATFORMS', 'tpu') == 'cpu':
        return None
    if importlib.util.find_spec('libtpu') and (glob('/dev/accel*') or glob('/dev/vfio/*')):
        return 'Cloud TPU'
    if {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'} <= os.environ.keys() and \
            importlib.util.find_spec('kubernetes'):
        return 'Kubernetes'
    return None


class Launched(NamedTuple):
    """What the launcher of MPI programs says of this process."""
    launcher: str
    rank: int
    size: int
    local_rank: int | None
    local_size: int | None  # processes on this host


def launched() -> Launched | None:
    """How mpirun started this process as one of several; None where it did not, or where srun did.

    Raises InputError where the environment tells its number and not of how many.
    """
    tasks = os.environ.get('SLURM_STEP_NUM_TASKS')
    for launcher, names in LAUNCHERS.items():
        rank, size, local_rank, local_size = (os.environ.get(name) for name in names)
        by_srun = tasks is not None and size in (None, tasks) and local_size is None  # which speaks PMI and PMIx too
        if rank is None or size == '1' or by_srun:
            continue
        if size is None:
            raise InputError(f'{names[0]}={rank}: {launcher} started this process as one of several, and {names[1]} '
                             f'does not say of how many. {how_to(launcher)}')
        return Launched(launcher, int(rank), int(size), local_rank and int(local_rank), local_size and int(local_size))
    return None


def how_to(launcher: str) -> str:
    """The command by which processes that mpirun starts on several hosts find each other."""
    rank, size, *_ = LAUNCHERS[launcher]
    size = 'HOW_MANY' if size.startswith('JAX_') else f'${size}'
    command = f'JAX_COORDINATOR_ADDRESS=FIRST_HOST:{PORTS[0]} JAX_NUM_PROCESSES={size} JAX_PROCESS_ID=${rank} ' \
        f'exec python {shlex.join(sys.argv)}'
    return (f'Say on which host the first one runs: mpirun YOUR_OPTIONS sh -c {shlex.quote(command)}. --nodistributed '
            'runs each by itself, which then needs a --workdir of its own')


def own_device(here: Launched) -> dict[str, list[int]]:
    """For `jax.distributed.initialize`: which of the host's devices is the process's, unless the environment says."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if here.local_rank is None or 'JAX_LOCAL_DEVICE_IDS' in os.environ or visible is not None and ',' not in visible:
        return {}
    return {'local_device_ids': [here.local_rank]}


def join_launched(here: Launched) -> None:
    """Joins the processes that mpirun started: at JAX_COORDINATOR_ADDRESS, on one host at a port of it, else as jax
    finds out (Open MPI before 5). Raises InputError, with the command to use, where none of these is possible."""
    address = os.environ.get('JAX_COORDINATOR_ADDRESS')
    if not address and here.local_size == here.size:
        # what the processes of one start share: the name of the job, or the process that started them
        job = next((os.environ[name] for name in JOBS if name in os.environ), str(os.getppid()))
        port = os.environ.get('JAX_COORDINATOR_PORT') or PORTS[zlib.crc32(job.encode()) % len(PORTS)]
        address = f'127.0.0.1:{port}'
    if address:
        jax.distributed.initialize(address, here.size, here.rank, cluster_detection_method='deactivate',
                                   **own_device(here))
    elif 'OMPI_MCA_orte_hnp_uri' in os.environ:
        jax.distributed.initialize(cluster_detection_method='ompi')
    else:
        raise InputError(f'{here.launcher} started this process as number {here.rank} of {here.size}, on several '
                         f'hosts. {how_to(here.launcher)}')


def join(distributed: bool | None) -> None:
    """Joins the other processes of a run, before jax starts. None: where a cluster is known, where mpirun started
    several, or where JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name one. Raises InputError where
    that fails."""
    if distributed is False:
        return
    names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    given = [os.environ[name] for name in names if name in os.environ]
    known = known_cluster()
    started = launched() if len(given) < len(names) else None
    if not (distributed or given or known or started):
        return
    ways = f'Start one on every host with SLURM, Kubernetes, Cloud TPU or mpirun, or set {", ".join(names)}; see ' \
        'docs/scaling.md. --nodistributed runs this process alone'
    if 0 < len(given) < len(names) and not (known or started):
        missing = [name for name in names if name not in os.environ]
        raise InputError(f'{", ".join(missing)}: not in the environment, where the other of the three are. {ways}')
    try:
        if len(given) == len(names):  # all is said: whatever cluster there is around is not asked
            jax.distributed.initialize(given[0], int(given[1]), int(given[2]), cluster_detection_method='deactivate')
        elif started:
            join_launched(started)
        else:
            jax.distributed.initialize()
    except InputError:
        raise
    except Exception as error:  # any: of every cluster's own interface, and of half a set of its variables
        raise InputError(f'--distributed: the processes did not find each other ({error!r}). {ways}') from error


@contextmanager
def among_peers() -> Iterator[None]:
    """Where several processes work together: an error of one says so to the others, and theirs say that it did.

    A process that fails leaves without jax's farewell, in which it and those that wait for its share of the next step
    would wait for each other for 5 minutes. They get an error from the network, raised here as InputError, or, where
    none comes, are ended by jax with a message of its own: at once where process 0 is gone, after 100 s without a
    heartbeat of another.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        atexit.register(leave, 0 if isinstance(error, Interrupted) else 2)  # after the message, before jax's farewell
        if lost(error):
            raise InputError(f'another process of this run ended or cannot be reached ({str(error).splitlines()[0]}); '
                             'its own output says why. Start the same command again on every host: it goes on from '
                             'the newest checkpoint') from error
        raise


def lost(error: BaseException) -> bool:
    """Whether an error is what jax raises where another process is gone: of gloo, of NCCL, of the coordination."""
    words = ('Gloo', 'NCCL', 'closed by peer', 'coordination service', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'heartbeat')
    return (jax.process_count() > 1 and isinstance(error, (ValueError, RuntimeError)) and
            not isinstance(error, InputError) and any(word in str(error) for word in words))


def leave(status: int) -> None:
    """Ends this process at once."""
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def agreement(mesh: Mesh) -> Callable[[bool], bool]:
    """A function that all processes call equally often, with what each wants: whether any of them does.

    With several processes the answer is that of the call before, so that none waits for another.
    """
    if jax.process_count() == 1:
        return bool
    everyone = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    anyone = jax.jit(lambda wishes: wishes.any(), out_shardings=sharding.replicated(mesh))
    pending: list[jax.Array] = []

    def agreed(wish: bool) -> bool:
        mine = np.full(jax.local_device_count(), wish)
        pending.append(anyone(jax.make_array_from_process_local_data(everyone, mine)))
        return len(pending) > 1 and bool(pending.pop(0))

    return agreed


def wait_for_all(what: str) -> None:
    """Returns when every process has come here. `sync_global_devices` gives up where one is half a minute late."""
    if jax.process_count() == 1:
        return
    done: queue.Queue[Exception | None] = queue.Queue()
    barrier, name = multihost.get_barrier_sync_fn(), f'unet_jax {next(meetings)}: {what}'

    def wait() -> None:
        try:
            done.put(barrier(key=name, timeout_ms=PATIENCE * 1000))
        except Exception as error:
            done.put(error)

    threading.Thread(target=wait, daemon=True).start()  # a signal would not get through to a wait inside jax
    if error := done.get():
        raise error


def by_the_first(run: Callable[[], object], what: str) -> None:
    """Process 0 does it; the others wait for it."""
    if not jax.process_index():
        run()
    wait_for_all(what)


@contextmanager
def first_process_first(what: str) -> Iterator[None]:
    """Process 0 does it, then the others, who find what it has written."""
    if jax.process_index():
        wait_for_all(what)
    yield
    if not jax.process_index():
        wait_for_all(what)


def gather(items: list[Any]) -> list[Any]:
    """The JSON `items` of all processes, in the order of the processes, on every process."""
    if jax.process_count() == 1:
        return items
    wait_for_all('gathering')
    text = np.frombuffer(json.dumps(items).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int64(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - len(text))))
    return [item for row, n in zip(texts, lengths, strict=True) for item in json.loads(row[:n].tobytes())]
