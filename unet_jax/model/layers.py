"""The layers of the U-Net, for two and three dimensions alike: the number of axes is read off the input.

Shapes: x (B, *S, C) with S the spatial shape, two or three axes, channels last.
"""
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unet_jax.model.convolution import Form
from unet_jax.model.norm import normalise


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


def pool(x: jax.Array, reduce: Callable, block: Sequence[int]) -> jax.Array:
    """(B, *S, C) -> (B, *S / block, C): `reduce` (jnp.max, jnp.mean) of every block with these sides."""
    split = [size for s, side in zip(x.shape[1:-1], block, strict=True) for size in (s // side, side)]
    return reduce(x.reshape(x.shape[0], *split, x.shape[-1]), axis=tuple(range(2, len(split) + 1, 2)))


def spread(activation: str | None = None) -> initializers.Initializer:
    """Kernels filled with their standard deviation, which `unet.init` multiplies by standard normal numbers.

    It keeps the variance through a layer and the activation behind it (He et al. 2015, eq. 15, where the fan-in is
    every axis but the last), or with None through a layer alone.
    """
    gain = {None: 1.0, 'leaky_relu': 2 / (1 + 0.01**2)}.get(activation, 2.0)
    return lambda key, shape, dtype=jnp.float32: jnp.full(shape, math.sqrt(gain / math.prod(shape[:-1])), dtype)


class Normalise(nn.Module):
    """`norm.normalise` with a learnt scale and offset per channel."""
    groups: int | None  # None: every channel for itself

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param('scale', initializers.ones, (channels,), jnp.float32)
        bias = self.param('bias', initializers.zeros, (channels,), jnp.float32)
        return normalise(x, scale, bias, self.groups)


class Convolution(nn.Module):
    """Convolution and norm. With a norm there is no bias: the norm's offset does its work."""
    features: int
    norm: str
    groups: int
    activation: str
    dtype: jnp.dtype
    form: Form
    kernel: tuple[int, ...]  # its side along each axis
    stride: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # padding kernel // 2 on both sides, also for stride 2: output pixel i is centred on input pixel 2i
        padding = [(side // 2, side // 2) for side in self.kernel]
        x = nn.Conv(self.features, self.kernel, self.stride, padding=padding, dtype=self.dtype,
                    use_bias=self.norm == 'none', kernel_init=spread(self.activation), name='conv',
                    conv_general_dilated=self.form.convolve)(x)
        if self.norm == 'none':
            return x
        return Normalise(self.groups if self.norm == 'group' else None, name='norm')(x)


class Plain(nn.Module):
    """Convolution, norm, activation."""
    features: int
    norm: str
    groups: int
    activation: str
    dtype: jnp.dtype
    form: Form
    kernel: tuple[int, ...]
    stride: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = (self.features, self.norm, self.groups, self.activation, self.dtype, self.form)
        return getattr(jax.nn, self.activation)(Convolution(*shared, self.kernel, self.stride, name='first')(x))


class Residual(nn.Module):
    """Two convolutions and a skip around them (He et al. 2016, fig. 2).

    Where the shape changes, the skip averages blocks of the stride's sides and goes through a 1×1 convolution and
    norm; a strided 1×1 convolution would look at one pixel of each block (He et al. 2019, fig. 2c).
    """
    features: int
    norm: str
    groups: int
    activation: str
    dtype: jnp.dtype
    form: Form
    kernel: tuple[int, ...]
    stride: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = (self.features, self.norm, self.groups, self.activation, self.dtype, self.form)
        act = getattr(jax.nn, self.activation)
        once = (1,) * len(self.stride)
        y = act(Convolution(*shared, self.kernel, self.stride, name='first')(x))
        y = Convolution(*shared, self.kernel, once, name='second')(y)
        if max(self.stride) > 1:
            x = pool(x, jnp.mean, self.stride)
        if x.shape != y.shape:
            x = Convolution(*shared, once, once, name='skip')(x)
        return act(x + y)


class UpSample(nn.Module):
    """`block` times the size along each axis: a dense layer to Πblock · features channels, and depth to space.

    The same function as a transposed convolution with stride and kernel `block`, and faster on XLA's CPU backend. The
    bias belongs to the output channel, not to the position in the block.
    """
    features: int
    dtype: jnp.dtype
    form: Form
    block: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(math.prod(self.block) * self.features, use_bias=False, dtype=self.dtype, name='dense',
                     kernel_init=spread(), dot_general=self.form.multiply)(x)
        bias = self.param('bias', initializers.zeros, (self.features,), jnp.float32)
        return depth_to_space(y, self.block) + bias.astype(self.dtype)


class AttentionGate(nn.Module):
    """Attention gate on a skip connection (Oktay et al. 2018, eqs. 1-2 and fig. 2).

    The skip x (B, *S, C), brought to the grid of the coarser features g (B, *S / block, D) by a convolution with
    stride and kernel `block`, is added to g; ReLU, one channel, sigmoid; the coefficients are interpolated linearly
    to x's grid and multiply it.
    """
    dtype: jnp.dtype
    block: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, g: jax.Array) -> jax.Array:
        inner = max(x.shape[-1] // 2, 1)
        theta = nn.Dense(inner, use_bias=False, dtype=self.dtype, kernel_init=spread('relu'), name='skip')
        phi = nn.Dense(inner, dtype=self.dtype, kernel_init=spread('relu'), name='gate')
        psi = nn.Dense(1, dtype=jnp.float32, kernel_init=spread(), name='psi')
        alpha = nn.sigmoid(psi(nn.relu(theta(space_to_depth(x, self.block)) + phi(g))))
        return x * jax.image.resize(alpha, (*x.shape[:-1], 1), 'linear').astype(x.dtype)
