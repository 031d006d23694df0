"""How the training step is started: one or several at a time, with images from the host or from the devices' memory.

Both are for small networks on accelerators, where starting programs and copying batches would take the time; neither
changes what a step computes.
"""
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from unet_jax.errors import InputError
from unet_jax.pipeline import slices
from unet_jax.pipeline.cache import Samples
from unet_jax.pipeline.stream import Batch
from unet_jax.training import sharding

log = logging.getLogger('unet_jax')


def compiled(step: Callable, config: ConfigDict, mesh: Mesh, placed, data: dict[str, jax.Array] | None, *,
             more: tuple[str, ...] = ()) -> Callable:
    """The compiled (state, batch) -> (state, metrics) of `config.steps_per_dispatch` training steps; state donated.

    placed: the shardings of the state. data: what `resident` gave. more: as in `sharding.of_batch`. Of n > 1 steps
    batch and metrics have a first axis of n. On CPUs they run one by one: inside a loop XLA's convolutions there take
    more than ten times as long.
    """
    several = config.steps_per_dispatch > 1
    if several and one_by_one(mesh):
        single = program(step, mesh, placed, data, several=False, more=more)
        return lambda state, batch: in_turn(single, state, batch)
    return program(step, mesh, placed, data, several=several, more=more)


def one_by_one(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == 'cpu'


def program(step: Callable, mesh: Mesh, placed, data: dict[str, jax.Array] | None, *, several: bool,
            more: tuple[str, ...] = ()) -> Callable:
    """One compiled program, of one step or of several."""
    def advance(state, batch, data=None):
        def one(state, batch):
            return step(state, gather(data, batch, mesh) if data else batch)

        return jax.lax.scan(one, state, batch) if several else one(state, batch)

    split = sharding.of_batch(mesh, several=several, more=more)
    out = placed, sharding.replicated(mesh)
    if not data:
        return jax.jit(advance, donate_argnums=0, in_shardings=(placed, split), out_shardings=out)
    indices = {name: split[name] for name in ('index', 'visit', 'valid')}
    held = {name: of_data(mesh)[name] for name in data}
    made = jax.jit(advance, donate_argnums=0, in_shardings=(placed, indices, held), out_shardings=out)
    return lambda state, batch: made(state, batch, data)


def in_turn(single: Callable, state, batches: dict[str, jax.Array]) -> tuple:
    """What a program of several steps gives, by one of one step."""
    found = []
    for k in range(len(batches['index'])):
        state, metrics = single(state, {name: array[k] for name, array in batches.items()})
        found.append(metrics)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *found)


def gather(data: dict[str, jax.Array], batch: dict[str, jax.Array], mesh: Mesh) -> dict[str, jax.Array]:
    """`batch` with the images and labels at its indices, of slices with their neighbours and scale."""
    split, index = sharding.of_batch(mesh, more=('scale',)), batch['index']
    if 'near' in data:
        image, label = slices.take(data['image'], data['label'], data['near'][index])
        found = {'image': image, 'label': label, **({'scale': data['scale'][index]} if 'scale' in data else {})}
    else:
        found = {name: array[index] for name, array in data.items()}
    return {**batch, **{name: jax.lax.with_sharding_constraint(array, split[name]) for name, array in found.items()}}


def fits(samples: Samples | None, config: ConfigDict) -> bool:
    """Whether the images of `samples` are asked for, and can be, in the devices' memory: at most half of it."""
    if not config.resident or not isinstance(samples, Samples) or jax.process_count() > 1:
        return False
    return samples.image.nbytes + samples.label.nbytes <= sharding.device_memory() * jax.device_count() / 2


def resident(samples: Samples | None, config: ConfigDict, mesh: Mesh) -> dict[str, jax.Array] | None:
    """{'image' (N', H, W, C), 'label' (N', H, W)} shared out over the devices, or None where they stay on the host.

    N' is N filled up to divide over the mesh. Of slices with neighbours or a scale also 'near' and 'scale', whole.
    """
    if not fits(samples, config):
        if config.resident and samples is not None:
            log.warning('config.train.resident: %s, so batches come from the host as usual',
                        'with several processes it is not built' if jax.process_count() > 1 else
                        'the images do not fit into half of the devices\' memory' if isinstance(samples, Samples) else
                        'patches are cut out of volumes on the host')
        return None
    missing = -len(samples.image) % mesh.size
    shared = {name: jax.device_put(np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)), of_data(mesh)[name])
              for name, array in (('image', samples.image), ('label', samples.label))}
    whole = {'near': samples.near, 'scale': samples.scale}
    return shared | {name: jax.device_put(array, of_data(mesh)[name]) for name, array in whole.items()
                     if array is not None}


def of_data(mesh: Mesh) -> dict[str, NamedSharding]:
    """Of everything that `resident` may hold: images and labels along the samples, over all devices."""
    shared = dict.fromkeys(('image', 'label'), NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names)))
    return shared | dict.fromkeys(('near', 'scale'), sharding.replicated(mesh))


def stack(batches: list[Batch]) -> Batch:
    """One batch as it is; several along a new first axis."""
    if len(batches) == 1:
        return batches[0]
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def check_dispatch(config: ConfigDict, start: int) -> None:
    """Raises InputError unless everything that happens between steps falls between programs."""
    several = config.steps_per_dispatch
    counts = {f'config.train.{name}': config[name]
              for name in ('steps', 'log_every', 'evaluate_every', 'checkpoint_every')}
    odd = {name: n for name, n in {**counts, 'the step to go on from': start}.items() if n % several}
    if odd:
        raise InputError(f'config.train.steps_per_dispatch is {several}, which must divide '
                         + ' and '.join(f'{name} = {n}' for name, n in odd.items()))
