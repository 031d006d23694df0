"""Whether a network is unsure where it is wrong, and sure where it is right: the score of QU-BraTS 2020.

Mehta, R. et al. 2022 (MELBA 2022:026, arXiv:2112.10074). Voxels above a threshold of uncertainty are filtered out. Of
those that stay Dice should rise; what was right, true positives and true negatives, should not go.
"""
import numpy as np

from unet_jax.errors import InputError
from unet_jax.evaluation import overlap

THRESHOLDS = np.linspace(0, 100, 41)  # as the challenge's scorer has them
COSTS = ['uncertainty_filtered_tp', 'uncertainty_filtered_tn']  # less is better
METRICS = ['uncertainty_score', 'uncertainty_dice', *COSTS]


def area(values: np.ndarray) -> float:
    """Below the line through `values` (41,) at THRESHOLDS, as a share of the widest range, 0..100."""
    return float(np.trapezoid(values, THRESHOLDS) / 100)


def qu_brats(reference: np.ndarray, prediction: np.ndarray, *, uncertainty: np.ndarray,
             brain: np.ndarray | None = None) -> dict[str, float]:
    """Scores of one region of one case, from two bool masks and the uncertainty 0..100 (uint8), all of one shape.

    Returns uncertainty_dice, the area under Dice of the voxels that are kept; uncertainty_filtered_tp and
    uncertainty_filtered_tn, the areas under the share of true positives and true negatives that are not; and
    uncertainty_score, the mean of the first and of 1 minus the others; all in 0..1. As in the challenge's scorer two
    empty masks have Dice 1 under every convention, where there is no true positive none is filtered out, and true
    positives and negatives are counted inside `brain` (bool; everywhere if None). Raises InputError for arrays that do
    not fit.
    """
    overlap.check_masks(reference, prediction)
    if uncertainty.dtype != np.uint8 or uncertainty.shape != reference.shape or uncertainty.max(initial=0) > 100:
        raise InputError(f'uncertainty is {uncertainty.dtype} {uncertainty.shape} up to {uncertainty.max(initial=0)}; '
                         f'expected uint8 {reference.shape} from 0 to 100')
    brain = np.ones_like(reference) if brain is None else brain

    def kept(mask: np.ndarray) -> np.ndarray:  # (41,) voxels with at most this uncertainty: whole numbers
        return np.cumsum(np.bincount(uncertainty[mask], minlength=101))[THRESHOLDS.astype(int)]

    def filtered(mask: np.ndarray) -> float:
        left = kept(mask & brain)
        return area(1 - left / left[-1]) if left[-1] else 0.0

    right, wrong = kept(reference & prediction), kept(reference ^ prediction)
    counted = 2 * right + wrong
    dice = area(np.divide(2 * right, counted, out=np.ones(len(THRESHOLDS)), where=counted > 0))
    tp, tn = filtered(reference & prediction), filtered(~(reference | prediction))
    return dict(uncertainty_score=(dice + 1 - tp + 1 - tn) / 3, uncertainty_dice=dice, uncertainty_filtered_tp=tp,
                uncertainty_filtered_tn=tn)
