"""The training loop: batches in; steps, validations, checkpoints and metric lines out."""
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from unet_jax.annotations import labels
from unet_jax.experiment import Experiment, init_params
from unet_jax.pipeline import stream
from unet_jax.pipeline.cache import Samples
from unet_jax.progress import bar
from unet_jax.training import checkpoint, optimizer, sharding
from unet_jax.training import state as states
from unet_jax.training import step as steps
from unet_jax.training.journal import Journal

log = logging.getLogger('unet_jax')


class Programs(NamedTuple):
    """The compiled functions of a run, and the mesh that their arrays live on."""
    train: Callable  # (state, batch) -> (state, metrics)
    predict: Callable  # (params, batch) -> probabilities
    mesh: jax.sharding.Mesh
    optimizer: optax.GradientTransformation


@contextmanager
def asked_to_stop() -> Iterator[list[str]]:
    """A list that is empty until SIGINT or SIGTERM comes; a second SIGINT ends the program at once."""
    received: list[str] = []

    def note(number, _):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def create_programs(experiment: Experiment, *, devices: list | None = None) -> Programs:
    """The train and predict steps of `experiment` for `devices` (all by default), compiled when first called."""
    config, mesh = experiment.config, sharding.create_mesh(devices)
    sharding.check_batch_size(config.train.batch_size, mesh, 'config.train.batch_size')
    sharding.check_batch_size(config.evaluation.batch_size, mesh, 'config.evaluation.batch_size')
    transform = optimizer.create(config.optimizer, config.train.steps)
    schedule = optimizer.learning_rate(config.optimizer, config.train.steps)
    train = steps.make_train_step(config, experiment.module, transform, experiment.of, schedule)
    predict = steps.make_predict_step(config, experiment.module, experiment.of)
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    return Programs(jax.jit(train, donate_argnums=0, in_shardings=(everywhere, split), out_shardings=everywhere),
                    jax.jit(predict, in_shardings=(everywhere, split), out_shardings=split), mesh, transform)


def train(experiment: Experiment, samples: dict[str, Samples], folder: Path, *, devices: list | None = None) -> bool:
    """Trains to `config.train.steps`, from the newest intact checkpoint if there is one. False if interrupted.

    Writes checkpoints/, metrics.jsonl, timing.jsonl and TensorBoard events into `folder`. Raises InputError when
    loss or gradient were not finite too often in a row.
    """
    config, programs = experiment.config.train, create_programs(experiment, devices=devices)
    state, window = restore_or_create(experiment, programs, folder / 'checkpoints')
    start = int(state.step)
    data = stream.dataset(samples['train'], seed=experiment.config.seed, batch_size=config.batch_size,
                          process=jax.process_index(), processes=jax.process_count())
    batches = stream.iterate(data, start=start)
    journal = Journal(folder, start=start, window=window, skip_nonfinite=config.skip_nonfinite)
    with (asked_to_stop() as signals, closing(journal),
          bar(total=config.steps, initial=start, desc='training', unit='step') as progress):
        for step in range(start + 1, config.steps + 1):
            with journal.waiting():
                batch = next(batches)
            state, metrics = programs.train(state, sharding.put(batch, programs.mesh))
            journal.record(step, metrics, config.batch_size)
            progress.update()
            last = step == config.steps
            if last or step % config.log_every == 0:
                progress.set_postfix_str(journal.write_window(step))
            stop = bool(signals)  # looked at once: it may come at any moment
            validating = last or step % config.evaluate_every == 0
            if validating or stop or step % config.checkpoint_every == 0:
                journal.read_pending()
                score = validate_and_note(experiment, programs, state, samples['valid'], journal, progress) \
                    if validating else None
                checkpoint.save(folder / 'checkpoints', state, score=score, window=journal.window, keep=config.keep)
                if validating:
                    journal.restart_clock()
            if stop and not last:
                log.warning('%s: saved at step %d', signals[0], step)
                return False
    return True


def restore_or_create(experiment: Experiment, programs: Programs, folder: Path) -> tuple[states.State, list[dict]]:
    """The state to go on from, and the metrics since its last log line."""
    state = states.create(init_params(experiment), programs.optimizer)
    everywhere = sharding.replicated(programs.mesh)
    newest = checkpoint.newest_intact(folder)
    if newest is None:
        return jax.device_put(state, everywhere), []
    log.info('going on from step %d of %s', newest, folder)
    return checkpoint.restore(folder, newest, state, everywhere), checkpoint.read_seal(folder, newest)['window']


def validate_and_note(experiment: Experiment, programs: Programs, state: states.State, samples: Samples,
                      journal: Journal, progress) -> float:
    """Validates, writes the line, and returns the mean Dice over regions, by which the best checkpoint is chosen."""
    results = validate(experiment, programs, state.ema_params, samples)
    step = int(state.step)
    journal.write({'step': step, 'split': 'valid', **results})
    progress.write(f'step {step}: validation ' + ', '.join(f'{name} {value:.4f}' for name, value in results.items()))
    return float(np.mean(list(results.values())))


def validate(experiment: Experiment, programs: Programs, params, samples: Samples) -> dict[str, float]:
    """{'dice/<region>': mean over cases} at the network's size; a case without the region on either side counts 1.

    Slices of a case are added up before its Dice is taken.
    """
    config = experiment.config.evaluation
    totals: dict[str, np.ndarray] = {}
    for batch in stream.once(samples, batch_size=config.batch_size):
        found = np.asarray(programs.predict(params, sharding.put(batch, programs.mesh))) > config.threshold
        truth = labels.region_masks(batch['label'], experiment.of)
        axes = tuple(range(1, truth.ndim - 1))
        counts = np.stack([(found & truth).sum(axes), found.sum(axes) + truth.sum(axes)], -1)  # (B, R, 2)
        for k in np.flatnonzero(batch['valid']):
            case = samples.rows.case.iloc[batch['index'][k]]
            totals[case] = totals.get(case, 0) + counts[k]
    both, sums = np.moveaxis(np.stack(list(totals.values())), -1, 0)  # each (cases, R)
    dice = np.where(sums == 0, 1.0, 2 * both / np.maximum(sums, 1)).mean(0)
    return {f'dice/{name}': float(value) for name, value in zip(experiment.names, dice)}
