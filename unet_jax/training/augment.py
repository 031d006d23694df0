"""Augmentation of one example, on the device, inside the compiled train step.

`augment` is vmapped by its caller, with one key per visit of a sample. What a sample becomes depends on its key alone,
not on the batch or the device it is in: bit for bit on CPUs (tested on 1 to 8 devices), else up to rounding (under
1e-5 of images of unit variance). An option that is 0 in the config is not compiled. One that chance turns off runs
with the parameters of the identity, because under vmap a `lax.cond` computes both branches anyway.

The order is nnU-Net's (Isensee et al. 2021), except that the low resolution comes directly after
the blur, so that both are one matrix per axis. Times below are of 16 images of 128x128 on 2 CPU cores.
"""
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from unet_jax.errors import InputError

# Without it XLA gathers, or draws the noise, again for every later use of the image: 9 ms instead of 6 for `augment`.
fused_up_to_here = jax.lax.optimization_barrier
EXACT = jax.lax.Precision.HIGHEST  # of products: a GPU's default has 10 bits of mantissa, which moves pixels


def augment(
    key: jax.Array, image: jax.Array, label: jax.Array, config: ConfigDict,
) -> tuple[jax.Array, jax.Array]:
    """One example, changed at random as `config` (the field `augment` of the configs) says.

    image: (*spatial, C) float32; label: (*spatial) bit sets, any unsigned integer; two or three spatial axes.
    Returns both with the shapes and types they came with. Raises InputError for a config that cannot be followed.
    """
    check(config, label.ndim)
    scalar_key, noise_key, elastic_key = jax.random.split(key, 3)
    # every scalar in one draw, a row per transform: a draw for each takes longer, to compile above all
    flips, spatial, *intensity = jax.random.uniform(scalar_key, (8, 8))
    if any(config.flip):
        mirrored = (flips[:label.ndim] < 0.5) & jnp.asarray(config.flip)
        image, label = flip(image, mirrored), flip(label, mirrored)
    if moves(config):
        source = random_coordinates(spatial, elastic_key, label.shape, config)
        image, label = fused_up_to_here(resample(image, label, source))
    if config.intensity_probability > 0:
        image = intensity_transforms(image, intensity, noise_key, config)
    if config.modality_dropout:
        chance = jax.random.uniform(jax.random.fold_in(key, 1), image.shape[-1:])
        image = drop_modalities(image, chance, config.modality_dropout)
    return image, label


def intensity_transforms(
    image: jax.Array, uniforms: jax.Array, noise_key: jax.Array, config: ConfigDict,
) -> jax.Array:
    """The image (*spatial, C) with those transforms of grey values that chance, `uniforms` (6, 8), turns on."""
    probability = config.intensity_probability
    for_noise, for_blur, for_resolution, for_brightness, for_contrast, for_gamma = uniforms
    if config.noise:
        image = fused_up_to_here(noise(noise_key, image, draw(for_noise, probability, 0, config.noise, off=0)))
    if config.blur or config.low_resolution > 1:
        sigma = draw(for_blur, probability, 0.5, 0.5 + config.blur, off=0) if config.blur else 0
        factor = draw(for_resolution, probability, 1, config.low_resolution, off=1) if config.low_resolution > 1 else 1
        image = smooth(image, sigma, factor)
    if config.brightness:
        image = image * draw(for_brightness, probability, 1 - config.brightness, 1 + config.brightness, off=1)
    if config.contrast:
        image = contrast(image, draw(for_contrast, probability, 1 - config.contrast, 1 + config.contrast, off=1))
    if config.gamma:
        limit = math.log1p(config.gamma)
        image = gamma(image, jnp.exp(draw(for_gamma, probability, -limit, limit, off=0)))
    return image


def check(config: ConfigDict, axes: int) -> None:
    """Raises InputError where `config` does not fit `axes` spatial axes or holds a range that is none."""
    if len(config.flip) != axes:
        raise InputError(f'config.augment.flip = {config.flip} has {len(config.flip)} axes; the images have {axes}')
    for name in ('spatial_probability', 'intensity_probability', 'modality_dropout'):
        if not 0 <= config[name] <= 1:
            raise InputError(f'config.augment.{name} = {config[name]}; a probability is from 0 to 1')
    low, high = config.scale
    if not 0 < low <= high:
        raise InputError(f'config.augment.scale = {config.scale}; give (lowest, highest), both above 0')
    for name in ('rotation', 'shift', 'elastic', 'brightness', 'contrast', 'gamma', 'noise', 'blur', 'low_resolution'):
        if not 0 <= config[name] < math.inf:
            raise InputError(f'config.augment.{name} = {config[name]}; give 0 (off) or more')
    if config.elastic and config.elastic_grid < 2:
        raise InputError(f'config.augment.elastic_grid = {config.elastic_grid}; give 2 control points or more')


