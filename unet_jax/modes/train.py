"""--mode=train: from the files to a trained network and its evaluation; goes on where a run was interrupted."""
import json
import logging
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import lock
from unet_jax import workdir as files
from unet_jax.annotations import frame as frames
from unet_jax.annotations import identity
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment, create, init_params, settle
from unet_jax.model import unet
from unet_jax.modes import auto, fine_tune, kinds
from unet_jax.modes.annotate import annotate, check_data
from unet_jax.pipeline import stream
from unet_jax.shipped import PROGRAM
from unet_jax.training import budget, checkpoint, loop, optimizer, processes, state, together

log = logging.getLogger('unet_jax')
# Fields that change no step, and not by what validation chooses the best one: threshold and flips are none of them.
# Another data.root holds the same data: `check_data` is asked before.
SAFE = ('data.cache', 'data.cache_limit', 'data.root', 'train.checkpoint_every', 'train.evaluate_every', 'train.fsdp',
        'train.input_timeout', 'train.keep', 'train.log_every', 'train.resident', 'train.skip_nonfinite',
        'train.spatial', 'evaluation.batch_size', 'evaluation.calibrate', 'evaluation.convention',
        'evaluation.found_dice', 'evaluation.large_lesion', 'evaluation.lesions', 'evaluation.modality_subsets',
        'evaluation.overlap', 'evaluation.pictures', 'evaluation.postprocess', 'evaluation.spacing',
        'evaluation.tolerance', 'evaluation.uncertainty', 'evaluation.whole_tolerance', 'report.channel')


@lock.writer
def train(config: ConfigDict, folder: Path, *, allow: tuple[str, ...] = ()) -> bool:
    """Trains, or goes on, and evaluates the best checkpoint on the test subset. Called by every process together.

    A run goes on only with the config it was started with, but for fields that change no step and those in `allow`,
    and with the same data, wherever they lie. Returns whether it came to the end, and was not interrupted before.
    """
    began = time.monotonic()
    if not config.train.plan:
        loop.create_mesh(config)  # what does not divide over the devices is refused before any work
    resumed = (folder / 'config.json').exists()
    check_whole(folder)
    with processes.first_process_first('annotations'):
        frame = read_or_annotate(config, folder, resumed=resumed)
    if config.train.plan:
        config = auto.adopted(config, files.load_config(folder)) if resumed else auto.planned(config, folder, frame)
    config = settle_type(settle(config, frame), jax.devices(), files.load_config(folder) if resumed else None)
    config = budget.known(fine_tune.note_seal(config, folder, resumed=resumed), folder)
    if resumed:
        check_config(budget.known(files.load_config(folder), folder), config, folder, allow)
    foresee(create(config), folder)  # what cannot be built is refused before it is saved
    warn_of_unscored(config, frame)
    save_config(folder, config)
    runs = split_by_seed(config, folder)
    with ExitStack() as locks:
        for path, member in runs.items():
            locks.enter_context(lock.held(path))
            copy_files(member, folder, to=path)
        members = [begin(member, path, frame) for path, member in runs.items()]
        if config.train.minutes:
            members = [fix_steps(members[0], frame, began)]
        finished = together.train(members) if config.train.seeds else loop.train(*members[0])
        if not finished:
            if not jax.process_index():
                print(f'Interrupted and saved. To go on: {PROGRAM} --mode=train '
                      f'--workdir={shlex.quote(str(folder))}')
            return False
        from unet_jax.modes.evaluate import evaluate  # a second of imports that the first step need not wait for
        subset = 'test' if (frame.subset == 'test').any() else config.train.validate
        for member in members:
            evaluate(member.experiment.config, member.folder, subset=subset, which='best')
        return True


def fix_steps(member: together.Member, frame: pd.DataFrame, began: float) -> together.Member:
    """`member` with the steps that fit into config.train.minutes, as they were fixed when the run began.

    time.json is written before config.json, so that a run that is killed in between goes on with what it says.
    """
    experiment, samples, folder = member.experiment, member.samples, member.folder
    if (folder / budget.NAME).exists() or (folder / 'checkpoints').exists():
        return member
    subset = 'test' if (frame.subset == 'test').any() else experiment.config.train.validate
    rows = kinds.kind_of(experiment).rows(experiment, frame[frame.subset == subset])
    pixels = (rows.width * rows.height * (rows.depth if experiment.format.volumetric else 1)).mean()
    config = budget.fix(experiment, samples, folder, began=began, evaluated=len(rows), pixels=float(pixels))
    if not jax.process_index():
        files.save_config(folder, config)
    processes.wait_for_all('time')
    return member._replace(experiment=create(config))


