"""The U-Net of unet.py in ONNX's own operators, layer by layer, channels first: (B, C, *S).

Not traced: a trace of our program has every norm as a dozen primitives and every convolution between two transposes,
and takes up to twice as long in the same engine. The heads of deep supervision are left out, as in `unet.apply`.
"""
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unet_jax.errors import InputError
from unet_jax.model.norm import EPSILON
from unet_jax.model.onnx_nodes import Nodes, add, constant, crop, depth_to_space, space_to_depth
from unet_jax.model.unet import UNet, shrinkage, steps

# of jax.nn -> operators, one after the other, with their attributes
ACTIVATIONS = {
    'celu': ('Celu', {'alpha': 1.0}), 'elu': ('Elu', {'alpha': 1.0}), 'gelu': ('Gelu', {'approximate': 'tanh'}),
    'hard_swish': ('HardSwish', {}), 'leaky_relu': ('LeakyRelu', {'alpha': 0.01}), 'mish': ('Mish', {}),
    'relu': ('Relu', {}), 'selu': ('Selu', {}), 'softplus': ('Softplus', {}), 'tanh': ('Tanh', {})}


class Network(NamedTuple):
    """A network on its way into a graph."""
    nodes: Nodes
    module: UNet
    params: Mapping[str, np.ndarray]  # by names such as encoder_0_block_0/first/conv/kernel
    member: str  # distinguishes the weights of several networks in one graph
    used: set[str]  # names of the parameters that were written


def write(nodes: Nodes, module: UNet, params: Mapping[str, np.ndarray], image: str, spatial: Sequence[int],
          channels: int, member: str = '') -> str:
    """Logits (B, K, *spatial) of `image` (B, channels, *spatial), float32.

    Raises InputError, by its name, for a network, an activation or a parameter that has no operator here.
    """
    if not isinstance(module, UNet):
        raise InputError(f'config.model.name: {type(module).__name__} is no network that ONNX is written of, only '
                         'unet; --config.evaluation.engine=jax exports without it')
    net = Network(nodes, module, params, member, set())
    found = layers(net, image, tuple(spatial), channels)
    left = sorted(name for name in params if name not in net.used and not name.startswith(
        tuple(f'head_{level}/' for level in range(1, len(module.features)))))
    if left:
        raise InputError(f'ONNX is not written of the layer of the parameter {left[0]}; '
                         '--config.evaluation.engine=jax exports without ONNX')
    return found


