"""--mode=plan: what a config costs, without training: parameters, FLOPs, memory, and the largest batch that fits."""
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from unet_jax.compiled import table as compiled_table
from unet_jax.errors import InputError
from unet_jax.experiment import create, read_frame, settle
from unet_jax.modes import auto
from unet_jax.planning.memory import GB, step_cost
from unet_jax.progress import bar
from unet_jax.training import loop, sharding


def plan(config: ConfigDict, folder: Path | None = None, *, memory: float | None = None,
         targets: Sequence[str] = ()) -> None:
    """Prints the table of `config`. memory: GB that each device may use; None is all that it has. targets: devices
    to compile for in place of those that are here, such as v5e:4x4 (`compiled.targets`).

    With config.train.plan what it leaves open is decided instead, and the plan and its reasons written into `folder`.

    Reads the data only where the config leaves its categories to them. Raises InputError for a config that cannot be
    built, for a memory that is not above 0, for a target that cannot be compiled for, and for one with
    config.train.plan.
    """
    if memory is not None and not memory > 0:
        raise InputError(f'--memory={memory:g}: give gigabytes a device, such as --memory=16')
    if config.train.plan and targets:
        raise InputError(f'--target={",".join(targets)} tells what a config costs, and with config.train.plan '
                         'there is none yet: plan first, then give the plan.py that --mode=plan writes as --config')
    if config.train.plan:
        auto.planned(config, folder, memory=memory and memory * GB)
        return
    settled = bool(config.data.categories and config.data.regions)
    experiment = create(config if settled else settle(config, read_frame(config)))
    if targets:
        return print(compiled_table.of_targets(experiment, targets, memory=memory and memory * GB))
    limit = memory * GB if memory is not None else sharding.device_memory()
    devices = jax.local_devices()
    batch_size = config.train.batch_size
    with bar(desc='compiling', unit='program') as progress:
        def measure(size: int) -> tuple[dict[str, float], float]:
            progress.update()
            return step_cost(experiment, size)

        sizes, flops = measure(batch_size)
        largest = largest_batch(limit, batch_size, lambda size: measure(size)[0]['together'])
    params = loop.create_programs(experiment).abstract.params
    parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    shape = ' × '.join(map(str, (*experiment.settings.size, experiment.settings.inputs)))
    rows = [('devices', f'{len(jax.devices())} × {devices[0].device_kind}, {limit / GB:.1f} GB each'),
            ('input', f'{batch_size} × {shape}'),
            ('parameters', f'{parameters:,}'),
            ('arithmetic of a step', f'{flops / 1e9:,.1f} GFLOP, {flops / 1e9 / batch_size:,.2f} a sample'),
            ('state', f'{sizes["state"] / GB:.3f} GB a device (parameters, average, optimiser)'),
            ('batch', f'{sizes["batch"] / GB:.3f} GB a device'),
            ('activations', f'{sizes["temporary"] / GB:.3f} GB a device (the compiled step\'s temporary memory)'),
            ('together', f'{sizes["together"] / GB:.3f} GB a device'),
            ('largest batch', f'{largest} in {limit / GB:.1f} GB a device' if largest else
             f'none fits in {limit / GB:.1f} GB a device; try model.remat, bfloat16, a smaller data.size, train.fsdp')]
    print('\n'.join(f'{name:22s}{value}' for name, value in rows))


def largest_batch(limit: float, start: int, memory_of) -> int:
    """The largest batch that divides over the devices and fits, 0 if none: found on the line through two compiled
    programs, then compiled itself until it fits."""
    unit = max(1, len(jax.devices()))
    one, two = memory_of(start), memory_of(2 * start)
    slope = max((two - one) / start, 1.0)
    size = int((limit - one) / slope + start) // unit * unit
    while size > 0 and memory_of(size) > limit:
        size = min(size - unit, int(size * 0.97)) // unit * unit
    return max(size, 0)
