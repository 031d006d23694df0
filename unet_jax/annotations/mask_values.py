"""What the values of mask images mean: 0/255, 0/1, class numbers, colours, or the greys of a JPEG or a soft edge."""
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faster_coco_eval import mask as coco_mask
from PIL import Image

from unet_jax.annotations import frame as frames
from unet_jax.annotations.image_file import IMAGE_FORMATS, MAX_PIXELS
from unet_jax.errors import InputError

MOST = 32  # values of all masks together that can be classes; more are soft edges
IDS = 'Pixel values', 'label numbers'  # said in masks that this project writes: their palette only shows the numbers
log = logging.getLogger('unet_jax')


class Content(NamedTuple):
    """One image's mask."""
    path: str
    height: int
    width: int
    values: dict[int, dict]  # value (a colour is 2²⁴ + RGB) -> run-length encoding of its pixels, without 0 and black;
    # {-1: {}} where they are too many, or were stored with loss
    bright: dict  # run-length encoding of the pixels above half of the brightest value


class Classes(NamedTuple):
    ids: dict[int, int]  # value -> category id; empty where masks are soft: what is bright is class 1
    names: dict[int, str]


def read(root: Path, image: str, masks: tuple[str, ...]) -> Content:
    """The values of the masks of an image, united. Raises InputError where a file cannot be read or has another size
    than the image."""
    arrays, lossy, size = [], False, _open(frames.locate(root, image)).size
    for name in masks:
        mask = _open(frames.locate(root, name))
        if mask.size != size:
            raise InputError(f'{Path(root) / name}: the mask is {mask.width}×{mask.height} pixels (width × height), '
                             f'its image {image} {size[0]}×{size[1]}; masks would not line up. Export it again')
        arrays.append(values_of(mask))
        lossy |= mask.format == 'JPEG'
    array = np.maximum.reduce(arrays)
    few = [int(v) for v in np.unique(array) if v]
    values = {-1: {}} if few and (lossy or len(few) > MOST) else {v: encode(array == v) for v in few}
    return Content(image, *array.shape, values, encode(array > max(int(array.max()), 1) / 2))


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=IMAGE_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f'{path}: {image.width}×{image.height} is over 64 megapixels; scale it down first')
        return image
    except (OSError, SyntaxError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(
            f'{path}: cannot be read as an image ({error})') from error


def values_of(image: Image.Image) -> np.ndarray:
    """(H, W) int32: grey values, palette colours (of masks of our own the numbers behind them), or 2²⁴ + RGB where
    channels differ. Transparent pixels are 0."""
    try:
        if image.mode in ('P', 'PA') and image.info.get(IDS[0]) != IDS[1]:
            image = image.convert('RGBA' if 'transparency' in image.info else 'RGB')
        array = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f'{image.filename}: cannot be read as an image ({error})') from error
    if array.dtype.kind == 'f' and (array % 1 != 0).any():
        raise InputError(f'{image.filename}: holds values that are no whole numbers, so it is no mask')
    if array.ndim == 2:
        return array.astype(np.int32)
    alpha = array[..., -1] > 0 if array.shape[-1] in (2, 4) else np.ones(array.shape[:2], bool)
    if array.shape[-1] < 3:
        return np.where(alpha, array[..., 0], 0).astype(np.int32)
    r, g, b = (array[..., c].astype(np.int32) for c in range(3))
    colour = (1 << 24) + (r << 16) + (g << 8) + b
    grey = (r == g) & (g == b)
    return np.where(alpha & ((r | g | b) > 0), r if grey.all() else colour, 0)


def encode(mask: np.ndarray) -> dict:
    """(H, W) bool -> COCO's compressed run-length encoding."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'size': list(rle['size']), 'counts': rle['counts'].decode()}


def decide(values: list[dict[int, dict]], wanted: tuple, *, where: str) -> Classes:
    """The classes of a data set from the values of all its masks.

    One value, whatever it is, is one class; whole numbers up to 20 are class numbers; a few others, and colours, are
    classes in their order. More than 32 values are soft edges, or a JPEG's: what is brighter than half is one class.
    `wanted`, ((value, name), …), says it instead; then another value raises InputError.
    """
    count = Counter(v for found in values for v in found)
    if wanted:
        given = dict(wanted)
        odd = {v: n for v, n in count.items() if v not in given}
        if odd:
            raise InputError(f'{where}: masks hold the values {sorted(odd)}, which config.data.mask_values = {wanted} '
                             'does not name')
        names = dict(enumerate(dict.fromkeys(given.values()), 1))  # values of one name are one class
        number = {name: k for k, name in names.items()}
        return Classes({v: number[name] for v, name in given.items()}, names)
    found = sorted(count)
    if not found:
        raise InputError(f'{where}: every mask is empty, so there is nothing to learn')
    if -1 in count or len(found) > MOST:
        log.warning('%s: the masks are JPEG files or hold more than %d values, as with soft edges: what is brighter '
                    'than half of a mask\'s brightest value is taken as the one class', where, MOST)
        return Classes({}, {1: 'foreground'})
    if len(found) == 1:
        return Classes({found[0]: 1}, {1: 'foreground'})
    ids = {v: v for v in found} if found[-1] <= 20 else {v: k for k, v in enumerate(found, 1)}
    log.warning('%s: the masks hold the values %s, each taken as a class. To name them, or merge two: '
                "--config.data.mask_values='(%s)'", where, ', '.join(map(text, found)),
                ', '.join(f'({v}, {text(v)!r})' for v in found))
    return Classes(ids, {ids[v]: text(v) for v in found})


def text(value: int) -> str:
    return f'#{value - (1 << 24):06x}' if value >= 1 << 24 else f'value {value}'


def segmentations(content: Content, classes: Classes) -> Iterator[tuple[int, dict]]:
    """(category id, run-length encoding) of each class that a mask shows."""
    if classes.ids:
        for value, rle in content.values.items():
            yield classes.ids[value], rle  # several of one class are united when they are drawn
    elif content.values:
        yield 1, content.bright
