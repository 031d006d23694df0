"""config.train.minutes: the first steps are timed, and the number of steps that fits is fixed once, in time.json."""
import json
import logging
import math
import time
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from unet_jax.config import FIELDS
from unet_jax.experiment import Experiment
from unet_jax.pipeline import stream
from unet_jax.text_file import write_text
from unet_jax.training import dispatch, loop, sharding, validation

NAME = 'time.json'
VALIDATIONS = 3  # of a run, the last after its last step
MARGIN = 0.03  # of the time, for checkpoints and what else the first steps do not show
# Of a case in evaluation beside the network: reading, surface distances, its mask file; and pictures and report.
# Estimates for 2 cores, 0.1 s of 640×640 and 9 s of 240×240×155.
HOST = {2: 0.27e-6, 3: 1e-6}  # seconds a pixel or voxel
REPORT = 6.0
log = logging.getLogger('unet_jax')


class Timing(NamedTuple):
    """Seconds."""
    compile: float  # of the step and of validation, which the run does once more, as its schedule is another
    step: float
    validation: float
    evaluation: float


def known(config: ConfigDict, folder: Path) -> ConfigDict:
    """`config` with the steps that a run in `folder` was fixed to, if it was."""
    path = folder / NAME
    if not config.train.minutes or not path.exists():
        return config
    return changed(config, json.loads(path.read_text(encoding='utf-8'))['fixed'])


def changed(config: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
    result = config.copy_and_resolve_references()
    with result.unlocked():
        for name, value in fields.items():
            section, field = name.split('.')
            result[section][field] = value
    return result.lock()


def fix(experiment: Experiment, samples: dict[str, Any], folder: Path, *, began: float, evaluated: int, pixels: float
        ) -> ConfigDict:
    """The config of `experiment` with as many steps as fit into config.train.minutes, written down in `folder`.

    began: `time.monotonic()` when the minutes began. evaluated: cases that will be scored in the end, of so many
    pixels or voxels each. Called by every process together, which all get what process 0 measured.
    """
    config = experiment.config
    found = measure(experiment, samples, evaluated, pixels)
    left = config.train.minutes * 60 - (time.monotonic() - began)
    numbers = np.array([*found, left], np.float64)
    numbers = multihost_utils.broadcast_one_to_all(numbers) if jax.process_count() > 1 else numbers
    found, left = Timing(*map(float, numbers[:-1])), float(numbers[-1])
    fixed = schedule(config, found, left)
    result = changed(config, fixed)
    if not jax.process_index():
        end = time.localtime(time.time() + duration(found, fixed['train.steps']))
        write_text(folder / NAME, json.dumps({'minutes': config.train.minutes, 'left': left, **found._asdict(),
                                              'fixed': fixed}, indent=1) + '\n')
        print(f'{config.train.minutes:g} minutes: {fixed["train.steps"]} steps of {found.step:.3g} s, {VALIDATIONS} '
              f'validations of {found.validation:.2g} s, evaluation about {found.evaluation:.2g} s, compilation '
              f'{found.compile:.2g} s once more; until about {time.strftime("%H:%M:%S", end)}')
        if fixed['train.steps'] < 100:
            log.warning('warning: %d steps are few for a network to learn from; give config.train.minutes more',
                        fixed['train.steps'])
    return result


def schedule(config: ConfigDict, found: Timing, left: float) -> dict[str, Any]:
    """The fields of the config that `left` seconds fix: steps, when to validate and save, and a warm-up that fits.

    Steps are a multiple of what goes into an update and a program, and end with a validation.
    """
    unit = math.lcm(config.optimizer.accumulate, config.train.steps_per_dispatch)
    room = left * (1 - MARGIN) - found.compile - VALIDATIONS * found.validation - found.evaluation
    every = max(1, int(room / found.step) // (VALIDATIONS * unit)) * unit
    steps = VALIDATIONS * every
    fields = {'train.steps': steps, 'train.evaluate_every': every,
              'train.checkpoint_every': max(1, every // (2 * unit)) * unit,
              'optimizer.warmup': min(config.optimizer.warmup, steps // 10)}
    if config.optimizer.ema == FIELDS['optimizer.ema'].default:  # a twentieth of a run
        fields['optimizer.ema'] = min(0.999, max(0.9, round(1 - 20 / steps, 4)))
    return fields


def duration(found: Timing, steps: int) -> float:
    """Seconds from now to the end of evaluation."""
    return found.compile + steps * found.step + VALIDATIONS * found.validation + found.evaluation


def measure(experiment: Experiment, samples: dict[str, Any], evaluated: int, pixels: float) -> Timing:
    """Times the first steps and a batch of validation on parameters that are then thrown away."""
    config = experiment.config.train
    programs = loop.create_programs(experiment, samples=samples['train'])
    state, together = programs.create(), config.steps_per_dispatch
    batches = loop.input_batches(experiment, samples['train'], 0, lambda: False)

    def steps(count: int, state) -> tuple[float, Any]:
        start = time.monotonic()
        for _ in range(count):
            found = dispatch.stack(list(islice(batches, together)))
            state, metrics = programs.train(state, sharding.put(found, programs.mesh, several=together > 1))
        jax.block_until_ready(metrics)
        return time.monotonic() - start, state

    try:
        first, state = steps(1, state)
        some, state = steps(2, state)
        count = int(np.clip(4 / max(some / 2, 1e-3), 3, 100))
        if jax.process_count() > 1:  # each takes as many as the first, for they step together
            count = int(multihost_utils.broadcast_one_to_all(np.int32(count)))
        took, state = steps(count, state)
    finally:
        batches.close()
    size = experiment.config.evaluation.batch_size
    compiled, each = time_validation(experiment, programs, state, samples['valid'])
    number = -(-len(samples['valid'].rows) // size)
    windows = 1.0
    if experiment.format.volumetric:  # a sliding window sees every voxel so often, a tile once
        windows = (1 - experiment.config.evaluation.overlap) ** -3
    forward = each / size * windows * evaluated * max(1.0, pixels / np.prod(experiment.settings.size)
                                                      if experiment.format.volumetric else 1.0)
    host = HOST[len(experiment.settings.size)] * pixels * evaluated / jax.process_count()
    step = took / (count * together)
    return Timing(max(first - step, 0.0) + 2 * compiled, step, each * number, forward + host + REPORT)


def time_validation(experiment: Experiment, programs: loop.Programs, state, samples) -> tuple[float, float]:
    """(seconds to compile it, seconds a batch)."""
    batch = next(stream.once(samples, batch_size=experiment.config.evaluation.batch_size,
                             process=jax.process_index(), processes=jax.process_count()))
    took = []
    for _ in range(2):
        start = time.monotonic()
        jax.block_until_ready(programs.overlap(state.ema_params, sharding.put(batch, programs.mesh),
                                               validation.put_owned(samples, batch, programs.mesh)))
        took.append(time.monotonic() - start)
    return max(took[0] - took[1], 0.0), took[1]
