"""The Kaggle set awsaf49/brats2020-training-data: BraTS 2020 as one HDF5 file a slice, and a CSV of label counts.

A file holds `image` (H, W, 4), channels FLAIR, T1, T1ce, T2, each z-scored over the whole slice with its background,
and `mask` (H, W, 3), channels NCR/NET, ED, ET, which exclude each other.
"""
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations import labels, schemas
from unet_jax.annotations.split import by_group
from unet_jax.errors import InputError
from unet_jax.progress import bar

CLASSES = (1, 2, 4)  # category id of each mask channel, as in the NIfTI release
REGIONS = schemas.SCHEMAS['2020'].regions
COUNTS = ('label0_pxl_cnt', 'label1_pxl_cnt', 'label2_pxl_cnt')  # of mask channels 0, 1, 2; none is the background
NAME = re.compile(r'volume_(\d+)_slice_(\d+)\.h5')
DEPTH = 4  # folders below the root that are searched
SAMPLE = 24  # files whose masks are compared with the CSV
MAX_SIDE = 1024  # pixels, of 240; a chunked dataset may claim any size without holding it
LARGEST = 1e30  # beyond it squares are infinite, in float32 sums too


def read_frame(root: str | Path, *, split: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0
               ) -> pd.DataFrame:
    """The annotation frame of the set found at or below `root`: a row per slice and class present.

    Which classes a slice has is the CSV's to say, checked against the masks of 24 files; without a CSV every mask is
    read. Whole volumes go to train, valid or test by the shares of `split`, stratified by tumour volume. Raises
    InputError where no slices are found, slices are missing in the folder or the CSV, or the two contradict.
    """
    root = Path(root)
    files, tables, mappings = _search(root)
    counts = _counts_of_table(tables, files) if tables else None
    _check_complete(files, counts, tables)
    if counts is None:
        counts = _counts_of_masks(files)
    else:
        _check_sample(files, counts, tables[0])
    volumes = sorted({volume for volume, _ in files})
    sizes = {volume: _size(files[volume, 0]) for volume in volumes}
    patients = _patients(mappings)
    tumour = dict.fromkeys(volumes, 0)
    for (volume, _), count in counts.items():
        tumour[volume] += sum(count)
    groups = pd.Series({volume: patients.get(volume, f'volume_{volume}') for volume in volumes})
    subset = by_group(groups, split, seed, strata=pd.Series(tumour)).to_dict()
    rows = []
    for volume, index in sorted(files):
        path = files[volume, index].relative_to(root).as_posix()
        row = {'file_name': files[volume, index].name, 'width': sizes[volume][1], 'height': sizes[volume][0],
               'subset': subset[volume], 'image_id': files[volume, index].stem, 'path': path, 'group': groups[volume],
               'case': f'volume_{volume}', 'slice': index, 'category_id': None, 'category': None, 'segmentation': None}
        present = [k for k, count in enumerate(counts[volume, index]) if count]
        rows += [row | {'category_id': CLASSES[k], 'category': schemas.SCHEMAS['2020'].names[CLASSES[k]],
                        'segmentation': {'file': path, 'channel': k, 'pixels': counts[volume, index][k]}}
                 for k in present] or [row]
    return annotation_frame.build(rows)


def _search(root: Path) -> tuple[dict[tuple[int, int], Path], list[Path], list[Path]]:
    """({(volume, slice): file}, metadata CSVs, name mappings) at and below `root`."""
    files, tables, mappings = {}, [], []
    for folder, folders, names in os.walk(root):
        if len(Path(folder).relative_to(root).parts) >= DEPTH:
            folders.clear()
        folders.sort()
        for name in names:
            match = NAME.fullmatch(name)
            if match:
                key = int(match[1]), int(match[2])
                if key in files:
                    raise InputError(f'{name} lies in both {files[key].parent} and {folder}: set config.data.root to '
                                     'the folder of one copy')
                files[key] = Path(folder) / name
                if files[key].is_symlink():
                    annotation_frame.locate(root, files[key].relative_to(root))
            elif name.lower().endswith('.csv') and 'metadata' in name.lower():
                tables.append(Path(folder) / name)
            elif name == 'name_mapping.csv':
                mappings.append(Path(folder) / name)
    if not files:
        raise InputError(f'{root}: no files volume_N_slice_K.h5 there or up to {DEPTH} folders below. Set '
                         'config.data.root to the unpacked Kaggle set awsaf49/brats2020-training-data, or try '
                         'configs/phantom.py, which needs no data')
    if len(tables) > 1:
        raise InputError(f'several metadata tables: {", ".join(map(str, sorted(tables)))}; keep one under {root}')
    return files, tables, mappings


def _counts_of_table(tables: list[Path], files) -> dict[tuple[int, int], tuple[int, int, int]]:
    path = tables[0]
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f'{path}: cannot be read as CSV ({error})') from error
    missing = {'volume', 'slice', *COUNTS} - set(table.columns)
    if missing:
        raise InputError(f'{path}: has no column {sorted(missing)}; it has {list(table.columns)}')
    table = table[['volume', 'slice', *COUNTS]].apply(pd.to_numeric, errors='coerce')
    bad = table.index[(table.isna() | (table < 0) | (table % 1 != 0)).any(axis=1)]
    if len(bad):
        raise InputError(f'{path}: {len(bad)} rows hold what is not a count, the first in line {bad[0] + 2}')
    table = table.astype(int)
    twice = table[table.duplicated(['volume', 'slice'])]
    if len(twice):
        raise InputError(f'{path}: {len(twice)} slices have more than one row, the first is volume '
                         f'{twice.volume.iloc[0]} slice {twice.slice.iloc[0]}')
    return {(v, s): tuple(c) for v, s, *c in table.itertuples(index=False, name=None)}


