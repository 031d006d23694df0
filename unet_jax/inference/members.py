"""What is averaged into a result: one checkpoint, or several, of one run or of several; where the result goes, and
which cases it may be scored on."""
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from unet_jax.errors import InputError
from unet_jax.training import checkpoint
from unet_jax.workdir import load_config

NAMES = ('case', 'group', 'path')  # by which a case is known again in another run


class Member(NamedTuple):
    """A checkpoint of a run."""
    folder: Path  # its work directory
    step: int


def choose(folders: Sequence[Path], which: str) -> tuple[Member, ...]:
    """The checkpoints `which`, such as 'best' or 'best,latest,400', of each of `folders`, none of them twice.

    Raises InputError for a checkpoint that is not there or damaged, and for a folder that is named twice.
    """
    places = [Path(folder).resolve() for folder in folders]
    for k, folder in enumerate(folders):
        if places[k] in places[:k]:
            raise InputError(f'--ensemble={folder}: is named twice, or is --workdir itself; name each run once')
        load_config(folder)  # its own message where there is none
    return tuple(Member(folder, step) for folder in map(Path, folders) for step in dict.fromkeys(
        checkpoint.choose(folder / 'checkpoints', name) for name in which.split(',')))  # the best is often the latest


def runs(members: Sequence[Member]) -> list[Path]:
    """The work directories of `members`, each once."""
    return list(dict.fromkeys(member.folder for member in members))


def told(members: Sequence[Member]) -> int | str:
    """What is averaged, as tables and files name it: the step, or the steps of one run, or run:step of several."""
    if len(members) == 1:
        return members[0].step
    return ', '.join(f'{m.folder}:{m.step}' if len(runs(members)) > 1 else str(m.step) for m in members)


def home(members: Sequence[Member]) -> Path:
    """The folder that results go to: the work directory of a single checkpoint; for an average a folder of its own
    below the first member's, named after the members, the same whatever their order and wherever all are moved to."""
    first, folders = members[0].folder, runs(members)
    if len(members) == 1:
        return first
    if len(folders) == 1:
        return first / 'ensembles' / f'checkpoints_{"+".join(map(str, sorted(m.step for m in members)))}'
    names = [re.sub(r'[^A-Za-z0-9._-]+', '_', folder.resolve().name)[:30] for folder in folders]
    shown = '+'.join([names[0], *sorted(names[1:])][:4]) + (f'+{len(names) - 4}_more' if len(names) > 4 else '')
    parts = sorted([os.path.relpath(m.folder.resolve(), first.resolve()), m.step] for m in members)
    return first / 'ensembles' / f'{shown}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}'


def interim(members: Sequence[Member]) -> Path:
    """The folder that results of a run go to while it is still training, and writes its own results at its end."""
    return home(members) if len(members) > 1 else members[0].folder / 'interim' / f'checkpoint_{members[0].step}'


def used_by(folder: Path, *, training: bool = False) -> pd.DataFrame:
    """The rows (subset, case, group, path) that a run was trained on and, unless `training` alone is asked for, those
    by which its best checkpoint was chosen. Raises InputError where its frame cannot be read."""
    path = Path(folder) / 'annotations.parquet'
    try:
        frame = pd.read_parquet(path, columns=['subset', *NAMES])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f'{path}: cannot be read ({error}), so nobody knows what the run was trained on') from error
    chosen_by = () if training else ('valid', load_config(folder).train.validate)
    return frame[frame.subset.isin(('train', *chosen_by))]


def common(used: pd.DataFrame, rows: pd.DataFrame, own: Iterable[str] = ()) -> list[str]:
    """Names of the cases in `rows` that are, by case, group (patient) or path, among `used`. Groups in `own` that both
    share are the data set's doing, which the audit tells, and count for nothing."""
    hit = rows.case.isin(set(used.case)) | rows.path.isin(set(used.path)) | rows.group.isin(set(used.group) - set(own))
    return list(dict.fromkeys(rows.case[hit]))


def check_unseen(members: Sequence[Member], rows: pd.DataFrame, what: str, *, training: bool = False) -> None:
    """Raises InputError, naming some, where a member was trained on one of `rows` (case, group, path) or, unless
    `training` alone matters, its best checkpoint chosen by it. `what` says in the message what is done with them."""
    own = set(used_by(members[0].folder, training=training).group)
    for folder in runs(members):
        met = common(used_by(folder, training=training), rows, own & set(rows.group))
        if met:
            raise InputError(f'{folder} was trained on {"" if training else "or chosen by "}{len(met)} of the '
                             f'{rows.case.nunique()} cases that {what}, such as {", ".join(met[:3])}, so its answers '
                             'there say nothing of other cases. Average runs that left them out: those of one test '
                             'subset, as config.data.folds and config.train.seeds make them, or of one '
                             'config.data.split_file')
