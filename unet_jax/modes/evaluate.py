"""--mode=evaluate: a checkpoint's scores on a subset, its masks, pictures and the report."""
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import lock
from unet_jax.annotations import frame as frames
from unet_jax.annotations import identity, labels
from unet_jax.errors import InputError
from unet_jax.evaluation import calibration, cases, metrics, modalities, referral, table, tuning
from unet_jax.evaluation import summary as summaries
from unet_jax.experiment import Experiment, read_frame
from unet_jax.inference import members, model_file
from unet_jax.inference import predictor as inference
from unet_jax.modes import compare, kinds, tuned
from unet_jax.modes.annotate import check_data
from unet_jax.pipeline import cache, prepared
from unet_jax.report import html
from unet_jax.shipped import PROGRAM
from unet_jax.training import processes
from unet_jax.workdir import inference_config, write_text

SPLIT = ('split', 'split_seed', 'split_file', 'folds', 'fold', 'group_pattern')  # of config.data


def evaluate(config: ConfigDict, folder: Path, *, subset: str, which: str, ensemble: Sequence[str] = (),
             output: str | None = None, other: Sequence[str] = ()) -> Path:
    """Scores a checkpoint, or the average of several, on a subset: table, masks, pictures and the report, in `folder`
    for a single checkpoint, else in a folder of its own, `members.home`; of a run that is still training in
    `members.interim`, where it writes nothing; or in `output`. Returns that folder.

    `folder` and those of `ensemble` may be model files. The cases are those of the run in `folder`; of a model file
    those of config.data.root. `other` are results to compare with (`compare.compare`) in the report.

    Called by every process together: each scores its share of the cases, process 0 writes the tables. Raises
    InputError for runs that were trained on what is scored, but for a run alone on a subset of its own.
    """
    given, config = config, inference_config(folder, config)
    chosen = members.choose([folder, *map(Path, ensemble)], which)
    with ExitStack() as locks:
        home = take_place(chosen, output, locks)
        score(split_as(given, config) if model_file.is_model(folder) else config, home, chosen, subset=subset,
              which=which, other=other)
    return home


def take_place(chosen: Sequence[members.Member], output: str | None, locks: ExitStack) -> Path:
    """The folder of the results, which is this process's to write into until `locks` is left."""
    home, folder, busy = members.target(chosen, output), chosen[0].folder, []
    if output:
        locks.enter_context(lock.held(home))
        return home
    try:
        locks.enter_context(lock.held(folder))
    except lock.Busy:
        busy = [True]
    if not any(processes.gather(busy)):  # of several processes the first knows
        return home
    home = members.interim(chosen)
    locks.enter_context(lock.held(home))
    if not jax.process_index():
        print(f'{folder} is in use, as by its training: the results go to {home}')
    return home


def score(config: ConfigDict, home: Path, chosen: Sequence[members.Member], *, subset: str, which: str,
          other: Sequence[str]) -> None:
    """`evaluate` into `home`, of a settled config."""
    folder, used = chosen[0].folder, members.told(chosen)
    from_file = model_file.is_model(folder)
    fits = folder if from_file else home  # what was fitted on the validation subset goes along in a model file
    frame = read_frame(config) if from_file else frames.load(folder / 'annotations.parquet')
    scored = frame[frame.subset == subset]
    if len(members.runs(chosen)) > 1:
        members.check_unseen(chosen, scored, f'--subset={subset} scores')
    for field in () if from_file else tuned.fitted(config):
        check_tuning(chosen, frame[frame.subset == config.train.validate], config, field)
    predictor = inference.restore_members(config, chosen)
    experiment = predictor.experiment
    data = kinds.kind_of(experiment)
    found = data.rows(experiment, frame)
    rows = cases.by_case(found[found.subset == subset].reset_index(drop=True))
    if rows.empty:
        raise InputError(f'--subset={subset}: no such images; there are {found.subset.value_counts().to_dict()}')
    if not from_file:
        processes.by_the_first(lambda: check_data(config, folder), 'data')
    with processes.first_process_first('samples'):
        samples, skipped = open_whole(data, experiment, rows, total=len(found))
        if tuned.fitted(config):
            valid = found[found.subset == config.train.validate].reset_index(drop=True)
            home.mkdir(parents=True, exist_ok=True)
            predictor = tuned.settle(predictor, fits, used, valid)
    masks = home / 'predictions' / subset
    mine = data.part(samples, cases.share(samples.rows, jax.process_index(), jax.process_count()))
    lines, images, tally = [], [], np.zeros((len(experiment.regions), 3, calibration.BINS))
    for case in data.segment(predictor, mine, masks):
        lines += cases.score(experiment, case)
        images += cases.score_images(experiment, case)
        tally += cases.tally(experiment, case)
    lines, images = processes.gather(lines), processes.gather(images)
    tally = np.sum(processes.gather([tally.tolist()]), 0)
    wanted = config.evaluation.modality_subsets
    fewer = processes.gather(without_some(predictor, mine) if wanted else [])
    if not jax.process_index():
        told = {'subset': subset, 'checkpoint': used, **data_set(folder), **about(chosen, config, subset, scored),
                **({'skipped': skipped} if skipped else {}),
                'calibration': calibration.summarise(tally, experiment.names, predictor.temperatures),
                **tuned.summarised(predictor, fits)}
        write(predictor, samples, chosen, home=home, scores=pd.DataFrame(lines), fewer=pd.DataFrame(fewer),
              images=pd.DataFrame(images), told=told, which=which, other=other)
    processes.wait_for_all('report')  # jax ends the first process where the others leave it alone for 5 minutes