def _check_complete(files, counts, tables) -> None:
    """Every volume has slices 0, 1, ... to its last one, and the folder and the CSV name the same slices."""
    last = {}
    for volume, index in [*files, *(counts or ())]:
        last[volume] = max(index, last.get(volume, 0))
    whole = {(volume, index) for volume, n in last.items() for index in range(n + 1)}
    folder = next(iter(files.values())).parent
    for where, found in ((folder, files), *(((tables[0], counts),) if tables else ())):
        missing = sorted(whole - set(found))
        if missing:
            first = ', '.join(f'volume_{v}_slice_{s}' for v, s in missing[:5])
            raise InputError(f'{where}: {len(missing)} of {len(whole)} slices are missing, the first: {first}. A '
                             'volume is scored as a whole: unpack the set again, or remove every slice of those '
                             'volumes from both the folder and the CSV')


def _counts_of_masks(files) -> dict[tuple[int, int], tuple[int, int, int]]:
    return {key: _pixels(path) for key, path in bar(files.items(), desc='reading masks', unit='slice')}


def _pixels(path: Path) -> tuple[int, int, int]:
    with _open(path) as f:
        mask = _mask(f, path)
    if mask is None:
        raise InputError(f'{path}: no dataset \'mask\', so what the slice shows is unknown')
    return tuple(mask.reshape(-1, len(CLASSES)).sum(0, dtype=int).tolist())


def _check_sample(files, counts, table: Path) -> None:
    """The CSV's counts equal the masks' in files with and without tumour, spread over the set."""
    for keys in ([k for k in sorted(files) if any(counts[k])], [k for k in sorted(files) if not any(counts[k])]):
        for key in keys[::max(1, len(keys) // (SAMPLE // 2))][:SAMPLE // 2]:
            pixels = _pixels(files[key])
            if pixels != counts[key]:
                raise InputError(f'{table}: says {counts[key]} pixels of mask channels 0, 1, 2 for {files[key].name}, '
                                 f'the file has {pixels}: the table and the files are not of one set')


def _size(path: Path) -> tuple[int, int]:
    with _open(path) as f:
        return _dataset(f, path, 'image', 4).shape[:2]


def _patients(mappings: list[Path]) -> dict[int, str]:
    """{volume: the patient's name in the NIfTI release}: BraTS20_Training_041 is volume 41."""
    names = {}
    for path in mappings[:1]:
        table = pd.read_csv(path, dtype=str)
        for name in table.get('BraTS_2020_subject_ID', pd.Series(dtype=str)).dropna():
            number = re.search(r'(\d+)$', name.strip())
            if number:
                names[int(number[1])] = name.strip()
    return names


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
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


def _dataset(f: h5py.File, path: Path, name: str, channels: int) -> h5py.Dataset:
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
           or whole not in (None, c.size) or any(o % n for o, n in zip(c.chunk_offset, dataset.chunks))]
    if odd or len({c.chunk_offset for c in found}) < len(found):
        raise InputError(f'{path}: the index of \'{dataset.name}\' is damaged; copy the file again')


def _mask(f: h5py.File, path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 of 0 and 1, at most one of them set; None where the file has no mask."""
    if 'mask' not in f and f.get('mask', getlink=True) is None:
        return None
    mask = _dataset(f, path, 'mask', len(CLASSES))[()]
    if not np.isin(mask, (0, 1)).all():
        raise InputError(f'{path}: \'mask\' holds values other than 0 and 1: {np.unique(mask)[:8].tolist()}')
    overlap = int((mask.sum(-1, dtype=int) > 1).sum())
    if overlap:
        raise InputError(f'{path}: mask channels overlap in {overlap} pixels; NCR/NET, ED and ET exclude each other')
    return mask.astype(np.uint8)


def read_slice(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(image (H, W, 4) float32, mask (H, W, 3) uint8 or None) of one file.

    The file's z-score over the whole slice makes its background a negative number that differs from slice to slice.
    That is undone: the background, where all four channels are at their slice minimum, becomes 0, and each channel
    gets mean 0 and standard deviation 1 inside the brain (a constant one stays 0). Raises InputError, naming the
    file, for what is not such a file.
    """
    path = Path(path)
    with _open(path) as f:
        image, mask = _dataset(f, path, 'image', 4)[()].astype(np.float64), _mask(f, path)
    strange = ~(np.abs(image) < LARGEST)  # also NaN
    if strange.any():
        raise InputError(f'{path}: \'image\' holds {strange.sum()} values that are not finite')
    if mask is not None and mask.shape[:2] != image.shape[:2]:
        raise InputError(f'{path}: image is {image.shape[:2]}, mask {mask.shape[:2]}')
    brain = (image != image.min((0, 1))).any(-1)  # (H, W)
    return standardise(image, brain), mask


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


def check_channels(frame: pd.DataFrame, root: str | Path, *, most: int = 20) -> dict[str, float]:
    """Whether tumours look as they should in channels FLAIR, T1, T1ce, T2, on slices with enhancing tumour.

    Returns the median contrasts of `schemas.contrasts` over up to `most` slices spread over the set, and logs a
    warning for each that is not above 0.
    """
    paths = frame.path[frame.category_id == 4].tolist()
    measured = []
    for path in paths[len(paths) // (2 * most)::max(1, len(paths) // most)][:most]:
        image, mask = read_slice(annotation_frame.locate(root, path))
        ncr, oedema, enhancing = np.moveaxis(mask != 0, -1, 0)
        measured.append(schemas.contrasts(image, enhancing=enhancing, oedema=oedema, tumour=ncr | oedema | enhancing))
    return schemas.warn_contrasts(measured, str(root))
