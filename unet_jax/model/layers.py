"""The layers of the U-Net, for two and three dimensions alike: the number of axes is read off the input.

Shapes: x (B, *S, C) with S the spatial shape, two or three axes, channels last.
"""
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unet_jax.model.convolution import XLA, Form
from unet_jax.model.expand import space_to_depth
from unet_jax.model.norm import finish


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
    """`norm.and_activate` with a learnt scale and offset per channel."""
    groups: int | None  # None: every channel for itself
    activation: str | None = None
    form: Form = XLA

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param('scale', initializers.ones, (channels,), jnp.float32)
        bias = self.param('bias', initializers.zeros, (channels,), jnp.float32)
        return self.form.normalise(x, scale, bias, skip, self.groups, self.activation)


class Convolution(nn.Module):
    """Convolution, norm, plus a skip, activation. With a norm there is no bias: the norm's offset does its work."""
    features: int
    norm: str
    groups: int
    activation: str
    dtype: jnp.dtype
    form: Form
    kernel: tuple[int, ...]  # its side along each axis
    stride: tuple[int, ...]
    activate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None = None) -> jax.Array:
        # padding kernel // 2 on both sides, also for stride 2: output pixel i is centred on input pixel 2i
        padding = [(side // 2, side // 2) for side in self.kernel]
        x = nn.Conv(self.features, self.kernel, self.stride, padding=padding, dtype=self.dtype,
                    use_bias=self.norm == 'none', kernel_init=spread(self.activation), name='conv',
                    conv_general_dilated=self.form.convolve)(x)
        activation = self.activation if self.activate else None
        if self.norm == 'none':
            return finish(x, skip, activation)
        return Normalise(self.groups if self.norm == 'group' else None, activation, self.form, name='norm')(x, skip)


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
        return Convolution(*shared, self.kernel, self.stride, name='first')(x)


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
        once = (1,) * len(self.stride)
        y = Convolution(*shared, self.kernel, self.stride, name='first')(x)
        if max(self.stride) > 1:
            x = pool(x, jnp.mean, self.stride)
        if x.shape != y.shape:
            x = Convolution(*shared, once, once, activate=False, name='skip')(x)
        return Convolution(*shared, self.kernel, once, name='second')(y, x)


class UpSample(nn.Module):
    """`block` times the size along each axis: a transposed convolution with stride and kernel `block`, in the form
    that is fast (`Form.expand`). The bias belongs to the output channel, not to the position in the block.
    """
    features: int
    dtype: jnp.dtype
    form: Form
    block: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def enlarge(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
            return self.form.expand(x, kernel, None, self.block)

        y = nn.Dense(math.prod(self.block) * self.features, use_bias=False, dtype=self.dtype, name='dense',
                     kernel_init=spread(), dot_general=enlarge)(x)
        bias = self.param('bias', initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(self.dtype)


class Head(nn.Module):
    """Float32 logits (B, *S · block, K) of x (B, *S, C). Small weights: training starts at probability 1/2."""
    out_channels: int
    form: Form
    block: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = math.prod(self.block) * self.out_channels
        kernel = self.param('kernel', initializers.constant(0.01), (x.shape[-1], width), jnp.float32)
        bias = self.param('bias', initializers.zeros, (width,), jnp.float32)
        return self.form.expand(x.astype(jnp.float32), kernel, bias, self.block)


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
