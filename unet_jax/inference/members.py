"""What is averaged into a result: one checkpoint, or several, of one run or of several; where the result goes, and
which cases it may be scored on."""
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from unet_jax.errors import InputError
from unet_jax.inference import model_file
from unet_jax.training import checkpoint
from unet_jax.workdir import load_config

NAMES = ('case', 'group', 'path')  # by which a case is known again in another run
STARTED = 'started_from.json'  # of a run that began with the parameters of another


class Member(NamedTuple):
    """A checkpoint of a run."""
    folder: Path  # its work directory, or the model file that holds it
    step: int


def choose(folders: Sequence[Path], which: str) -> tuple[Member, ...]:
    """The checkpoints `which`, such as 'best' or 'best,latest,400', of each of `folders`, none of them twice.

    A model file in place of a work directory has a single one. Raises InputError for a checkpoint that is not there or
    damaged, and for a folder that is named twice.
    """
    places = [Path(folder).resolve() for folder in folders]
    for k, folder in enumerate(folders):
        if places[k] in places[:k]:
            raise InputError(f'--ensemble={folder}: is named twice, or is --workdir itself; name each run once')
        load_config(folder)  # its own message where there is none
    return tuple(Member(folder, step) for folder in map(Path, folders) for step in dict.fromkeys(
        choose_step(folder, name) for name in which.split(',')))  # the best is often the latest


def choose_step(folder: Path, name: str) -> int:
    """The step that 'best', 'latest' or a number names in a work directory or a model file."""
    if not model_file.is_model(folder):
        return checkpoint.choose(folder / 'checkpoints', name)
    step = model_file.read_json(folder, 'model.json')['checkpoint']
    if name not in ('best', 'latest', str(step)):
        raise InputError(f'--checkpoint={name}: {folder} is a model file and holds checkpoint {step} alone')
    return step


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
    below the first member's, named after the members, the same whatever their order and wherever all are moved to.
    Where the first is a model file, that itself: `target` then asks for another place."""
    first, folders = members[0].folder, runs(members)
    if len(members) == 1 or model_file.is_model(first):
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


def target(members: Sequence[Member], output: str | Path | None, *below: str) -> Path:
    """The folder `output`, or `below` the home of `members` where none is named. Raises InputError where that is a
    model file."""
    if not output and model_file.is_model(home(members)):
        raise InputError(f'--workdir={home(members)}: is a model file, in which no results can be kept; name a folder '
                         'for them: --output=DIR')
    return Path(output) if output else home(members).joinpath(*below)


def used_by(folder: Path, *, training: bool = False) -> pd.DataFrame:
    """The rows (subset, case, group, path) that a run was trained on and, unless `training` alone is asked for, those
    by which its best checkpoint was chosen; all but the subset as `model_file.name_digest`. Raises InputError where
    its frame cannot be read."""
    if model_file.is_model(folder):
        used = pd.DataFrame(model_file.read_json(folder, 'used.json') or [], columns=['subset', *NAMES], dtype=str)
        return used[used.subset == 'train'] if training else used
    path = Path(folder) / 'annotations.parquet'
    try:
        frame = pd.read_parquet(path, columns=['subset', *NAMES])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f'{path}: cannot be read ({error}), so nobody knows what the run was trained on') from error
    chosen_by = () if training else ('valid', load_config(folder).train.validate)
    own = digested(frame[frame.subset.isin(('train', *chosen_by))].drop_duplicates())
    return pd.concat([own, *(rows[rows.subset == 'train'] if training else rows for rows in before(folder))])


def before(folder: Path) -> list[pd.DataFrame]:
    """The same of the run that the one in `folder` started from, if any."""
    path = Path(folder) / STARTED
    if not path.exists():
        return []
    return [pd.DataFrame(json.loads(path.read_text(encoding='utf-8'))['used'], columns=['subset', *NAMES], dtype=str)]


def digested(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with digests in place of the names of cases, groups and paths."""
    return rows.assign(**{name: rows[name].map({value: model_file.name_digest(value) for value in rows[name].unique()})
                          for name in NAMES})


def common(used: pd.DataFrame, rows: pd.DataFrame, own: Iterable[str] = ()) -> list[str]:
    """Names of the cases in `rows` that are, by case, group (patient) or path, among `used` (of `used_by`). Groups in
    `own` (digests) that both share are the data set's doing, which the audit tells, and count for nothing."""
    known = digested(rows)
    hit = known.case.isin(set(used.case)) | known.path.isin(set(used.path)) | known.group.isin(
        set(used.group) - set(own))
    return list(dict.fromkeys(rows.case[hit]))


def check_unseen(members: Sequence[Member], rows: pd.DataFrame, what: str, *, training: bool = False) -> None:
    """Raises InputError, naming some, where a member was trained on one of `rows` (case, group, path) or, unless
    `training` alone matters, its best checkpoint chosen by it. `what` says in the message what is done with them."""
    own = set(used_by(members[0].folder, training=training).group)
    for folder in runs(members):
        met = common(used_by(folder, training=training), rows, own)
        if met:
            raise InputError(f'{folder} was trained on {"" if training else "or chosen by "}{len(met)} of the '
                             f'{rows.case.nunique()} cases that {what}, such as {", ".join(met[:3])}, so its answers '
                             'there say nothing of other cases. Average runs that left them out: those of one test '
                             'subset, as config.data.folds and config.train.seeds make them, or of one '
                             'config.data.split_file')
