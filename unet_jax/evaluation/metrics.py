"""The metrics of a region of a case: a function each, and a line each in METRICS."""
import math
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from unet_jax.evaluation import calibration, measure, referral, uncertainty
from unet_jax.evaluation.matched import Sizes
from unet_jax.inference import temperature


class Region(NamedTuple):
    """One region of one case; masks are bool, (H, W), or (D, H, W) of volumes and stacked slices."""
    reference: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...]  # mm along each axis; 1 for the pixels of an image
    probability: np.ndarray | None  # float32, calibrated where the run is
    box: tuple[slice, ...] | None  # of the tumour, as calibration.box gives it
    brain: np.ndarray | None  # bool; None is everywhere


def common(region: Region, config: ConfigDict) -> dict[str, float]:
    """Overlap, distances, lesions, counts and volumes: `measure.score` by the rules of config.evaluation."""
    return measure.score(region.reference, region.prediction, spacing=region.spacing, convention=config.convention,
                         tolerance=config.tolerance, whole_tolerance=config.whole_tolerance, sizes=sizes(config),
                         lesion=config.lesions if region.reference.ndim == 3 and config.lesions else None)


def sizes(config: ConfigDict) -> Sizes | None:
    """What tells large lesions from small ones, where config.evaluation asks for metastases' scores of 2025."""
    if (config.convention, config.lesions) != ('brats2025', 'MET'):
        return None
    return Sizes(config.large_lesion, config.found_dice)


def qu_brats(region: Region, config: ConfigDict) -> dict[str, float]:
    """`uncertainty.qu_brats` where config.evaluation.uncertainty asks for it."""
    if region.probability is None or not config.uncertainty:
        return {}
    return uncertainty.qu_brats(region.reference, region.prediction,
                                uncertainty=temperature.uncertainty(region.probability), brain=region.brain)


def calibrated(region: Region, config: ConfigDict) -> dict[str, float]:
    """ece and brier of `calibration.scores` inside the box, NaN where the case has none; and the confidence."""
    if region.probability is None:
        return {}
    found = {'ece': math.nan, 'brier': math.nan}
    if region.box:
        counts = calibration.tally(region.probability[region.box], region.reference[region.box])
        found |= {name: calibration.scores(counts)[name] for name in found}
    return found | {'confidence': referral.confidence(region.probability, region.prediction)}


# each: (a region of a case, config.evaluation) -> {name: number}, a column of cases.csv and a row of the summary
METRICS = [
    common,
    qu_brats,
    calibrated,
]
