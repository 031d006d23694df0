"""One mesh over all devices of all processes; batches are split over it, the state is replicated or sharded.

The axes are 'data', 'fsdp' and 'spatial': a batch is split over the first two, a large parameter over 'fsdp' only, so
that with fsdp = 1 every device holds the whole state, and the first axis of every image (the height, or a volume's
first) over 'spatial', for volumes whose activations do not fit into one device. The compiler exchanges the borders.
"""
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unet_jax.errors import InputError

SMALL = 1024  # elements: an array below is not worth the messages that sharding it costs


def create_mesh(devices: list | None = None, *, fsdp: int = 1, spatial: int = 1) -> Mesh:
    """The mesh (data, fsdp, spatial). Auto axes: on Explicit ones per-example slices of a sharded batch fail.

    Devices stand in the order of their processes, so that each process's share of a batch is one piece of it. A
    sample is never split over processes, as one of them reads it.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id)) if devices is None else devices
    local = sum(device.process_index == devices[0].process_index for device in devices)
    if fsdp < 1 or len(devices) % fsdp:
        raise InputError(f'config.train.fsdp is {fsdp}, which does not divide {len(devices)} devices')
    if spatial < 1 or len(devices) % (fsdp * spatial) or local % spatial:
        raise InputError(f'config.train.spatial is {spatial} (and fsdp {fsdp}), which does not divide the '
                         f'{len(devices)} devices, {local} of each process')
    return Mesh(np.asarray(devices).reshape(-1, fsdp, spatial), ('data', 'fsdp', 'spatial'),
                axis_types=(AxisType.Auto,) * 3)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Along the samples of a batch."""
    return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def of_batch(mesh: Mesh, *, several: bool = False, more: tuple[str, ...] = ()) -> dict[str, NamedSharding]:
    """Of every array of a batch, as `pipeline.stream` makes it: images and labels along their first axis too.

    several: of batches stacked along a new first axis, which stays whole. more: what batches of some data hold
    besides, 'spacing' of volumes and 'scale' of slices that are standardised by patient.
    """
    before = (None,) if several else ()
    inside = NamedSharding(mesh, PartitionSpec(*before, ('data', 'fsdp'), 'spatial'))
    split = NamedSharding(mesh, PartitionSpec(*before, ('data', 'fsdp')))
    return {'image': inside, 'label': inside,
            **dict.fromkeys(('index', 'visit', 'valid', *more), split)}


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
    shardings = of_batch(mesh, several=several, more=('spacing', 'scale'))
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


def device_memory() -> float:
    """Bytes that a device has: an accelerator's own, or its share of the computer's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if 'bytes_limit' in stats:
        return float(stats['bytes_limit'])
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / jax.local_device_count()
