"""The layers of the U-Net, for two and three dimensions alike: the number of axes is read off the input.

Shapes: x (B, *S, C) with S the spatial shape, two or three axes, channels last.
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unet_jax.model.convolution import XLA, Form
from unet_jax.model.expand import space_to_depth
from unet_jax.model.norm import finish


def pool(x: jax.Array, reduce: Callable) -> jax.Array:
    """(B, *S, C) -> (B, *S / 2, C): `reduce` (jnp.max, jnp.mean) of every block of side 2."""
    split = [size for s in x.shape[1:-1] for size in (s // 2, 2)]
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
    kernel: int = 3
    stride: int = 1
    activate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None = None) -> jax.Array:
        d = x.ndim - 2
        # padding kernel // 2 on both sides, also for stride 2: output pixel i is centred on input pixel 2i
        x = nn.Conv(self.features, (self.kernel,) * d, self.stride, padding=self.kernel // 2, dtype=self.dtype,
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
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = (self.features, self.norm, self.groups, self.activation, self.dtype, self.form)
        return Convolution(*shared, stride=self.stride, name='first')(x)


class Residual(nn.Module):
    """Two convolutions and a skip around them (He et al. 2016, fig. 2).

    Where the shape changes, the skip averages blocks of side 2 and goes through a 1×1 convolution and norm; a
    strided 1×1 convolution would look at one pixel in 2^d (He et al. 2019, fig. 2c).
    """
    features: int
    norm: str
    groups: int
    activation: str
    dtype: jnp.dtype
    form: Form
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = (self.features, self.norm, self.groups, self.activation, self.dtype, self.form)
        y = Convolution(*shared, stride=self.stride, name='first')(x)
        if self.stride == 2:
            x = pool(x, jnp.mean)
        if x.shape != y.shape:
            x = Convolution(*shared, kernel=1, activate=False, name='skip')(x)
        return Convolution(*shared, name='second')(y, x)


class UpSample(nn.Module):
    """Twice the size: a transposed convolution with stride 2 and kernel 2, in the form that is fast (`Form.expand`).

    The bias belongs to the output channel, not to the position in the block.
    """
    features: int
    dtype: jnp.dtype
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def enlarge(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
            return self.form.expand(x, kernel, None, 2)

        y = nn.Dense(2 ** (x.ndim - 2) * self.features, use_bias=False, dtype=self.dtype, name='dense',
                     kernel_init=spread(), dot_general=enlarge)(x)
        bias = self.param('bias', initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(self.dtype)


class Head(nn.Module):
    """Float32 logits (B, *S · block, K) of x (B, *S, C). Small weights: training starts at probability 1/2."""
    out_channels: int
    block: int
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = self.block ** (x.ndim - 2) * self.out_channels
        kernel = self.param('kernel', initializers.constant(0.01), (x.shape[-1], width), jnp.float32)
        bias = self.param('bias', initializers.zeros, (width,), jnp.float32)
        return self.form.expand(x.astype(jnp.float32), kernel, bias, self.block)


class AttentionGate(nn.Module):
    """Attention gate on a skip connection (Oktay et al. 2018, eqs. 1-2 and fig. 2).

    The skip x (B, *S, C), brought to the grid of the coarser features g (B, *S / 2, D) by a convolution with stride
    and kernel 2, is added to g; ReLU, one channel, sigmoid; the coefficients are interpolated linearly to x's grid
    and multiply it.
    """
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, g: jax.Array) -> jax.Array:
        inner = max(x.shape[-1] // 2, 1)
        theta = nn.Dense(inner, use_bias=False, dtype=self.dtype, kernel_init=spread('relu'), name='skip')
        phi = nn.Dense(inner, dtype=self.dtype, kernel_init=spread('relu'), name='gate')
        psi = nn.Dense(1, dtype=jnp.float32, kernel_init=spread(), name='psi')
        alpha = nn.sigmoid(psi(nn.relu(theta(space_to_depth(x, 2)) + phi(g))))
        return x * jax.image.resize(alpha, (*x.shape[:-1], 1), 'linear').astype(x.dtype)
