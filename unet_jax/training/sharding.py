"""One mesh over all devices of all processes; batches are split over it, the state is replicated."""
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unet_jax.errors import InputError


def create_mesh(devices: list | None = None) -> Mesh:
    """A one-dimensional mesh 'data'. Auto axes: on Explicit ones per-example slices of a sharded batch fail."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec('data'))


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch -> the global batch, split over the mesh along its first axis."""
    sharding = split(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
    """Raises InputError unless every device gets the same number of samples."""
    if batch_size % mesh.size:
        raise InputError(f'{field} is {batch_size}, which does not divide over {mesh.size} devices; '
                         f'the next that does is {-(-batch_size // mesh.size) * mesh.size}')
