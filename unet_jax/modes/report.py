"""--mode=report: report.html of a run as it stands, also while another process trains it."""
from pathlib import Path

from ml_collections import ConfigDict

from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.evaluation import cases
from unet_jax.evaluation import summary as summaries
from unet_jax.inference import members
from unet_jax.inference import predictor as inference
from unet_jax.modes import evaluate, kinds
from unet_jax.report import html
from unet_jax.workdir import inference_config, load_run


def report(config: ConfigDict, folder: Path, *, subset: str) -> Path:
    """Writes the report of `folder` anew from its files, and returns its path. Nothing is scored.

    No lock is taken, since the page and its pictures are replaced whole: a run that is training goes on, and replaces
    them in the end. Cases are drawn where `subset` was evaluated, with the checkpoint that was scored. Raises
    InputError where `folder` holds no run, and where that checkpoint is gone.
    """
    load_run(folder)
    path = html.write(folder, subset, examples(config, folder, subset))
    print(f'Report: {path}')
    return path


def examples(config: ConfigDict, folder: Path, subset: str) -> list[html.Example]:
    """The cases to draw; none of a subset that was not evaluated here, or has no annotation."""
    known = summaries.read_summary(folder / 'evaluation' / subset)
    if not known or known.get('unscored'):
        return []
    step = str(known.get('checkpoint'))
    if not step.isdigit():
        raise InputError(f'{folder}: the scores of {subset} are those of {step}, not of one checkpoint; '
                         '--mode=evaluate writes their report')
    predictor = inference.restore_members(inference_config(folder, config), members.choose([folder], step))
    data = kinds.kind_of(predictor.experiment)
    scores = summaries.read_cases(folder / 'evaluation' / subset)
    rows = data.rows(predictor.experiment, frames.load(folder / 'annotations.parquet'))
    wanted = [case for case, _ in html.choose_examples(scores, predictor.experiment.config.evaluation.pictures)]
    rows = cases.by_case(rows[rows.case.isin(wanted) & (rows.subset == subset)].reset_index(drop=True))
    return evaluate.chosen_examples(predictor, data.open_samples(predictor.experiment, rows), scores,
                                    folder / 'predictions' / subset)
