"""What is done to predicted masks before they are written, region by region, each by a limit of its own.

Each step pays somewhere and hurts elsewhere: removing what is small where an empty region scores 1 or a false positive
lesion costs a whole one, as in the BraTS conventions (Isensee et al. 2021, "nnU-Net for Brain Tumor Segmentation", for
the enhancing tumour). So evaluation/tuning.py chooses steps and limits on the validation subset.
"""
from collections.abc import Callable, Mapping
from typing import NamedTuple

import cc3d
import numpy as np

from unet_jax.annotations import labels

Limits = Mapping[str, tuple[float, ...]]  # {name of a step: a value for each region}; 0, or no such step, is off


def threshold(mask: np.ndarray, probability: np.ndarray, limit: float, voxel: float) -> np.ndarray:
    """Where the probability is above `limit`, in place of config.evaluation.threshold."""
    return probability > limit


def holes(mask: np.ndarray, probability: np.ndarray, limit: float, voxel: float) -> np.ndarray:
    """Background that the region encloses, by faces (edges of pixels), is filled where it is not larger than `limit`
    mm³."""
    parts, count = cc3d.connected_components(~mask, connectivity=6 if mask.ndim == 3 else 4, return_N=True)
    filled = np.bincount(parts.ravel(), minlength=count + 1) * voxel <= limit
    for axis in range(mask.ndim):  # what reaches the border is not enclosed
        for end in (0, -1):
            filled[np.unique(parts.take(end, axis))] = False
    filled[0] = False  # the region itself
    return mask | filled[parts]


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of the 26- or 8-connected parts of a mask, 0 outside; voxels of each number)."""
    parts, count = cc3d.connected_components(mask, connectivity=26 if mask.ndim == 3 else 8, return_N=True)
    return parts, np.bincount(parts.ravel(), minlength=count + 1)


def component(mask: np.ndarray, probability: np.ndarray, limit: float, voxel: float) -> np.ndarray:
    """Connected parts smaller than `limit` mm³ go."""
    parts, sizes = components(mask)
    return mask & (sizes * voxel >= limit)[parts]


def confidence(mask: np.ndarray, probability: np.ndarray, limit: float, voxel: float) -> np.ndarray:
    """Connected parts whose mean probability is below `limit` go."""
    parts, sizes = components(mask)
    sums = np.bincount(parts.ravel(), probability.ravel(), minlength=len(sizes))
    return mask & (sums >= limit * sizes)[parts]


def whole(mask: np.ndarray, probability: np.ndarray, limit: float, voxel: float) -> np.ndarray:
    """The region goes where all of it is smaller than `limit` mm³; what ET loses becomes what TC is written as."""
    return mask & (mask.sum() * voxel >= limit)


class Step(NamedTuple):
    """Something to do to the mask (…) bool of one region of probability (…) float32; voxel: mm³, of pixels 1."""
    function: Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]
    values: tuple[float, ...]  # that are tried; 0 is off
    unit: str  # mm³, for which images have pixels

    @property
    def name(self) -> str:
        return self.function.__name__


# in this order they are tuned and done
STEPS = [
    Step(threshold, (0.2, 0.3, 0.4, 0.6, 0.7, 0.8), ''),
    Step(holes, (50, 500, 1e6), 'mm³'),
    Step(component, (10, 25, 50, 100, 200, 500, 1000), 'mm³'),
    Step(confidence, (0.6, 0.7, 0.8, 0.9), ''),
    Step(whole, (25, 50, 100, 200, 350, 500, 1000), 'mm³'),
]


def apply(masks: np.ndarray, probability: np.ndarray, limits: Limits, *, region_bits: tuple[int, ...], voxel: float
          ) -> np.ndarray:
    """Region masks (…, R) bool with their probabilities (…, R) -> the masks after all steps of `limits`.

    What lies in an inner region lies in the outer ones too, before and after each step, as `labels.paint` has it:
    where an outer region loses a part, so do the inner ones; where an inner one does, the outer one keeps it.
    """
    if not limits:
        return masks
    outer, box, found = labels.containing(region_bits), surroundings(masks, probability, limits), masks.copy()
    masks, probability = nested(masks[box], outer), probability[box]
    for step in STEPS:
        for r in labels.outer_first(region_bits) if step.name in limits else ():
            if limit := limits[step.name][r]:
                masks[..., r] = step.function(np.ascontiguousarray(masks[..., r]), probability[..., r], limit, voxel)
                for q in range(len(region_bits)):
                    # a threshold chosen for one region makes no other smaller, as where masks are made
                    if r in outer[q] and step.function is not threshold:
                        masks[..., q] &= masks[..., r]
        masks = nested(masks, outer)
    found[box] = masks
    return found


def surroundings(masks: np.ndarray, probability: np.ndarray, limits: Limits) -> tuple[slice, ...]:
    """Where anything is, or could become, predicted, and a voxel more, so that a hole stays one and the outside
    none."""
    anything = masks.any(-1)
    if lower := [limit for limit in limits.get('threshold', ()) if limit]:
        anything |= (probability > min(lower)).any(-1)
    box = []
    for axis in range(anything.ndim):
        where = np.flatnonzero(anything.any(tuple(a for a in range(anything.ndim) if a != axis)))
        box.append(slice(max(where[0] - 1, 0), where[-1] + 2) if len(where) else slice(0, 1))
    return tuple(box)


def nested(masks: np.ndarray, outer: list[list[int]]) -> np.ndarray:
    """Region masks (…, R), each with all that lies in the regions inside it."""
    found = masks.copy()
    for r, around in enumerate(outer):
        for q in around:
            found[..., q] |= masks[..., r]
    return found


def told(limits: Limits, names: tuple[str, ...], unit: str = 'mm³') -> str:
    """The limits in words: 'component WT 50 mm³, ET 100 mm³; whole ET 200 mm³'."""
    parts = []
    for step in STEPS:
        if on := [f'{name} {value:g} {step.unit and unit}'.strip() for name, value in
                  zip(names, limits.get(step.name, (0,) * len(names)), strict=True) if value]:
            parts.append(f'{step.name} {", ".join(on)}')
    return '; '.join(parts) or 'nothing, as nothing helps'
