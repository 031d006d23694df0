"""Augmentation of one example, on the device, inside the compiled train step, after the image was standardised.

`augment` is vmapped by its caller, with one key per visit of a sample. What a sample becomes depends on its key alone,
not on the batch or the device it is in: bit for bit on CPUs (tested on 1 to 8 devices), else up to rounding (under
1e-5 of images of unit variance). An option that is 0 in the config is not compiled. One that chance turns off runs
with the parameters of the identity, because under vmap a `lax.cond` computes both branches anyway.

The order is nnU-Net's (Isensee et al. 2021), except that the low resolution comes directly after
the blur, so that both are one matrix per axis. Times below are of 16 images of 128x128 on 2 CPU cores.

Volumes and HDF5 slices are 0 in every channel outside the brain. That stays 0: grey values change inside alone, by
the means, deviations and ranges of the inside. Pictures have no such outside; there `black` tells what black became.
"""
import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unet_jax.training import space
from unet_jax.training.space import EXACT

# Without it XLA gathers, or draws the noise, again for every later use of the image: 9 ms instead of 6 for `augment`.
fused_up_to_here = jax.lax.optimization_barrier


def augment(
    key: jax.Array, image: jax.Array, label: jax.Array, config: ConfigDict, *, size: tuple[int, ...] | None = None,
    cut: tuple[int, ...] | None = None, spacing: jax.Array | None = None, black: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One example, changed at random as `config` (the field `augment` of the configs) says.

    image: (*spatial, C) float32, standardised; label: (*spatial) bit sets, any unsigned integer; two or three spatial
    axes. size: of the result, cut from the middle or resampled; that of the image if None. cut: what of a larger image
    may come into view, all if None. spacing: (axes,) mm of a pixel, equal ones if None. black: (C,) what black is in a
    picture; None where 0 is outside the brain. Returns image and label (*size) with the types they came with.
    """
    size = label.shape if size is None else size
    scalar_key, noise_key, elastic_key = jax.random.split(key, 3)
    # every scalar in one draw, a row per transform: a draw for each takes longer, to compile above all
    flips, spatial, *intensity = jax.random.uniform(scalar_key, (8, 8))
    mirrored = (flips[:label.ndim] < 0.5) & jnp.asarray(config.flip)
    if space.moves(config):
        source = space.random_coordinates(spatial, elastic_key, size, config, within=label.shape, cut=cut,
                                          spacing=spacing, mirrored=mirrored)
        image, label = fused_up_to_here(space.resample(image, label, source, 0 if black is None else black))
    else:
        image, label = (space.flip(space.centre(array, size), mirrored) for array in (image, label))
    if config.intensity_probability > 0:
        image = intensity_transforms(image, intensity, noise_key, config, black)
    if config.modality_dropout:
        chance = jax.random.uniform(jax.random.fold_in(key, 1), image.shape[-1:])
        image = drop_modalities(image, chance, config.modality_dropout)
    return image, label


def intensity_transforms(image: jax.Array, uniforms: jax.Array, noise_key: jax.Array, config: ConfigDict,
                         black: jax.Array | None) -> jax.Array:
    """The image (*spatial, C) with those transforms of grey values that chance, `uniforms` (6, 8), turns on."""
    probability = config.intensity_probability
    for_noise, for_blur, for_resolution, for_brightness, for_contrast, for_gamma = uniforms
    inside = jnp.any(image != 0, -1, keepdims=True) if black is None else jnp.ones((*image.shape[:-1], 1), bool)
    if config.noise:
        sigma = draw(for_noise, probability, low=0, high=config.noise, off=0)
        image = fused_up_to_here(noise(noise_key, image, inside, sigma))
    if config.blur or config.low_resolution > 1:
        sigma = draw(for_blur, probability, low=0.5, high=0.5 + config.blur, off=0) if config.blur else 0
        coarsest = max(1, config.low_resolution)
        factor = draw(for_resolution, probability, low=1, high=coarsest, off=1) if coarsest > 1 else 1
        image = jnp.where(inside, smooth(image, sigma=sigma, factor=factor), image)
    if config.brightness:
        factor = draw(for_brightness, probability, low=1 - config.brightness, high=1 + config.brightness, off=1)
        image = brightness(image, 0 if black is None else black, factor)
    if config.contrast:
        factor = draw(for_contrast, probability, low=1 - config.contrast, high=1 + config.contrast, off=1)
        image = contrast(image, inside, factor)
    if config.gamma:
        limit = math.log1p(config.gamma)
        image = gamma(image, inside, jnp.exp(draw(for_gamma, probability, low=-limit, high=limit, off=0)))
    return image


def draw(uniform: jax.Array, probability: float, *, low: float, high: float, off: float) -> jax.Array:
    """() float32: uniform in [low, high] with `probability`, otherwise `off`. uniform: 2 or more numbers in [0, 1)."""
    return jnp.where(uniform[0] < probability, low + (high - low) * uniform[1], off)


# Every function below takes (*spatial, C) float32 and treats each channel by itself. inside: (*spatial, 1) bool.


def over_space(reduce, image: jax.Array) -> jax.Array:
    """`reduce` of each channel: (1, …, 1, C)."""
    return reduce(image, axis=tuple(range(image.ndim - 1)), keepdims=True)


def mean_and_deviation(image: jax.Array, inside: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each channel over the inside, (1, …, 1, C) both; 0 where there is none."""
    share = 1 / jnp.maximum(over_space(jnp.sum, inside.astype(jnp.float32)), 1)
    mean = over_space(jnp.sum, jnp.where(inside, image, 0)) * share
    return mean, jnp.sqrt(over_space(jnp.sum, jnp.where(inside, jnp.square(image - mean), 0)) * share)


def range_of(image: jax.Array, inside: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest value of each channel inside, (1, …, 1, C) both; `mean`, which lies between, if none is."""
    filled = jnp.where(inside, image, mean)
    return over_space(jnp.min, filled), over_space(jnp.max, filled)


def noise(key: jax.Array, image: jax.Array, inside: jax.Array, sigma: jax.Array) -> jax.Array:
    """Normal noise of `sigma` standard deviations of the channel, added inside. Threefry and erf_inv: 1.2 ms."""
    added = sigma * mean_and_deviation(image, inside)[1] * jax.random.normal(key, image.shape)
    return image + jnp.where(inside, added, 0)


def smooth(image: jax.Array, *, sigma: jax.Array | float, factor: jax.Array | float) -> jax.Array:
    """Gaussian blur of `sigma` pixels, then down-sampling by `factor` (nearest) and back up (linear).

    One product with `smoothing_matrix` per axis: 1.5 ms (two volumes of 64x64x64x4: 10 ms). Shifted sums for the blur
    (0.3 and 20 ms) and indexing for the resolution (1.7 and 10 ms) take longer together.
    """
    shape = image.shape
    for axis in range(image.ndim - 1):
        matrix = smoothing_matrix(shape[axis], sigma=sigma, factor=factor)
        # (before, axis, after): without a transposition, a quarter less time for all of `augment` with 4 channels
        image = image.reshape(math.prod(shape[:axis]), shape[axis], -1)
        image = jnp.einsum('ij,bja->bia', matrix, image, precision=EXACT)
    return image.reshape(shape)


def smoothing_matrix(size: int, *, sigma: jax.Array | float, factor: jax.Array | float) -> jax.Array:
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


def brightness(image: jax.Array, black: jax.Array | float, factor: jax.Array) -> jax.Array:
    """Distances from `black` times `factor`, so that black, or what is outside the brain, stays what it is."""
    return image + (factor - 1) * (image - black)


def contrast(image: jax.Array, inside: jax.Array, factor: jax.Array) -> jax.Array:
    """Differences from the channel's mean times `factor`, kept within the channel's range as nnU-Net does: without
    that, `factor` would be a brightness. Written so that factor 1 changes no bit."""
    mean, _ = mean_and_deviation(image, inside)
    low, high = range_of(image, inside, mean)
    return jnp.where(inside, jnp.clip(image + (factor - 1) * (image - mean), low, high), image)


def drop_modalities(image: jax.Array, chance: jax.Array, probability: float) -> jax.Array:
    """The image (*spatial, C) with 0, as a missing modality has it, in the channels whose `chance` (C,) is below
    `probability`; the one with the highest chance always stays."""
    kept = (chance >= probability) | (chance == chance.max())
    return jnp.where(kept, image, 0)


def gamma(image: jax.Array, inside: jax.Array, exponent: jax.Array) -> jax.Array:
    """The channel, scaled to 0..1 by its range, to the power of `exponent`, and back to its mean and deviation
    (`retain_stats` of batchgenerators)."""
    mean, deviation = mean_and_deviation(image, inside)
    low, high = range_of(image, inside, mean)
    unit = jnp.where(inside, (image - low) * (1 / jnp.maximum(high - low, 1e-8)), 0)
    bent = unit ** exponent
    mean_bent, deviation_bent = mean_and_deviation(bent, inside)
    changed = (bent - mean_bent) * (deviation / jnp.maximum(deviation_bent, 1e-8)) + mean
    return jnp.where(inside & (exponent != 1), changed, image)
