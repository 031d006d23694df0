"""From a row of `frame.images` to arrays: image and label, at the network's size or the file's."""
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unet_jax import formats
from unet_jax.annotations import labels
from unet_jax.annotations.segmentation import rasterise
from unet_jax.errors import InputError


class Settings(NamedTuple):
    """All that samples depend on besides the files themselves; but for `neighbours` a part of the cache's key."""
    root: str
    size: tuple[int, int]  # (H, W)
    channels: int
    classes: tuple[int, ...]  # category ids, in bit order
    format: str = 'coco'  # key of `formats.FORMATS`
    patient: bool = False  # whether images are standardised by one scale for all of a group
    neighbours: int = 0  # slices on either side that are channels too; of no matter to decoding

    @property
    def inputs(self) -> int:
        """Channels that the network sees."""
        return self.channels * (1 + 2 * self.neighbours)


class Placement(NamedTuple):
    """Where a file's image lies in the network's: scaled to (height, width), its corner at (top, left)."""
    top: int
    left: int
    height: int
    width: int


def place(shape: tuple[int, int], *, size: tuple[int, int]) -> Placement:
    """Where an image of `shape` (height, width) goes in `size`: as large as fits, of the same aspect, centred."""
    height, width = shape
    scale = min(size[0] / height, size[1] / width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return Placement((size[0] - h) // 2, (size[1] - w) // 2, h, w)


def resize(array: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """(h, w, C) uint8 or float32 -> (height, width, C), bilinear, averaging over the pixels it merges."""
    if array.shape[:2] == (height, width):
        return array
    planes = [Image.fromarray(np.ascontiguousarray(array[..., c])) for c in range(array.shape[-1])]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes], -1)


def embed(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, C) -> (*size, C): scaled to fit and padded with zeros (black; outside the brain)."""
    p = place(array.shape[:2], size=size)
    canvas = np.zeros((*size, array.shape[-1]), array.dtype)
    canvas[p.top:p.top + p.height, p.left:p.left + p.width] = resize(array, height=p.height, width=p.width)
    return canvas


def extract(array: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """The inverse of `embed` for float32 (*size, C): the padding cut off, bilinear to (height, width, C)."""
    p = place((height, width), size=array.shape[:2])
    return resize(array[p.top:p.top + p.height, p.left:p.left + p.width], height=height, width=width)


def label_masks(row, settings: Settings, stored: np.ndarray | None) -> np.ndarray:
    """(H, W, K) booleans at the file's own size, one channel a class; several annotations of a class are united.

    `row` is a row of `frame.images`; `stored` the mask channels of its file, where its annotations refer to them.
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
            mask = rasterise(segmentation, height=row.height, width=row.width, where=row.path)
        masks[..., settings.classes.index(category)] |= mask
    return masks


def decode(row, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(image (*size, C) uint8 or float16, label (*size) bit set) of a row of `frame.images`.

    The label is scaled by `scaled_label`. Raises InputError where the file cannot be read or its size is not the one
    annotated.
    """
    image, stored, *_ = formats.named(settings.format).read(settings.root, row, settings.channels)
    check_size(Path(settings.root) / row.path, image, row)
    masks = label_masks(row, settings, stored)
    dtype = labels.bits_dtype(len(settings.classes))
    found = scaled_label(masks, settings.size) if masks.any() else np.zeros((*settings.size, 1), bool)
    return to_wire(image, settings), labels.pack(found, dtype)


def to_wire(image: np.ndarray, settings: Settings) -> np.ndarray:
    """(H, W, C) as read -> (*size, C) uint8 or float16, as it goes to the device."""
    return embed(image, settings.size).astype(formats.named(settings.format).dtype)


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
    stored = formats.named(settings.format).read_label(settings.root, row, settings.classes)
    return labels.pack(label_masks(row, settings, stored), labels.bits_dtype(len(settings.classes)))


def check_size(path: Path, image: np.ndarray, row) -> None:
    if image.shape[:2] != (row.height, row.width):
        raise InputError(f'{path}: is {image.shape[1]}×{image.shape[0]} pixels (width × height), but annotated as '
                         f'{row.width}×{row.height}; masks would not line up. Export the annotations again')
