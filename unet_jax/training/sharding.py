"""One mesh over all devices of all processes; batches are split over it, the state is replicated or sharded.

The axes are 'data', 'fsdp' and 'spatial': a batch is split over the first two, a large parameter over 'fsdp' only, so
that with fsdp = 1 every device holds the whole state, and the first axis of every image (the height, or a volume's
first) over 'spatial', for volumes whose activations do not fit into one device. The compiler exchanges the borders.
"""
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
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from unet_jax.errors import InputError
from unet_jax.signals import Interrupted

SMALL = 1024  # elements: an array below is not worth the messages that sharding it costs
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


def create_mesh(devices: list | None = None, *, fsdp: int = 1, spatial: int = 1) -> Mesh:
    """The mesh (data, fsdp, spatial). Auto axes: on Explicit ones per-example slices of a sharded batch fail.

    Devices stand in the order of their processes, so that each process's share of a batch is one piece of it. A
    sample is never split over processes, as one of them reads it.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id)) if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise InputError(f'config.train.fsdp is {fsdp}, which does not divide {len(devices)} devices')
    if spatial < 1 or len(devices) % (fsdp * spatial) or min(jax.local_device_count(), len(devices)) % spatial:
        raise InputError(f'config.train.spatial is {spatial} (and fsdp {fsdp}), which does not divide the '
                         f'{len(devices)} devices, {jax.local_device_count()} of each process')
    return Mesh(np.asarray(devices).reshape(-1, fsdp, spatial), ('data', 'fsdp', 'spatial'),
                axis_types=(AxisType.Auto,) * 3)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Along the samples of a batch."""
    return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def of_batch(mesh: Mesh, *, several: bool = False, spacing: bool = False) -> dict[str, NamedSharding]:
    """Of every array of a batch, as `pipeline.stream` makes it: images and labels along their first axis too.

    several: of batches stacked along a new first axis, which stays whole. spacing: of training batches of volumes.
    """
    before = (None,) if several else ()
    inside = NamedSharding(mesh, PartitionSpec(*before, ('data', 'fsdp'), 'spatial'))
    names = ('index', 'visit', 'valid', *(['spacing'] if spacing else []))
    return {'image': inside, 'label': inside, **dict.fromkeys(
        names, NamedSharding(mesh, PartitionSpec(*before, ('data', 'fsdp'))))}


def of_state(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array of `tree`: its longest axis that divides over 'fsdp', the last of equals; small
    ones and the others whole on every device (ZeRO stage 3, Rajbhandari et al. 2020)."""
    count = mesh.shape['fsdp']

    def one(x) -> NamedSharding:
        fitting = [axis for axis, n in enumerate(x.shape) if n % count == 0]
        if count == 1 or x.size < SMALL or not fitting:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: (x.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, 'fsdp'))

    return jax.tree.map(one, tree)


def put(batch: dict[str, np.ndarray], mesh: Mesh, *, several: bool = False) -> dict[str, jax.Array]:
    """This process's share of a batch, or of several stacked ones -> the global batch, split over the mesh."""
    shardings = of_batch(mesh, several=several, spacing=True)
    return {name: jax.make_array_from_process_local_data(shardings[name], array) for name, array in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises InputError unless every device, or group of devices that share samples, gets the same number of them."""
    count = mesh.size // mesh.shape['spatial']
    if batch_size % count:
        raise InputError(f'{field} is {batch_size}, which does not divide over {count} devices; '
                         f'the next that does is {-(-batch_size // count) * count}')


def check_size(size: tuple[int, ...], mesh: Mesh) -> None:
    """Raises InputError unless the first axis of images of this size can be cut into equal parts."""
    if size[0] % mesh.shape['spatial']:
        raise InputError(f'config.data.size is {size}, whose first axis does not divide into config.train.spatial = '
                         f'{mesh.shape["spatial"]} parts')


def agreement(mesh: Mesh) -> Callable[[bool], bool]:
    """A function that all processes call equally often, with what each wants: whether any of them does.

    With several processes the answer is that of the call before, so that none waits for another.
    """
    if jax.process_count() == 1:
        return bool
    everyone = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    anyone = jax.jit(lambda wishes: wishes.any(), out_shardings=replicated(mesh))
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


def device_memory() -> float:
    """Bytes that a device has: an accelerator's own, or its share of the computer's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if 'bytes_limit' in stats:
        return float(stats['bytes_limit'])
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / jax.local_device_count()
