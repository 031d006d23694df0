"""Distances between the surfaces of two masks: HD95 as four communities compute it, and surface Dice.

| convention | HD95 of two masks | both empty | one empty |
|---|---|---|---|
| brats | 95th percentile of the distances of both directions together | 0 | 373.12866; images: their diagonal |
| brats2025 | the same as brats | NaN | infinity |
| monai | the larger of the two directions' 95th percentiles | NaN | infinity |
| deepmind | the same, every distance weighted by its surface area | NaN | infinity |
| nnunet | not defined | | |

brats, brats2025 and monai measure from border voxels: those of the mask with a face neighbour outside it, or outside
the image.
deepmind measures from surface elements: the 2x2(x2) neighbourhoods that the surface cuts, weighted by its area there.
Distances are in the units of `spacing`.
"""
import functools
import itertools

import numpy as np
import scipy  # its parts are loaded when first used: training begins without them

from unet_jax.errors import InputError
from unet_jax.evaluation.overlap import Convention, check_convention, check_masks

PENALTY = 373.12866  # mm, sqrt(240² + 240² + 155²): the diagonal of a BraTS volume, as its scorer rounds it


def check_spacing(spacing: tuple[float, ...], ndim: int) -> None:
    """Raises InputError unless `spacing` has `ndim` positive, finite numbers."""
    if len(spacing) != ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f'spacing {tuple(spacing)} for masks of {ndim} dimensions; expected {ndim} positive numbers')


def crop(*masks: np.ndarray, margin: int = 0) -> tuple[np.ndarray, ...]:
    """The masks, cut to the bounding box of their union and `margin` voxels more where the image has them."""
    union = functools.reduce(np.logical_or, masks)
    box = []
    for axis in range(union.ndim):
        inside = np.flatnonzero(union.any(tuple(a for a in range(union.ndim) if a != axis)))
        box.append(slice(max(inside[0] - margin, 0), inside[-1] + 1 + margin) if inside.size else slice(0))
    return tuple(mask[tuple(box)] for mask in masks)


def border(mask: np.ndarray) -> np.ndarray:
    """The voxels of a bool mask with a face neighbour that is not in it. Outside of the array is not in it."""
    return mask & ~scipy.ndimage.binary_erosion(mask)


