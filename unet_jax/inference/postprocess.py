"""What is done to predicted masks before they are written: small components go, a little enhancing tumour becomes
necrosis.

Both rules pay where an empty region scores 1 or a false positive lesion costs a whole one, as in the BraTS
conventions; both can hurt elsewhere, so evaluation/tuning.py chooses the limits on the validation subset.
"""
from typing import NamedTuple

import cc3d
import numpy as np

from unet_jax.annotations import labels


class Limits(NamedTuple):
    """In mm³; 0 is off."""
    component: float = 0.0  # a smaller 26-connected component of a region is removed
    enhancing: float = 0.0  # ET is removed, and so becomes what TC is written as (NCR), where all of it is smaller


def remove_small(mask: np.ndarray, smallest: float) -> np.ndarray:
    """(X, Y, Z) bool without the 26-connected components of fewer than `smallest` voxels."""
    if not smallest or not mask.any():
        return mask
    parts, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    kept = np.bincount(parts.ravel(), minlength=count + 1) >= smallest
    kept[0] = False
    return kept[parts]


def apply(masks: np.ndarray, limits: Limits, *, region_bits: tuple[int, ...], names: tuple[str, ...], voxel: float
          ) -> np.ndarray:
    """Region masks (X, Y, Z, R) -> the same after `limits`; `voxel` is the volume of one in mm³.

    What lies in an inner region lies in the outer ones too, before (as `labels.paint` has it) and after: where an
    outer region loses a component, so do the inner ones; where an inner one does, the outer one keeps it.
    """
    if limits == Limits():
        return masks
    outer, masks = labels.containing(region_bits), masks.copy()
    for r in range(len(region_bits)):
        for q in outer[r]:
            masks[..., q] |= masks[..., r]
    for r in sorted(range(len(region_bits)), key=lambda r: len(outer[r])):
        within = np.logical_and.reduce([masks[..., q] for q in outer[r]], axis=0) if outer[r] else True
        masks[..., r] = remove_small(masks[..., r] & within, limits.component / voxel)
    if 'ET' in names and masks[..., names.index('ET')].sum() * voxel < limits.enhancing:
        masks[..., names.index('ET')] = False
    return masks
