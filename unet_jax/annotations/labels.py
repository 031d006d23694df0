"""Labels as bit sets: one integer a pixel, bit k set where the pixel belongs to class k.

The same array type holds COCO categories, which may overlap, and BraTS labels, which do not; nearest-neighbour
resampling never invents a class; and one byte a voxel travels to the device for up to eight classes. `classes` is
always the tuple of category ids in bit order. Every function here takes numpy and jax arrays alike.
"""
from typing import NamedTuple

import numpy as np

from unet_jax.errors import InputError


class Region(NamedTuple):
    """What is trained and scored: a union of classes, and the category id written for it in a label map."""
    name: str
    classes: tuple[int, ...]  # category ids
    paint: int  # category id


def bits_dtype(count: int) -> np.dtype:
    """The smallest unsigned integer with `count` bits."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if count <= np.dtype(dtype).itemsize * 8:
            return np.dtype(dtype)
    raise InputError(f'{count} categories; at most 32 can be segmented at once. Choose some: config.data.categories')


def pack(masks, dtype=np.uint8):
    """(…, K) booleans -> (…) bit sets of `dtype`."""
    weights = np.asarray([1 << k for k in range(masks.shape[-1])], dtype)
    return (masks * weights).sum(-1).astype(dtype)


def check_regions(regions: tuple[Region, ...]) -> None:
    """Raises InputError, naming the regions, unless masks can be written from them and read back: any two are nested
    or apart, and each is written as a class of its own, which lies in no region inside it."""
    for k, region in enumerate(regions):
        where = f'config.data.regions: {region.name!r}'
        if region.paint not in region.classes:
            raise InputError(f'{where} would be written as category id {region.paint}, which is none of its own '
                             f'{region.classes}; name one of them last')
        for other in regions[:k]:
            ours, theirs = set(region.classes), set(other.classes)
            if region.name == other.name:
                raise InputError(f'{where} comes twice; give every region a name of its own')
            if ours & theirs and not (ours < theirs or theirs < ours):
                raise InputError(f'{where} and {other.name!r} share category ids {sorted(ours & theirs)}, and neither '
                                 'lies inside the other, so no label map can hold both. Leave one out, or choose '
                                 'regions that are nested or apart')
            outer, inner = (region, other) if theirs < ours else (other, region)
            if outer.paint in inner.classes:
                raise InputError(f'config.data.regions: {outer.name!r} would be written as category id {outer.paint}, '
                                 f'which belongs to {inner.name!r} inside it; write it as one that only '
                                 f'{outer.name!r} has')


def largest(shares, rest):
    """(…, K) booleans, at most one set: the class with the largest of `shares` (…, K) of a pixel; none where `rest`
    (…), the background's share, is larger. Where classes exclude each other, comparing each with one half would leave
    pixels to nobody and others to two."""
    best = shares.argmax(-1)
    return (best[..., None] == np.arange(shares.shape[-1])) & (shares.max(-1) >= rest)[..., None]


def region_bits(regions: tuple[Region, ...], classes: tuple[int, ...]) -> tuple[int, ...]:
    """For each region the bit set of its classes. Raises InputError for an id that is not in `classes`, and for what
    `check_regions` refuses."""
    unknown = sorted({c for region in regions for c in (*region.classes, region.paint)} - set(classes))
    if unknown:
        raise InputError(f'config.data.regions names category ids {unknown}; the data has {sorted(classes)}')
    check_regions(regions)
    return tuple(sum(1 << classes.index(c) for c in set(region.classes)) for region in regions)


def containing(region_bits: tuple[int, ...]) -> list[list[int]]:
    """For each region (its bit set) the positions of the regions that contain it, itself left out."""
    return [[q for q, outer in enumerate(region_bits) if inner & outer == inner != outer] for inner in region_bits]


def outer_first(region_bits: tuple[int, ...]) -> tuple[int, ...]:
    """The positions of the regions in an order in which none comes before one that contains it: their own order,
    where that is one."""
    around, order = containing(region_bits), []
    while len(order) < len(region_bits):
        order.append(next(r for r in range(len(region_bits)) if r not in order and set(around[r]) <= set(order)))
    return tuple(order)


def region_masks(bits, region_bits: tuple[int, ...]):
    """(…) bit sets -> (…, R) booleans: region r is where any bit of `region_bits[r]` is set."""
    return (bits[..., None] & np.asarray(region_bits, bits.dtype)) != 0


def paint(masks, regions: tuple[Region, ...], classes: tuple[int, ...]):
    """(…, R) booleans -> (…) bit sets, so that `region_masks` of the result gives the regions back.

    Each region is written where it is set and no region inside it is, whichever order they are listed in: WT as
    oedema, but TC in it as necrosis, and ET in that as the enhancing tumour. So what an inner region holds counts for
    the outer ones too, wherever it was found. Regions beside each other keep all their pixels, and may overlap.
    """
    dtype = bits_dtype(len(classes))
    around = containing(region_bits(regions, classes))
    bits = (masks[..., 0] & False).astype(dtype)
    for r, region in enumerate(regions):
        own = masks[..., r]
        for q in range(len(regions)):
            own = own & ~masks[..., q] if r in around[q] else own
        bits = bits | own.astype(dtype) * dtype.type(1 << classes.index(region.paint))
    return bits


def from_probabilities(probability, *, threshold, regions: tuple[Region, ...], classes: tuple[int, ...]):
    """Probabilities (…, R) of the regions -> (…) bit sets: the one rule by which masks are made. threshold: a number,
    or an array (R,).

    Validation, tuning, evaluation and prediction all come here, so that checkpoints and limits are chosen by the masks
    that are scored and written. Post-processing, where it is on, follows (inference/postprocess.py).
    """
    return paint(probability > threshold, regions, classes)


def values(classes: tuple[int, ...]) -> tuple[int, ...]:
    """The number written for each class in label maps: its category id where all ids are 1 … 65535, else 1, 2, 3, ….

    So no class is written as 0, the background, and every map fits 16 bits.
    """
    return classes if all(0 < c < 2 ** 16 for c in classes) else tuple(range(1, len(classes) + 1))


def to_ids(bits: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """(…) bit sets -> (…) `values`, 0 for background; where classes overlap the last one in `classes` is seen."""
    written = values(classes)
    ids = np.zeros(bits.shape, np.uint8 if max(written, default=0) < 256 else np.uint16)
    for k, value in enumerate(written):
        ids[(bits >> k) & 1 == 1] = value
    return ids


def from_ids(ids: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """(…) `values` -> (…) bit sets. Raises InputError for a number, other than 0, that is none of them."""
    written = values(classes)
    unknown = sorted(set(np.unique(ids).tolist()) - {0, *written})
    if unknown:
        raise InputError(f'label values {unknown}; expected 0 and {sorted(written)}')
    bits = np.zeros(ids.shape, bits_dtype(len(classes)))
    for k, value in enumerate(written):
        bits[ids == value] = 1 << k
    return bits