def nearest(points: np.ndarray, *, surface: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance of each of `points` (N, ndim) to the nearest of `surface` (M, ndim), both in voxels -> (N,).

    A tree of the surface voxels takes 0.03-0.16 s for the whole tumour of a BraTS case, wherever the two masks lie; a
    distance transform of the box around them 0.05 s, but 2 s where false positives are scattered over the volume. The
    distance is taken again from whole voxel steps, so that it rounds as in a distance transform and `<= tolerance`
    means the same.
    """
    if len(surface) == 0:
        return np.full(len(points), np.inf)
    _, found = scipy.spatial.KDTree(surface * np.asarray(spacing)).query(points * np.asarray(spacing))
    steps = (points - surface[found]) * np.asarray(spacing, float)
    return np.sqrt((steps * steps).sum(1))


def border_distances(reference: np.ndarray, prediction: np.ndarray, *,
                     spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """From each border voxel of the reference to the prediction's border, and back. Infinite if there is none."""
    reference, prediction = (np.argwhere(border(mask)) for mask in crop(reference, prediction))
    return (nearest(reference, surface=prediction, spacing=spacing),
            nearest(prediction, surface=reference, spacing=spacing))


def cuts(square: list[tuple[int, ...]], inside: np.ndarray) -> dict[tuple[float, ...], tuple[float, ...]]:
    """The surface on a square of four voxels, given in a circle: where a line begins -> where it ends.

    It cuts edges half way, and each of two opposite voxels off by itself. Walking round, the object is entered at the
    line's beginning and left at its end.
    """
    def half_way(i: int) -> tuple[float, ...]:
        return tuple((np.array(square[i % 4]) + square[(i + 1) % 4]) / 2)
    lines = {}
    for i in range(4):
        if inside[square[i]] and not inside[square[i - 1]]:
            last = next(k for k in range(i, i + 4) if not inside[square[(k + 1) % 4]])
            lines[half_way(i - 1)] = half_way(last)
    return lines


def polygons(cube: np.ndarray) -> list[np.ndarray]:
    """The surface in a (2, 2, 2) neighbourhood as closed polygons (N, 3), joined from the lines on the six faces.

    Circles around opposite faces run in opposite directions, so that a line begins where that of the next face ends.
    """
    follow = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        circle = [tuple(np.roll((side, *corner), axis).tolist()) for corner in ((0, 0), (0, 1), (1, 1), (1, 0))]
        follow |= cuts(circle[::-1] if side else circle, cube)
    found = []
    while follow:
        start, end = follow.popitem()
        polygon = [start]
        while end != start:
            polygon.append(end)
            end = follow.pop(end)
        found.append(np.array(polygon))
    return found


def triangles(polygon: np.ndarray) -> np.ndarray:
    """A polygon (N, 3) in triangles, of all ways the one of the largest area -> their area vectors (N - 2, 3)."""
    first, last = polygon[0], polygon[-1]
    ways = [np.concatenate([np.cross(polygon[k] - first, last - first)[None] / 2,
                            triangles(polygon[:k + 1]), triangles(polygon[k:])]) for k in range(1, len(polygon) - 1)]
    return max(ways, key=lambda way: np.linalg.norm(way, axis=1).sum(), default=np.zeros((0, 3)))


@functools.cache
def area_vectors() -> list[np.ndarray]:
    """Of the surface in each of the 256 neighbourhoods of 1 mm voxels (N, 3), by code; see `element_sizes`."""
    vectors = []
    for code in range(256):
        cube = np.array([code >> (7 - k) & 1 for k in range(8)], bool).reshape(2, 2, 2)
        cube = cube if cube.sum() <= 4 else ~cube
        vectors.append(np.concatenate([np.zeros((0, 3)), *map(triangles, polygons(cube))]))
    return vectors


@functools.lru_cache(maxsize=32)
def element_sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """Surface inside each of the 2^(2^ndim) neighbourhoods: length (16,) in 2-D, area (256,) in 3-D.

    Bit 2^ndim - 1 - k of the code is the k-th voxel in C order. This is the table of Nikolov et al. (2018,
    arXiv:1809.04430), whose triangles are those of marching cubes (Lorensen and Cline 1987): where more than four
    voxels of eight are inside, the surface is that of the others, and polygons that are not flat are split so that
    their area at 1 mm is largest.
    """
    scale = np.asarray(spacing)
    if len(spacing) == 3:
        return np.array([np.linalg.norm(vectors * (scale.prod() / scale), axis=1).sum() for vectors in area_vectors()])
    squares = (np.array([code >> (3 - k) & 1 for k in range(4)], bool).reshape(2, 2) for code in range(16))
    lines = (cuts([(0, 0), (0, 1), (1, 1), (1, 0)], square).items() for square in squares)
    return np.array([sum(np.linalg.norm((np.array(end) - start) * scale) for start, end in line) for line in lines])


def elements(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Surface elements of a mask: where (N, ndim), at voxel corners, and how large (N,)."""
    padded = np.pad(mask, 1).astype(np.uint8)
    code = np.zeros([n + 1 for n in mask.shape], np.uint8)  # one a voxel corner
    for corner in itertools.product((0, 1), repeat=mask.ndim):
        code = code * 2 + padded[tuple(slice(c, c + n) for c, n in zip(corner, code.shape, strict=True))]
    cut = (code != 0) & (code != 2 ** 2 ** mask.ndim - 1)
    return np.argwhere(cut), element_sizes(spacing)[code[cut]]


def element_distances(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...]):
    """((distance, size) of the reference's surface elements, the same of the prediction's); four arrays (N,)."""
    reference, prediction = crop(reference, prediction)
    (there, there_size), (found, found_size) = elements(reference, spacing), elements(prediction, spacing)
    return ((nearest(there, surface=found, spacing=spacing), there_size),
            (nearest(found, surface=there, spacing=spacing), found_size))


def weighted_percentile(values: np.ndarray, *, weights: np.ndarray, percent: float) -> float:
    """The smallest value that has `percent` % of the weight at or below it."""
    order = np.lexsort((weights, values))
    share = np.cumsum(weights[order]) / np.sum(weights[order])
    return float(values[order][min(np.searchsorted(share, percent / 100), len(values) - 1)])


def element_hd95(directions) -> float:
    """HD95 of the `deepmind` convention, of what `element_distances` returns."""
    return max(weighted_percentile(distance, weights=size, percent=95) for distance, size in directions)


def near_share(directions, tolerance: float) -> float:
    """Share of the surface of `element_distances` that lies within `tolerance` of the other surface."""
    near = sum(size[distance <= tolerance].sum() for distance, size in directions)
    return float(near / sum(size.sum() for _, size in directions))


def penalty(shape: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """HD95 of the `brats` convention where one mask is empty: PENALTY for a volume, an image's own diagonal."""
    return PENALTY if len(shape) == 3 else float(np.hypot(*np.multiply(shape, spacing)))


def hd95(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...],
         convention: Convention = 'brats') -> float:
    """95 % Hausdorff distance of two bool masks, in the units of `spacing`; the module's table says which.

    `brats` equals MedPy's hd95, `monai` compute_hausdorff_distance(percentile=95), `deepmind`
    compute_robust_hausdorff(…, 95) of surface-distance. Raises InputError for `nnunet`, which reports no distance.
    """
    check_masks(reference, prediction)
    check_convention(convention)
    check_spacing(spacing, reference.ndim)
    if convention == 'nnunet':
        raise InputError("the convention 'nnunet' has no HD95; choose brats, monai or deepmind to measure distances")
    empty = not reference.any(), not prediction.any()
    if all(empty):
        return 0.0 if convention == 'brats' else float('nan')
    if any(empty):
        return penalty(reference.shape, spacing) if convention == 'brats' else float('inf')
    if convention == 'deepmind':
        return element_hd95(element_distances(reference, prediction, spacing=tuple(spacing)))
    directions = border_distances(reference, prediction, spacing=spacing)
    if convention in ('brats', 'brats2025'):
        return float(np.percentile(np.concatenate(directions), 95))
    return float(max(np.percentile(direction, 95) for direction in directions))


def surface_dice(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...],
                 tolerance: float = 1.0, convention: Convention = 'brats') -> float:
    """Share of both surfaces, by area, that lies within `tolerance` of the other one, in 0..1.

    Nikolov et al. 2018 (arXiv:1809.04430); equals compute_surface_dice_at_tolerance of surface-distance. The
    convention decides on empty masks only, as for Dice: both empty is 1 (brats) or NaN, one empty 0.
    """
    check_masks(reference, prediction)
    check_convention(convention)
    check_spacing(spacing, reference.ndim)
    if not (reference.any() or prediction.any()):
        return 1.0 if convention == 'brats' else float('nan')
    return near_share(element_distances(reference, prediction, spacing=tuple(spacing)), tolerance)
