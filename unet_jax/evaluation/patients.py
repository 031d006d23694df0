"""Numbers of one patient's predicted masks: volumes, lesions, diameters, how sure the network is, change over time.

Diameters are as RANO measures enhancing tumour (Wen et al. 2010, J Clin Oncol 28:1963; 2.0: Wen et al. 2023, J Clin
Oncol 41:5187): the largest in any axial plane, and the largest perpendicular to it in that plane and lesion. Here they
are taken of every region, by machine and without a least size, so they are like RANO's and no response assessment.
"""
import math
import re
from collections.abc import Sequence

import cc3d
import numpy as np
import pandas as pd
import scipy  # its parts are loaded when first used: training begins without them

UNSURE = 0.25  # a voxel is unsure whose probability lies further than this from both 0 and 1
LISTED = 10  # lesions whose sizes are listed: a bad mask may have hundreds of specks
KEYS = ['case', 'patient', 'time_point', 'region']


def measure(masks: np.ndarray, names: Sequence[str], *, spacing: Sequence[float] | None, axial: int = 2,
            probability: np.ndarray | None = None) -> list[dict]:
    """A row a region of masks (X, Y, Z, R) or (H, W, R) bool.

    spacing: mm along each axis; None counts pixels. axial: the axis across axial planes, of volumes. Each row has
    region, volume_ml (of images area_px), lesions (26- or 8-connected) and lesion_volumes_ml (lesion_areas_px) of
    the `LISTED` largest, diameter_mm and perpendicular_mm (_px) as above, 0 where there is nothing; and of
    `probability` (…, R) mean_probability over the mask, NaN where it is empty, and unsure_share: of all that is
    predicted or unsure, how much is unsure (`UNSURE`).
    """
    flat = masks.ndim == 3
    size, length, unit = ('area_px', 'px', 1.0) if spacing is None else ('volume_ml', 'mm', 1e-3)
    spacing = (1.0,) * (masks.ndim - 1) if spacing is None else tuple(map(float, spacing))
    if flat and size == 'volume_ml':
        size, unit = 'area_mm2', 1.0
    voxel, rows = float(np.prod(spacing)) * unit, []
    for r, name in enumerate(names):
        mask = np.ascontiguousarray(masks[..., r])
        parts, count = cc3d.connected_components(mask, connectivity=8 if flat else 26, return_N=True)
        sizes = np.sort(np.bincount(parts.ravel(), minlength=count + 1)[1:])[::-1] * voxel
        long, across = diameters(mask[..., None] if flat else np.moveaxis(mask, axial, -1),
                                 spacing if flat else tuple(np.delete(spacing, axial)))
        rows.append({'region': name, size: round(float(mask.sum()) * voxel, 6), 'lesions': int(count),
                     f'lesion_{size.replace("_", "s_", 1)}': ' '.join(f'{value:.6g}' for value in sizes[:LISTED]),
                     f'diameter_{length}': round(long, 3), f'perpendicular_{length}': round(across, 3)})
        if probability is not None:
            rows[-1] |= certainty(mask, probability[..., r])
    return rows


