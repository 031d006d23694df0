"""All that is between a raw image, or a raw window of a volume, and the probabilities of the regions, as one ONNX
model: what `training.step.make_predict_step` computes, and the average of several checkpoints.

    image          (batch, *S, C) uint8 of pictures, float16 of volumes and HDF5 slices, as they go to the device
    scale          (batch, 2, C) float32, only where config.data.standardise is 'patient'
    probabilities  (batch, *S, R) float32

S is config.data.size; the batch may be of any length.
"""
import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from unet_jax import formats
from unet_jax.experiment import Experiment
from unet_jax.model import onnx_network
from unet_jax.model.onnx_nodes import Nodes, add, constant, flip, model, over, reshape


def build(experiment: Experiment, members: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """The model of the average of `members`, parameters by name (`model_file.flatten`).

    Raises InputError, naming it, for what ONNX is not written of.
    """
    config, settings, nodes = experiment.config, experiment.settings, Nodes([], {})
    size, axes = tuple(settings.size), len(settings.size)
    wire = np.dtype(formats.named(config.data.format).dtype).type
    x = add(nodes, 'Transpose', add(nodes, 'Cast', 'image', to=1), perm=[0, axes + 1, *range(1, axes + 1)])
    x = see(nodes, experiment, x, picture=wire is np.uint8)
    sides = [(False, True) if on and config.evaluation.flips else (False,) for on in config.augment.flip]
    views = list(itertools.product(*sides))
    found = [flip(nodes, regions(nodes, experiment, onnx_network.write(
        nodes, experiment.module, params, flip(nodes, x, view), size, settings.inputs, f'member_{k}/')), view)
        for k, params in enumerate(members) for view in views]
    total = found[0]
    for other in found[1:]:
        total = add(nodes, 'Add', total, other)
    if len(found) > 1:
        total = add(nodes, 'Div', total, constant(nodes, len(found)))
    total = add(nodes, 'Transpose', total, perm=[0, *range(2, axes + 2), 1])
    inputs = {'image': (wire, ('batch', *size, settings.inputs))}
    if patient(experiment):
        inputs['scale'] = np.float32, ('batch', 2, settings.channels)
    return model(nodes, inputs=inputs, output=total, shape=('batch', *size, len(experiment.regions)),
                 name='probabilities', about={'regions': json.dumps(experiment.names)})


def patient(experiment: Experiment) -> bool:
    """Whether images are standardised by a scale that is given with them."""
    return experiment.config.data.standardise == 'patient' and not experiment.format.volumetric


def see(nodes: Nodes, experiment: Experiment, x: str, *, picture: bool) -> str:
    """`step.see` of (B, n · C, *S): neighbouring slices each by themselves."""
    settings = experiment.settings
    channels, size = settings.channels, tuple(settings.size)
    count = settings.inputs // channels
    mean_and_factor = None
    if patient(experiment):
        one = (0, 1, channels, *(1,) * len(size))
        mean, deviation = (reshape(nodes, add(nodes, 'Slice', 'scale', *(constant(nodes, [v], np.int64) for v in (
            k, k + 1, 1))), one) for k in range(2))
        mean_and_factor = mean, factor(nodes, mean, deviation)
    # (B, n, C, *S): one more axis, over which nothing is summed up
    x = reshape(nodes, x, (0, count, channels, *size))
    return reshape(nodes, normalise(nodes, x, size, picture=picture, given=mean_and_factor,
                                    wanted=bool(experiment.config.data.standardise)),
                   (0, settings.inputs, *size))


def normalise(nodes: Nodes, x: str, size: tuple[int, ...], *, picture: bool, wanted: bool,
              given: tuple[str, str] | None) -> str:
    """`step.normalise` of (B, n, C, *S)."""
    space = list(range(3, 3 + len(size)))
    lit = over(nodes, 'ReduceMax', add(nodes, 'Sign', add(nodes, 'Abs', x)), [2])
    x = add(nodes, 'Div', x, constant(nodes, 255)) if picture else x
    if not wanted:
        return x
    if given is None:
        counts = box(nodes, lit, size) if picture else lit
        one = constant(nodes, 1)
        share = add(nodes, 'Div', one, add(nodes, 'Max', over(nodes, 'ReduceSum', counts, space), one))
        mean = add(nodes, 'Mul', over(nodes, 'ReduceSum', add(nodes, 'Mul', x, counts), space), share)
        square = add(nodes, 'Mul', *[add(nodes, 'Mul', add(nodes, 'Sub', x, mean), counts)] * 2)
        deviation = add(nodes, 'Sqrt', add(nodes, 'Mul', over(nodes, 'ReduceSum', square, space), share))
        given = mean, factor(nodes, mean, deviation)
    x = add(nodes, 'Mul', add(nodes, 'Sub', x, given[0]), given[1])
    return x if picture else add(nodes, 'Mul', x, lit)


def factor(nodes: Nodes, mean: str, deviation: str) -> str:
    least = add(nodes, 'Mul', add(nodes, 'Add', add(nodes, 'Abs', mean), constant(nodes, 1)), constant(nodes, 1e-5))
    return add(nodes, 'Div', constant(nodes, 1), add(nodes, 'Max', deviation, least))


def box(nodes: Nodes, lit: str, size: tuple[int, ...]) -> str:
    """`step.within_edges` of (B, n, 1, *S), 0 and 1."""
    space, found = range(3, 3 + len(size)), None
    none = add(nodes, 'Sub', constant(nodes, 1), over(nodes, 'ReduceMax', lit, list(space)))
    lit = add(nodes, 'Max', lit, none)
    for axis, n in zip(space, size, strict=True):
        line = over(nodes, 'ReduceMax', lit, [a for a in space if a != axis])
        # distance from the farther end, of what is set: the largest is at the first, or the last, that is
        places = np.arange(1, n + 1).reshape([n if a == axis else 1 for a in range(3 + len(size))])
        last, first = (over(nodes, 'ReduceMax', add(nodes, 'Mul', line, constant(nodes, p)), [axis])
                       for p in (places, n + 1 - places))
        inside = add(nodes, 'And', add(nodes, 'LessOrEqual', constant(nodes, places), last),
                     add(nodes, 'LessOrEqual', constant(nodes, n + 1 - places), first))
        found = inside if found is None else add(nodes, 'And', found, inside)
    return add(nodes, 'Cast', found, to=1)


def regions(nodes: Nodes, experiment: Experiment, logits: str) -> str:
    """`step.probabilities` of (B, K, *S)."""
    if experiment.config.loss.activation == 'sigmoid':
        return add(nodes, 'Sigmoid', logits)
    bits = experiment.region_bits
    inside = [[0, *(inner & outer == inner for inner in bits)] for outer in bits]
    shape = len(bits), len(bits) + 1, *(1,) * len(experiment.settings.size)
    return add(nodes, 'Conv', add(nodes, 'Softmax', logits, axis=1), constant(nodes, np.reshape(inside, shape)))
