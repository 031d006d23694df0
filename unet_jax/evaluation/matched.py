"""Lesions matched one to one, by which BraTS scores since 2025: the convention `brats2025`.

Components (neighbours by face, edge or corner) of the reference and of the prediction are paired so that their Dice,
added up, is largest. Dice, NSD and HD95 are means over the pairs alone: they rise when hard lesions are missed, so F1
stands beside them. Kofler et al., panoptica (arXiv 2312.02608). These are the numbers of the official package,
brats-evaluation, but for two of its habits: it takes the spacing's axes in reverse order, and whole regions as if
their voxels were 1 mm wide. At BraTS' 1 mm neither changes a number. Where two pairings have the same largest total,
which of them is taken depends on the order in which components are found, and NSD and HD95 of the pairs with it.
"""
from typing import NamedTuple

import cc3d
import numpy as np
import scipy  # its parts are loaded when first used: training begins without them

from unet_jax.evaluation import overlap
from unet_jax.evaluation.surface import border_distances, check_spacing, crop

LEAST = 1e-6  # a pair has a Dice above this
MISSED = 373.0  # mm, HD95 of a missed and of an invented lesion among the large ones


class Sizes(NamedTuple):
    """How the metastases challenge (MET) tells large lesions from small ones."""
    volume: float = 20.0  # mm³; a reference lesion of at least this is large
    dice: float = 0.1  # a lesion is found at this Dice


class Lesions(NamedTuple):
    """What is known of the lesions of one region of one case."""
    volumes: np.ndarray  # (reference lesions,) mm³
    matched: np.ndarray  # (pairs,) which reference lesion each pair has
    dice: np.ndarray  # (pairs,)
    nsd: np.ndarray  # (pairs,)
    hd95: np.ndarray  # (pairs,) mm
    invented: int  # components of the prediction that are in no pair


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """(labels 1, 2, …, their number); voxels that share a face, an edge or a corner belong together."""
    # a copy, as of a part of an array cc3d 3.29 overlooks voxels where all sides but the first are 1
    return cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26 if mask.ndim == 3 else 8,
                                     return_N=True)


