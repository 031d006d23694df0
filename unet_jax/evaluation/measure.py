"""From two masks to numbers: all metrics of one region of one case."""
import numpy as np

from unet_jax.evaluation import overlap
from unet_jax.evaluation.lesions import lesion_wise
from unet_jax.evaluation.overlap import Convention
from unet_jax.evaluation.surface import hd95, surface_dice


def score(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...],
          convention: Convention = 'brats', tolerance: float = 1.0, lesion: str | None = None,
          surface: bool = True) -> dict[str, float]:
    """All numbers of one region of one case, from two bool masks (D, H, W) or (H, W).

    dice, iou, sensitivity, specificity; with `surface` hd95 (unless the convention is nnunet, which has none) and
    surface_dice at `tolerance`, both in the units of `spacing`; with `lesion`, the name of a BraTS challenge, what
    `lesion_wise` returns; tp, fp, fn, tn in voxels; volume_reference and volume_prediction in mm³, or in pixels where
    `spacing` is 1; Python's own numbers, as they go into JSON. Raises InputError for masks, spacings and names that
    cannot be used.
    """
    c = overlap.counts(reference, prediction)
    scores = dict(dice=overlap.dice(c, convention=convention), iou=overlap.iou(c, convention=convention),
                  sensitivity=overlap.sensitivity(c), specificity=overlap.specificity(c))
    if surface and convention != 'nnunet':
        scores['hd95'] = hd95(reference, prediction, spacing=spacing, convention=convention)
    if surface:
        scores['surface_dice'] = surface_dice(reference, prediction, spacing=spacing, tolerance=tolerance,
                                              convention=convention)
    if lesion:
        scores |= lesion_wise(reference, prediction, spacing=spacing, challenge=lesion)
    voxel = float(np.prod(spacing))
    scores |= c._asdict() | dict(volume_reference=(c.tp + c.fn) * voxel, volume_prediction=(c.tp + c.fp) * voxel)
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in scores.items()}
