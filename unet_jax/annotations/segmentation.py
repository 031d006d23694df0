"""COCO segmentations: what kind each is, and the pixels it covers.

Masks are drawn by faster-coco-eval, which draws as the reference pycocotools does. Both libraries end the process
on NaN or infinite coordinates, so `parse` stands before every call.
"""
import math
from collections.abc import Iterable, Sequence

import faster_coco_eval.core.mask as coco_mask
import numpy as np

from unet_jax.errors import InputError

FARTHEST = 100_000.0  # pixels from the origin
LONGEST = 1_000_000.0  # pixels around a polygon; the library keeps 5 points per pixel of outline


def parse(segmentation, *, height: int, width: int) -> list[list[float]] | dict:
    """Any form found in COCO files -> its plain form: a list of polygons [x, y, …], or run lengths (RLE).

    Accepts nested and flat polygons, numbers as text, RLE with counts as list, str or bytes; polygons without any
    point, beside others, are dropped. Raises ValueError, with the reason, for what cannot be drawn on an image of
    `height` by `width` pixels.
    """
    if isinstance(segmentation, dict):
        return _parse_rle(segmentation, height, width)
    if not isinstance(segmentation, (list, tuple)):
        raise ValueError(f'neither a list of polygons nor an RLE, but {str(segmentation)[:40]!r}')
    if is_empty(segmentation):
        raise ValueError('no polygon, a box only')
    nested = [isinstance(part, (list, tuple)) for part in segmentation]
    if any(nested) and not all(nested):
        raise ValueError('polygons and numbers mixed in one list')
    return [_parse_polygon(part) for part in (filter(len, segmentation) if all(nested) else [segmentation])]


def is_empty(segmentation) -> bool:
    """Whether there is no mask, however an exporter writes that: null, '', {}, [], [[]], [[], []]."""
    if isinstance(segmentation, (list, tuple)):
        return all(isinstance(part, (list, tuple)) and not part for part in segmentation)
    return segmentation is None or isinstance(segmentation, (dict, str)) and not segmentation


def sound_polygons(segmentation) -> list[list[float]]:
    """Those of several polygons that can be drawn, in plain form; none of a single one, or of run lengths."""
    found = []
    for polygon in segmentation if isinstance(segmentation, (list, tuple)) else ():
        try:
            found += [_parse_polygon(polygon)] if isinstance(polygon, (list, tuple)) else []
        except ValueError:
            continue
    return found


def rasterise(segmentation, height: int, width: int, *, where: str) -> np.ndarray:
    """COCO segmentation -> (H, W) bool, the union of its polygons, clipped to the image.

    `where` names file and annotation in the InputError raised for what `parse` refuses.
    """
    try:
        rle = _encode(parse(segmentation, height=height, width=width), height, width)
    except ValueError as error:
        raise InputError(f'{where}: {error}') from error
    return coco_mask.decode(rle).astype(bool)


def area(segmentations: Iterable, *, height: int, width: int, where: str) -> int:
    """Pixels in the union of COCO segmentations, from run lengths alone: ten times as fast as drawing them."""
    try:
        plain = [parse(segmentation, height=height, width=width) for segmentation in segmentations]
        rles = [_encode(one, height, width) for one in plain]
    except ValueError as error:
        raise InputError(f'{where}: {error}') from error
    return int(coco_mask.area(coco_mask.merge(rles))) if rles else 0


def kind(segmentation, *, height: int, width: int, bbox: Sequence[float] | None = None) -> tuple[str, str]:
    """(kind, reason): 'polygon', 'rectangle' (axis-aligned), 'rle', 'box_only', 'broken' or 'reference'.

    'box_only' is an empty segmentation (`is_empty`) with a usable `bbox` (x, y, width, height); 'broken' cannot be
    drawn, or covers no pixel, and only then reason is not empty; 'reference' is a mask stored in another file.
    """
    if isinstance(segmentation, dict) and 'file' in segmentation:
        return 'reference', ''
    if is_empty(segmentation):
        try:
            box_polygon(bbox)
        except ValueError as error:
            return 'broken', f'no polygon, and {error}'
        return 'box_only', ''
    try:
        plain = parse(segmentation, height=height, width=width)
        if coco_mask.area(_encode(plain, height, width)) == 0:
            return 'broken', 'covers no pixel of the image'
    except ValueError as error:
        return 'broken', str(error)
    if isinstance(plain, dict):
        return 'rle', ''
    return ('rectangle' if len(plain) == 1 and is_rectangle(plain[0]) else 'polygon'), ''


