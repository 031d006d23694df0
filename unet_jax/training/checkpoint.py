"""Checkpoints: written by orbax, sealed with checksums, restored onto any number of devices.

    W/checkpoints/1500/            params/ ema_params/ opt_state/ and orbax's metadata
    W/checkpoints/1500/seal.json   sha256 of every file above and of itself, the validation score, the run's notes

orbax writes a step under a temporary name and renames it; the seal comes last, so a step without one was cut off.
orbax itself never notices a flipped bit, hence the checksums: 0.03 s for 30 MB.
"""
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from unet_jax.errors import InputError
from unet_jax.shipped import PROGRAM
from unet_jax.training import processes
from unet_jax.training.state import State
from unet_jax.workdir import write_text

SEAL = 'seal.json'
PARTS = ('params', 'ema_params', 'opt_state')
log = logging.getLogger('unet_jax')


def steps(folder: Path) -> list[int]:
    """The steps of `folder` that carry a seal, ascending; whether the seal is right is for `damage` to say."""
    return sorted(int(p.name) for p in Path(folder).glob('*') if p.name.isdigit() and (p / SEAL).is_file())


def read_seal(folder: Path, step: int) -> dict:
    """{'files': {name: sha256}, 'score': float or None, 'notes': what `save` was given}. ValueError if damaged."""
    seal = json.loads((Path(folder) / str(step) / SEAL).read_text(encoding='utf-8'))
    if not isinstance(seal, dict) or seal.pop('sha256', None) != _digest(seal):
        raise ValueError(f'{SEAL} was changed since it was written')
    return seal


def write_seal(folder: Path, step: int, *, files: dict[str, str], score: float | None, notes: dict) -> None:
    """Seals `folder/step`, or gives it a new seal, at once or not at all."""
    seal = {'files': files, 'score': score, 'notes': notes}
    write_text(Path(folder) / str(step) / SEAL, json.dumps({**seal, 'sha256': _digest(seal)}))


def _digest(seal: dict) -> str:
    return hashlib.sha256(json.dumps(seal, sort_keys=True).encode()).hexdigest()


def save(folder: Path, state: State, *, score: float | None, notes: dict, keep: int) -> None:
    """Writes and seals the state as `folder/step`, then deletes all but the `keep` newest and the best by `score`.

    `notes` is JSON that comes back with the seal. Called by every process together; process 0 seals and deletes. A
    step that is there unsealed or damaged is moved aside until the new one is sealed. Raises InputError where the
    disk is full or cannot be written, which leaves the older steps as they are.
    """
    folder, step = Path(folder).absolute(), int(state.step)
    target = folder / str(step)
    try:
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(folder / f'{step}.replaced-{os.getpid()}-{len(list(folder.iterdir()))}')
        processes.wait_for_all(f'checkpoint {step}')  # nobody writes into the one that is moved
        ocp.save_checkpointables(target, {name: getattr(state, name) for name in PARTS})
        if jax.process_index() == 0:
            write_seal(folder, step, files=checksums(target), score=score, notes=notes)
            _delete_old(folder, keep, step)
    except (OSError, ValueError) as error:  # tensorstore says ValueError where the disk is full
        if processes.lost(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        free = shutil.disk_usage(folder).free / 1e6
        raise InputError(f'{target}: the checkpoint could not be written ({reason}); {free:.1f} MB are free there. '
                         f'The older ones are as they were: {steps(folder)}. Make room, then run the same command '
                         'again: it goes on from the newest') from error


def amend(folder: Path, step: int, *, score: float, notes: dict, keep: int) -> None:
    """Gives a step that was saved before it was validated its score."""
    if jax.process_index() == 0:
        write_seal(folder, step, files=read_seal(folder, step)['files'], score=score, notes=notes)
        _delete_old(Path(folder), keep, step)


def tell_of_room(folders: Sequence[Path], state: Any, *, keep: int) -> None:
    """Warns where the disk of `folders`, one a run, has less room than their checkpoints will take: `keep` newest, the
    best, and the one that is being written. state: arrays, or their shapes and types."""
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves([getattr(state, p) for p in PARTS]))
    there = sum(path.stat().st_size for folder in folders for path in Path(folder).rglob('*') if path.is_file())
    place = next(place for place in (folders[0], *Path(folders[0]).absolute().parents) if place.is_dir())
    need, free = len(folders) * (keep + 2) * size - there, shutil.disk_usage(place).free
    if need > free:
        log.warning('%s: checkpoints of %.2f GB each, up to %d at a time, need about %.1f GB more; %.1f GB are free. '
                    'Make room, or keep fewer (config.train.keep)', place, size / 1e9, len(folders) * (keep + 2),
                    need / 1e9, free / 1e9)


def clean(folder: Path) -> None:
    """Removes what a killed run left half written or half deleted; such folders never were checkpoints."""
    for rest in (*Path(folder).glob('*.orbax-checkpoint-tmp*'), *Path(folder).glob('.*.deleted')):
        shutil.rmtree(rest, ignore_errors=True)


