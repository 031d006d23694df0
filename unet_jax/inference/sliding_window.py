"""A whole volume from overlapping windows, weighted towards their centres (Isensee et al. 2021).

The network is compiled once, for a batch of windows, whatever the sizes of the volumes; only the few lines that add
windows up and average them are compiled anew for another size, rounded up to whole windows. Arrays on
the device beside the network: 4 R bytes a voxel of the rounded volume (R regions; 240×240×155 with 128³ windows:
0.2 GB), and 2 C + 4 R bytes a voxel of the windows in two batches, however many windows there are.

Measured on a CPU: 240×240×155×4, R = 3, 128³ windows one by one and a network of 4 channels, which takes 0.2 GB for a
window alone: the process grows by 0.8 to 0.9 GB, all of it within the first windows.
"""
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.inference.predictor import Predictor, settled, to_bits
from unet_jax.pipeline.patches import extract, starts
from unet_jax.pipeline.prepared import Grid, Volume, put_back
from unet_jax.training import sharding

SIGMA = 1 / 8  # of the Gaussian, in window sides


def gaussian(side: int) -> np.ndarray:
    """(side,) float32 weights of a window along an axis, 1 in its middle; a window's weight is their outer product."""
    distance = np.arange(side) - (side - 1) / 2
    return np.exp(-0.5 * (distance / (side * SIGMA)) ** 2).astype(np.float32)


def weight_sum(places: Sequence[int], *, side: int, length: int) -> np.ndarray:
    """(length,) the weights of all windows along an axis, added up. Windows form a grid, so the sum over a volume is
    the outer product of three of these."""
    total = np.zeros(length, np.float32)
    for place in places:
        total[place:place + side] += gaussian(side)
    return total


def outer(vectors: Sequence[jax.Array]) -> jax.Array:
    """Three vectors -> (X, Y, Z, 1), their products."""
    x, y, z = vectors
    return (x[:, None, None] * y[:, None] * z)[..., None]


@partial(jax.jit, donate_argnums=0)
def add(total: jax.Array, found: jax.Array, place: jax.Array, valid: jax.Array) -> jax.Array:
    """`total` (X, Y, Z, R) with the windows `found` (B, *S, R) added at `place` (B, 3), by their Gaussian weights."""
    weight = outer([jnp.asarray(gaussian(side)) for side in found.shape[1:-1]])

    def one(total, window):
        probability, at, counts = window
        at = (*at, 0)
        here = jax.lax.dynamic_slice(total, at, probability.shape)
        return jax.lax.dynamic_update_slice(total, here + weight * counts * probability, at), None

    return jax.lax.scan(one, total, (found, place, valid))[0]


@jax.jit
def mean(total: jax.Array, sums: list[jax.Array]) -> jax.Array:
    """`total` over the sum of the weights; 0 where no window was."""
    return total / jnp.maximum(outer(sums), jnp.finfo(jnp.float32).tiny)


class Layout(NamedTuple):
    """Where windows lie in a volume that is padded, and rounded up, to whole windows."""
    starts: list[list[int]]  # along each axis, in voxels of the volume
    margin: tuple[int, ...]  # voxels before the volume: it lies in the middle of a window that it does not fill
    padded: tuple[int, ...]


