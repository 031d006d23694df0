"""What a training step costs on a device: memory, as XLA's buffer assignment has it, and arithmetic."""
import jax
import numpy as np
from ml_collections import ConfigDict

from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment, create
from unet_jax.planning import decisions
from unet_jax.progress import bar
from unet_jax.training import loop, space

GB = 1e9
PROGRAMS = 5  # compiled at most to find what fits
# A processor's memory is assigned before its code is written, which optimising takes two thirds of the time of
# (configs/coco.py: 16.8 s of processor time with it, 6.4 s without, the same bytes). Only for programs never run.
FAST = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def fit(config: ConfigDict, found: dict, on: decisions.Device) -> tuple[list[decisions.Decision], dict[str, float]]:
    """(the decisions for fingerprint `found` whose step fits into the device, its memory: bytes 'used' of 'limit', and
    how many 'programs' were compiled to know).

    What is too large becomes smaller by the share that is missing, first the batch, then the size, and is compiled
    again. Raises InputError where nothing fits.
    """
    scale, used = 1.0, 0.0
    with bar(desc='compiling the plan', unit='program') as progress:
        for tried in range(1, PROGRAMS + 1):
            decided = decisions.decide(config, found, on, scale=scale)
            planned = decisions.applied(config, decided)
            used = step_cost(create(planned), planned.train.batch_size)[0]['together']
            progress.update()
            progress.set_postfix_str(f'{used / GB:.2f} of {on.memory / GB:.1f} GB', refresh=False)
            if used <= on.memory:
                return said(decided, used, on), {'used': used, 'limit': on.memory, 'programs': tried}
            scale *= 0.95 * on.memory / used
    raise InputError(f'no step fits into {on.memory / GB:.2f} GB a device: the last of {PROGRAMS} that were compiled '
                     f'needs {used / GB:.2f} GB with config.train.batch_size = {planned.train.batch_size} and '
                     f'config.data.size = {tuple(planned.data.size)}. Set smaller ones, or --config.model.remat=True')


def said(decided: list[decisions.Decision], used: float, on: decisions.Device) -> list[decisions.Decision]:
    """The decisions, with the memory among the reasons of the size."""
    told = f'; {used / GB:.2g} of {on.memory / GB:.3g} GB'
    where = next((k for k, d in enumerate(decided) if {'data.size', 'train.batch_size'} & d.changes.keys()), 0)
    return [d._replace(reason=d.reason + told) if k == where else d for k, d in enumerate(decided)]


def step_cost(experiment: Experiment, batch_size: int) -> tuple[dict[str, float], float]:
    """({'state', 'batch', 'temporary', 'together'} bytes a device, FLOPs) of the compiled training step.

    Memory is what XLA's buffer assignment says, so without the compiler's own scratch and the allocator's gaps; FLOPs
    are those of the program as written, before fusion, and count recomputed activations (model.remat).
    """
    config = experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.train.update({'batch_size': batch_size, 'steps_per_dispatch': 1, 'resident': False})
    programs = loop.create_programs(experiment._replace(config=config))
    arrays = abstract_batch(experiment, batch_size)
    lowered = programs.train.lower(programs.abstract, arrays)
    batch = sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in arrays.values()) // programs.mesh.size
    fast = FAST if programs.mesh.devices.flat[0].platform == 'cpu' else None
    sizes = assigned(lowered.compile(compiler_options=fast), batch)
    return sizes, (lowered.cost_analysis() or {}).get('flops', float('nan'))


def assigned(compiled: jax.stages.Compiled, batch: int) -> dict[str, float]:
    """The bytes a device of a compiled step, whose batch takes `batch` of them: see `step_cost`."""
    found = compiled.memory_analysis()
    return {'state': found.argument_size_in_bytes - batch, 'batch': batch, 'temporary': found.temp_size_in_bytes,
            'together': found.argument_size_in_bytes + found.temp_size_in_bytes
            + found.output_size_in_bytes - found.alias_size_in_bytes}


def abstract_batch(experiment: Experiment, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a whole training batch, as `pipeline.stream` makes it."""
    settings = experiment.settings
    size = space.wire_size(experiment.config) if experiment.format.volumetric else settings.size
    shapes = {'image': ((*size, settings.inputs), experiment.format.dtype),
              'label': (size, labels.bits_dtype(len(experiment.classes))),
              'index': ((), np.int32), 'visit': ((), np.uint32), 'valid': ((), np.float32)}
    if experiment.format.volumetric:
        shapes['spacing'] = (3,), np.float32
    elif settings.patient:
        shapes['scale'] = (2, settings.channels), np.float32
    return {name: jax.ShapeDtypeStruct((batch_size, *shape), dtype) for name, (shape, dtype) in shapes.items()}