def settle_type(config: ConfigDict, devices: Sequence[jax.Device], before: ConfigDict | None) -> ConfigDict:
    """A copy of `config` in which config.model.dtype = 'auto' has become a type: that of the run that goes on
    (`before`), so that it stays what it is on other devices, else the one for `devices`."""
    dtype = before.model.dtype if before and config.model.dtype == 'auto' else config.model.dtype
    settled = config.copy_and_resolve_references()
    with settled.unlocked():
        settled.model.dtype = unet.type_on(dtype, devices)
    return settled.lock()


def warn_of_unscored(config: ConfigDict, frame: pd.DataFrame) -> None:
    """Says, before any training, which of the subsets that will be scored has no annotation of what is segmented."""
    for subset in dict.fromkeys((config.train.validate, 'test')):
        rows = frame[frame.subset == subset]
        if rows.empty or rows.category_id.isin(config.data.categories).any() or jax.process_index():
            continue
        follows = 'The best checkpoint will be the one that finds least; name another config.train.validate' \
            if subset == config.train.validate else 'Its masks will be written'
        log.warning('warning: no case of the subset %s (%d) has an annotation of %s, so it cannot be scored: is it a '
                    'hidden test set, or were its annotations lost? %s', subset, rows.case.nunique(),
                    ', '.join(config.data.names), follows)


def foresee(experiment: Experiment, folder: Path) -> None:
    """Traces the run's first state, and says where the disk has no room for its checkpoints."""
    config = experiment.config
    transform = optimizer.create(config.optimizer, config.train.steps)
    first = jax.eval_shape(lambda: state.create(init_params(experiment), transform))
    optimizer.check_factors(config.optimizer.factors, first.params)
    parts = [f'seed_{seed}' for seed in config.train.seeds] or ['']
    if not jax.process_index():
        checkpoint.tell_of_room([folder / part / 'checkpoints' for part in parts], first, keep=config.train.keep)


def check_whole(folder: Path) -> None:
    """Raises InputError where there are checkpoints without the files by which alone they could be gone on from."""
    missing = [name for name in ('config.json', 'annotations.parquet') if not (folder / name).exists()]
    if missing and any(next(folder.glob(f'{part}checkpoints/*/seal.json'), None) for part in ('', 'seed_*/')):
        raise InputError(f'{folder} holds checkpoints, but not {" and ".join(missing)}, which say of what. Put back '
                         'what is missing, or name another --workdir to start anew')


def save_config(folder: Path, config: ConfigDict, home: Path | None = None) -> None:
    """config.json (`home`: see `workdir.save_config`); environment.json of the first start, a line in resumed.jsonl of
    every later one. By process 0."""
    with processes.first_process_first('config'):
        if not jax.process_index():
            folder.mkdir(parents=True, exist_ok=True)
            files.save_config(folder, config, home)
            first, environment = folder / 'environment.json', files.environment()
            if first.exists():
                now = time.strftime('%Y-%m-%dT%H:%M:%S%z')
                files.append_line(folder / 'resumed.jsonl', {'time': now, **environment})
            else:
                files.write_text(first, json.dumps(environment, indent=2) + '\n')


def split_by_seed(config: ConfigDict, folder: Path) -> dict[Path, ConfigDict]:
    """{work directory: config} of the runs: one, or one for each of config.train.seeds, on the same split."""
    if not config.train.seeds:
        return {folder: config}
    runs = {}
    for seed in config.train.seeds:
        member = config.copy_and_resolve_references()
        with member.unlocked():
            member.seed, member.train.seeds = seed, ()
        runs[folder / f'seed_{seed}'] = member
    return runs


def copy_files(config: ConfigDict, folder: Path, *, to: Path) -> None:
    """Gives `to`, the work directory of one of several seeds, its config, and the files of `folder` on the data."""
    if to == folder:
        return
    save_config(to, config, folder)
    for name in ('annotations.parquet', 'annotations.csv', 'splits.json', identity.FILE, 'audit.json', 'audit.txt'):
        if not jax.process_index() and (folder / name).exists():
            shutil.copyfile(folder / name, to / f'.{name}.copied')
            (to / f'.{name}.copied').replace(to / name)


