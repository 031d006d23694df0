"""Convolution in the form that the backend is fast at: accelerators and two dimensions have XLA's own.

In three dimensions XLA's CPU backend reaches 10 to 25 GFLOP/s, and under 1 in the gradient of the input with stride 2,
where two dimensions reach 70 (2 cores of an EPYC, float32). There it is a sum of two-dimensional ones: 30 to 65.
"""
import jax
import jax.numpy as jnp
from jax import lax


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding, **options) -> jax.Array:
    """What `lax.conv_general_dilated` computes for flax: x (B, *S, C), kernel (*k, C, K) -> (B, *S', K)."""
    if x.ndim == 5 and kernel.shape[0] > 1 and jax.default_backend() == 'cpu':
        return by_planes(x, kernel, strides[0])
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def by_planes(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x (B, X, Y, Z, C), kernel (k, k, k, C, K), k odd, k // 2 zeros around x -> (B, ⌈X / stride⌉, …, K).

    Each plane of the kernel along x is convolved with the slices of x that it meets, as if they were images.
    """
    side = kernel.shape[0]
    depth = -(-x.shape[1] // stride)
    padded = jnp.pad(x, [(0, 0), (side // 2, side // 2), *[(0, 0)] * 3])
    slices = [padded[:, k:k + stride * (depth - 1) + 1:stride].reshape(-1, *x.shape[2:]) for k in range(side)]
    y = sum(lax.conv_general_dilated(images, kernel[k], (stride, stride), [(side // 2, side // 2)] * 2,
                                     dimension_numbers=('NHWC', 'HWIO', 'NHWC')) for k, images in enumerate(slices))
    return y.reshape(x.shape[0], depth, *y.shape[1:])