def certainty(mask: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """How sure the network is of a mask, from the probability of each of its voxels."""
    unsure = np.abs(probability - 0.5) < 0.5 - UNSURE
    either = int((unsure | mask).sum())
    return {'mean_probability': round(float(probability[mask].mean(dtype=np.float64)), 4) if mask.any() else math.nan,
            'unsure_share': round(int(unsure.sum()) / either, 4) if either else 0.0}


def diameters(mask: np.ndarray, pixel: tuple[float, float]) -> tuple[float, float]:
    """(largest diameter, largest one perpendicular to it) in the planes of mask (A, B, planes), with pixels of so many
    mm along A and B; (0, 0) of an empty one. A diameter belongs to one 8-connected part of a plane.

    From border to border: corners of the outline are the middles of pixels' edges, as in scikit-image's Feret
    diameter. Parts that are too small to hold a longer one are passed over.
    """
    parts = []
    for plane in np.flatnonzero(mask.any((0, 1))):
        labelled = cc3d.connected_components(np.ascontiguousarray(mask[..., plane]), connectivity=8)
        for number, box in enumerate(scipy.ndimage.find_objects(labelled), 1):
            sides = [(where.stop - where.start) * mm for where, mm in zip(box, pixel, strict=True)]
            parts.append((math.hypot(*sides), np.argwhere(labelled[box] == number)))
    best, chosen, along = 0.0, None, None
    for bound, pixels in sorted(parts, key=lambda part: -part[0]):
        if bound <= best:
            break
        found, direction = longest(edges(pixels) * pixel)
        if found > best:
            best, chosen, along = found, pixels, direction
    return (0.0, 0.0) if chosen is None else (best, widest_across(edges(chosen) * pixel, along, min(pixel)))


def edges(pixels: np.ndarray) -> np.ndarray:
    """Pixels (n, 2) -> (4 n, 2) the middles of their edges."""
    steps = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    return (pixels[:, None] + steps).reshape(-1, 2)


def longest(points: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest distance between any two of points (n, 2) in mm, and its direction (2,) of length 1."""
    hull = points[scipy.spatial.ConvexHull(points).vertices]
    apart = hull[:, None] - hull
    distance = np.hypot(apart[..., 0], apart[..., 1])
    k = np.unravel_index(distance.argmax(), distance.shape)
    return float(distance[k]), apart[k] / distance[k]


def widest_across(points: np.ndarray, along: np.ndarray, step: float) -> float:
    """The longest chord of points (n, 2) perpendicular to the direction `along`, in strips of `step` mm."""
    strip = np.round(points @ along / step).astype(int)
    strip -= strip.min()
    across = points @ np.array([-along[1], along[0]])
    low, high = np.full(strip.max() + 1, np.inf), np.full(strip.max() + 1, -np.inf)
    np.minimum.at(low, strip, across)
    np.maximum.at(high, strip, across)
    return max(float((high - low).max()), 0.0)


def time_point(case: str, patient: str) -> str:
    """What follows the patient in the name of a case, such as 001 of BraTS-GLI-00005-001; '' where nothing does."""
    return case.removeprefix(patient).lstrip('-_') if case != patient else ''


def table(lines: Sequence[dict]) -> pd.DataFrame:
    """All rows of several cases, with `KEYS` in front, patient by patient in the order of their time points."""
    found = pd.DataFrame(sorted(lines, key=lambda row: (row['patient'], natural(row['time_point']), row['case'])))
    return found[[*KEYS, *(name for name in found.columns if name not in KEYS)]]


def natural(text: str) -> list:
    """A key by which t2 comes before t10."""
    return [(0, int(part), '') if part.isdigit() else (1, 0, part) for part in re.split(r'(\d+)', text) if part]


def changes(found: pd.DataFrame) -> pd.DataFrame:
    """Of patients with several time points, a row a region and time point of a `table`: patient, region, time_point,
    the size, and its change since the first (baseline) and since the smallest before it (nadir), in the unit of the
    size and in percent; percent of nothing is NaN."""
    size = next(name for name in ('volume_ml', 'area_mm2', 'area_px') if name in found.columns)
    rows = []
    for (patient, region), visits in found[found.time_point != ''].groupby(['patient', 'region'], sort=False):
        values = visits[size].to_numpy(float)
        for k, point in enumerate(visits.time_point if len(visits) > 1 else ()):
            row = {'patient': patient, 'region': region, 'time_point': point, size: values[k]}
            for name, since in (('baseline', values[0]), ('nadir', values[:max(k, 1)].min())):
                change = values[k] - since
                row |= {f'since_{name}': round(change, 6),
                        f'since_{name}_percent': round(100 * change / since, 2) if since else math.nan}
            rows.append(row)
    return pd.DataFrame(rows)
