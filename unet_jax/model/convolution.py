"""Convolution in the form that the backend is fast at: accelerators have XLA's own.

Measured on 2 cores of an EPYC with AVX-512, float32, where a matrix product reaches 200 GFLOP/s. In three dimensions
XLA's CPU backend reaches 20 to 35 GFLOP/s, and under 1 in the gradient of the input with stride 2, where two
dimensions reach 130 to 210; so there it is a sum of two-dimensional ones. The gradient of a two-dimensional kernel
reaches 40 to 100 with jax 0.10 (90 to 155 with 0.12), and 75 to 150 as a matrix product of shifted pixels.
"""
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

WORTH = 1e9  # FLOP of a kernel's gradient; below, the matrix product is no faster
FEW = 8  # channels; so many or fewer are convolved at once
CHUNK = 2 << 20  # bytes of shifted pixels at a time: what a core's cache holds


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding, **options) -> jax.Array:
    """What `lax.conv_general_dilated` computes for flax: x (B, *S, C), kernel (*k, C, K) -> (B, *S', K)."""
    if jax.default_backend() == 'cpu' and kernel.shape[0] > 1:
        if x.ndim == 5:
            return by_planes(x, kernel, strides[0])
        return convolve_images(x, kernel, strides[0])
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def by_planes(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x (B, X, Y, Z, C), kernel (k, k, k, C, K), k odd, k // 2 zeros around x -> (B, ⌈X / stride⌉, …, K).

    Each plane of the kernel along x is convolved with the slices of x that it meets, as if they were images. With
    few channels the planes become channels of one convolution: 45 ms instead of 118 for 2×64³×4 to 16, on AVX2.
    """
    side = kernel.shape[0]
    depth = -(-x.shape[1] // stride)
    padded = jnp.pad(x, [(0, 0), (side // 2, side // 2), *[(0, 0)] * 3])
    slices = [padded[:, k:k + stride * (depth - 1) + 1:stride].reshape(-1, *x.shape[2:]) for k in range(side)]
    if x.shape[-1] <= FEW:
        planes = jnp.moveaxis(kernel, 0, 2).reshape(side, side, -1, kernel.shape[-1])
        y = convolve_images(jnp.concatenate(slices, -1), planes, stride)
    else:
        y = sum(convolve_images(images, kernel[k], stride) for k, images in enumerate(slices))
    return y.reshape(x.shape[0], depth, *y.shape[1:])


def convolve_images(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x (B, H, W, C), kernel (k, k, C, K), k odd, k // 2 zeros around x -> (B, ⌈H / stride⌉, ⌈W / stride⌉, K)."""
    flop = 2 * x.shape[0] * x.shape[1] * x.shape[2] * kernel.size
    old = jax.__version_info__ < (0, 11)
    if old and stride == 1 and flop >= WORTH and jax.device_count() == 1:  # several: the chunks would cross them
        return with_fast_gradient(x, kernel)
    return plain(x, kernel, stride)


def plain(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(kernel.shape[0] // 2,) * 2] * 2,
                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


@jax.custom_vjp
def with_fast_gradient(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`plain` with stride 1, whose kernel's gradient is a matrix product."""
    return plain(x, kernel)


def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (of_x,) = jax.vjp(partial(plain, kernel=kernel), x)[1](g)
    return of_x, kernel_gradient(x, g, kernel.shape[0]).astype(kernel.dtype)


with_fast_gradient.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)


def kernel_gradient(x: jax.Array, g: jax.Array, side: int) -> jax.Array:
    """x (B, H, W, C), g (B, H, W, K), the gradient of the output -> (side, side, C, K) float32.

    Chunk by chunk of images and rows: the side² shifts of the array with fewer channels, next to each other, times the
    other array. Shifting x up is shifting g down, so either can be the one that moves.
    """
    if x.shape[-1] < g.shape[-1]:
        return kernel_gradient(g, x, side)[::-1, ::-1].swapaxes(2, 3)
    count, height, width, channels = x.shape
    moved = jnp.pad(g, [(0, 0), *[(side // 2,) * 2] * 2, (0, 0)])
    row = 4 * width * side**2 * g.shape[-1]  # bytes of its shifts
    images = divisor(count, CHUNK // row)
    rows = divisor(height, CHUNK // (row * images))
    down = height // rows
    shifts = [(side - 1 - a, side - 1 - b) for a in range(side) for b in range(side)]

    def add(total, chunk):
        start = (chunk // down * images, chunk % down * rows, 0, 0)
        still = lax.dynamic_slice(x, start, (images, rows, width, channels)).astype(jnp.float32)
        moving = lax.dynamic_slice(moved, start, (images, rows + side - 1, *moved.shape[2:])).astype(jnp.float32)
        shifted = jnp.concatenate([moving[:, a:a + rows, b:b + width] for a, b in shifts], -1)
        return total + still.reshape(-1, channels).T @ shifted.reshape(-1, shifted.shape[-1]), None

    total, _ = lax.scan(add, jnp.zeros((channels, side**2 * g.shape[-1])), jnp.arange(count // images * down))
    return total.reshape(channels, side, side, -1).transpose(1, 2, 0, 3)


def divisor(n: int, limit: int) -> int:
    """The largest divisor of n up to `limit`, at least 1."""
    return max((d for d in range(1, min(n, max(limit, 1)) + 1) if n % d == 0), default=1)
