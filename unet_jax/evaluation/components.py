"""Which connected parts of a volume are found, missed and invented, without sizes in mm, which slices may not have."""
import math

import cc3d
import numpy as np

from unet_jax.evaluation.surface import crop


def components(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Of two bool masks (D, H, W): components_found and components_missed of the reference's parts (26 neighbours), a
    voxel being enough, components_invented, predicted parts that touch none, and component_f1 = 2 found / (2 found +
    missed + invented), NaN where there is no part on either side.

    Unlike `lesions.lesion_wise` nothing is dilated and every part counts, however small.
    """
    reference, prediction = crop(reference, prediction)
    if not reference.size:
        return {'component_f1': math.nan, 'components_found': 0, 'components_missed': 0, 'components_invented': 0}
    true, parts = cc3d.connected_components(reference, connectivity=26, return_N=True)
    mine, predicted = cc3d.connected_components(prediction, connectivity=26, return_N=True)
    both = reference & prediction
    found, right = len(np.unique(true[both])), len(np.unique(mine[both]))
    missed, invented = parts - found, predicted - right
    return {'component_f1': 2 * found / (2 * found + missed + invented), 'components_found': found,
            'components_missed': missed, 'components_invented': invented}