def begin(config: ConfigDict, folder: Path, frame: pd.DataFrame) -> together.Member:
    """What a run trains: its experiment, its samples, and where it goes."""
    experiment = create(config)
    data = kinds.kind_of(experiment)
    rows = data.rows(experiment, frame)
    parts = {use: rows[rows.subset == subset].reset_index(drop=True)
             for use, subset in (('train', 'train'), ('valid', config.train.validate))}
    kept = stream.thin(parts['train'], share=config.data.empty_slices, seed=config.seed)
    for use, part in (parts | {'train': kept}).items():
        if part.empty:
            raise InputError(f'{config.data.root}: no image in the subset {use!r}, which training needs (see '
                             f'config.train.validate); there are {rows.subset.value_counts().to_dict()}')
    with processes.first_process_first('samples'):  # once where the cache is shared, else once a host
        samples = data.training_samples(experiment, **parts, kept=kept.index.to_numpy())
    note_skipped(config, folder, unread(frame) | samples['train'].skipped | samples['valid'].skipped, total=len(rows))
    return together.Member(experiment, samples, folder, fine_tune.first_params(experiment, folder, frame))


def read_or_annotate(config: ConfigDict, folder: Path, *, resumed: bool) -> pd.DataFrame:
    """The annotation frame of a run: read again where there is one already, so that it stays the same."""
    known = folder / 'annotations.parquet'
    if jax.process_index() and not known.exists():
        raise InputError(f'{known}: process 0 has written it, process {jax.process_index()} does not see it; '
                         '--workdir must be a folder that all processes share')
    if jax.process_index() or (resumed and known.exists()):
        if not jax.process_index():
            check_data(config, folder)
        return frames.load(known)
    return annotate(config, folder, training=True)


def unread(frame: pd.DataFrame) -> dict[str, str]:
    """{image: why} of those that the reader left out of the frame; the first 50 of each kind, with their number."""
    found = {}
    for kind in ('missing', 'unreadable'):
        left_out = frame.attrs.get('reader', {}).get(kind, {'count': 0, 'first': []})
        found |= {item: kind for item in left_out['first']}
        found |= {f'{kind}, number {k + 1}': kind for k in range(len(left_out['first']), left_out['count'])}
    return found


def note_skipped(config: ConfigDict, folder: Path, skipped: dict[str, str], *, total: int) -> None:
    """Writes skipped.json, {path: why}, where config.data.on_error = 'skip' left something out of training.

    Raises InputError where that is more than the share config.data.max_skipped, or not what this run began with.
    """
    if len(skipped) > config.data.max_skipped * total:
        raise InputError(f'{len(skipped)} of {total} samples cannot be read, more than config.data.max_skipped = '
                         f'{config.data.max_skipped}; the first: {"; ".join(list(skipped.values())[:3])}')
    known = folder / 'skipped.json'
    before = json.loads(known.read_text(encoding='utf-8')) if known.exists() else None
    if (folder / 'checkpoints').exists() and (before or {}).keys() != skipped.keys():
        odd = sorted((before or {}).keys() ^ skipped.keys())
        raise InputError(f'{folder} was begun with other files that cannot be read: {odd[:5]} changed since. Put them '
                         'back as they were, or start anew in another --workdir')
    if before != skipped and (skipped or before) and not jax.process_index():
        files.write_text(known, json.dumps(skipped, indent=1) + '\n')


def check_config(old: ConfigDict, new: ConfigDict, folder: Path, allow: tuple[str, ...] = ()) -> None:
    """Raises InputError where a run would go on with another config, but for fields that change no step and `allow`.

    What was changed is noted in config_changes.jsonl. More steps stretch the schedule, so they must be allowed too,
    unless the learning rate is constant.
    """
    safe = (*SAFE, 'train.steps') if new.optimizer.schedule == 'constant' else SAFE
    changed = files.differences(old, new)
    known = files.differences(ConfigDict(), new)
    unknown = [field for field in allow if field not in known]
    if unknown:
        raise InputError(f'--allow_changes={",".join(unknown)}: no such field; those that differ here: '
                         f'{", ".join(changed) or "none"}')
    refused = {field: values for field, values in changed.items() if field not in (*safe, *allow)}
    if refused:
        lines = '\n'.join(f'  {field}: {was!r} there, {now!r} here' for field, (was, now) in refused.items())
        raise InputError(f'{folder} holds a run with another config:\n{lines}\nName another --workdir, leave out '
                         f'--config to go on with the saved one, or change it on purpose: --allow_changes='
                         f'{",".join(refused)}. Free to change: {", ".join(safe)}')
    if changed and not jax.process_index():
        files.append_line(folder / 'config_changes.jsonl', {'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
                                                            'changed': changed})
