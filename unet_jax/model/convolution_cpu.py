"""Convolution and matrix product in the forms that CPUs are fast at; the same functions up to rounding.

Measured on 2 cores of an EPYC with AVX-512, float32, where a matrix product reaches 200 GFLOP/s. In three dimensions
XLA's CPU backend reaches 20 to 35 GFLOP/s, and under 1 in the gradient of the input with stride 2, where two
dimensions reach 130 to 210; so there it is a sum of two-dimensional ones. The gradient of a two-dimensional kernel
reaches 40 to 100 with jax 0.10 (90 to 155 with 0.12), and 75 to 150 as a matrix product of shifted pixels. Kernels of
side 3 need a third fewer multiplications by Winograd's algorithm (benchmarks/NOTES.md).
"""
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from unet_jax.model.expand import depth_to_space

WORTH = 3e8  # FLOP of a kernel's gradient; below, the matrix product is no faster
FEW = 8  # channels; so many or fewer are convolved at once
WIDE = 64  # channels; images with fewer gain nothing from `winograd`: what it adds costs more memory than it saves
CHUNK = 2 << 20  # bytes of shifted pixels at a time: what a core's cache holds


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding, *, images: Callable, **options
             ) -> jax.Array:
    """What `lax.conv_general_dilated` computes for flax: x (B, *S, C), kernel (*k, C, K), k // 2 zeros around x ->
    (B, *S', K). `images` is the convolution in two dimensions: `on_one` or `plain`."""
    if max(kernel.shape[:-2]) == 1:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if x.ndim == 4:
        return images(x, kernel, strides)
    if max(strides) == 1 and x.shape[-1] > FEW and suits_winograd(x, kernel):
        return winograd(x, kernel, partial(convolve_stack, images=images))
    return by_planes(x, kernel, strides, images)


def suits_winograd(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether `winograd` can stand in: it knows side 3 along the first axis alone, and its differences cost bfloat16
    too many digits."""
    return kernel.shape[0] == 3 and x.dtype == jnp.float32


def winograd(x: jax.Array, kernel: jax.Array, convolve_rest) -> jax.Array:
    """x (B, X, …, C), kernel (3, …, C, K) -> (B, X, …, K): Winograd's F(2, 3) along the first axis (Lavin & Gray 2016,
    eqs. 5-6), with one zero around x.

    Slices 2j and 2j + 1 of the result are sums of four products, not six; a product is `convolve_rest` of slices (B,
    X / 2, …, C) with a part of the kernel (…, C, K), its convolution along the remaining axes.
    """
    length = x.shape[1]
    x = jnp.pad(x, [(0, 0), (0, length % 2), *[(0, 0)] * (x.ndim - 2)])
    pairs = x.reshape(x.shape[0], -1, 2, *x.shape[2:])
    even, odd = pairs[:, :, 0], pairs[:, :, 1]
    before = jnp.concatenate([-odd[:, :1], odd[:, :-1] - odd[:, 1:]], 1)
    after = jnp.concatenate([even[:, :-1] - even[:, 1:], even[:, -1:]], 1)
    first, middle, last = kernel
    a = convolve_rest(before, first)
    b = convolve_rest(even + odd, (first + middle + last) / 2)
    c = convolve_rest(odd - even, (first - middle + last) / 2)
    d = convolve_rest(after, last)
    y = jnp.stack([a + b + c, b - c - d], 2)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length]


def convolve_stack(x: jax.Array, kernel: jax.Array, images: Callable) -> jax.Array:
    """x (B, X, Y, Z, C), kernel (k, k, C, K) -> (B, X, Y, Z, K): every slice as an image."""
    return images(x.reshape(-1, *x.shape[2:]), kernel, (1, 1)).reshape(*x.shape[:-1], -1)


def by_planes(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], images: Callable) -> jax.Array:
    """x (B, X, Y, Z, C), kernel (*k, C, K), k odd, k // 2 zeros around x -> (B, ⌈X / stride⌉, …, K), strides (3,).

    Each plane of the kernel along x is convolved with the slices of x that it meets, as if they were images. With
    few channels the planes become channels of one convolution: 45 ms instead of 118 for 2×64³×4 to 16, on AVX2.
    """
    side, (stride, *others) = kernel.shape[0], strides
    depth = -(-x.shape[1] // stride)
    padded = jnp.pad(x, [(0, 0), (side // 2, side // 2), *[(0, 0)] * 3])
    slices = [padded[:, k:k + stride * (depth - 1) + 1:stride].reshape(-1, *x.shape[2:]) for k in range(side)]
    if x.shape[-1] <= FEW:
        planes = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
        y = images(jnp.concatenate(slices, -1), planes, others)
    else:
        y = sum(images(one, kernel[k], others) for k, one in enumerate(slices))
    return y.reshape(x.shape[0], depth, *y.shape[1:])


def on_one(x: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> jax.Array:
    """`plain` for a program of one device: of several, pairs of rows and chunks of images would cross from one to
    another."""
    return plain(x, kernel, strides) if max(strides) > 1 else alone(x, kernel)


def by_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`plain` with stride 1, by `winograd` where channels and pixels are many: the kernel is transformed as well.

    Forward 60²×256 to 128: 26 → 20 ms, 30²×256: 15.6 → 10; but 240²×32: 15 → 34 (batch 2, AVX2).
    """
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    if suits_winograd(x, kernel) and min(kernel.shape[2:]) >= WIDE and pixels >= 4 * max(kernel.shape[2:]):
        return winograd(x, kernel, convolve_rows)
    return plain(x, kernel)


