"""Overlap of two masks: Dice, IoU, sensitivity and specificity from four counts.

Scorers agree on these formulas and differ where a mask is empty. The convention says what is reported then:

| convention | both masks empty | one mask empty |
|---|---|---|
| brats (BraTS 2017-2022) | 1 | 0 |
| nnunet, monai, deepmind, brats2025 (BraTS since 2025) | NaN, left out of means | 0 |
"""
from typing import Literal, NamedTuple, get_args

import numpy as np

from unet_jax.errors import InputError

Convention = Literal['brats', 'brats2025', 'nnunet', 'monai', 'deepmind']
CONVENTIONS = get_args(Convention)


class Counts(NamedTuple):
    """Voxels (pixels) by what the reference and the prediction say of them."""
    tp: int
    fp: int
    fn: int
    tn: int


def check_masks(reference: np.ndarray, prediction: np.ndarray) -> None:
    """Raises InputError unless both are bool arrays of one shape, of 2 or 3 dimensions."""
    for name, mask in (('reference', reference), ('prediction', prediction)):
        if mask.dtype != bool:
            raise InputError(f'{name} mask is {mask.dtype}; expected bool: compare or threshold it first')
    if reference.shape != prediction.shape:
        raise InputError(f'reference mask has shape {reference.shape}, prediction mask {prediction.shape}; '
                         'resample the prediction to the grid of the reference first')
    if reference.ndim not in (2, 3):
        raise InputError(f'masks have shape {reference.shape}; expected 2 or 3 dimensions')


def check_convention(convention: str) -> None:
    """Raises InputError for a name that is not in CONVENTIONS."""
    if convention not in CONVENTIONS:
        raise InputError(f'config.evaluation.convention is {convention!r}; choose one of {", ".join(CONVENTIONS)}')


def counts(reference: np.ndarray, prediction: np.ndarray) -> Counts:
    """Counts of two bool masks (D, H, W) or (H, W). Raises InputError for other dtypes and shapes."""
    check_masks(reference, prediction)
    both = np.count_nonzero(reference & prediction)
    found, there = np.count_nonzero(prediction), np.count_nonzero(reference)
    return Counts(tp=both, fp=found - both, fn=there - both, tn=reference.size - found - there + both)


def ratio(numerator: float, denominator: float) -> float:
    """Their quotient, NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else float('nan')


def when_empty(value: float, *, convention: Convention) -> float:
    """`value`, or what the convention gives two empty masks if it is NaN."""
    check_convention(convention)
    return 1.0 if convention == 'brats' and np.isnan(value) else value


def dice(c: Counts, *, convention: Convention = 'brats') -> float:
    """2 TP / (2 TP + FP + FN) (Dice 1945), in 0..1; see the module for empty masks."""
    return when_empty(ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn), convention=convention)


def iou(c: Counts, *, convention: Convention = 'brats') -> float:
    """TP / (TP + FP + FN) (Jaccard 1912), in 0..1; see the module for empty masks."""
    return when_empty(ratio(c.tp, c.tp + c.fp + c.fn), convention=convention)


def sensitivity(c: Counts) -> float:
    """TP / (TP + FN), in 0..1; NaN where the reference is empty, under every convention."""
    return ratio(c.tp, c.tp + c.fn)


def specificity(c: Counts) -> float:
    """TN / (TN + FP), in 0..1; NaN where the reference fills the image, under every convention."""
    return ratio(c.tn, c.tn + c.fp)