def layers(net: Network, image: str, spatial: tuple[int, ...], channels: int) -> str:
    """As `UNet.__call__`."""
    module, nodes, axes = net.module, net.nodes, len(spatial)
    first, *strides = steps(module, axes)
    whole = tuple(s + -s % n for s, n in zip(spatial, shrinkage(module, axes)[-1], strict=True))
    if whole != spatial:
        ends = [0] * (axes + 4) + [n - s for n, s in zip(whole, spatial, strict=True)]
        image = add(nodes, 'Pad', image, constant(nodes, ends, np.int64), mode='edge')
    x = space_to_depth(nodes, image, whole, channels, first)
    sides = [n // side for n, side in zip(whole, first, strict=True)]
    last, skips, once = len(module.features) - 1, [], (1,) * axes
    for level in range(last + 1):
        stride = strides[level - 1] if level > 0 and module.downsample == 'conv' else once
        if level > 0:
            skips.append(x)
            if module.downsample == 'max' and max(strides[level - 1]) > 1:
                x = add(nodes, 'MaxPool', x, kernel_shape=strides[level - 1], strides=strides[level - 1])
        x = blocks(net, x, f'encoder_{level}', level, module.encoder_blocks[level], stride)
    for level in reversed(range(last)):
        skip, block = skips[level], strides[level]
        if module.attention_gates:
            skip = attention(net, skip, x, f'gate_{level}', block)
        x = up(net, x, f'up_{level}', block)
        x = blocks(net, add(nodes, 'Concat', skip, x, axis=1), f'decoder_{level}', level,
                   module.decoder_blocks[level], once)
    x = depth_to_space(nodes, dense(net, x, 'head_0', axes), sides, module.out_channels, first)
    return x if whole == spatial else crop(nodes, x, spatial)


def parameter(net: Network, name: str) -> np.ndarray:
    net.used.add(name)
    return net.params[name]


def weight(net: Network, name: str, array: np.ndarray) -> str:
    """Keeps a weight, made of the parameter `name`, under its name; once, however often it is used."""
    key = f'{net.member}{name}'
    net.nodes.arrays.setdefault(key, np.ascontiguousarray(array, np.float32))
    return key


def blocks(net: Network, x: str, name: str, level: int, count: int, stride: tuple[int, ...]) -> str:
    kernel = tuple(net.module.kernels[level]) if net.module.kernels else (3,) * len(stride)
    block = residual if net.module.block == 'residual' else plain
    for k in range(count):
        x = block(net, x, f'{name}_block_{k}', kernel, stride if k == 0 else (1,) * len(stride))
    return x


def plain(net: Network, x: str, name: str, kernel: tuple[int, ...], stride: tuple[int, ...]) -> str:
    return activation(net, convolution(net, x, f'{name}/first', kernel, stride))


def residual(net: Network, x: str, name: str, kernel: tuple[int, ...], stride: tuple[int, ...]) -> str:
    once = (1,) * len(stride)
    y = activation(net, convolution(net, x, f'{name}/first', kernel, stride))
    y = convolution(net, y, f'{name}/second', kernel, once)
    if max(stride) > 1:
        x = add(net.nodes, 'AveragePool', x, kernel_shape=stride, strides=stride)
    if f'{name}/skip/conv/kernel' in net.params:
        x = convolution(net, x, f'{name}/skip', once, once)
    return activation(net, add(net.nodes, 'Add', x, y))


def convolution(net: Network, x: str, name: str, kernel: tuple[int, ...], stride: tuple[int, ...]) -> str:
    """Convolution and norm, as layers.Convolution."""
    kernels = parameter(net, f'{name}/conv/kernel')
    inputs = [weight(net, f'{name}/conv/kernel', np.moveaxis(kernels, (-1, -2), (0, 1)))]
    if net.module.norm == 'none':
        inputs.append(weight(net, f'{name}/conv/bias', parameter(net, f'{name}/conv/bias')))
    x = add(net.nodes, 'Conv', x, *inputs, kernel_shape=kernel, strides=stride,
            pads=[side // 2 for side in kernel] * 2)
    if net.module.norm == 'none':
        return x
    scale, bias = (weight(net, f'{name}/norm/{part}', parameter(net, f'{name}/norm/{part}'))
                   for part in ('scale', 'bias'))
    if net.module.norm == 'group':
        return add(net.nodes, 'GroupNormalization', x, scale, bias, epsilon=EPSILON, num_groups=net.module.groups)
    return add(net.nodes, 'InstanceNormalization', x, scale, bias, epsilon=EPSILON)


def activation(net: Network, x: str) -> str:
    name = net.module.activation
    if name in ('silu', 'swish'):
        return add(net.nodes, 'Mul', x, add(net.nodes, 'Sigmoid', x))
    if name == 'relu6':
        return add(net.nodes, 'Clip', x, constant(net.nodes, 0), constant(net.nodes, 6))
    if name not in ACTIVATIONS:
        raise InputError(f'config.model.activation = {name!r}: ONNX is not written of it; '
                         '--config.evaluation.engine=jax exports without ONNX')
    operator, attributes = ACTIVATIONS[name]
    return add(net.nodes, operator, x, **attributes)


def dense(net: Network, x: str, name: str, axes: int) -> str:
    """layers' Dense with its bias, where it has one, as a 1×1 convolution."""
    kernel = parameter(net, f'{name}/kernel')
    inputs = [weight(net, f'{name}/kernel', kernel.T.reshape(*kernel.T.shape, *(1,) * axes))]
    if f'{name}/bias' in net.params:
        inputs.append(weight(net, f'{name}/bias', parameter(net, f'{name}/bias')))
    return add(net.nodes, 'Conv', x, *inputs)


def up(net: Network, x: str, name: str, block: tuple[int, ...]) -> str:
    """As layers.UpSample: the transposed convolution that it stands for."""
    kernel, bias = parameter(net, f'{name}/dense/kernel'), parameter(net, f'{name}/bias')
    inner = np.moveaxis(kernel.reshape(len(kernel), *block, -1), -1, 1)
    return add(net.nodes, 'ConvTranspose', x, weight(net, f'{name}/dense/kernel', inner),
               weight(net, f'{name}/bias', bias), kernel_shape=block, strides=block)


def attention(net: Network, x: str, g: str, name: str, block: tuple[int, ...]) -> str:
    """As layers.AttentionGate; blocks of pixels as channels and a dense layer are a convolution with that stride."""
    kernel = parameter(net, f'{name}/skip/kernel')
    channels = len(kernel) // math.prod(block)
    kernel = np.moveaxis(kernel.reshape(*block, channels, -1), (-1, -2), (0, 1))
    theta = add(net.nodes, 'Conv', x, weight(net, f'{name}/skip/kernel', kernel), kernel_shape=block, strides=block)
    both = add(net.nodes, 'Relu', add(net.nodes, 'Add', theta, dense(net, g, f'{name}/gate', len(block))))
    alpha = add(net.nodes, 'Sigmoid', dense(net, both, f'{name}/psi', len(block)))
    if max(block) > 1:
        alpha = add(net.nodes, 'Resize', alpha, '', constant(net.nodes, [1, 1, *block]), mode='linear',
                    coordinate_transformation_mode='half_pixel')
    return add(net.nodes, 'Mul', x, alpha)
