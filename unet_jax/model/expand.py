"""Pixels and channels into each other, and the dense layer to the channels of a block of pixels, which is a transposed
convolution of that stride and kernel."""
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def space_to_depth(x: jax.Array, block: Sequence[int]) -> jax.Array:
    """(B, *S, C) -> (B, *S / block, Πblock · C), `block` being its side along each axis; the position in the block is
    the slow part of the new channels."""
    d = x.ndim - 2
    split = [size for s, side in zip(x.shape[1:-1], block, strict=True) for size in (s // side, side)]
    order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1)
    y = x.reshape(x.shape[0], *split, x.shape[-1]).transpose(order)
    return y.reshape(x.shape[0], *split[::2], -1)


def depth_to_space(x: jax.Array, block: Sequence[int]) -> jax.Array:
    """(B, *S, Πblock · C) -> (B, *S · block, C): the inverse of `space_to_depth`."""
    d = x.ndim - 2
    order = (0, *(axis for k in range(d) for axis in (1 + k, 1 + d + k)), 2 * d + 1)
    y = x.reshape(*x.shape[:-1], *block, x.shape[-1] // math.prod(block)).transpose(order)
    return y.reshape(x.shape[0], *(s * side for s, side in zip(x.shape[1:-1], block, strict=True)), -1)


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, block: Sequence[int]) -> jax.Array:
    """x (B, *S, C), kernel (C, Πblock · K), bias (Πblock · K,) -> (B, *S · block, K): a product, rearranged."""
    y = x @ kernel
    return depth_to_space(y if bias is None else y + bias, block)


def dilated(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, block: Sequence[int]) -> jax.Array:
    """`dense` as a convolution of x with zeros between its pixels, after which nothing is left to rearrange.

    A TPU's compiler makes up-sampling's sum with a bias, and the norm's sums, part of it. The bias is the kernel of
    one more channel, of ones: its gradient as a sum of its own took 6 % of a step with a stem of 2 (v5e, estimated).
    """
    if max(block) == 1:
        return dense(x, kernel, bias, block)
    if bias is not None:
        x = jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], -1)
        kernel = jnp.concatenate([kernel, bias[None].astype(kernel.dtype)])
    d = x.ndim - 2
    # a transposed convolution is a convolution with the kernel mirrored
    mirrored = jnp.flip(kernel.reshape(kernel.shape[0], *block, -1), range(1, d + 1))
    axes = 'N' + 'HWD'[:d] + 'C', 'I' + 'HWD'[:d] + 'O', 'N' + 'HWD'[:d] + 'C'
    return lax.conv_general_dilated(x, mirrored, (1,) * d, [(side - 1, side - 1) for side in block],
                                    lhs_dilation=tuple(block), dimension_numbers=axes)