def is_rectangle(polygon: Sequence[float]) -> bool:
    """Whether [x, y, …], closed or not, is an axis-aligned rectangle: its four corners in turn, and nothing else."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    if len(points) == 5 and points[0] == points[4]:
        points = points[:4]
    sides = zip(points, points[1:] + points[:1], strict=True)
    turns = [(x0 == x1, y0 == y1) for (x0, y0), (x1, y1) in sides]
    return len(points) == 4 and turns in ([(True, False), (False, True)] * 2, [(False, True), (True, False)] * 2)


def box_polygon(bbox: Sequence[float] | None) -> list[list[float]]:
    """A COCO bbox (x, y, width, height) in pixels -> its outline. ValueError with the reason where it has none."""
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        raise ValueError(f'bbox is {bbox!r} instead of four numbers')
    x, y, width, height = (_number(value) for value in bbox)
    if width <= 0 or height <= 0:
        raise ValueError(f'bbox {list(bbox)} has no area')
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _parse_polygon(polygon: Sequence) -> list[float]:
    numbers = [_number(value) for value in polygon]
    if len(numbers) % 2:
        raise ValueError(f'a polygon of {len(numbers)} numbers, not pairs of x and y')
    if len(numbers) < 6:  # 4 numbers would be read as a box by the library
        raise ValueError(f'a polygon of {len(numbers) // 2} points; it takes 3')
    points = np.reshape(numbers, (-1, 2))
    outline = np.abs(points - np.roll(points, 1, axis=0)).sum()
    if outline > LONGEST:
        raise ValueError(f'a polygon with an outline of {outline:.0f} pixels; at most {LONGEST:.0f}')
    return numbers


def _number(value) -> float:
    try:
        number = math.nan if isinstance(value, bool) or '_' in str(value) else float(value)  # float('1_0') is 10
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > FARTHEST:
        raise ValueError(f'coordinate {str(value)[:40]} is not a number within ±{FARTHEST:.0f} pixels')
    return number


def _parse_rle(rle: dict, height: int, width: int) -> dict:
    if 'file' in rle:
        raise ValueError(f'a reference to the mask in {rle["file"]}, which the reader of its format must fetch')
    size, counts = rle.get('size'), rle.get('counts')
    if not isinstance(size, (list, tuple)) or [_number(value) for value in size] != [height, width]:
        raise ValueError(f'RLE of size {size} (height, width) on an image of {[height, width]}')
    if isinstance(counts, (str, bytes)):
        if not counts or not counts.isascii():
            raise ValueError(f'RLE with counts {counts[:40]!r}')
        return {'size': [height, width], 'counts': counts if isinstance(counts, str) else counts.decode('ascii')}
    if not isinstance(counts, (list, tuple)):
        raise ValueError(f'RLE with counts {str(counts)[:40]!r}, neither a list nor text')
    try:
        runs = [int(value) for value in counts]
        whole = all(run == float(value) and run >= 0 for run, value in zip(runs, counts, strict=True))
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f'RLE with counts {str(counts)[:40]} that are not all whole numbers of pixels')
    if sum(runs) != height * width:
        raise ValueError(f'RLE of {sum(runs)} pixels on an image of {height} × {width} = {height * width}')
    return {'size': [height, width], 'counts': runs}


def _encode(plain: list[list[float]] | dict, height: int, width: int) -> dict:
    """Plain form -> RLE of the library. Raises ValueError for RLE text that does not fill the image."""
    if isinstance(plain, list):
        return coco_mask.merge(coco_mask.frPyObjects(plain, height, width))
    if isinstance(plain['counts'], list):
        return coco_mask.frPyObjects(plain, height, width)
    try:
        coco_mask.decode(plain)  # the only call that checks it
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f'RLE text that does not describe {height} × {width} pixels ({error})') from error
    return plain