def moves(config: ConfigDict) -> bool:
    """Whether anything needs resampling."""
    return config.spatial_probability > 0 and (
        config.rotation > 0 or tuple(config.scale) != (1, 1) or config.shift > 0 or config.elastic > 0)


def draw(uniform: jax.Array, probability: float, low: float, high: float, *, off: float) -> jax.Array:
    """() float32: uniform in [low, high] with `probability`, otherwise `off`. uniform: 2 or more numbers in [0, 1)."""
    return jnp.where(uniform[0] < probability, low + (high - low) * uniform[1], off)


# Space: all of it in one resampling, so that the image is interpolated once.


def flip(array: jax.Array, mirrored: jax.Array) -> jax.Array:
    """(*spatial, …) mirrored along every spatial axis whose entry in `mirrored` (axes,) is true."""
    for axis in range(mirrored.shape[0]):
        array = jnp.where(mirrored[axis], jnp.flip(array, axis), array)
    return array


def random_coordinates(
    uniform: jax.Array, key: jax.Array, shape: Sequence[int], config: ConfigDict,
) -> list[jax.Array]:
    """Where each output pixel comes from: `coordinates` of a random rotation, zoom, shift and elastic bending.

    uniform: (8,) in [0, 1): the chance, the zoom, three shifts, three angles. key: of the elastic displacements.
    Angles and shifts are uniform, the zoom log-uniform. The displacements are normal at `elastic_grid` control points
    along each side, with cubic interpolation between them (Ronneberger et al. 2015, section 3.1).
    """
    axes = len(shape)
    on = (uniform[0] < config.spatial_probability).astype(jnp.float32)
    low, high = (math.log(factor) for factor in config.scale)
    scale = jnp.exp(on * (low + (high - low) * uniform[1]))
    shift = on * config.shift * (2 * uniform[2:2 + axes] - 1) * jnp.asarray(shape)
    angles = on * math.radians(config.rotation) * (2 * uniform[5:5 + axes * (axes - 1) // 2] - 1)
    displacement = None
    if config.elastic:
        control = on * config.elastic * jax.random.normal(key, (axes, *[config.elastic_grid] * axes))
        displacement = enlarge(control, shape)
    return coordinates(shape, rotation_matrix(angles, axes) / scale, shift, displacement)


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
    for angle, (a, b) in zip(angles, itertools.combinations(range(axes), 2)):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        plane = jnp.eye(axes).at[(a, a, b, b), (a, b, a, b)].set(jnp.stack([cos, -sin, sin, cos]))
        matrix = jnp.matmul(plane, matrix, precision=EXACT)
    return matrix


def coordinates(
    shape: Sequence[int], matrix: jax.Array, shift: jax.Array, displacement: jax.Array | None = None,
) -> list[jax.Array]:
    """For each axis (*shape) float32: centre + matrix · (pixel - centre) + shift + displacement, in pixels.

    matrix: (axes, axes), from output to input; shift: (axes,); displacement: (axes, *shape).
    """
    centre = [(n - 1) / 2 for n in shape]
    # one broadcast vector per axis: the sum below is then computed inside the gather, without a grid in memory
    offset = [jnp.expand_dims(jnp.arange(n) - c, [b for b in range(len(shape)) if b != a])
              for a, (n, c) in enumerate(zip(shape, centre))]
    source = [sum(matrix[a, b] * offset[b] for b in range(len(shape))) + centre[a] + shift[a]
              for a in range(len(shape))]
    return source if displacement is None else [s + d for s, d in zip(source, displacement)]


def resample(image: jax.Array, label: jax.Array, source: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Image (*spatial, C) at the coordinates `source` by linear interpolation, label (*spatial) at the nearest pixel.

    Outside both are 0. A gather per corner that takes all channels at once: 0.5 ms, against 0.7-1.0 ms of
    jax.scipy.ndimage.map_coordinates (4 channels: 0.9 and 2.6 ms) and 2.7 ms of a gather from the flattened image.
    """
    floor = [jnp.floor(s) for s in source]
    above = [s - f for s, f in zip(source, floor)]
    first = [f.astype(jnp.int32) for f in floor]
    result = jnp.zeros((*source[0].shape, image.shape[-1]), image.dtype)
    for corner in itertools.product((0, 1), repeat=len(source)):
        weight = math.prod(w if side else 1 - w for w, side in zip(above, corner))
        result += weight[..., None] * take(image, [i + side for i, side in zip(first, corner)])
    return result, take(label, [jnp.floor(s + 0.5).astype(jnp.int32) for s in source])


def take(array: jax.Array, index: Sequence[jax.Array]) -> jax.Array:
    """(*spatial, …) at the pixels `index`, one array per spatial axis; 0 outside."""
    inside = math.prod((i >= 0) & (i < n) for i, n in zip(index, array.shape))
    clipped = tuple(jnp.clip(i, 0, n - 1) for i, n in zip(index, array.shape))
    values = array.at[clipped].get(mode='promise_in_bounds')
    return jnp.where(inside.reshape(inside.shape + (1,) * (values.ndim - inside.ndim)), values, 0)


# Intensity: every function takes (*spatial, C) float32 and treats each channel by itself.


def over_space(reduce, image: jax.Array) -> jax.Array:
    """`reduce` of each channel: (1, …, 1, C)."""
    return reduce(image, axis=tuple(range(image.ndim - 1)), keepdims=True)


def noise(key: jax.Array, image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Normal noise of `sigma` standard deviations of the channel, added. Threefry and erf_inv: 1.2 ms."""
    return image + sigma * over_space(jnp.std, image) * jax.random.normal(key, image.shape)


def smooth(image: jax.Array, sigma: jax.Array | float, factor: jax.Array | float) -> jax.Array:
    """Gaussian blur of `sigma` pixels, then down-sampling by `factor` (nearest) and back up (linear).

    One product with `smoothing_matrix` per axis: 1.5 ms (two volumes of 64x64x64x4: 10 ms). Shifted sums for the blur
    (0.3 and 20 ms) and indexing for the resolution (1.7 and 10 ms) take longer together.
    """
    shape = image.shape
    for axis in range(image.ndim - 1):
        matrix = smoothing_matrix(shape[axis], sigma, factor)
        # (before, axis, after): without a transposition, a quarter less time for all of `augment` with 4 channels
        image = image.reshape(math.prod(shape[:axis]), shape[axis], -1)
        image = jnp.einsum('ij,bja->bia', matrix, image, precision=EXACT)
    return image.reshape(shape)


def smoothing_matrix(size: int, sigma: jax.Array | float, factor: jax.Array | float) -> jax.Array:
    """(size, size): output pixel from input pixels; every row sums to 1. sigma 0 and factor 1 give the identity.

    The coarse grid has round(size / factor) pixels, whose centres divide the side evenly; each is the blurred value of
    the nearest pixel (as in SimulateLowResolutionTransform of batchgenerators). The blur's kernel is cut at the border
    and normalised there.
    """
    pixels = jnp.arange(size, dtype=jnp.float32)
    coarse = jnp.maximum(jnp.round(size / factor), 1)
    place = jnp.clip((pixels + 0.5) * (coarse / size) - 0.5, 0, coarse - 1)
    before = jnp.floor(place)
    above = (place - before)[:, None]
    return (1 - above) * gaussian_rows(before, coarse, size, sigma) + above * gaussian_rows(
        before + 1, coarse, size, sigma)


def gaussian_rows(coarse_pixel: jax.Array, coarse: jax.Array, size: int, sigma: jax.Array | float) -> jax.Array:
    """(size, size): per row the Gaussian weights about the pixel nearest to the centre of `coarse_pixel` (size,)."""
    centre = jnp.clip(jnp.floor((coarse_pixel + 0.5) * (size / coarse)), 0, size - 1)
    distance = centre[:, None] - jnp.arange(size)
    # sigma 0.01 is the identity: exp(-1 / 0.0002) is 0 in float32. Factors, not divisors: whether XLA divides or
    # multiplies by an inverse depends on the rest of the program, and thus would on the number of devices.
    weights = jnp.exp(distance ** 2 * (-0.5 / jnp.maximum(sigma, 0.01) ** 2))
    return weights * (1 / weights.sum(1, keepdims=True))


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Differences from the channel's mean times `factor`; written so that factor 1 changes no bit."""
    return image + (factor - 1) * (image - over_space(jnp.mean, image))


def drop_modalities(image: jax.Array, chance: jax.Array, probability: float) -> jax.Array:
    """The image (*spatial, C) with 0, as a missing modality has it, in the channels whose `chance` (C,) is below
    `probability`; the one with the highest chance always stays."""
    kept = (chance >= probability) | (chance == chance.max())
    return jnp.where(kept, image, 0)


def gamma(image: jax.Array, exponent: jax.Array) -> jax.Array:
    """The channel, scaled to 0..1 by its minimum and maximum, to the power of `exponent`, and scaled back."""
    low, high = over_space(jnp.min, image), over_space(jnp.max, image)
    unit = (image - low) / jnp.maximum(high - low, 1e-8)
    return jnp.where(exponent == 1, image, unit ** exponent * (high - low) + low)
