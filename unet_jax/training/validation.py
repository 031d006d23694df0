"""The score of a state on the validation subset, by which the best checkpoint is chosen: masks made as evaluation
makes them, every voxel counted once, cases that lack a region left out of its mean."""
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from unet_jax.annotations import labels
from unet_jax.experiment import Experiment
from unet_jax.pipeline import stream
from unet_jax.pipeline.cache import Samples
from unet_jax.pipeline.patches import Tiles
from unet_jax.training import sharding

log = logging.getLogger('unet_jax')


def count(reference: jax.Array, prediction: jax.Array, *, owned: jax.Array, region_bits: tuple[int, ...]) -> jax.Array:
    """(B, R, 3) true positives, predicted and true voxels of bit sets (B, *S), of the voxels from owned[b, axis, 0]
    up to owned[b, axis, 1] along each axis; the others are another sample's."""
    inside = jnp.ones((), bool)
    for axis in range(owned.shape[1]):
        low, high = owned[:, axis, 0], owned[:, axis, 1]
        place = jnp.arange(reference.shape[axis + 1])
        mine = (place >= low[:, None]) & (place < high[:, None])  # (B, side)
        inside = inside & jnp.expand_dims(mine, [a + 1 for a in range(owned.shape[1] + 1) if a != axis])
    true, found = (labels.region_masks(bits, region_bits) & inside for bits in (reference, prediction))
    axes = tuple(range(1, reference.ndim))
    return jnp.stack([(found & true).sum(axes), found.sum(axes), true.sum(axes)], -1)


def choose_by(results: dict[str, float | None]) -> float:
    """The mean over regions of Dice over the cases that have the region; a region that no case has is left out.

    Where no case has any, which is said aloud, the mean over all cases: 1 for a network that finds nothing.
    """
    known = [value for name, value in results.items() if name.startswith('dice/') and value is not None]
    if known:
        return float(np.mean(known))
    if not jax.process_index():
        log.warning('no validation case has any of the regions, so the best checkpoint is the one that finds least; '
                    'name another subset: config.train.validate')
    return float(np.mean([value for name, value in results.items() if name.startswith('dice_all/')]))


def validate(experiment: Experiment, overlap: Callable, mesh: Mesh, params, samples: Samples | Tiles, *,
             stop: Callable[[], bool] = lambda: False) -> dict[str, float | None] | None:
    """{'dice/<region>': mean over the cases that have the region, None of none; 'dice_all/<region>': over all cases,
    of which one without the region on either side counts 1}, at the network's size, of the masks that are scored.

    Slices of a case, and the tiles of a volume, are added up before its Dice is taken. Each process reads its share of
    every batch; the counts come to all of them. None as soon as `stop()`.
    """
    totals: dict[str, np.ndarray] = {}
    for batch in stream.once(samples, batch_size=experiment.config.evaluation.batch_size,
                             process=jax.process_index(), processes=jax.process_count(),
                             timeout=experiment.config.train.input_timeout):
        if stop():
            return None
        counts, index, valid = jax.device_get(overlap(
            params, sharding.put(batch, mesh), put_owned(samples, batch, mesh)))
        for k in np.flatnonzero(valid):
            case = samples.rows.case.iloc[index[k]]
            totals[case] = totals.get(case, 0) + counts[k].astype(np.int64)
    both, found, true = np.moveaxis(np.stack(list(totals.values())), -1, 0)  # each (cases, R)
    dice = np.where(found + true == 0, 1.0, 2 * both / np.maximum(found + true, 1))
    have = [dice[true[:, r] > 0, r] for r in range(len(experiment.names))]
    return {f'dice/{name}': float(values.mean()) if len(values) else None
            for name, values in zip(experiment.names, have, strict=True)} | {
        f'dice_all/{name}': float(value) for name, value in zip(experiment.names, dice.mean(0), strict=True)}


def put_owned(samples: Samples | Tiles, batch: stream.Batch, mesh: Mesh) -> jax.Array:
    """(B, axes, 2) the voxels of each sample that count: those that a tile owns; all of an image."""
    sides = batch['label'].shape[1:]
    owned = np.broadcast_to(np.array([(0, side) for side in sides], np.int32), (len(batch['index']), len(sides), 2))
    if isinstance(samples, Tiles):
        owned = samples.owned(batch['index'])
    return jax.make_array_from_process_local_data(sharding.split(mesh), np.ascontiguousarray(owned))
