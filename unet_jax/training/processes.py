"""The processes of one run: how they find each other, wait for each other, agree, and end where one is lost."""
import atexit
import importlib.util
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import glob
from itertools import count
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from unet_jax.errors import InputError
from unet_jax.signals import Interrupted
from unet_jax.training import sharding

PATIENCE = 24 * 3600  # seconds that processes wait while process 0 reads and prepares the data
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


def join(distributed: bool | None) -> None:
    """Joins the other processes of a run, before jax starts. None: where a cluster is known, or is named by
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Raises InputError where that fails."""
    names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    given = [os.environ[name] for name in names if name in os.environ]
    known = known_cluster()
    if distributed is False or not (distributed or given or known):
        return
    ways = f'Start one on every host with SLURM, Kubernetes or Cloud TPU, or set {", ".join(names)}; see ' \
        'docs/scaling.md. --nodistributed runs this process alone'
    if 0 < len(given) < len(names) and not known:
        missing = [name for name in names if name not in os.environ]
        raise InputError(f'{", ".join(missing)}: not in the environment, where the other of the three are. {ways}')
    try:
        if len(given) == len(names):  # all is said: whatever cluster there is around is not asked
            jax.distributed.initialize(given[0], int(given[1]), int(given[2]), cluster_detection_method='deactivate')
        else:
            jax.distributed.initialize()
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
    return [item for row, n in zip(texts, lengths) for item in json.loads(row[:n].tobytes())]
