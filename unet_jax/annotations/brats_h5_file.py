"""One HDF5 slice of the Kaggle set, read with suspicion: libhdf5 follows links and trusts what a file claims."""
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from unet_jax.annotations import brain, labels
from unet_jax.errors import InputError

CLASSES = (1, 2, 4)  # category id of each mask channel, as in the NIfTI release
MAX_SIDE = 1024  # pixels, of 240; a chunked dataset may claim any size without holding it
LARGEST = 1e30  # beyond it squares are infinite, in float32 sums too


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """The file, and InputError for whatever h5py raises where it is damaged: five types of error, as fuzzing found."""
    try:
        with h5py.File(path, 'r') as f:
            yield f
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file; the annotations name it') from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise InputError(f'{path}: is damaged, or no HDF5 ({error}); copy the file again') from error


def find_dataset(f: h5py.File, path: Path, name: str, channels: int) -> h5py.Dataset:
    """The dataset (H, W, channels) `name`, which must lie in this file and not merely be pointed at."""
    link = f.get(name, getlink=True)
    if link is None:
        raise InputError(f'{path}: no dataset \'{name}\'; it holds {sorted(f)}')
    dataset = f.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise InputError(f'{path}: \'{name}\' is no dataset stored in this file, but a link, a group or a reference '
                         'to another file; only data in the file itself is read')
    shape = dataset.shape or ()
    if len(shape) != 3 or shape[2] != channels or not 0 < min(shape) <= max(shape) <= MAX_SIDE:
        raise InputError(f'{path}: \'{name}\' has shape {shape}; expected (height, width, {channels})')
    if dataset.dtype.kind not in 'fiub':
        raise InputError(f'{path}: \'{name}\' has type {dataset.dtype}; expected numbers')
    _check_chunks(dataset, path)
    return dataset


def _check_chunks(dataset: h5py.Dataset, path: Path) -> None:
    """Raises InputError for an index of chunks that cannot be: reading by it ends the process inside libhdf5 2.0."""
    if dataset.chunks is None:
        return
    found, size = [], path.stat().st_size
    dataset.id.chunk_iter(found.append)
    filtered = dataset.id.get_create_plist().get_nfilters()
    whole = None if filtered else math.prod(dataset.chunks) * dataset.dtype.itemsize
    odd = [c for c in found if not c.byte_offset or c.byte_offset + c.size > size or c.size < 1 or c.filter_mask
           or whole not in (None, c.size) or any(o % n for o, n in zip(c.chunk_offset, dataset.chunks, strict=True))]
    if odd or len({c.chunk_offset for c in found}) < len(found):
        raise InputError(f'{path}: the index of \'{dataset.name}\' is damaged; copy the file again')


def read_mask(f: h5py.File, path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 of 0 and 1, at most one of them set; None where the file has no mask."""
    if 'mask' not in f and f.get('mask', getlink=True) is None:
        return None
    mask = find_dataset(f, path, 'mask', len(CLASSES))[()]
    if not np.isin(mask, (0, 1)).all():
        raise InputError(f'{path}: \'mask\' holds values other than 0 and 1: {np.unique(mask)[:8].tolist()}')
    overlap = int((mask.sum(-1, dtype=int) > 1).sum())
    if overlap:
        raise InputError(f'{path}: mask channels overlap in {overlap} pixels; NCR/NET, ED and ET exclude each other')
    return mask.astype(np.uint8)


def read_slice(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(image (H, W, 4) float32, mask (H, W, 3) uint8 or None) of one file.

    The file's z-score over the whole slice makes its background a negative number that differs from slice to slice.
    That is undone: the background, where all four channels hold the number that the slice's border is made of, which
    is their minimum, becomes 0, and each channel gets mean 0 and standard deviation 1 inside the brain (a constant one
    stays 0). So are slices that were standardised inside the brain, whose background is not their minimum; where a
    border is of no one number, the minimum is taken. Raises InputError, naming the file, for what is not such a file.
    """
    path = Path(path)
    with open_file(path) as f:
        image, mask = find_dataset(f, path, 'image', 4)[()].astype(np.float64), read_mask(f, path)
    strange = ~(np.abs(image) < LARGEST)  # also NaN
    if strange.any():
        raise InputError(f'{path}: \'image\' holds {strange.sum()} values that are not finite')
    if mask is not None and mask.shape[:2] != image.shape[:2]:
        raise InputError(f'{path}: image is {image.shape[:2]}, mask {mask.shape[:2]}')
    return standardise_slice(image), mask


def standardise_slice(image: np.ndarray) -> np.ndarray:
    """(H, W, 4) of finite numbers -> float32, as `read_slice` says."""
    levels = [brain.level(image[..., c]) for c in range(image.shape[-1])]
    outside = [low if level is None else level for level, low in zip(levels, image.min((0, 1)), strict=True)]
    return standardise(image, (image != outside).any(-1))


def from_array(array: np.ndarray, channels: int) -> np.ndarray:
    """A slice in memory, (H, W, channels), as `read_slice` gives it. Raises InputError for another shape and for what
    is not finite."""
    sides = array.shape[:2] or (0,)
    if array.ndim != 3 or array.shape[-1] != channels or not 0 < min(sides) <= max(sides) <= MAX_SIDE:
        raise InputError(f'the slice is an array of shape {array.shape}; expected (height, width, {channels})')
    image = array.astype(np.float64)
    strange = ~(np.abs(image) < LARGEST)
    if strange.any():
        raise InputError(f'the slice holds {strange.sum()} values that are not finite')
    return standardise_slice(image)


def standardise(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """(…, C) -> float32 with mean 0 and standard deviation 1 per channel inside `brain` (…), and 0 outside."""
    result = np.zeros(image.shape, np.float32)
    if brain.any():
        inside = image[brain].astype(np.float64)  # (n, C)
        inside -= inside.mean(0)
        std = inside.std(0)
        flat = std <= 1e-9 * np.abs(image[brain]).max(0)  # constant but for rounding
        result[brain] = inside / np.where(flat, np.inf, std)
    return result


def mask_bits(mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W) uint8 bit sets: bit k is channel k, category id CLASSES[k]."""
    return labels.pack(np.asarray(mask) != 0)
