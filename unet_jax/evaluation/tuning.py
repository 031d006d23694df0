"""The limits of post-processing with the highest Dice on the validation subset, 0 (off) among the candidates.

Dice over the cases that have the region decides, and of equals that over all cases. So what is gained where a region
is not there, by removing what was invented, is never paid for where it is.
"""
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from unet_jax.evaluation import overlap
from unet_jax.inference.postprocess import Limits, apply

COMPONENTS = (0, 10, 25, 50, 100, 200, 500, 1000)  # mm³
ENHANCING = (0, 25, 50, 100, 200, 350, 500, 1000)  # mm³


class Means(NamedTuple):
    """Dice, mean over regions of the mean over cases; None where there is nothing to take it of."""
    dice: float | None  # over the cases that have the region
    dice_all: float | None  # over all cases


def tune(cases: Iterable[tuple[np.ndarray, np.ndarray, float]], *, region_bits: tuple[int, ...],
         names: tuple[str, ...], convention: str) -> dict:
    """The best limits for cases of (reference, prediction, mm³ of a voxel), by `Means`.

    Masks are (X, Y, Z, R). First the component limit, then, with it, that of the enhancing tumour; of equals the
    smaller. Returns {'component', 'enhancing', 'dice' and 'dice_all': {'without', 'with'}, 'tried': [{component,
    enhancing, dice, dice_all}]}; dice is None where no case has a region.
    """
    tables: dict[Limits, list] = {}
    there: list = []
    for reference, masks, voxel in cases:
        true, boxed = crop(reference, masks)
        there.append(true.any((0, 1, 2)))
        for component in COMPONENTS:
            cleaned = apply(boxed, Limits(component), region_bits=region_bits, names=names, voxel=voxel)
            for enhancing in ENHANCING if 'ET' in names else (0,):
                limits = Limits(component, enhancing)
                final = apply(cleaned, Limits(0, enhancing), region_bits=region_bits, names=names, voxel=voxel)
                tables.setdefault(limits, []).append(
                    [overlap.dice(overlap.counts(true[..., r], final[..., r]), convention=convention)
                     for r in range(len(region_bits))])
    scores = {limits: means(np.array(table), np.array(there)) for limits, table in tables.items()}
    order = {limits: tuple(-1.0 if mean is None else mean for mean in score) for limits, score in scores.items()}
    component = max(COMPONENTS, key=lambda c: (*order[Limits(c, 0)], -c))
    best = max((limits for limits in scores if limits.component == component),
               key=lambda limits: (*order[limits], -limits.enhancing))
    gain = {name: {'without': getattr(scores[Limits(0, 0)], name), 'with': getattr(scores[best], name)}
            for name in Means._fields}
    return {**best._asdict(), **gain, 'tried': [{**limits._asdict(), **score._asdict()}
                                                for limits, score in scores.items()]}


def means(dice: np.ndarray, there: np.ndarray) -> Means:
    """Of (cases, R) Dice, NaN left out; `there` says which cases have which region."""
    def over(table):
        columns = [column[~np.isnan(column)] for column in table.T]
        known = [column.mean() for column in columns if len(column)]
        return float(np.mean(known)) if known else None
    return Means(over(np.where(there, dice, np.nan)), over(dice))


def crop(*masks: np.ndarray) -> list[np.ndarray]:
    """The (X, Y, Z, R) masks within the box of all that is set in any of them; one voxel where nothing is."""
    anything = np.logical_or.reduce([mask.any(-1) for mask in masks])
    spans = [np.flatnonzero(anything.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
    box = tuple(slice(s[0], s[-1] + 1) if len(s) else slice(0, 1) for s in spans)
    return [mask[box] for mask in masks]