def assign(there: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Labels of the reference and of the prediction -> (pairs, 2) labels, one to one, with the largest total Dice.

    Components that touch no other are left out of the table, which else were huge where a prediction is noise.
    """
    both = (there > 0) & (found > 0)
    couples, shared = np.unique(np.stack([there[both], found[both]], 1), axis=0, return_counts=True)
    if not len(couples):
        return np.zeros((0, 2), int)
    sizes = [np.bincount(labels.ravel())[couples[:, k]] for k, labels in enumerate((there, found))]
    (rows, row), (columns, column) = (np.unique(couples[:, k], return_inverse=True) for k in range(2))
    dice = np.zeros((len(rows), len(columns)))
    dice[row, column] = 2 * shared / (sizes[0] + sizes[1])
    chosen = np.stack(scipy.optimize.linear_sum_assignment(dice, maximize=True), 1)
    chosen = chosen[dice[chosen[:, 0], chosen[:, 1]] > LEAST]
    return np.stack([rows[chosen[:, 0]], columns[chosen[:, 1]]], 1)


def nsd_and_hd95(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...], tolerance: float
                 ) -> tuple[float, float]:
    """Normalised surface Dice in 0..1 and HD95 of two masks that are not empty.

    NSD is the mean of two shares: of the border voxels of each mask, those within `tolerance` of the other's. It is
    not the surface Dice of surface.py, which weighs both surfaces by their area. HD95 is that of the convention
    `brats`: both directions' distances together.
    """
    directions = border_distances(reference, prediction, spacing=spacing)
    return (float(np.mean([(distances <= tolerance).mean() for distances in directions])),
            float(np.percentile(np.concatenate(directions), 95)))


def lesions(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...], tolerance: float) -> Lesions:
    """The pairs of two bool masks (D, H, W) or (H, W), and what has none."""
    (there, n_there), (found, n_found) = components(reference), components(prediction)
    pairs = assign(there, found)
    boxes = [scipy.ndimage.find_objects(labels) for labels in (there, found)]
    scores = []
    for lesion, part in pairs:
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop))
                    for a, b in zip(boxes[0][lesion - 1], boxes[1][part - 1], strict=True))
        mine, its = there[box] == lesion, found[box] == part
        scores.append((overlap.dice(overlap.counts(mine, its)),
                       *nsd_and_hd95(mine, its, spacing=spacing, tolerance=tolerance)))
    dice, nsd, hd95 = np.reshape(scores, (-1, 3)).T
    volumes = np.bincount(there.ravel(), minlength=n_there + 1)[1:] * np.prod(spacing)
    return Lesions(volumes, pairs[:, 0] - 1, dice, nsd, hd95, n_found - len(pairs))


def detection(tp: int, fn: int, fp: int) -> dict[str, float]:
    """precision, recall and f1 = tp / (tp + (fp + fn) / 2); NaN where there is nothing to divide by."""
    return dict(precision=overlap.ratio(tp, tp + fp), recall=overlap.ratio(tp, tp + fn),
                f1=overlap.ratio(2 * tp, 2 * tp + fp + fn))


def by_pairs(known: Lesions) -> dict[str, float]:
    """lesion_*: dice, nsd and hd95 (means over pairs), precision, recall, f1, pq = f1 · dice, tp, fn, fp.

    Without any pair dice, nsd and pq are 0 and hd95 is infinite; NaN where neither mask has a lesion.
    """
    tp = len(known.matched)
    fn = len(known.volumes) - tp
    found = detection(tp, fn, known.invented)
    if tp:
        dice, nsd, hd95 = (float(values.mean()) for values in (known.dice, known.nsd, known.hd95))
    else:
        dice, nsd, hd95 = (0.0, 0.0, np.inf) if fn or known.invented else (np.nan,) * 3
    scores = dict(dice=dice, nsd=nsd, hd95=hd95, **found, pq=found['f1'] * dice, tp=tp, fn=fn, fp=known.invented)
    return {f'lesion_{name}': value for name, value in scores.items()}


def by_size(known: Lesions, sizes: Sizes) -> dict[str, float]:
    """large_dice, large_nsd and large_hd95: means over the large lesions, to which a missed one and every invented one
    add 0, 0 and MISSED; large_* and small_*: precision, recall, f1, tp, fn, where a lesion is found at sizes.dice.

    Every invented lesion counts in both, as the official table has it; NaN where no reference lesion is of a size.
    """
    every, invented = {}, {}
    for name, worst in (('dice', 0.0), ('nsd', 0.0), ('hd95', MISSED)):
        every[name], invented[name] = (np.full(n, worst) for n in (len(known.volumes), known.invented))
        every[name][known.matched] = getattr(known, name)
    large, found = known.volumes >= sizes.volume, every['dice'] >= sizes.dice
    scores = {f'large_{name}': float(np.concatenate([values[large], invented[name]]).mean()) if large.any() else np.nan
              for name, values in every.items()}
    for size, mine in (('large', large), ('small', ~large)):
        tp, fn = int((mine & found).sum()), int((mine & ~found).sum())
        told = detection(tp, fn, known.invented)
        told = told if mine.any() else dict.fromkeys(told, np.nan)
        scores |= {f'{size}_{name}': value for name, value in (told | {'tp': tp, 'fn': fn}).items()}
    return scores


def matched(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...], tolerance: float = 1.0,
            whole_tolerance: float = 0.5, sizes: Sizes | None = None) -> dict[str, float]:
    """Scores of one region of one case, from two bool masks (D, H, W) or (H, W) and their spacing in mm.

    nsd, at `whole_tolerance`, and hd95 of the whole region: NaN where both masks are empty, 0 and infinite where
    they share nothing; what `by_pairs` says, its NSD at `tolerance`; with `sizes` what `by_size` says. The official
    package has 0.5 mm for whole regions and for lesions the smallest side of a voxel, which is 1 mm in BraTS. Raises
    InputError for masks and spacings that cannot be used.
    """
    overlap.check_masks(reference, prediction)
    check_spacing(spacing, reference.ndim)
    reference, prediction = crop(reference, prediction)
    if not reference.size:
        known = Lesions(*np.zeros((5, 0)), invented=0)._replace(matched=np.zeros(0, int))
        nsd = hd95 = np.nan
    else:
        known, nsd, hd95 = lesions(reference, prediction, spacing=spacing, tolerance=tolerance), 0.0, np.inf
    if len(known.matched):
        nsd, hd95 = nsd_and_hd95(reference, prediction, spacing=spacing, tolerance=whole_tolerance)
    return dict(nsd=nsd, hd95=hd95) | by_pairs(known) | (by_size(known, sizes) if sizes else {})