def arrange(shape: tuple[int, ...], *, size: tuple[int, ...], overlap: float) -> Layout:
    """The windows of `size` that cover a volume of `shape`."""
    places = [starts(n, side=side, overlap=overlap) for n, side in zip(shape, size, strict=True)]
    return Layout(places, tuple(max(-p[0], 0) for p in places),
                  tuple(-(-n // side) * side for n, side in zip(shape, size, strict=True)))


def windows(image: np.ndarray, size: tuple[int, int, int], layout: Layout, *, batch_size: int, keep: np.ndarray
            ) -> Iterator[dict[str, np.ndarray]]:
    """Batches of image (B, *size, C), place (B, 3) in the padded volume, valid (B,); the last is filled up with 0.

    `keep` (C,) is 0 for modalities to go without, which become 0 as missing ones are.
    """
    grid = list(product(*layout.starts))
    for first in range(0, len(grid), batch_size):
        part = grid[first:first + batch_size]
        arrays = {'image': np.stack([extract(image, start=start, size=size) * keep for start in part]),
                  'place': np.array(part, np.int32) + np.array(layout.margin, np.int32),
                  'valid': np.ones(len(part), np.float32)}
        missing = batch_size - len(part)
        yield {k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for k, v in arrays.items()}


def middle(image: np.ndarray, size: tuple[int, int, int], *, count: int, keep: np.ndarray) -> np.ndarray:
    """(count, *size, C): windows in and about the middle of a volume, where there is more than air to compare by."""
    centre = [(n - side) // 2 for n, side in zip(image.shape, size, strict=False)]
    return np.stack([extract(image, start=[c + (k + 1) // 2 * (-1) ** k * (axis == k % 3) for axis, c in
                                           enumerate(centre)], size=size) * keep for k in range(count)])


def accumulate(predictor: Predictor, image: np.ndarray, layout: Layout, keep: np.ndarray
               ) -> tuple[jax.Array, list[np.ndarray]]:
    """(Σ weight · probability (*padded, R), Σ weight along each axis) of image (X, Y, Z, C).

    The parameters of several checkpoints count alike.
    """
    experiment, mesh = predictor.experiment, predictor.mesh
    everywhere, size = sharding.replicated(mesh), experiment.settings.size
    if predictor.settle:
        shown = middle(image, size, count=experiment.config.evaluation.batch_size, keep=keep)
        predictor = settled(predictor, sharding.put({'image': shown}, mesh))
    total = jax.device_put(jnp.zeros((*layout.padded, len(experiment.regions)), jnp.float32), everywhere)
    batch_size = experiment.config.evaluation.batch_size
    before = ()
    for batch in windows(image, size, layout, batch_size=batch_size, keep=keep):
        place, valid = jax.device_put((batch['place'], batch['valid']), everywhere)
        window = sharding.put({'image': batch['image']}, mesh)
        for params in predictor.params:
            found = jax.device_put(predictor.program(params, window), everywhere)
            total = add(total, found, place, valid)
            jax.block_until_ready(before)  # one batch waits at the device, not all of them
            before = found
    sums = [weight_sum([start + before for start in axis], side=side, length=length) for axis, before, side, length
            in zip(layout.starts, layout.margin, size, layout.padded, strict=True)]
    return total, [sums[0] * len(predictor.params), *sums[1:]]


class Blend(NamedTuple):
    """The windows of a prepared case, added up on the device."""
    total: jax.Array  # (*padded, R) Σ weight · probability
    sums: list[np.ndarray]  # Σ weight along each axis
    inside: tuple[slice, ...]  # where the prepared volume lies in it
    grid: Grid


def blend(predictor: Predictor, volume: Volume, *, keep: Sequence[bool] | None = None) -> Blend:
    """The network's answer to a prepared case. `keep` says which modalities to look at; all if None."""
    experiment, (shape, grid) = predictor.experiment, (volume.label.shape, volume.grid)
    keep = np.ones(experiment.settings.channels, np.float16) if keep is None else np.asarray(keep, np.float16)
    layout = arrange(shape, size=experiment.settings.size, overlap=experiment.config.evaluation.overlap)
    total, sums = accumulate(predictor, volume.image, layout, keep)
    inside = tuple(slice(before, before + n) for before, n in zip(layout.margin, shape, strict=True))
    return Blend(total, sums, inside, grid)


def probability(found: Blend) -> np.ndarray:
    """(X, Y, Z, R) float32 in the file's own voxels; 0 where the network did not look."""
    return put_back(np.asarray(mean(found.total, found.sums))[found.inside], found.grid)


def segment(predictor: Predictor, volume: Volume, *, keep: Sequence[bool] | None = None, voxel: float = 1.0
            ) -> np.ndarray:
    """Bit sets (X, Y, Z) of a prepared case, in the file's own voxels of `voxel` mm³; see `blend`.

    Probabilities are interpolated back, not masks.
    """
    return to_bits(predictor, probability(blend(predictor, volume, keep=keep)), voxel=voxel)
