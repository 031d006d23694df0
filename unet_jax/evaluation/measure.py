"""From two masks to numbers: all metrics of one region of one case."""
import numpy as np

from unet_jax.evaluation import overlap
from unet_jax.evaluation.lesions import lesion_wise
from unet_jax.evaluation.matched import Sizes, matched
from unet_jax.evaluation.overlap import Convention
from unet_jax.evaluation.surface import hd95, surface_dice


def score(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...],
          convention: Convention = 'brats', tolerance: float = 1.0, lesion: str | None = None,
          surface: bool = True, whole_tolerance: float = 0.5, sizes: Sizes | None = None) -> dict[str, float]:
    """All numbers of one region of one case, from two bool masks (D, H, W) or (H, W).

    dice, iou, sensitivity, specificity; with `surface` hd95 (unless the convention is nnunet, which has none) and
    surface_dice at `tolerance`, both in the units of `spacing`; with `lesion`, the name of a BraTS challenge, what
    `lesion_wise` returns; by `brats2025` with `surface`, in place of hd95, surface_dice and these, what `matched`
    returns with `whole_tolerance` and `sizes`; tp, fp, fn, tn in voxels; volume_reference and volume_prediction in
    mm³, or in pixels where `spacing` is 1; Python's own numbers, as they go into JSON. Raises InputError for masks,
    spacings and names that cannot be used.
    """
    c = overlap.counts(reference, prediction)
    scores = dict(dice=overlap.dice(c, convention=convention), iou=overlap.iou(c, convention=convention),
                  sensitivity=overlap.sensitivity(c), specificity=overlap.specificity(c))
    matches = convention == 'brats2025'
    if surface and convention != 'nnunet' and not matches:
        scores['hd95'] = hd95(reference, prediction, spacing=spacing, convention=convention)
    if surface and not matches:
        scores['surface_dice'] = surface_dice(reference, prediction, spacing=spacing, tolerance=tolerance,
                                              convention=convention)
    if lesion and not matches:
        scores |= lesion_wise(reference, prediction, spacing=spacing, challenge=lesion, tolerance=tolerance)
    if surface and matches:
        scores |= matched(reference, prediction, spacing=spacing, tolerance=tolerance,
                          whole_tolerance=whole_tolerance, sizes=sizes)
    voxel = float(np.prod(spacing))
    scores |= c._asdict() | dict(volume_reference=(c.tp + c.fn) * voxel, volume_prediction=(c.tp + c.fp) * voxel)
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in scores.items()}
