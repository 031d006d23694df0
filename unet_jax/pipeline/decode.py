"""From a row of `frame.images` to arrays: image and label, at the network's size or the file's."""
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unet_jax.annotations import brats_h5, labels
from unet_jax.annotations import frame as frames
from unet_jax.annotations.coco import IMAGE_FORMATS, MAX_PIXELS
from unet_jax.annotations.segmentation import rasterise
from unet_jax.errors import InputError


class Settings(NamedTuple):
    """All that decoding depends on besides the files themselves; a part of the cache's key."""
    root: str
    size: tuple[int, int]  # (H, W)
    channels: int
    classes: tuple[int, ...]  # category ids, in bit order


class Placement(NamedTuple):
    """Where a file's image lies in the network's: scaled to (height, width), its corner at (top, left)."""
    top: int
    left: int
    height: int
    width: int


def place(height: int, width: int, size: tuple[int, int]) -> Placement:
    """The largest (height, width) of the same aspect that fits into `size`, centred."""
    scale = min(size[0] / height, size[1] / width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return Placement((size[0] - h) // 2, (size[1] - w) // 2, h, w)


def is_hdf5(path: str | Path) -> bool:
    return Path(path).suffix.lower() in ('.h5', '.hdf5')


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image file as (H, W, channels) uint8; EXIF orientation is not applied, as annotations do not expect it.

    Grey, RGB, RGBA (alpha is dropped), palette and CMYK are converted by Pillow; 16-bit and float images are scaled
    so that their own maximum becomes 255. Raises InputError for what is not an image, is cut short, or is larger
    than 64 megapixels.
    """
    if channels not in (1, 3):
        raise InputError(f'config.data.channels is {channels}; image files give 1 (grey) or 3 (RGB)')
    try:
        with warnings.catch_warnings(), Image.open(path, formats=IMAGE_FORMATS) as image:
            warnings.simplefilter('ignore')
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f'{path}: {image.width}×{image.height} is over 64 megapixels; scale it down first')
            if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
                values = np.asarray(image, np.float32)
                if not np.isfinite(values).all():
                    raise InputError(f'{path}: holds values that are not finite')
                values = values - min(0.0, float(values.min()))
                image = Image.fromarray(np.uint8(np.rint(values * (255 / max(float(values.max()), 1e-9)))))
            array = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file; the annotations name it') from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path}: cannot be read as an image ({error})') from error
    return array.reshape(*array.shape[:2], channels)


def read(path: Path, channels: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A file as (image (H, W, C) uint8 or float32, HDF5 mask channels (H, W, K) or None)."""
    if is_hdf5(path):
        image, mask = brats_h5.read_slice(path)
        if image.shape[-1] != channels:
            raise InputError(f'{path}: {image.shape[-1]} channels; config.data.channels is {channels}')
        return image, mask
    return read_image(path, channels), None


def resize(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w, C) uint8 or float32 -> (height, width, C), bilinear, averaging over the pixels it merges."""
    if array.shape[:2] == (height, width):
        return array
    planes = [Image.fromarray(np.ascontiguousarray(array[..., c])) for c in range(array.shape[-1])]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes], -1)


def embed(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, C) -> (*size, C): scaled to fit and padded with zeros (black; outside the brain)."""
    p = place(*array.shape[:2], size)
    canvas = np.zeros((*size, array.shape[-1]), array.dtype)
    canvas[p.top:p.top + p.height, p.left:p.left + p.width] = resize(array, p.height, p.width)
    return canvas


def extract(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inverse of `embed` for float32 (*size, C): the padding cut off, bilinear to (height, width, C)."""
    p = place(height, width, array.shape[:2])
    return resize(array[p.top:p.top + p.height, p.left:p.left + p.width], height, width)


def label_masks(row, settings: Settings, stored: np.ndarray | None) -> np.ndarray:
    """(H, W, K) booleans at the file's own size, one channel a class; several annotations of a class are united.

    `row` is a row of `frame.images`; `stored` the mask channels of its HDF5 file, which its annotations refer to.
    """
    masks = np.zeros((row.height, row.width, len(settings.classes)), bool)
    for category, segmentation in row.annotations:
        if category not in settings.classes:
            continue
        if isinstance(segmentation, dict) and 'channel' in segmentation:
            if stored is None:
                raise InputError(f'{row.path}: holds no mask, which its annotation refers to')
            mask = stored[..., segmentation['channel']] != 0
        else:
            mask = rasterise(segmentation, row.height, row.width, where=row.path)
        masks[..., settings.classes.index(category)] |= mask
    return masks


def decode(row, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(image (*size, C) uint8 or float16, label (*size) bit set) of a row of `frame.images`.

    The label is scaled by `scaled_label`. Raises InputError where the file cannot be read or its size is not the one
    annotated.
    """
    path = frames.locate(settings.root, row.path)
    image, stored = read(path, settings.channels)
    check_size(path, image, row)
    masks = label_masks(row, settings, stored)
    dtype = labels.bits_dtype(len(settings.classes))
    found = scaled_label(masks, settings.size) if masks.any() else np.zeros((*settings.size, 1), bool)
    label = labels.pack(found, dtype)
    image = embed(image, settings.size)
    return image if image.dtype == np.uint8 else image.astype(np.float16), label


def scaled_label(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, K) booleans at the file's size -> (*size, K) at the network's.

    Of the classes and the background a pixel gets what covers most of it. Where classes overlap in what it covers, as
    COCO annotations may, each is set by itself, where it covers half.
    """
    both = np.concatenate([masks, masks.any(-1, keepdims=True)], -1)
    shares = embed(both.astype(np.uint8) * 255, size).astype(np.int16)  # uint8 is what Pillow scales fastest
    classes, covered = shares[..., :-1], shares[..., -1]
    overlap = classes.sum(-1) > covered + masks.shape[-1]  # by more than rounding
    return np.where(overlap[..., None], classes >= 128, labels.largest(classes, 255 - covered))


def decode_label(row, settings: Settings) -> np.ndarray:
    """The label (H, W) as a bit set at the file's own size: what evaluation compares with."""
    stored = None
    if is_hdf5(row.path) and row.annotations:
        _, stored = read(frames.locate(settings.root, row.path), settings.channels)
    return labels.pack(label_masks(row, settings, stored), labels.bits_dtype(len(settings.classes)))


def check_size(path: Path, image: np.ndarray, row) -> None:
    if image.shape[:2] != (row.height, row.width):
        raise InputError(f'{path}: is {image.shape[1]}×{image.shape[0]} pixels (width × height), but annotated as '
                         f'{row.width}×{row.height}; masks would not line up. Export the annotations again')
