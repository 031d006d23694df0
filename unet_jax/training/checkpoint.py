"""Checkpoints: written by orbax, sealed with checksums, restored onto any number of devices.

    W/checkpoints/1500/            params/ ema_params/ opt_state/ and orbax's metadata
    W/checkpoints/1500/seal.json   sha256 of every file above, the validation score, the open log window

orbax writes a step under a temporary name and renames it; the seal comes last, so a step without one was cut off.
orbax itself never notices a flipped bit, hence the checksums: 0.03 s for 30 MB.
"""
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from unet_jax.errors import InputError
from unet_jax.training.state import State

SEAL = 'seal.json'
log = logging.getLogger('unet_jax')


def steps(folder: Path) -> list[int]:
    """The steps of `folder` that carry a seal, ascending; whether the seal is right is for `damage` to say."""
    return sorted(int(p.name) for p in Path(folder).glob('*') if p.name.isdigit() and (p / SEAL).is_file())


def read_seal(folder: Path, step: int) -> dict:
    """{'files': {name: sha256}, 'score': float or None, 'window': the metrics since the last log line}."""
    return json.loads((Path(folder) / str(step) / SEAL).read_text())


def save(folder: Path, state: State, *, score: float | None, window: list[dict], keep: int) -> None:
    """Writes and seals the state as `folder/step`, then deletes all but the `keep` newest and the best by `score`.

    Called by every process together; process 0 seals and deletes. A step that is there unsealed or damaged is moved
    aside, not deleted.
    """
    folder, step = Path(folder).absolute(), int(state.step)
    target = folder / str(step)
    if jax.process_index() == 0 and target.exists():
        target.rename(folder / f'{step}.replaced-{os.getpid()}-{len(list(folder.iterdir()))}')
    parts = {'params': state.params, 'ema_params': state.ema_params, 'opt_state': state.opt_state}
    ocp.save_checkpointables(target, parts)
    if jax.process_index() == 0:
        seal = {'files': checksums(target), 'score': score, 'window': window}
        temporary = folder / f'.{step}.{SEAL}'
        temporary.write_text(json.dumps(seal))
        temporary.rename(target / SEAL)
        _delete_old(folder, keep)


def checksums(target: Path) -> dict[str, str]:
    """{relative name: sha256} of every file under `target` but the seal."""
    files = sorted(p for p in target.rglob('*') if p.is_file() and p.name != SEAL)
    return {p.relative_to(target).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def damage(folder: Path, step: int) -> str | None:
    """What is wrong with a step, or None: its files must be exactly those of the seal, bit for bit."""
    try:
        sealed = read_seal(folder, step)['files']
        found = checksums(Path(folder) / str(step))
    except (OSError, ValueError, KeyError) as error:
        return f'cut off, or a file cannot be read ({error})'
    missing, changed = sorted(sealed.keys() - found), sorted(k for k in sealed if found.get(k, sealed[k]) != sealed[k])
    return f'missing {missing[:3]}' if missing else f'changed since it was written: {changed[:3]}' if changed else None


def best(folder: Path) -> int | None:
    """The step with the highest score, the earliest of equals; None if no step has one."""
    scores = {step: read_seal(folder, step)['score'] for step in steps(folder)}
    scored = [step for step, score in scores.items() if score is not None]
    return max(scored, key=lambda step: (scores[step], -step), default=None)


def newest_intact(folder: Path) -> int | None:
    """The newest step without damage; says which newer ones were passed over, and why. None if there is none."""
    for step in sorted((int(p.name) for p in Path(folder).glob('*') if p.name.isdigit()), reverse=True):
        reason = damage(folder, step)
        if reason is None:
            return step
        log.warning('checkpoint %s is damaged (%s): falling back to an older one; nothing is deleted',
                    Path(folder) / str(step), reason)
    return None


def choose(folder: Path, which: str) -> int:
    """The step that --checkpoint names: 'best', 'latest' or a number. Raises InputError if it is not there or damaged.

    'best' is the newest intact one where no step was ever validated.
    """
    available = steps(folder)
    if not available:
        raise InputError(f'{folder}: holds no checkpoint; train first: python main.py --config=… --workdir=…')
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


def _delete_old(folder: Path, keep: int) -> None:
    kept = {*steps(folder)[-max(keep, 1):], best(folder)}
    for step in steps(folder):
        if step not in kept:
            shutil.rmtree(folder / str(step))


def _abstract(tree: Any, sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def restore(folder: Path, step: int, like: State, sharding) -> State:
    """The whole state of a step, placed by `sharding`; `like` gives shapes and types (arrays or abstract)."""
    abstract = {name: _abstract(getattr(like, name), sharding) for name in ('params', 'ema_params', 'opt_state')}
    parts = _load(folder, step, abstract)
    return State(jax.device_put(jax.numpy.asarray(step, 'int32'), sharding), **parts)


def restore_params(folder: Path, step: int, like: Any, sharding) -> Any:
    """The averaged parameters of a step, all that prediction needs."""
    return _load(folder, step, {'ema_params': _abstract(like, sharding)})['ema_params']


def _load(folder: Path, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    path = Path(folder).absolute() / str(step)
    try:
        return ocp.load_checkpointables(path, abstract)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: does not fit the network of this config ({error})') from error