def without_some(predictor: inference.Predictor, samples: cache.Samples | prepared.Volumes) -> list[dict]:
    """`modalities.score` of every case and subset of the sequences that it has."""
    experiment = predictor.experiment
    chosen = modalities.subsets(tuple(experiment.config.data.modalities))
    found = kinds.kind_of(experiment).segment_without(predictor, samples, chosen)
    return [line for kept, case in found for line in modalities.score(experiment, case, kept)]


def split_as(given: ConfigDict, config: ConfigDict) -> ConfigDict:
    """`config` with the data split as `given` says: a model file is scored on whatever data are at hand."""
    found = config.copy_and_resolve_references()
    found.data.update({name: given.data[name] for name in SPLIT})
    return found


def check_tuning(chosen: Sequence[members.Member], rows: pd.DataFrame, config: ConfigDict,
                 field: str = 'config.evaluation.postprocess') -> None:
    """Raises InputError where what `field` asks for cannot be tuned on `rows`: a member was trained on some, or none
    has an annotation, so that removing everything would score best."""
    subset = config.train.validate
    members.check_unseen(chosen, rows, f'{field} is tuned on ({subset})', training=True)
    if len(rows) and rows.category_id.isna().all():
        raise InputError(f'{field} is tuned on the subset {subset}, none of whose '
                         f'{rows.case.nunique()} cases has an annotation; leave it out, or name another '
                         'config.train.validate')


def data_set(folder: Path) -> dict:
    """{'data': {digest of all content, number of files}} of a run; {} of a model file, which is scored on others."""
    if model_file.is_model(folder):
        return {}
    known = identity.load(folder)
    return {'data': {'digest': known['digest'], 'files': len({*known['images'], *known['annotations']})}}


def about(chosen: Sequence[members.Member], config: ConfigDict, subset: str, scored: pd.DataFrame) -> dict:
    """What a summary must say of the members: which they are, and whether the cases are new to them."""
    known = {config.train.validate: 'the best checkpoint was chosen by these cases',
             'train': 'the run was trained on these cases'}
    told = {'seen': known[subset]} if subset in known else {}
    if model_file.is_model(chosen[0].folder):  # the data may be others than the run's
        met = members.common(members.used_by(chosen[0].folder), scored)
        told = {'seen': f'the model was trained on or chosen by cases of the names of {len(met)} of these '
                        f'{scored.case.nunique()}, such as {", ".join(met[:3])}'} if met else {}
    if len(chosen) > 1:
        told['members'] = [{'run': str(m.folder), 'checkpoint': m.step} for m in chosen]
    return told


