"""Scores of a subset, case by case: an image is a case, and so are the stacked slices of a volume."""
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from unet_jax.annotations import labels
from unet_jax.evaluation import calibration, measure, metrics
from unet_jax.evaluation.components import components
from unet_jax.experiment import Experiment
from unet_jax.inference.temperature import calibrated


class Case(NamedTuple):
    """A case's masks as bit sets: (H, W), for slices (H, W, slices), for volumes (X, Y, Z)."""
    name: str
    group: str
    spacing: tuple[float, ...]  # mm; 1 for the pixels of an image
    reference: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray | None = None  # (…, R) float32, the network's own
    brain: np.ndarray | None = None  # bool; None is everywhere
    images: tuple[str, ...] = ()  # of stacked slices the path of each
    temperatures: tuple[float, ...] = ()  # of the regions, which calibrate the probability; () leaves it


def stack(rows: pd.DataFrame, found: Iterator[tuple[int, tuple[np.ndarray, ...]]],
          spacing: tuple[float, ...] = ()) -> Iterator[Case]:
    """Slices put together: `found` gives (position in `rows`, the arrays of a Case), slices of a case in a row.

    A volume is yielded as soon as it is complete, so that only one is held at a time. spacing: mm of a pixel's
    height and width and from slice to slice; () takes 1 for each.
    """
    spacing = spacing or (1.0,) * 3
    held: list[tuple[np.ndarray, ...]] = []
    for index, arrays in found:
        row = rows.iloc[index]
        if pd.isna(row.slice):
            yield Case(row.case, row.group, spacing[:2], *arrays)
            continue
        held.append(arrays)
        if index + 1 == len(rows) or rows.case.iloc[index + 1] != row.case:
            names = tuple(rows.path.iloc[index + 1 - len(held):index + 1])
            yield Case(row.case, row.group, spacing, *(np.stack(part, 2) for part in zip(*held, strict=True)),
                       images=names)
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


def scored_regions(experiment: Experiment) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(names, bit sets) of what is scored: the regions, and by brats2025 each label that is none of them, such as NETC
    and SNFH beside WT, TC, ET and RC."""
    names, region_bits = experiment.names, experiment.region_bits
    if experiment.config.evaluation.convention != 'brats2025':
        return names, region_bits
    more = [(name, 1 << k) for k, name in enumerate(experiment.config.data.names)
            if 1 << k not in region_bits and name not in names]
    return (*names, *(name for name, _ in more)), (*region_bits, *(bit for _, bit in more))


def score(experiment: Experiment, case: Case) -> list[dict]:
    """One row a region: case, group, region, and what every function of `metrics.METRICS` gives."""
    config = experiment.config.evaluation
    names, region_bits = scored_regions(experiment)
    true, predicted = (labels.region_masks(bits, region_bits) for bits in (case.reference, case.prediction))
    lines, box = [], tumour_box(experiment, case)
    probability = None if case.probability is None else calibrated(case.probability, case.temperatures)
    for r, name in enumerate(names):
        p = None if probability is None or r >= len(experiment.names) else probability[..., r]
        region = metrics.Region(true[..., r], predicted[..., r], case.spacing, p, box, case.brain)
        lines.append({'case': case.name, 'group': case.group, 'region': name})
        for metric in metrics.METRICS:
            lines[-1] |= metric(region, config)
        lines[-1] |= components(region.reference, region.prediction) if case.images else {}
    return lines


def tumour_box(experiment: Experiment, case: Case) -> tuple[slice, ...] | None:
    """`calibration.box` of the reference of all regions together."""
    return calibration.box(labels.region_masks(case.reference, experiment.region_bits).any(-1), case.spacing)


def tally(experiment: Experiment, case: Case) -> np.ndarray:
    """`calibration.tally` (R, 3, BINS) of a case's own probabilities inside its box; zeros without one."""
    box = tumour_box(experiment, case)
    if box is None:
        return np.zeros((len(experiment.regions), 3, calibration.BINS))
    true = labels.region_masks(case.reference[box], experiment.region_bits)
    return np.stack([calibration.tally(case.probability[box][..., r], true[..., r]) for r in range(true.shape[-1])])


def score_images(experiment: Experiment, case: Case) -> list[dict]:
    """Of stacked slices, one row a slice and region: case (its path), group, region, and overlap; none of others."""
    config, lines = experiment.config.evaluation, []
    for k, name in enumerate(case.images):
        masks = [labels.region_masks(bits[..., k], experiment.region_bits)
                 for bits in (case.reference, case.prediction)]
        lines += [{'case': name, 'group': case.group, 'region': region} | measure.score(
            *(mask[..., r] for mask in masks), spacing=case.spacing[:2], convention=config.convention, surface=False)
            for r, region in enumerate(experiment.names)]
    return lines
