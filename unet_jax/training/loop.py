"""The training loop: batches in; steps, validations, checkpoints and metric lines out."""
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from unet_jax import signals
from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment, init_params
from unet_jax.model import unet
from unet_jax.pipeline import stream
from unet_jax.pipeline.cache import Samples
from unet_jax.progress import bar
from unet_jax.training import checkpoint, dispatch, optimizer, processes, sharding, validation
from unet_jax.training import state as states
from unet_jax.training import step as steps
from unet_jax.training.journal import Journal

log = logging.getLogger('unet_jax')


class Programs(NamedTuple):
    """The compiled functions of a run, and the mesh that their arrays live on."""
    create: Callable  # () -> the state before the first step
    train: Callable  # (state, batch) -> (state, metrics)
    overlap: Callable  # (params, batch, owned) -> (counts (B, R, 3), index, valid (B,)) of all the batch, everywhere
    mesh: jax.sharding.Mesh
    abstract: states.State  # shapes and types
    shardings: states.State


def create_programs(experiment: Experiment, *, devices: list | None = None, samples: Samples | None = None,
                    first: Any = None) -> Programs:
    """The compiled functions of `experiment` for `devices` (all by default), compiled when first called.

    With config.train.resident the training step takes its images from `samples`, put into the devices' memory. `first`
    are the parameters to start from, random ones if None.
    """
    config = experiment.config
    mesh = create_mesh(config, devices)
    module = unet.for_devices(experiment.module, mesh.devices.flat)
    transform = optimizer.create(config.optimizer, config.train.steps)
    schedule = optimizer.learning_rate(config.optimizer, config.train.steps)
    step = steps.make_train_step(config, module, transform, experiment.region_bits, schedule,
                                 lambda x: jax.lax.with_sharding_constraint(x, sharding.of_batch(mesh)['image']))
    predict = steps.make_predict_step(config, module, experiment.region_bits)

    def create() -> states.State:
        return states.create(init_params(experiment) if first is None else first, transform)

    def overlap(params, batch, owned):
        bits = labels.from_probabilities(predict(params, batch), threshold=config.evaluation.threshold,
                                         regions=experiment.regions, classes=experiment.classes)
        counts = validation.count(batch['label'], bits, owned=owned, region_bits=experiment.region_bits)
        return counts, batch['index'], batch['valid']

    abstract = jax.eval_shape(create)
    placed = sharding.of_state(abstract, mesh)
    everywhere = sharding.replicated(mesh)
    # tiles of volumes are validated without their spacing
    split = sharding.of_batch(mesh, more=() if experiment.format.volumetric else experiment.carried)
    data = dispatch.resident(samples, config.train, mesh)

    def place() -> states.State:
        with jax.default_device(host() if config.train.fsdp > 1 else None):
            return jax.device_put(create(), placed)

    return Programs(place,
                    dispatch.compiled(step, config.train, mesh, placed, data, more=experiment.carried),
                    jax.jit(overlap, in_shardings=(placed.ema_params, split, sharding.split(mesh)),
                            out_shardings=everywhere),
                    mesh, abstract, placed)


def host() -> jax.Device | None:
    """This computer's processor, where a state is created that no one device shall hold whole; None where jax was told
    to do without. Drawn in one sharded program, three times the parameters would still lie on every device."""
    try:
        return jax.local_devices(backend='cpu')[0]
    except RuntimeError:
        return None


def create_mesh(config: ConfigDict, devices: list | None = None) -> jax.sharding.Mesh:
    """The mesh of a config. Raises InputError where sizes do not divide over it."""
    mesh = sharding.create_mesh(devices, fsdp=config.train.fsdp, spatial=config.train.spatial)
    sharding.check_size(tuple(config.data.size), mesh)
    sharding.check_batch_size(config.train.batch_size, mesh, 'config.train.batch_size')
    sharding.check_batch_size(config.evaluation.batch_size, mesh, 'config.evaluation.batch_size')
    return mesh


class Run(NamedTuple):
    """A run that is under way."""
    experiment: Experiment
    programs: Programs
    samples: dict[str, Samples]
    checkpoints: Path
    journal: Journal
    progress: tqdm
    stop: Callable[[], bool]  # whether to; asked by every process equally often
    name: str = ''  # which of several, in what is printed


def train(experiment: Experiment, samples: dict[str, Samples], folder: Path, first: Any = None, *,
          devices: list | None = None) -> bool:
    """Trains to `config.train.steps`, from the newest intact checkpoint if there is one, else from the parameters
    `first`, or random ones. False if interrupted.

    Called by every process together. Writes checkpoints/, metrics.jsonl, timing.jsonl, nonfinite/ and TensorBoard
    events into `folder`. Raises InputError when loss or gradient were not finite too often in a row, when input
    cannot be read and when the disk is full; whatever was reached is saved first, where it can be.
    """
    config = experiment.config.train
    programs = create_programs(experiment, devices=devices, samples=samples['train'], first=first)
    state, notes = restore_or_create(programs, folder / 'checkpoints')
    start = int(state.step)
    dispatch.check_dispatch(config, start)
    journal = Journal(folder, start=start, notes=notes, skip_nonfinite=config.skip_nonfinite,
                      samples_of=lambda step: name_samples(experiment, samples['train'], step))
    agreed = processes.agreement(programs.mesh)
    with (signals.noted() as received, closing(journal),
          closing(input_batches(experiment, samples['train'], start, lambda: bool(received))) as batches,
          bar(total=config.steps, initial=start, desc='training', unit='step') as progress):
        run = Run(experiment, programs, samples, folder / 'checkpoints', journal, progress,
                  lambda: agreed(bool(received)))
        finished = make_up_validation(run, state, notes) and take_steps(run, state, start, batches)
    if not finished:
        log.warning('%s: stopped', received[0] if received else 'another process was asked to stop')
    return finished