def write(predictor: inference.Predictor, samples: cache.Samples | prepared.Volumes,
          chosen: Sequence[members.Member], *, home: Path, scores: pd.DataFrame, fewer: pd.DataFrame,
          images: pd.DataFrame, told: dict, which: str, other: Sequence[str] = ()) -> None:
    """The files of the scores of all cases (`summaries.write`, modalities.csv) and the report, into `home`; prints the
    tables. `other`: results to compare with."""
    experiment = predictor.experiment
    settings, seed = experiment.config.evaluation, experiment.config.seed
    subset = told['subset']
    target, masks = home / 'evaluation' / subset, home / 'predictions' / subset
    rules = {'convention': settings.convention, 'units': 'px' if experiment.format.unspaced and not settings.spacing
             else 'mm', 'seed': seed, 'tolerance': settings.tolerance, 'lesion': settings.lesions or None,
             'whole_tolerance': settings.whole_tolerance, 'sizes': metrics.sizes(settings)}
    summary = summaries.summarise(scores, **rules)
    summary |= {'images': summaries.summarise(images, **rules)} if len(images) else \
        {'flat': True} if experiment.format.unspaced else {}
    written = labels.values(experiment.classes)
    summary |= {'referral': {} if summary.get('unscored') else referral.summarise(scores, seed=seed)}
    summary |= told | {'mask_values': dict(zip(map(str, written), experiment.config.data.names, strict=True))}
    if summary.get('unscored'):
        scores = scores[[*summaries.KEYS, 'volume_prediction']]
    before = summaries.read_summary(target).get('checkpoint', told['checkpoint'])
    summaries.write(target, scores, summary, images)
    examples = [] if summary.get('unscored') else chosen_examples(predictor, samples, scores, masks)
    print(table.text(summary) + calibration.text(summary['calibration']) + referral.text(summary['referral'])
          + tuning.text(summary.get('postprocess')))
    if other:
        compare.compare(home, other, subset=subset)
    if len(fewer) and not summary.get('unscored'):
        write_text(target / 'modalities.csv', fewer.to_csv(index=False))
        print(modalities.text(fewer, convention=settings.convention, seed=seed))
    else:
        (target / 'modalities.csv').unlink(missing_ok=True)  # of an earlier call
    report = html.write(home, subset, examples, run=chosen[0].folder,
                        again=command(chosen, subset=subset, which=which, home=home))
    for said in tuned.words(predictor):
        print(f'{said[0].upper()}{said[1:]}; by the subset {experiment.config.train.validate}')
    if 'seen' in summary:
        print(f'Not a result on new cases: {summary["seen"]}')
    if before != told['checkpoint']:
        print(f'In place of the scores of checkpoint {before}')
    print(f'\nCheckpoint {told["checkpoint"]} on {subset}: {target}/cases.csv, summary.csv and summary.json\n'
          f'Masks: {masks}\nReport: {report}')


def command(chosen: Sequence[members.Member], *, subset: str, which: str, home: Path) -> str:
    """What evaluates the same again."""
    first, *others = members.runs(chosen)
    flags = [f'--workdir={first}', '--mode=evaluate', f'--subset={subset}']
    flags += [f'--checkpoint={which}'] * (which != 'best')
    flags += [f'--ensemble={",".join(map(str, others))}'] * bool(others)
    flags += [f'--output={home}'] * (home not in (members.home(chosen), members.interim(chosen)))
    return f'{PROGRAM} {shlex.join(flags)}'


def chosen_examples(predictor: inference.Predictor, samples: cache.Samples | prepared.Volumes,
                    scores: pd.DataFrame, masks: Path) -> list[html.Example]:
    """The worst, median and best cases for the report, their predictions read back from the folder `masks`."""
    experiment, rows, examples = predictor.experiment, samples.rows, []
    data = kinds.kind_of(experiment)
    for case, kind in html.choose_examples(scores, experiment.config.evaluation.pictures):
        where = np.flatnonzero(rows.case == case)
        shown = data.example(predictor, data.part(samples, slice(where[0], where[-1] + 1)), masks)
        dice = scores[scores.case == case].set_index('region').dice.to_dict()
        examples.append(html.Example(case, kind, dice, names=experiment.names, sequences=experiment.sequences,
                                     channel=experiment.shown, **shown))
    return examples


def open_whole(data: kinds.Kind, experiment: Experiment, rows: pd.DataFrame, *, total: int
               ) -> tuple[cache.Samples | prepared.Volumes, dict[str, str]]:
    """(the samples of all cases that can be read, {case: why} of the others, where config.data.on_error is 'skip').

    A volume of which one slice cannot be read is left out whole. Raises InputError where that is more than the share
    config.data.max_skipped of the `total` samples, or everything.
    """
    samples, limit = data.open_samples(experiment, rows), experiment.config.data.max_skipped
    kept, wanted = samples.rows.case.value_counts(), rows.case.value_counts()
    lost = [case for case in wanted.index if kept.get(case, 0) < wanted[case]]
    if not lost:
        return samples, {}
    reasons = {case: next(samples.skipped[path] for path in rows.path[rows.case == case] if path in samples.skipped)
               for case in sorted(lost)}
    if len(samples.skipped) > limit * total or len(lost) == len(wanted):
        raise InputError(f'{len(lost)} of {len(wanted)} cases cannot be read; config.data.max_skipped allows a share '
                         f'of {limit} of {total} samples, and a case must be left. The first: {reasons[min(lost)]}')
    whole = rows[~rows.case.isin(lost)].reset_index(drop=True)
    return samples if len(whole) == len(samples.rows) else data.open_samples(experiment, whole), reasons