def convolve_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (B, H, W, C), kernel (k, C, K) -> (B, H, W, K): every row by itself."""
    y = lax.conv_general_dilated(x.reshape(-1, *x.shape[2:]), kernel, (1,), [(kernel.shape[0] // 2,) * 2],
                                 dimension_numbers=('NWC', 'WIO', 'NWC'))
    return y.reshape(*x.shape[:-1], -1)


def plain(x: jax.Array, kernel: jax.Array, strides: Sequence[int] = (1, 1)) -> jax.Array:
    """x (B, H, W, C), kernel (k, l, C, K), both odd, half of them zeros around x -> (B, ⌈H / stride⌉, ⌈W / stride⌉,
    K)."""
    return lax.conv_general_dilated(x, kernel, strides, [(side // 2,) * 2 for side in kernel.shape[:2]],
                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


@jax.custom_vjp
def alone(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`plain` with stride 1, forward and backward in the fastest form for one device."""
    return by_rows(x, kernel)


def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    of_x = by_rows(g, kernel[::-1, ::-1].swapaxes(2, 3))
    square = kernel.shape[0] == kernel.shape[1]
    if jax.__version_info__ < (0, 11) and square and 2 * x[..., 0].size * kernel.size >= WORTH:
        return of_x, kernel_gradient(x, g, kernel.shape[0]).astype(kernel.dtype)
    return of_x, jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](g)[0]


alone.defvjp(lambda x, kernel: (by_rows(x, kernel), (x, kernel)), backward)


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


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, block: Sequence[int]) -> jax.Array:
    """`expand.dense` by `product`."""
    y = product(x, kernel)
    return depth_to_space(y if bias is None else y + bias, block)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (…, C), kernel (C, K) -> (…, K): the matrix product.

    Its kernel's gradient has x on the left, so that XLA transposes x: jax's own has the output's gradient there, and
    where that was rearranged, as behind `depth_to_space`, moves it value by value (90 ms of a step of 2.1 s in 3-D).
    """
    return x @ kernel


def product_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    pixels = tuple(range(x.ndim - 1))
    return g @ kernel.T, lax.dot_general(x, g, ((pixels, pixels), ((), ())))


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), product_backward)


def divisor(n: int, limit: int) -> int:
    """The largest divisor of n up to `limit`, at least 1."""
    return max((d for d in range(1, min(n, max(limit, 1)) + 1) if n % d == 0), default=1)
