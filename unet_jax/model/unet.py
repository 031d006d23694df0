"""The U-Net (Ronneberger et al. 2015; Çiçek et al. 2016), one code for two and three dimensions.

    module = build(config.model, out_channels=3)  # networks.build where another may be chosen
    params = init(module, key, spatial=(240, 240), channels=4)
    logits = apply(module, params, image)  # (B, *S, C) float32 -> (B, *S, K) float32
"""
import dataclasses
import itertools
import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from unet_jax.errors import InputError
from unet_jax.model.convolution import XLA, Form, form
from unet_jax.model.expand import space_to_depth
from unet_jax.model.layers import AttentionGate, Head, Plain, Residual, UpSample, pool

ACTIVATIONS = ('celu', 'elu', 'gelu', 'hard_swish', 'leaky_relu', 'mish', 'relu', 'relu6', 'selu', 'silu', 'softplus',
               'swish', 'tanh')
CHOICES = {'block': ('plain', 'residual'), 'norm': ('instance', 'group', 'none'), 'activation': ACTIVATIONS,
           'downsample': ('conv', 'max'), 'dtype': ('auto', 'float32', 'bfloat16')}

Params = Any  # a tree of float32 arrays


class UNet(nn.Module):
    """Level l has features[l] channels and the input's size over `shrinkage`[l]: stem · 2^l, unless `strides` says
    otherwise. The fields are those of config.model, and the form of its operations, which changes no result."""
    out_channels: int
    features: tuple[int, ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    block: str
    norm: str
    groups: int
    activation: str
    downsample: str
    stem: int
    attention_gates: bool
    deep_supervision: int
    dtype: str
    remat: bool
    strides: tuple[tuple[int, ...], ...] = ()
    kernels: tuple[tuple[int, ...], ...] = ()
    form: Form = XLA

    @nn.compact
    def __call__(self, image: jax.Array, deep: bool) -> list[jax.Array]:
        """(B, *S, C) -> logits, finest first: (B, *S, K), and if `deep` those of coarser levels, `coarsening` times
        smaller: (B, *⌈S / 2⌉, K), (B, *⌈S / 4⌉, K) …"""
        if image.ndim not in (4, 5):
            raise InputError(f'an image of shape {image.shape}; expected (batch, height, width, channels) or (batch, '
                             'depth, height, width, channels)')
        dtype, last = jnp.dtype(type_on(self.dtype)), len(self.features) - 1
        spatial = image.shape[1:-1]
        first, *strides = steps(self, len(spatial))
        x = space_to_depth(pad(image, shrinkage(self, len(spatial))[-1]), first).astype(dtype)

        skips, once = [], (1,) * len(spatial)
        for level in range(last + 1):
            if level > 0:
                skips.append(x)
                x = pool(x, jnp.max, strides[level - 1]) if self.downsample == 'max' else x
            stride = strides[level - 1] if level > 0 and self.downsample == 'conv' else once
            x = self.blocks(x, f'encoder_{level}', level, self.encoder_blocks[level], stride)

        logits = [self.head(x, 0, spatial)] if last == 0 else []
        for level in reversed(range(last)):
            skip = skips[level]
            if self.attention_gates:
                skip = AttentionGate(dtype, strides[level], name=f'gate_{level}')(skip, x)
            x = UpSample(self.features[level], dtype, self.form, strides[level], name=f'up_{level}')(x)
            x = self.blocks(jnp.concatenate([skip, x], -1), f'decoder_{level}', level, self.decoder_blocks[level],
                            once)
            if level == 0 or (deep and level <= self.deep_supervision):
                logits.append(self.head(x, level, spatial))
        return logits[::-1]

    def blocks(self, x: jax.Array, name: str, level: int, count: int, stride: tuple[int, ...]) -> jax.Array:
        """`count` blocks one after the other, the first with `stride`."""
        kernel = tuple(self.kernels[level]) if self.kernels else (3,) * len(stride)
        block = Residual if self.block == 'residual' else Plain
        block = nn.remat(block) if self.remat else block
        once = (1,) * len(stride)
        block = partial(block, self.features[level], self.norm, self.groups, self.activation,
                        jnp.dtype(type_on(self.dtype)), self.form, kernel)
        x = block(stride, name=f'{name}_block_0')(x)
        names = [f'{name}_block_{k}' for k in range(1, count)]
        if self.form.scanned and len(names) > 1 and not self.is_initializing():
            return scan(block(once, parent=None), [self.variables['params'][name] for name in names], x)
        for name in names:
            x = block(once, name=name)(x)
        return x

    def head(self, x: jax.Array, level: int, spatial: tuple[int, ...]) -> jax.Array:
        """Float32 logits (B, *⌈spatial / coarsening⌉, K)."""
        first, factors = steps(self, len(spatial))[0], coarsening(self, len(spatial))[level]
        y = Head(self.out_channels, self.form, first, name=f'head_{level}')(x)
        return y[(slice(None), *(slice(-(-s // factor)) for s, factor in zip(spatial, factors, strict=True)))]


def scan(block: nn.Module, params: Sequence[Params], x: jax.Array) -> jax.Array:
    """x through `block` with each of `params`, one after the other, as a loop: the block is compiled once."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    return jax.lax.scan(lambda x, one: (block.apply({'params': one}, x), None), x, stacked)[0]


def steps(model, axes: int) -> tuple[tuple[int, ...], ...]:
    """How many times smaller each level is than what comes before it, along each axis; of the first that is the image.

    `model`: a UNet, or config.model.
    """
    given = model.strides or ((1,) * axes, *((2,) * axes,) * (len(model.features) - 1))
    return tuple(tuple(n * (model.stem if level == 0 else 1) for n in sides) for level, sides in enumerate(given))


def shrinkage(model, axes: int) -> list[tuple[int, ...]]:
    """How many times smaller each level is than the image, along each axis."""
    return list(itertools.accumulate(steps(model, axes), lambda a, b: tuple(map(operator.mul, a, b))))


def coarsening(model, axes: int) -> list[tuple[int, ...]]:
    """How many times smaller the logits of each level are than the image: each level's, but for the stem, which the
    heads undo."""
    whole = (1,) * axes, *steps(model, axes)[1:]
    return list(itertools.accumulate(whole, lambda a, b: tuple(map(operator.mul, a, b))))


def pad(image: jax.Array, multiple: Sequence[int]) -> jax.Array:
    """(B, *S, C) -> (B, *⌈S⌉, C): every side up to a multiple of its entry, at its end, by repeating the edge.

    The logits of the added pixels are cut off again. Repeating the edge keeps the intensities of the instance norm's
    statistics; zeros would be the mean brightness of a standardised image, brighter than the air around a head.
    """
    extra = [(0, -s % n) for s, n in zip(image.shape[1:-1], multiple, strict=True)]
    return jnp.pad(image, [(0, 0), *extra, (0, 0)], mode='edge')


def build(config: ConfigDict, out_channels: int) -> UNet:
    """The network that `config` (config.model) describes, with `out_channels` logits a pixel.

    Raises InputError, naming the field and its value, for what cannot be built.
    """
    names = {field.name for field in dataclasses.fields(UNet)}
    fields = {name: config[name] for name in names - {'out_channels', 'form', 'name', 'parent'}}
    check_unet(fields, out_channels)
    return UNet(out_channels=out_channels, **fields)


def for_devices(module: nn.Module, devices: Sequence[jax.Device]) -> nn.Module:
    """`module` in the form that is fast on `devices`: the same parameters, and up to rounding the same function. A
    network that has neither a field `form` nor `dtype` stays as it is."""
    wanted = {'form': lambda: form(devices), 'dtype': lambda: type_on(module.dtype, devices)}
    return module.clone(**{name: choose() for name, choose in wanted.items() if hasattr(module, name)})


def type_on(dtype: str, devices: Sequence[jax.Device] = ()) -> str:
    """`dtype`, where it is auto, as it is settled on `devices`: bfloat16 on accelerators, which have units for it and
    move half the bytes; float32 on CPUs, where XLA is no faster with it, and where no devices are named."""
    if dtype != 'auto':
        return dtype
    return 'bfloat16' if devices and devices[0].platform != 'cpu' else 'float32'


def check_unet(fields: dict[str, Any], out_channels: int) -> None:
    def refuse(key: str, advice: str):
        raise InputError(f'config.model.{key} = {fields[key]!r}: {advice}')

    if out_channels < 1:
        raise InputError(f'a network with {out_channels} output channels has nothing to segment; name a category')
    for key, allowed in CHOICES.items():
        if fields[key] not in allowed:
            refuse(key, f'choose one of {", ".join(allowed)}')
    levels = len(fields['features'])
    for key, length in (('features', max(levels, 1)), ('encoder_blocks', levels), ('decoder_blocks', levels - 1)):
        if len(fields[key]) != length or any(int(n) != n or n < 1 for n in fields[key]):
            refuse(key, f'give {length} whole numbers from 1 up, finest level first (features has {levels} levels)')
    if fields['norm'] == 'group' and (fields['groups'] < 1 or any(n % fields['groups'] for n in fields['features'])):
        refuse('groups', f'must divide every entry of features = {fields["features"]}')
    if fields['stem'] < 1:
        refuse('stem', 'give 1 (none), 2 or 4')
    for key in ('strides', 'kernels'):
        if len(fields[key]) not in (0, levels):
            refuse(key, f'give an entry for each of the {levels} levels of features, finest first, or () for none')
    if not 0 <= fields['deep_supervision'] <= max(levels - 2, 0):
        refuse('deep_supervision', f'{levels} levels have {max(levels - 2, 0)} coarser decoder levels')


def check_size(config: ConfigDict, size: tuple[int, ...]) -> None:
    """Raises InputError where the deepest level of the network of `config` (config.model) learns nothing from images
    of `size`: of a single number its norm leaves 0, whatever the kernels are."""
    levels, factors = len(config.features), shrinkage(config, len(size))[-1]
    factor = max(factors)
    deepest = [-(-s // n) for s, n in zip(size, factors, strict=True)]  # a level above has 2^d times as many pixels
    together = {'instance': 1, 'group': config.features[-1] // max(config.groups, 1)}.get(config.norm, 2)
    if math.prod(deepest) * together == 1:
        raise InputError(f'config.data.size = {tuple(size)}: the deepest of {levels} levels is {factor} times '
                         f'smaller, {" × ".join(map(str, deepest))} pixel, of which {config.norm} norm leaves 0: it '
                         f'learns nothing. Set config.data.size above {factor} along some axis, fewer levels in '
                         'config.model.features, encoder_blocks and decoder_blocks, a smaller config.model.stem, or '
                         "config.model.norm='group' with fewer groups than channels")


def init(module: UNet, key: jax.Array, spatial: tuple[int, ...], channels: int) -> Params:
    """Float32 parameters from `key`: normal kernels, biases 0, scales of norms 1. `spatial` matters by its length.

    The normal numbers of all kernels are one draw: drawn kernel by kernel they take XLA's CPU backend about five
    seconds to compile for the default network.
    """
    return jax.jit(draw, static_argnums=(0, 2, 3))(module, key, tuple(spatial), channels)


def draw(module: UNet, key: jax.Array, spatial: tuple[int, ...], channels: int) -> Params:
    """The modules fill each kernel with its standard deviation; only kernels have more than one axis."""
    leaves, tree = jax.tree.flatten(module.init(key, jnp.zeros((1, *spatial, channels)), True)['params'])
    ends = np.cumsum([x.size for x in leaves if x.ndim > 1])
    noise = iter(jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1]))
    return jax.tree.unflatten(tree, [x * next(noise).reshape(x.shape) if x.ndim > 1 else x for x in leaves])


def apply(module: UNet, params: Params, image: jax.Array) -> jax.Array:
    """Logits (B, *S, K) float32 of image (B, *S, C) float32, of any size S."""
    return module.apply({'params': params}, image, False)[0]


def apply_deep(module: UNet, params: Params, image: jax.Array) -> list[jax.Array]:
    """Logits of every head, finest first: (B, *⌈S / 2^l⌉, K) for l = 0 … config.model.deep_supervision."""
    return module.apply({'params': params}, image, True)
