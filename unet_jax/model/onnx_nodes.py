"""The nodes of an ONNX graph, written one by one, channels first, each returning the name of its result.

The operators and what they mean: github.com/onnx/onnx, docs/Operators.md, of version OPSET.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

OPSET, IR = 21, 10  # of ONNX 1.16 (2024), which every onnxruntime from 1.18 on reads


class Nodes(NamedTuple):
    """What was written so far."""
    nodes: list  # onnx.NodeProto, in order
    arrays: dict[str, np.ndarray]  # weights and other constants


def add(nodes: Nodes, operator: str, *inputs: str, **attributes) -> str:
    """Writes a node with one result."""
    from onnx import helper  # an extra: without it everything else works
    name = f'{operator}_{len(nodes.nodes)}'
    nodes.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
    return name


def constant(nodes: Nodes, value, dtype: type = np.float32) -> str:
    """An array that is no weight; the same array is kept once."""
    array = np.ascontiguousarray(value, dtype)
    name = f'constant_{array.dtype}_{array.shape}_{array.tobytes().hex()}' if array.size < 40 else \
        f'constant_{len(nodes.arrays)}'
    nodes.arrays.setdefault(name, array)
    return name


def reshape(nodes: Nodes, x: str, shape: Sequence[int]) -> str:
    """To `shape`, in which 0 keeps an axis as it is."""
    return add(nodes, 'Reshape', x, constant(nodes, shape, np.int64))


def crop(nodes: Nodes, x: str, sides: Sequence[int]) -> str:
    """(B, C, *S) -> (B, C, *sides), from the beginning of each axis."""
    axes = range(2, 2 + len(sides))
    return add(nodes, 'Slice', x, *(constant(nodes, v, np.int64) for v in ([0] * len(sides), sides, list(axes))))


def flip(nodes: Nodes, x: str, mirrored: Sequence[bool]) -> str:
    """(B, C, *S) with the axes of S turned round that are `mirrored`."""
    axes = [2 + k for k, on in enumerate(mirrored) if on]
    if not axes:
        return x
    ends = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes)
    return add(nodes, 'Slice', x, *(constant(nodes, v, np.int64) for v in ends))


def over(nodes: Nodes, operator: str, x: str, axes: Sequence[int]) -> str:
    """ReduceSum, ReduceMax … over `axes`, which stay with side 1."""
    return add(nodes, operator, x, constant(nodes, axes, np.int64), keepdims=1)


def space_to_depth(nodes: Nodes, x: str, sides: Sequence[int], channels: int, block: Sequence[int]) -> str:
    """`expand.space_to_depth` of (B, channels, *sides): (B, Πblock · channels, *sides / block)."""
    if max(block) == 1:
        return x
    d, small = len(block), [n // side for n, side in zip(sides, block, strict=True)]
    split = [size for pair in zip(small, block, strict=True) for size in pair]
    x = reshape(nodes, x, [0, channels, *split])
    order = [0, *range(3, 3 + 2 * d, 2), 1, *range(2, 2 + 2 * d, 2)]
    return reshape(nodes, add(nodes, 'Transpose', x, perm=order), [0, math.prod(block) * channels, *small])


def depth_to_space(nodes: Nodes, x: str, sides: Sequence[int], channels: int, block: Sequence[int]) -> str:
    """`expand.depth_to_space` of (B, Πblock · channels, *sides): (B, channels, *sides · block)."""
    if max(block) == 1:
        return x
    d = len(block)
    x = reshape(nodes, x, [0, *block, channels, *sides])
    order = [0, 1 + d, *(axis for k in range(d) for axis in (2 + d + k, 1 + k))]
    large = [n * side for n, side in zip(sides, block, strict=True)]
    return reshape(nodes, add(nodes, 'Transpose', x, perm=order), [0, channels, *large])


def model(nodes: Nodes, *, inputs: dict[str, tuple[type, tuple]], output: str, shape: tuple, name: str,
          about: dict[str, str]) -> bytes:
    """The bytes of the model: inputs {name: (type, shape)}, and `output` as its result of `shape`, called `name`.

    Names in shapes are sides that may be of any length. `about` are words for people.
    """
    from onnx import TensorProto, checker, helper, numpy_helper
    nodes.nodes.append(helper.make_node('Identity', [output], [name], name=name))
    given = [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sides)
             for key, (dtype, sides) in inputs.items()]
    found = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    arrays = [numpy_helper.from_array(array, key) for key, array in nodes.arrays.items()]
    graph = helper.make_graph(nodes.nodes, 'unet_jax', given, [found], arrays)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR,
                             producer_name='unet_jax')
    helper.set_model_props(made, about)
    checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)
