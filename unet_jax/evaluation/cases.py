"""Scores of a subset, case by case: an image is a case, and so are the stacked slices of a volume."""
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from unet_jax.annotations import labels
from unet_jax.evaluation import table
from unet_jax.experiment import Experiment


class Case(NamedTuple):
    """A case's masks as bit sets: (H, W), for slices (H, W, slices), for volumes (X, Y, Z)."""
    name: str
    group: str
    prediction: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, ...]  # mm; 1 for the pixels of an image


def stack(rows: pd.DataFrame, masks: Iterator[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[Case]:
    """Slices put together: `masks` gives (position in `rows`, prediction, reference), slices of a case in a row.

    A volume is yielded as soon as it is complete, so that only one is held at a time. Slices are 1 mm apart and wide.
    """
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for index, prediction, reference in masks:
        row = rows.iloc[index]
        if pd.isna(row.slice):
            yield Case(row.case, row.group, prediction, reference, (1.0, 1.0))
            continue
        held.append((prediction, reference))
        if index + 1 == len(rows) or rows.case.iloc[index + 1] != row.case:
            yield Case(row.case, row.group, *(np.stack(part, -1) for part in zip(*held, strict=True)), (1.0,) * 3)
            held = []


def by_case(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` in the order that `stack` needs: by case, then by slice; images keep their order."""
    if rows.slice.isna().all():
        return rows
    return rows.sort_values(['case', 'slice'], kind='stable').reset_index(drop=True)


def share(rows: pd.DataFrame, process: int, processes: int) -> slice:
    """The rows of one of several processes: whole cases, as many as for the others. `rows` are those of `by_case`."""
    first = [*np.flatnonzero(~rows.case.duplicated()), len(rows)]
    low, high = ((len(first) - 1) * p // processes for p in (process, process + 1))
    return slice(int(first[low]), int(first[high]))


def score(experiment: Experiment, case: Case) -> list[dict]:
    """One row a region: case, group, region and every metric of `table.score`."""
    config = experiment.config.evaluation
    predicted, true = (labels.region_masks(bits, experiment.of) for bits in (case.prediction, case.reference))
    return [{'case': case.name, 'group': case.group, 'region': name,
             **table.score(true[..., r], predicted[..., r], spacing=case.spacing,
                           convention=config.convention, tolerance=config.tolerance, lesion=config.lesions or None)}
            for r, name in enumerate(experiment.names)]