def checksums(target: Path) -> dict[str, str]:
    """{relative name: sha256} of every file under `target` but the seal."""
    files = sorted(p for p in target.rglob('*') if p.is_file() and SEAL not in p.name)
    return {p.relative_to(target).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def damage(folder: Path, step: int) -> str | None:
    """What is wrong with a step, or None: every file of the seal must be there, bit for bit."""
    try:
        sealed = read_seal(folder, step)['files']
        found = checksums(Path(folder) / str(step))
    except (OSError, ValueError, KeyError) as error:
        return f'cut off, or a file cannot be read: {error}'
    missing, changed = sorted(sealed.keys() - found), sorted(k for k in sealed if found.get(k, sealed[k]) != sealed[k])
    return f'missing {missing[:3]}' if missing else f'changed since it was written: {changed[:3]}' if changed else None


def best(folder: Path) -> int | None:
    """The step with the highest score, the earliest of equals; None if no step has one."""
    scores = {}
    for step in steps(folder):
        try:
            scores[step] = read_seal(folder, step)['score']
        except (OSError, ValueError, KeyError) as error:
            log.warning('checkpoint %s: %s; it is passed over', Path(folder) / str(step), error)
    scored = [step for step, score in scores.items() if score is not None]
    return max(scored, key=lambda step: (scores[step], -step), default=None)


def newest_intact(folder: Path) -> int | None:
    """The newest step without damage; says which newer ones were passed over, and why. None if none was completed.

    Raises InputError where steps were completed and all are damaged: to start anew would write over the run.
    """
    for step in sorted((int(p.name) for p in Path(folder).glob('*') if p.name.isdigit()), reverse=True):
        reason = damage(folder, step)
        if reason is None:
            return step
        log.warning('checkpoint %s is damaged (%s): falling back to an older one; nothing is deleted',
                    Path(folder) / str(step), reason)
    if steps(folder):
        raise InputError(f'{folder}: every checkpoint is damaged: {", ".join(map(str, steps(folder)))}; restore the '
                         'folder from a copy, or name another --workdir to start anew')
    return None


def choose(folder: Path, which: str) -> int:
    """The step that --checkpoint names: 'best', 'latest' or a number. Raises InputError if it is not there or damaged.

    'best' is the newest intact one where no step was ever validated.
    """
    available = steps(folder)
    if not available:
        raise InputError(f'{folder}: holds no checkpoint; train first: {PROGRAM} --config=… --workdir=…')
    step = None
    if which == 'latest':
        step = newest_intact(folder)
    elif which == 'best':
        step = best(folder)
        step = newest_intact(folder) if step is None else step
    elif which.isdigit() and int(which) in available:
        step = int(which)
    if step is None:
        raise InputError(f"--checkpoint={which}: choose 'best', 'latest' or one of {available}")
    reason = damage(folder, step)
    if reason:
        raise InputError(f'{folder}/{step}: {reason}. Intact: {[s for s in available if not damage(folder, s)]}')
    return step


def _delete_old(folder: Path, keep: int, newest: int) -> None:
    """All up to step `newest` but the `keep` last of them and the best, and what was moved aside for one of them.
    Newer ones were damaged and passed over."""
    older = [step for step in steps(folder) if step <= newest]
    kept = {*older[-max(keep, 1):], best(folder)}
    for step in older:
        if step not in kept:
            doomed = folder / f'.{step}.deleted'  # renamed first: killed in between, it is no half checkpoint
            (folder / str(step)).rename(doomed)
            shutil.rmtree(doomed)
    for aside in folder.glob('*.replaced-*'):  # the run has come past it again
        if int(aside.name.partition('.')[0]) <= newest:
            shutil.rmtree(aside)


def restore(folder: Path, step: int, like: State, where: State | Sharding) -> State:
    """The whole state of a step. `like` gives shapes and types (arrays or abstract); `where` is one sharding for
    all, or a tree of them."""
    placed = _placed(like, where)
    parts = _load(folder, step, {name: getattr(placed, name) for name in PARTS})
    return State(jax.device_put(jax.numpy.asarray(step, 'int32'), placed.step.sharding), **parts)


def restore_params(folder: Path, step: int, like: Any, where: Any) -> Any:
    """The averaged parameters of a step, all that prediction needs."""
    return _load(folder, step, {'ema_params': _placed(like, where)})['ema_params']


def _placed(tree: Any, where: Any) -> Any:
    """`tree` as abstract arrays with their shardings."""
    if isinstance(where, Sharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where)


def _load(folder: Path, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    path = Path(folder).absolute() / str(step)
    try:
        return ocp.load_checkpointables(path, abstract)
    except FileNotFoundError as error:
        raise InputError(f'{path}: is gone: its training, which still runs, has removed it meanwhile '
                         '(config.train.keep); run the command again') from error
    except (ValueError, KeyError, TypeError) as error:
        if processes.lost(error):
            raise
        if 'opt_state' in abstract:
            _load(folder, step, {'params': abstract['params']})  # says so where the network is another already
            raise InputError(f'{path}: the optimiser had another state when this run began, in an older version or '
                             'with another config.optimizer, so training cannot go on from it: start anew in another '
                             '--workdir. Evaluating it and predicting with it still work') from error
        raise InputError(f'{path}: does not fit the network of this config ({str(error):.300})') from error
