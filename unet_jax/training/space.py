"""Rotation, zoom, shift and bending of one example, all in one resampling, so that the image is interpolated once.

Volumes are cut out larger than the network's patch (`cut_size`), so that what turns or zooms into view is there; the
network's size is resampled from that. Turns and zooms are in mm: a ball stays a ball whatever the voxels are.
"""
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

EXACT = jax.lax.Precision.HIGHEST  # of products: a GPU's default has 10 bits of mantissa, which moves pixels
BENT = 3  # standard deviations of the bending beyond which it is cut off, so that a margin can hold it


def moves(config: ConfigDict) -> bool:
    """Whether anything in `config` (the field `augment`) needs resampling."""
    return config.spatial_probability > 0 and (
        config.rotation > 0 or tuple(config.scale) != (1, 1) or config.shift > 0 or config.elastic > 0)


def cut_size(config: ConfigDict) -> tuple[int, ...]:
    """How large the patches are that volumes are cut into for training: config.data.size and what the transform needs.

    The room is for the widest turn in one plane, zoomed out half way (by the root of the furthest), and for all of
    shift and bending. nnU-Net 2 takes about the same (one plane, 0.85 of a zoom that goes to 0.7). All planes and the
    furthest zoom together would need 2.45 times the sides of configs/brats3d.py instead of 1.63, so 14.7 times its
    bytes instead of 4.4, for corners that 0.6 % of a turned patch sees. Where a draw does not fit,
    `random_coordinates` zooms in until it does (40 % of them, by 6 % on average), so no background is made up.
    """
    size, fields = tuple(config.data.size), config.augment
    if not moves(fields):
        return size
    zoom = max(1.0, fields.scale[0] ** -0.5)
    margins = [2 * (fields.shift * side + BENT * fields.elastic + 1) for side in size]
    turned = widest_turn(size, math.radians(fields.rotation), tuple(config.data.spacing) or (1.0,) * len(size))
    return tuple(math.ceil(side * zoom + margin) for side, margin in zip(turned, margins, strict=True))


