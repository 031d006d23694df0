"""What a step of a config costs on a device that is not there, by compiling it for that device."""
import math
import re
from typing import NamedTuple

import jax

from unet_jax.compiled import program_text, targets
from unet_jax.experiment import Experiment
from unet_jax.inference import predictor
from unet_jax.model import unet
from unet_jax.planning import memory as planned_memory
from unet_jax.training import loop

STEPS = ('train', 'predict')


class Cost(NamedTuple):
    """Of one program; all but the batch and the samples a second are a device's."""
    target: targets.Target
    step: str  # 'train' or 'predict'
    dtype: str
    batch: int  # of all devices together
    memory: float  # bytes that the program takes, arguments included
    flops: float  # of convolutions and products as written, without what padding adds
    bytes: float  # moved between the device's memory and its cores
    collectives: dict[str, tuple[int, int]]  # kind: (how many, bytes)
    seconds: float  # a TPU's: the compiler's estimate; a GPU's: a bound from below
    dearest: list[tuple[str, float]]  # places and their shares: of the time of a TPU, of a GPU's bytes
    gathers: int  # of a TPU's program, without an estimate; in `seconds` by their bytes
    largest: int | None  # batch of all devices together, about, on the line through two compiled ones; 0: none fits;
    # None: not looked for

    @property
    def samples(self) -> float:
        """A second, on all devices together."""
        return self.batch / self.seconds if self.seconds else math.nan

    @property
    def share(self) -> float:
        """Of the peak."""
        return self.flops / (self.seconds * self.target.chip.peak) if self.seconds else math.nan


def of_step(experiment: Experiment, target: targets.Target, step: str, *, memory: float | None = None,
            largest: bool = True) -> Cost:
    """The cost of the training ('train') or prediction ('predict') step of `experiment` on `target`.

    A batch that does not divide over the devices is taken up to the next that does. memory: bytes that a device may
    use, all that it has if None. largest: whether to compile twice, to find the largest batch. Raises InputError for a
    target that cannot be compiled for.
    """
    devices = targets.devices(target)
    limit = target.chip.memory if memory is None else memory
    train, chosen = experiment.config.train, experiment.config.train if step == 'train' else \
        experiment.config.evaluation
    unit = max(1, len(devices) // (train.spatial if step == 'train' else 1))
    batch = -(-chosen.batch_size // unit) * unit
    settled = with_batch(experiment, devices, batch)
    text, used = compile_step(settled, devices, step, batch)
    most = None
    if largest:
        other = batch // 2 if batch % (2 * unit) == 0 else 2 * batch
        _, used_of_other = compile_step(with_batch(experiment, devices, other), devices, step, other)
        slope = max((used_of_other - used) / (other - batch), 1.0)
        most = max(int((limit - used) / slope + batch) // unit * unit, 0)
    found = program_text.kernels(text)
    flops, moved = matrix_flops(settled, devices, step, batch) / len(devices), sum(kernel.bytes for kernel in found)
    seconds = max(program_text.seconds(found, target.chip.clock, target.chip.bandwidth), flops / target.chip.peak)
    gathers = program_text.unestimated(found) if target.tpu else 0
    return Cost(target, step, settled.config.model.dtype, batch, used, flops, moved, program_text.collectives(found),
                seconds, program_text.dearest(found, 'cycles' if target.tpu else 'bytes'), gathers, most)


def with_batch(experiment: Experiment, devices: list, batch: int) -> Experiment:
    """`experiment` with batches of this size, one step a program, and the type of `devices`."""
    config = experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.dtype = unet.type_on(config.model.dtype, devices)
        config.train.update({'batch_size': batch, 'steps_per_dispatch': 1, 'resident': False})
        config.evaluation.batch_size = -(-batch // len(devices)) * len(devices)
    return experiment._replace(config=config.lock())


def traced(experiment: Experiment, devices: list, step: str, batch: int):
    """(the jitted function, its arguments by shapes and types)."""
    programs = loop.create_programs(experiment, devices=devices)
    arrays = planned_memory.abstract_batch(experiment, batch)
    if step == 'train':
        return programs.train, (programs.abstract, arrays)
    program, _ = predictor.compiled(experiment, devices)
    size = (batch, *experiment.settings.size, experiment.settings.inputs)
    seen = {'image': jax.ShapeDtypeStruct(size, arrays['image'].dtype)}
    return program, (programs.abstract.params, seen | {name: arrays[name] for name in ('scale',) if name in arrays})


def compile_step(experiment: Experiment, devices: list, step: str, batch: int) -> tuple[str, float]:
    """(the compiled program's text, bytes of memory that it takes on a device). Of a program that the compiler refuses
    since the device has too little memory there is no text."""
    program, arguments = traced(experiment, devices, step, batch)
    try:
        compiled = program.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r'Used ([\d.]+)([KMGT]) of', str(error))
        if 'RESOURCE_EXHAUSTED' not in str(error) or not needed:
            raise
        return '', float(needed[1]) * 1024.0 ** ('KMGT'.index(needed[2]) + 1)
    return compiled.as_text(), float(planned_memory.assigned(compiled, 0)['together'])


def matrix_flops(experiment: Experiment, devices: list, step: str, batch: int) -> float:
    """FLOPs of all convolutions and matrix products of a step on all devices, as they are written."""
    program, arguments = traced(experiment, devices, step, batch)
    return count(jax.make_jaxpr(program)(*arguments).jaxpr)


def count(jaxpr) -> float:
    """`matrix_flops` of a jaxpr, with those inside its operations."""
    def has_equations(value) -> bool:
        return hasattr(value, 'jaxpr') or hasattr(value, 'eqns')

    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == 'conv_general_dilated':
            kernel = equation.invars[1].aval.shape
            numbers = params['dimension_numbers'].rhs_spec
            taps = math.prod(kernel[axis] for axis in numbers[1:])
            # of a dilated input (the gradient of a stride) all but one in so many are zeros put in between
            total += 2.0 * out * taps / math.prod(params['lhs_dilation'])
        elif name == 'dot_general':
            (left, _), _ = params['dimension_numbers']
            total += 2.0 * out * math.prod(equation.invars[0].aval.shape[axis] for axis in left)
        inner = [value for value in jax.tree.leaves(params, is_leaf=has_equations) if has_equations(value)]
        times = params.get('length', 1) if name == 'scan' else 1
        total += times * sum(count(getattr(value, 'jaxpr', value)) for value in inner)
    return total
