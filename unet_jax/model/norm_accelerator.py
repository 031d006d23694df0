"""Norm, the sum with a skip, and activation in as few passes over the pixels as can be, for devices whose time goes by
the bytes they move. The same functions as `norm.normalise` and what stands behind it.

Forward: one pass for both sums, which a TPU's compiler makes part of the convolution before, and one that normalises,
adds and activates. Backward: what the activation saw is computed again from the norm's input, which is kept anyway, so
neither it nor its signs are kept: one pass for both sums, one for the gradient.
"""
from functools import partial

import jax
import jax.numpy as jnp

from unet_jax.model.norm import EPSILON, finish, over_groups, over_pixels


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array, skip: jax.Array | None, groups: int | None,
              activation: str | None) -> jax.Array:
    """`norm.and_activate`, with everything between x and the result in float32."""
    return forward(x, scale, bias, skip, groups, activation)[0]


def forward(x: jax.Array, scale: jax.Array, bias: jax.Array, skip: jax.Array | None, groups: int | None,
            activation: str | None):
    wide = x.astype(jnp.float32)
    mean = over_groups(over_pixels(wide), groups)
    if x.dtype == jnp.float32:
        variance = over_groups(over_pixels(jnp.square(wide - mean)), groups)
    else:
        # The digits that this loses where the mean is large are digits that x does not have: of a mean of r deviations
        # bfloat16 has rounded x by r / 512 deviations; the variance is off by r² / 2^24 of itself.
        variance = jnp.maximum(over_groups(over_pixels(jnp.square(wide)), groups) - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    y = finish((wide - mean) * (inverse * scale) + bias, skip, activation).astype(x.dtype)
    return y, (x, scale, bias, skip, mean, inverse)


def backward(groups: int | None, activation: str | None, saved, g: jax.Array):
    """`norm.backward` of the gradient that comes through the activation."""
    x, scale, bias, skip, mean, inverse = saved
    centred = x.astype(jnp.float32) - mean
    before = centred * (inverse * scale) + bias
    wide = jax.vjp(lambda y: finish(y, skip, activation), before)[1](g.astype(jnp.float32))[0]
    of_bias = over_pixels(wide)
    of_scale = over_pixels(wide * centred) * inverse
    along = over_groups(of_scale * scale, groups)
    of_x = inverse * (wide * scale - over_groups(of_bias * scale, groups) - centred * (inverse * along))
    axes, pixels = tuple(range(x.ndim - 1)), x.size // (x.shape[0] * x.shape[-1])
    of_skip = None if skip is None else wide.astype(skip.dtype)
    return of_x.astype(x.dtype), of_scale.sum(axes) * pixels, of_bias.sum(axes) * pixels, of_skip


normalise.defvjp(forward, backward)