def wire_size(config: ConfigDict) -> tuple[int, ...]:
    """`cut_size`, the first axis rounded up to what config.train.spatial devices can share out. What is seen does not
    depend on it."""
    first, *rest = cut_size(config)
    return (-(-first // config.train.spatial) * config.train.spatial, *rest)


def widest_turn(size: Sequence[int], angle: float, spacing: Sequence[float]) -> list[float]:
    """The sides, in pixels, of the box around all turns of `size` by up to `angle` radians in one plane."""
    length = [side * mm for side, mm in zip(size, spacing, strict=True)]

    def widest(a: int, b: int) -> float:
        theta = min(angle, math.atan2(length[b], length[a]))  # beyond it the box gets smaller again
        return math.cos(theta) * length[a] + math.sin(theta) * length[b]

    others = [[b for b in range(len(size)) if b != a] for a in range(len(size))]
    return [max(widest(a, b) for b in others[a]) / spacing[a] for a in range(len(size))]


def flip(array: jax.Array, mirrored: jax.Array) -> jax.Array:
    """(*spatial, …) mirrored along every spatial axis whose entry in `mirrored` (axes,) is true."""
    for axis in range(mirrored.shape[0]):
        array = jnp.where(mirrored[axis], jnp.flip(array, axis), array)
    return array


def centre(array: jax.Array, size: Sequence[int]) -> jax.Array:
    """(*spatial, …) -> (*size, …) from its middle."""
    before = [(n - side) // 2 for n, side in zip(array.shape[:len(size)], size, strict=True)]
    return array[tuple(slice(start, start + side) for start, side in zip(before, size, strict=True))]


def random_coordinates(
    uniform: jax.Array, key: jax.Array, shape: Sequence[int], config: ConfigDict, *,
    within: Sequence[int] | None = None, cut: Sequence[int] | None = None, spacing: jax.Array | None = None,
    mirrored: jax.Array | None = None,
) -> list[jax.Array]:
    """Where each output pixel comes from: `coordinates` of a random rotation, zoom, shift and elastic bending.

    uniform: (8,) in [0, 1): the chance, the zoom, three shifts, three angles. key: of the elastic displacements.
    shape: of the output. within: of the input, where that is larger; nothing then comes from beyond it, or from
    beyond its middle of the shape `cut`. spacing: (axes,) mm along each axis of a pixel, where they differ.
    mirrored: (axes,) bool, as for `flip`, which takes ten times as long as changing a sign here. Angles and shifts are
    uniform, the zoom log-uniform. The displacements are normal at `elastic_grid` control points along each side, with
    cubic interpolation between them (Ronneberger et al. 2015, section 3.1), and cut off at `BENT` standard deviations.
    """
    axes = len(shape)
    on = (uniform[0] < config.spatial_probability).astype(jnp.float32)
    low, high = (math.log(factor) for factor in config.scale)
    scale = jnp.exp(on * (low + (high - low) * uniform[1]))
    shift = on * config.shift * (2 * uniform[2:2 + axes] - 1) * jnp.asarray(shape)
    angles = on * math.radians(config.rotation) * (2 * uniform[5:5 + axes * (axes - 1) // 2] - 1)
    matrix = rotation_matrix(angles, axes)
    if spacing is not None:
        matrix = matrix * (spacing[None, :] / spacing[:, None])  # pixels to mm, turned, mm to pixels
    if within is not None and tuple(within) != tuple(shape):
        reach = jnp.sum(jnp.abs(matrix) * (np.asarray(shape, np.float32) - 1) / 2, axis=1)
        room = (np.asarray(cut or within, np.float32) - 2) / 2 - BENT * config.elastic - jnp.abs(shift)
        scale = jnp.maximum(scale, on * jnp.max(reach / jnp.maximum(room, 1)))
    if mirrored is not None:
        matrix = matrix * jnp.where(mirrored, -1.0, 1.0)
    displacement = None
    if config.elastic:
        control = on * config.elastic * jax.random.normal(key, (axes, *[config.elastic_grid] * axes))
        displacement = jnp.clip(enlarge(control, shape), -BENT * config.elastic, BENT * config.elastic)
    return coordinates(shape, matrix / scale, shift, displacement, within=within)


def enlarge(control: jax.Array, shape: Sequence[int]) -> jax.Array:
    """(n, *grid) -> (n, *shape), cubic, as `jax.image.resize`, with its sums written out: the order of summation in
    its matrix products depends on how many samples a device holds."""
    for axis, size in enumerate(shape, 1):
        grid = control.shape[axis]
        weights = jax.image.resize(np.eye(grid, dtype=np.float32), (size, grid), 'cubic')
        weights = weights.reshape(size, *[1] * (control.ndim - 1 - axis), grid)
        control = sum(weights[..., k] * jax.lax.slice_in_dim(control, k, k + 1, axis=axis) for k in range(grid))
    return control


def rotation_matrix(angles: jax.Array, axes: int) -> jax.Array:
    """(axes, axes): the product of one rotation in each plane of two axes, (0, 1) first; `angles` in radians.

    2-D takes one angle; 3-D three, which are Euler angles about the axes 2, 1 and 0.
    """
    matrix = jnp.eye(axes)
    for angle, (a, b) in zip(angles, itertools.combinations(range(axes), 2), strict=True):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        plane = jnp.eye(axes).at[(a, a, b, b), (a, b, a, b)].set(jnp.stack([cos, -sin, sin, cos]))
        matrix = jnp.matmul(plane, matrix, precision=EXACT)
    return matrix


def coordinates(
    shape: Sequence[int], matrix: jax.Array, shift: jax.Array, displacement: jax.Array | None = None, *,
    within: Sequence[int] | None = None,
) -> list[jax.Array]:
    """For each axis (*shape) float32: centre + matrix · (pixel - centre) + shift + displacement, in pixels.

    matrix: (axes, axes), from output to input; shift: (axes,); displacement: (axes, *shape). The output lies in the
    middle of an input of the shape `within`.
    """
    before = [(w - n) // 2 for w, n in zip(within or shape, shape, strict=True)]
    middle = [(n - 1) / 2 for n in shape]
    # one broadcast vector per axis: the sum below is then computed inside the gather, without a grid in memory
    offset = [jnp.expand_dims(jnp.arange(n) - c, [b for b in range(len(shape)) if b != a])
              for a, (n, c) in enumerate(zip(shape, middle, strict=True))]
    source = [sum(matrix[a, b] * offset[b] for b in range(len(shape))) + (before[a] + middle[a]) + shift[a]
              for a in range(len(shape))]
    return source if displacement is None else [s + d for s, d in zip(source, displacement, strict=True)]


def resample(image: jax.Array, label: jax.Array, source: Sequence[jax.Array], beyond: jax.Array | float = 0
             ) -> tuple[jax.Array, jax.Array]:
    """Image (*spatial, C) at the coordinates `source` by linear interpolation, label (*spatial) at the nearest pixel.

    Outside the image is `beyond`, a number or (C,), and the label 0. A gather per corner that takes all channels at
    once: 0.5 ms, against 0.7-1.0 ms of jax.scipy.ndimage.map_coordinates (4 channels: 0.9 and 2.6 ms) and 2.7 ms of a
    gather from the flattened image.
    """
    floor = [jnp.floor(s) for s in source]
    above = [s - f for s, f in zip(source, floor, strict=True)]
    first = [f.astype(jnp.int32) for f in floor]
    result = jnp.zeros((*source[0].shape, image.shape[-1]), image.dtype)
    for corner in itertools.product((0, 1), repeat=len(source)):
        weight = math.prod(w if side else 1 - w for w, side in zip(above, corner, strict=True))
        result += weight[..., None] * take(image, [i + side for i, side in zip(first, corner, strict=True)], beyond)
    return result, take(label, [jnp.floor(s + 0.5).astype(jnp.int32) for s in source])


def take(array: jax.Array, index: Sequence[jax.Array], beyond: jax.Array | float = 0) -> jax.Array:
    """(*spatial, …) at the pixels `index`, one array per spatial axis; `beyond` outside."""
    sides = array.shape[:len(index)]
    inside = math.prod((i >= 0) & (i < n) for i, n in zip(index, sides, strict=True))
    clipped = tuple(jnp.clip(i, 0, n - 1) for i, n in zip(index, sides, strict=True))
    values = jnp.asarray(array).at[clipped].get(mode='promise_in_bounds')
    return jnp.where(inside.reshape(inside.shape + (1,) * (values.ndim - inside.ndim)), values, beyond)
