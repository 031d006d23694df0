"""Lesion-wise Dice, NSD and HD95, by which the BraTS challenges of 2023 and 2024 rank.

Saluja, R. et al., the BraTS 2023 lesion-wise performance metrics. Every lesion counts alike, whatever its size, and
every invented one costs as much as a missed one.
"""
from typing import NamedTuple

import cc3d
import numpy as np
import scipy  # its parts are loaded when first used: training begins without them

from unet_jax.errors import InputError
from unet_jax.evaluation import overlap
from unet_jax.evaluation.surface import check_spacing, crop, element_distances, element_hd95, near_share

PENALTY = 374.0  # mm, HD95 of a missed or an invented lesion


class Challenge(NamedTuple):
    dilation: int  # voxels within which parts of a lesion, and what is predicted for it, belong together
    threshold: float  # mm³; only larger lesions count


CHALLENGES = {
    'GLI': Challenge(dilation=3, threshold=50.0),
    'SSA': Challenge(dilation=3, threshold=50.0),
    'PED': Challenge(dilation=3, threshold=50.0),
    'MEN': Challenge(dilation=1, threshold=50.0),
    'MET': Challenge(dilation=1, threshold=2.0),
}


def check_challenge(name: str) -> None:
    """Raises InputError for a name that is not in CHALLENGES."""
    if name not in CHALLENGES:
        raise InputError(f'config.evaluation.lesions is {name!r}; choose a BraTS challenge: {", ".join(CHALLENGES)}')


def reaches(reference: np.ndarray, dilation: int) -> np.ndarray:
    """(D, H, W) bool -> (D, H, W) int: 1, 2, … in each lesion and `dilation` voxels around it, 0 elsewhere.

    The neighbourhood of a step are the 18 voxels that share a face or an edge. Parts of the reference whose
    surroundings touch, at a corner even, are one lesion.
    """
    near = scipy.ndimage.binary_dilation(reference, scipy.ndimage.generate_binary_structure(3, 2), iterations=dilation)
    return cc3d.connected_components(near, connectivity=26)


def lesion_scores(lesion: np.ndarray, found: np.ndarray, *, spacing: tuple[float, ...], tolerance: float
                  ) -> tuple[float, float, float]:
    """Dice, NSD and HD95 of one lesion (D, H, W) and all that was predicted for it: 0, 0 and PENALTY if nothing was.

    NSD is the surface Dice and HD95 that of the `deepmind` convention, which the challenges' own scorer calls.
    """
    if not found.any():
        return 0.0, 0.0, PENALTY
    lesion, found = crop(lesion, found)
    directions = element_distances(lesion, found, spacing=tuple(spacing))
    return (overlap.dice(overlap.counts(lesion, found)), near_share(directions, tolerance),
            element_hd95(directions))


def lesion_wise(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...],
                challenge: str = 'GLI', tolerance: float = 1.0) -> dict[str, float]:
    """Scores of one region of one case, from two bool masks (D, H, W) and their spacing in mm.

    Returns lesion_dice and lesion_nsd at `tolerance` mm (0..1), lesion_hd95 (mm), and lesion_tp, lesion_fn, lesion_fp:
    reference lesions above the threshold that are found (at least touched, when dilated) and missed, and predicted
    components that belong to no lesion. With no lesion to count and nothing invented Dice and NSD are 1, HD95 0. A
    predicted component that reaches two lesions belongs to both. Raises InputError for images and for unknown
    challenges.
    """
    overlap.check_masks(reference, prediction)
    check_challenge(challenge)
    check_spacing(spacing, reference.ndim)
    if reference.ndim != 3:
        raise InputError(f'lesion-wise scores of an image {reference.shape}; they are defined for volumes only')
    dilation, threshold = CHALLENGES[challenge]
    reference, prediction = crop(reference, prediction, margin=dilation)
    if not reference.size:
        return dict(lesion_dice=1.0, lesion_nsd=1.0, lesion_hd95=0.0, lesion_tp=0, lesion_fn=0, lesion_fp=0)

    reach = reaches(reference, dilation)
    parts, n_parts = cc3d.connected_components(np.ascontiguousarray(prediction), connectivity=26, return_N=True)
    touched = reach[prediction] > 0
    invented = n_parts - len(np.unique(parts[prediction][touched]))
    volumes = np.bincount(reach[reference]) * np.prod(spacing)
    scores, found = [], 0
    for lesion in np.flatnonzero(volumes > threshold):
        mine = np.zeros(n_parts + 1, bool)
        mine[parts[(reach == lesion) & prediction]] = True
        found += int(mine.any())
        scores.append(lesion_scores((reach == lesion) & reference, mine[parts], spacing=spacing,
                                    tolerance=tolerance))
    counted = len(scores) + invented
    dice, nsd, distance = np.sum([*scores, (0.0, 0.0, PENALTY * invented)], 0) / counted if counted else (1, 1, 0)
    return dict(lesion_dice=float(dice), lesion_nsd=float(nsd), lesion_hd95=float(distance),
                lesion_tp=found, lesion_fn=len(scores) - found, lesion_fp=invented)
