"""The limits of post-processing with the highest Dice on the validation subset, 0 (off) among the candidates."""
from collections.abc import Iterable

import numpy as np

from unet_jax.evaluation import overlap
from unet_jax.inference.postprocess import Limits, apply

COMPONENTS = (0, 10, 25, 50, 100, 200, 500, 1000)  # mm³
ENHANCING = (0, 25, 50, 100, 200, 350, 500, 1000)  # mm³


def tune(cases: Iterable[tuple[np.ndarray, np.ndarray, float]], *, region_bits: tuple[int, ...],
         names: tuple[str, ...], convention: str) -> dict:
    """The limits with the highest Dice, mean over regions and cases of (reference, prediction, mm³ of a voxel).

    Masks are (X, Y, Z, R). First the component limit, then, with it, that of the enhancing tumour; of equals the
    smaller. Returns {'component', 'enhancing', 'dice': {'without', 'with'}, 'tried': [{component, enhancing, dice}]}.
    """
    tables: dict[Limits, list] = {}
    for reference, masks, voxel in cases:
        true, boxed = crop(reference, masks)
        for component in COMPONENTS:
            cleaned = apply(boxed, Limits(component), region_bits=region_bits, names=names, voxel=voxel)
            for enhancing in ENHANCING if 'ET' in names else (0,):
                limits = Limits(component, enhancing)
                final = apply(cleaned, Limits(0, enhancing), region_bits=region_bits, names=names, voxel=voxel)
                tables.setdefault(limits, []).append(
                    [overlap.dice(overlap.counts(true[..., r], final[..., r]), convention=convention)
                     for r in range(len(region_bits))])
    scores = {limits: float(np.nanmean(np.nanmean(table, axis=0))) for limits, table in tables.items()}
    component = max(COMPONENTS, key=lambda c: (scores[Limits(c, 0)], -c))
    best = max((limits for limits in scores if limits.component == component),
               key=lambda limits: (scores[limits], -limits.enhancing))
    return {**best._asdict(), 'dice': {'without': scores[Limits(0, 0)], 'with': scores[best]},
            'tried': [{**limits._asdict(), 'dice': score} for limits, score in scores.items()]}


def crop(*masks: np.ndarray) -> list[np.ndarray]:
    """The (X, Y, Z, R) masks within the box of all that is set in any of them; one voxel where nothing is."""
    anything = np.logical_or.reduce([mask.any(-1) for mask in masks])
    spans = [np.flatnonzero(anything.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
    box = tuple(slice(s[0], s[-1] + 1) if len(s) else slice(0, 1) for s in spans)
    return [mask[box] for mask in masks]
