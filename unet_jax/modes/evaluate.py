"""--mode=evaluate: a checkpoint's scores on a subset, its masks, pictures and the report."""
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.evaluation import cases, modalities, table
from unet_jax.experiment import Experiment
from unet_jax.inference import predict as inference
from unet_jax.modes import kinds, volumes
from unet_jax.pipeline import cache
from unet_jax.pipeline import volumes as volume_files
from unet_jax.report import html
from unet_jax.training import processes
from unet_jax.workdir import write_text


def evaluate(config: ConfigDict, folder: Path, *, subset: str, which: str, ensemble: Sequence[str] = ()) -> None:
    """Scores a checkpoint, or the average of several, on a subset: table, masks, pictures and the report.

    Called by every process together: each scores its share of the cases, process 0 writes the tables.
    """
    predictor, used = inference.restore(config, [folder, *map(Path, ensemble)], which)
    experiment = predictor.experiment
    data = kinds.of(experiment)
    found = data.rows(experiment, frames.load(folder / 'annotations.parquet'))
    rows = cases.by_case(found[found.subset == subset].reset_index(drop=True))
    if rows.empty:
        raise InputError(f'--subset={subset}: no such images; there are {found.subset.value_counts().to_dict()}')
    with processes.first_process_first('samples'):
        samples, skipped = open_whole(data, experiment, rows, of=len(found))
        if config.evaluation.postprocess:
            valid = found[found.subset == config.train.validate].reset_index(drop=True)
            predictor = predictor._replace(limits=volumes.limits(predictor, folder, used, valid))
    rows, masks = samples.rows, folder / 'predictions' / subset
    mine = data.part(samples, cases.share(rows, jax.process_index(), jax.process_count()))
    lines = processes.gather([line for case in data.segment(predictor, mine, masks)
                             for line in cases.score(experiment, case)])
    wanted = config.evaluation.modality_subsets
    fewer = processes.gather(volumes.with_modality_subsets(predictor, mine) if wanted else [])
    if jax.process_index():
        processes.wait_for_all('report')  # jax ends the first process where the others leave it alone for 5 minutes
        return
    scores, settings = pd.DataFrame(lines), config.evaluation
    units = 'mm' if experiment.format.stacked else 'px'
    summary = table.summarise(scores, convention=settings.convention, units=units, seed=config.seed,
                              tolerance=settings.tolerance, lesion=settings.lesions or None)
    written = labels.values(experiment.classes)
    summary |= {'subset': subset, 'checkpoint': used, 'mask_values': dict(zip(map(str, written), config.data.names))}
    summary |= {'skipped': skipped} if skipped else {}
    summary |= {'postprocess': predictor.limits._asdict()} if settings.postprocess else {}
    target = folder / 'evaluation' / subset
    table.write(target, scores, summary)
    examples = chosen_examples(predictor, samples, scores, masks)
    report = html.write(folder, subset, examples)
    print(table.text(summary))
    if fewer:
        write_text(target / 'modalities.csv', pd.DataFrame(fewer).to_csv(index=False))
        print(modalities.text(pd.DataFrame(fewer), convention=settings.convention, seed=config.seed))
    if settings.postprocess:
        print(f'Post-processed: {predictor.limits}, in mm³, tuned on {config.train.validate}')
    print(f'\nCheckpoint {used} on {subset}: {target}/cases.csv and summary.json\nMasks: {masks}\nReport: {report}')
    processes.wait_for_all('report')


def chosen_examples(predictor: inference.Predictor, samples: cache.Samples | volume_files.Volumes,
                    scores: pd.DataFrame, masks: Path) -> list[html.Example]:
    """The worst, median and best cases for the report, their predictions read back from the folder `masks`."""
    experiment, rows, examples = predictor.experiment, samples.rows, []
    data = kinds.of(experiment)
    for case, kind in html.choose_examples(scores, experiment.config.evaluation.pictures):
        where = np.flatnonzero(rows.case == case)
        shown = data.example(predictor, data.part(samples, slice(where[0], where[-1] + 1)), masks)
        dice = scores[scores.case == case].set_index('region').dice.to_dict()
        examples.append(html.Example(case, kind, dice, names=experiment.names, **shown))
    return examples


def open_whole(data: kinds.Kind, experiment: Experiment, rows: pd.DataFrame, *, of: int
               ) -> tuple[cache.Samples | volume_files.Volumes, dict[str, str]]:
    """(the samples of all cases that can be read, {case: why} of the others, where config.data.on_error is 'skip').

    A volume of which one slice cannot be read is left out whole. Raises InputError where that is more than the share
    config.data.max_skipped `of` all samples, or everything.
    """
    samples, limit = data.open_samples(experiment, rows), experiment.config.data.max_skipped
    kept, wanted = samples.rows.case.value_counts(), rows.case.value_counts()
    lost = [case for case in wanted.index if kept.get(case, 0) < wanted[case]]
    if not lost:
        return samples, {}
    reasons = {case: next(samples.skipped[path] for path in rows.path[rows.case == case] if path in samples.skipped)
               for case in sorted(lost)}
    if len(samples.skipped) > limit * of or len(lost) == len(wanted):
        raise InputError(f'{len(lost)} of {len(wanted)} cases cannot be read; config.data.max_skipped allows a share '
                         f'of {limit} of {of} samples, and a case must be left. The first: {reasons[min(lost)]}')
    whole = rows[~rows.case.isin(lost)].reset_index(drop=True)
    return samples if len(whole) == len(samples.rows) else data.open_samples(experiment, whole), reasons