def take_steps(run: Run, state: states.State, start: int, batches: Iterator[stream.Batch]) -> bool:
    """From step `start` to the last. False if asked to stop before, in which case all is saved."""
    config, journal = run.experiment.config.train, run.journal
    together = config.steps_per_dispatch
    for step in range(start + together, config.steps + 1, together):
        try:
            with journal.waiting():
                found = list(islice(batches, together))
        except InputError:
            save_reached(run, state, start)
            raise
        if len(found) < together:  # told to stop while there was none
            save_reached(run, state, start)
            return False
        batch = sharding.put(dispatch.stack(found), run.programs.mesh, several=together > 1)
        state, metrics = run.programs.train(state, batch)
        journal.record(step, metrics, together * config.batch_size)
        run.progress.update(together)
        last = step == config.steps
        if last or step % config.log_every == 0:
            run.progress.set_postfix_str(journal.write_window(step), refresh=False)
        stopped = run.stop()
        due = last or step % config.evaluate_every == 0
        if due or stopped or journal.problem or step % config.checkpoint_every == 0:
            journal.read_pending()
            score = validate_and_note(run, state) if due and not (stopped or journal.problem) else None
            due = due and score is None
            save(run, state, score=score, due=due)
            if journal.problem:
                raise InputError(f'{journal.problem}. Step {step} is saved, without the skipped updates')
            if stopped or due:
                return False
    return True


def save(run: Run, state: states.State, *, score: float | None, due: bool) -> None:
    """A checkpoint; `due` says that the validation of this step is still to be done."""
    checkpoint.save(run.checkpoints, state, score=score, keep=run.experiment.config.train.keep,
                    notes={**run.journal.notes, 'validation_due': due})
    run.journal.restart_clock()


def save_reached(run: Run, state: states.State, start: int) -> None:
    """A checkpoint of where the input ended, unless there is one. Of several processes the others cannot join in."""
    done = int(state.step)
    if jax.process_count() == 1 and done > start and done not in checkpoint.steps(run.checkpoints):
        run.journal.read_pending()
        save(run, state, score=None, due=False)


def make_up_validation(run: Run, state: states.State, notes: dict) -> bool:
    """The validation that the run was stopped in, if any. False if it was stopped in it again."""
    if not notes.get('validation_due'):
        return True
    score = validate_and_note(run, state)
    if score is not None:
        checkpoint.amend(run.checkpoints, int(state.step), score=score, notes={**notes, 'validation_due': False},
                         keep=run.experiment.config.train.keep)
    return score is not None


def input_batches(experiment: Experiment, samples: Samples, start: int, stop: Callable[[], bool]
                  ) -> Iterator[stream.Batch]:
    """This process's share of the batches after step `start`; of one process, up to where one is waited for and
    `stop()`. Of several, each takes the step that the others are in."""
    config = experiment.config
    data = stream.dataset(samples, seed=config.seed, batch_size=config.train.batch_size,
                          process=jax.process_index(), processes=jax.process_count(),
                          arrays=not dispatch.fits(samples, config.train))
    return stream.iterate(data, start=start, timeout=config.train.input_timeout,
                          stop=stop if jax.process_count() == 1 else lambda: False)


def name_samples(experiment: Experiment, samples: Samples, step: int) -> list[dict]:
    """[{'visit', 'index', 'path', 'case'}] of the batch that step number `step`, the first being 1, was made from."""
    config = experiment.config
    found = stream.members(len(samples.rows), seed=config.seed, step=step - 1, batch_size=config.train.batch_size)
    return [{'visit': visit, 'index': index, 'path': str(samples.rows.path.iloc[index]),
             'case': str(samples.rows.case.iloc[index])} for visit, index in found]


def restore_or_create(programs: Programs, folder: Path) -> tuple[states.State, dict]:
    """The state to go on from, and the notes that were saved with it. Process 0 chooses."""
    newest = None
    if not jax.process_index():
        checkpoint.clean(folder)
        newest = checkpoint.newest_intact(folder)
    processes.wait_for_all('checkpoints')
    newest = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if newest is None else newest)))
    if newest < 0:
        return programs.create(), {}
    log.info('going on from step %d of %s', newest, folder)
    return (checkpoint.restore(folder, newest, programs.abstract, programs.shardings),
            checkpoint.read_seal(folder, newest)['notes'])


def validate_and_note(run: Run, state: states.State) -> float | None:
    """Validates, writes the line, and returns the score by which the best checkpoint is chosen.

    None, and no line, if asked to stop before the end.
    """
    results = validation.validate(run.experiment, run.programs.overlap, run.programs.mesh, state.ema_params,
                                  run.samples['valid'], stop=run.stop)
    if results is None:
        return None
    step = int(state.step)
    run.journal.write({'step': step, 'split': 'valid', **results})
    if not jax.process_index():
        told = ', '.join(f'{name} {"-" if value is None else f"{value:.4f}"}' for name, value in results.items())
        run.progress.write(f'{run.name}step {step}: validation {told}')
    return validation.choose_by(results)
