"""Runs that differ in nothing but their seed, trained side by side in one program: a small network leaves most of a
GPU idle, and a vmapped step fills it. Each run reads, logs, validates and saves as it would alone."""
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax import signals
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment
from unet_jax.model import unet
from unet_jax.pipeline.cache import Samples
from unet_jax.progress import bar
from unet_jax.training import checkpoint, loop, optimizer, sharding
from unet_jax.training import step as steps
from unet_jax.training.journal import Journal
from unet_jax.training.loop import Run


class Member(NamedTuple):
    """One of the runs: what `loop.train` takes."""
    experiment: Experiment
    samples: dict[str, Samples]
    folder: Path
    first: Any = None  # parameters to start from; random ones if None


def train(members: Sequence[Member], *, devices: list | None = None) -> bool:
    """Trains all members to `config.train.steps`, each into its folder; False if interrupted.

    They go on from the newest step of which all have an intact checkpoint. Up to rounding each comes out as
    `loop.train` would leave it. Raises what that raises, and InputError for several processes.
    """
    first = members[0].experiment
    config = first.config.train
    if jax.process_count() > 1:
        raise InputError('config.train.seeds trains in one process, with the state whole on every device: start one '
                         'process, or a run for each seed with --config.seed')
    shared = loop.create_programs(first, devices=devices)
    programs = [shared._replace(create=loop.create_programs(m.experiment, devices=devices, first=m.first).create)
                for m in members]
    start = common_step([m.folder / 'checkpoints' for m in members])
    restored = [resume(p, m.folder / 'checkpoints', start) for p, m in zip(programs, members, strict=True)]
    advance = create_program(first, shared.mesh)
    with (signals.noted() as received, ExitStack() as opened,
          bar(total=config.steps, initial=start, desc='training', unit='step') as progress):
        runs, batches = [], []
        for member, program, (_, notes) in zip(members, programs, restored, strict=True):
            journal = opened.enter_context(closing(create_journal(member, start, notes)))
            batches.append(opened.enter_context(closing(
                loop.input_batches(member.experiment, member.samples['train'], start, lambda: bool(received)))))
            runs.append(Run(member.experiment, program, member.samples, member.folder / 'checkpoints', journal,
                            progress, lambda: bool(received), f'seed {member.experiment.config.seed}, '))
        made_up = [loop.make_up_validation(run, *known) for run, known in zip(runs, restored, strict=True)]
        return all(made_up) and take_steps(runs, advance, stack([state for state, _ in restored]), start, batches)


def create_journal(member: Member, start: int, notes: dict) -> Journal:
    return Journal(member.folder, start=start, notes=notes,
                   skip_nonfinite=member.experiment.config.train.skip_nonfinite,
                   samples_of=lambda step: loop.name_samples(member.experiment, member.samples['train'], step))


def create_program(experiment: Experiment, mesh: Mesh) -> Callable:
    """The compiled (states, batches, seeds) -> (states, metrics); everything has a first axis over the members."""
    config = experiment.config
    transform = optimizer.create(config.optimizer, config.train.steps)
    schedule = optimizer.learning_rate(config.optimizer, config.train.steps)
    module = unet.for_devices(experiment.module, mesh.devices.flat)
    step = steps.make_train_step(config, module, transform, experiment.region_bits, schedule)
    everywhere = sharding.replicated(mesh)
    return jax.jit(jax.vmap(step), donate_argnums=0, in_shardings=(everywhere, split(mesh), everywhere),
                   out_shardings=everywhere)


def split(mesh: Mesh) -> NamedSharding:
    """Batches (members, B, …) over all devices along B."""
    return NamedSharding(mesh, PartitionSpec(None, ('data', 'fsdp')))


def take_steps(runs: list[Run], advance: Callable, states, start: int, batches: list) -> bool:
    """`loop.take_steps` for all runs at once."""
    config, mesh = runs[0].experiment.config.train, runs[0].programs.mesh
    seeds = jnp.array([run.experiment.config.seed for run in runs], jnp.uint32)
    for step in range(start + 1, config.steps + 1):
        try:
            with runs[0].journal.waiting():
                found = [batch for b in batches for batch in islice(b, 1)]
        except InputError:
            save_reached(runs, states, start)
            raise
        if len(found) < len(runs):  # told to stop while there was none
            save_reached(runs, states, start)
            return False
        batch = {name: jax.device_put(np.stack([b[name] for b in found]), split(mesh)) for name in found[0]}
        states, metrics = advance(states, batch, seeds)
        for k, run in enumerate(runs):
            run.journal.record(step, {name: value[k] for name, value in metrics.items()}, config.batch_size)
        runs[0].progress.update()
        last = step == config.steps
        if last or step % config.log_every == 0:
            said = [run.journal.write_window(step) for run in runs]
            runs[0].progress.set_postfix_str(said[0], refresh=False)
        due = last or step % config.evaluate_every == 0
        if not (due or runs[0].stop() or step % config.checkpoint_every == 0
                or any(run.journal.problem for run in runs)):
            continue
        for run in runs:
            run.journal.read_pending()
        problems = [run.journal.problem for run in runs if run.journal.problem]
        unfinished = False
        for k, run in enumerate(runs):
            state = jax.tree.map(lambda x, k=k: x[k], states)
            score = loop.validate_and_note(run, state) if due and not (run.stop() or problems) else None
            loop.save(run, state, score=score, due=due and score is None)
            unfinished |= due and score is None
        if problems:
            raise InputError(f'{problems[0]}. Step {step} is saved, without the skipped updates')
        if unfinished or runs[0].stop():
            return False
    return True


def save_reached(runs: list[Run], states, start: int) -> None:
    for k, run in enumerate(runs):
        loop.save_reached(run, jax.tree.map(lambda x, k=k: x[k], states), start)


def stack(trees: list):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def common_step(folders: list[Path]) -> int:
    """The newest step that is intact in every folder; 0 where none holds any. Raises InputError where some do: to
    start anew would write over them."""
    for folder in folders:
        checkpoint.clean(folder)
    common = set.intersection(*(set(checkpoint.steps(folder)) for folder in folders))
    whole = (step for step in sorted(common, reverse=True) if not any(checkpoint.damage(f, step) for f in folders))
    found = next(whole, 0)
    if not found and any(map(checkpoint.steps, folders)):
        held = '; '.join(f'{folder}: {checkpoint.steps(folder) or "none"}' for folder in folders)
        raise InputError(f'no step is there, and whole, in every folder of config.train.seeds ({held}). Restore them '
                         'from a copy, go on with each by itself, or name another --workdir to start anew')
    return found


def resume(programs: loop.Programs, folder: Path, step: int) -> tuple:
    """(state, notes) of a member at `step`."""
    if step == 0:
        return programs.create(), {}
    return (checkpoint.restore(folder, step, programs.abstract, programs.shardings),
            checkpoint.read_seal(folder, step)['notes'])
