"""Volumes prepared once: turned, cropped to the brain, standardised inside it, in float16, one folder a case.

A prepared case lies in the cache as image.npy (X, Y, Z, C), label.npy (X, Y, Z) bit sets, foreground.npy (n, 3) voxels
of each class in turn, and grid.json, which leads back to the file's own voxels. Cases are opened when they are looked
at, three memory maps each, so that a thousand of them need neither memory nor open files.
"""
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pandas as pd
import scipy  # its parts are loaded when first used: training begins without them

from unet_jax import formats
from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels
from unet_jax.annotations.brats_h5_file import standardise
from unet_jax.errors import InputError
from unet_jax.formats.seam import Content
from unet_jax.pipeline import cache, cache_limit, threads
from unet_jax.progress import bar

VERSION = 2  # raised whenever `prepare` gives other arrays for the same files
FOREGROUND = 10_000  # voxels of a class whose places are kept, as in nnU-Net
READERS = 2  # cases prepared at once; each takes 0.35 GB at 240×240×155×4
COLUMNS = ('modalities', 'label', 'depth', 'spacing', 'schema')  # that `nifti.read_frame` adds


class Settings(NamedTuple):
    """All that preparation depends on besides the files, and the size of a patch, which it does not depend on."""
    root: str
    size: tuple[int, int, int]  # of a patch
    channels: int
    classes: tuple[int, ...]  # category ids, in bit order
    spacing: tuple[float, ...]  # mm along the prepared axes; () keeps the file's
    orientation: str  # where the prepared axes point, such as 'LPS'; '' keeps the file's
    format: str = 'nifti'  # key of `formats.FORMATS`

    @property
    def inputs(self) -> int:
        """Channels that the network sees."""
        return self.channels


class Grid(NamedTuple):
    """Where a prepared volume lies in its file."""
    shape: tuple[int, int, int]  # of the file
    codes: str  # where the file's axes point, to the nearest
    turned: str  # where the prepared axes point
    low: tuple[int, int, int]  # the box that was cut out, in turned voxels
    high: tuple[int, int, int]


class Volume(NamedTuple):
    """One prepared case; arrays are memory-mapped."""
    image: np.ndarray  # (X, Y, Z, C) float16, 0 outside the brain
    label: np.ndarray  # (X, Y, Z) bit sets; zeros where there is no label
    foreground: np.ndarray  # (n, 3) uint16, voxels of the first class, then of the second, …
    counts: tuple[int, ...]  # how many of them belong to each class
    grid: Grid


class Volumes(NamedTuple):
    """The prepared cases of `rows`, each opened when asked for."""
    folders: tuple[Path, ...]
    rows: pd.DataFrame
    skipped: dict[str, str] = {}  # path of each case that was left out: why

    def __getitem__(self, index: int) -> Volume:
        return open_volume(self.folders[index])


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame.images`, one row a case, with the columns that the NIfTI reader adds."""
    added = frame.drop_duplicates(['subset', 'image_id'])[['subset', 'image_id', *COLUMNS]]
    return frames.images(frame).merge(added, on=['subset', 'image_id'], validate='one_to_one')


def key(row, settings: Settings) -> str:
    """A digest of all that the prepared arrays depend on. Raises InputError naming a file that is missing."""
    what = (VERSION, settings.classes, tuple(settings.spacing), settings.orientation)
    parts = [[row.modalities, row.label, row.schema]]
    parts += [[path, *cache.stamp(Path(settings.root) / path)] for path in formats.named(settings.format).files(row)]
    return cache.digest((*what, settings.root), parts)


def open_volumes(rows: pd.DataFrame, settings: Settings, folder: str | Path = '', *, on_error: str = 'raise',
                 limit: float = 100.0) -> Volumes:
    """The cases of `rows`, prepared now unless they already are.

    Two at a time, whatever their number: the peak of the whole process was 0.94 GB for 2 and 0.97 GB for 6 cases of
    240×240×155×4 (BraTS 2021, brain of 134×177×136), at 3.7 s a case on 2 busy cores. limit: GB that the folder may
    hold (see `cache_limit.make_room`). Raises what reading raises; with on_error = 'skip' such cases are
    left out, and said why in `skipped`, unless nothing would be left.
    """
    folder = Path(folder or cache.default_folder() / 'samples')
    listed = list(rows.itertuples())

    def attempt(function: Callable, *arguments) -> object:
        try:
            return function(*arguments)
        except InputError as error:
            if on_error != 'skip':
                raise
            return str(error)

    # of a case whose files are missing, the reason
    targets = [attempt(lambda row: folder / key(row, settings), row) for row in listed]
    missing = [row for row, target in zip(listed, targets, strict=True)
               if isinstance(target, Path) and not target.is_dir()]
    if missing:
        cache_limit.make_room(folder, need=sum(likely_size(row, settings) for row in missing), limit=limit)

    def fill(k: int) -> Path | str:
        target = targets[k]
        if isinstance(target, str) or cache.ready(target):
            return target
        case = attempt(prepare, listed[k], settings)
        if isinstance(case, str):
            return case
        cache.fill(target, lambda part: write(part, case, len(settings.classes)))  # a full disk is never skipped
        return target

    done = threads.in_order(fill, range(len(rows)), threads=READERS, ahead=64,
                            name=lambda k: f'{Path(settings.root) / listed[k].path}: the prepared case')
    with closing(done):
        found = list(bar(done, total=len(rows), desc='preparing', unit='case'))
    skipped = {path: reason for path, reason in zip(rows.path, found, strict=True) if isinstance(reason, str)}
    cache.check_any(len(rows), skipped)
    whole = [isinstance(target, Path) for target in found]
    return Volumes(tuple(t for t in found if isinstance(t, Path)), rows[whole].reset_index(drop=True), skipped)


def likely_size(row, settings: Settings) -> int:
    """About the bytes of a prepared case: half of what all its voxels would take, as brains fill 0.36 of BraTS's."""
    scale = np.prod(row.spacing) / np.prod(settings.spacing) if settings.spacing else 1.0
    voxel = 2 * settings.channels + labels.bits_dtype(len(settings.classes)).itemsize
    return int(row.width * row.height * row.depth * scale * voxel / 2)


def open_volume(folder: Path) -> Volume:
    grid = json.loads((folder / 'grid.json').read_text())
    arrays = [np.load(folder / f'{name}.npy', mmap_mode='r') for name in ('image', 'label', 'foreground')]
    counts = tuple(grid.pop('counts'))
    return Volume(*arrays, counts, Grid(**{k: v if isinstance(v, str) else tuple(v) for k, v in grid.items()}))


def in_memory(content: Content, row, settings: Settings) -> Volume:
    """A case that was read, prepared without the cache, to be segmented: without the places of its classes."""
    return as_volume(prepare_content(content, settings, spacing=row.spacing, where=named(row, settings)), settings)


def as_volume(case: tuple[np.ndarray, np.ndarray, Grid], settings: Settings) -> Volume:
    """What `prepare` gave, in memory, without the places of its classes."""
    image, label, grid = case
    return Volume(image, label, np.zeros((0, 3), np.uint16), (0,) * len(settings.classes), grid)


def write(folder: Path, case: tuple[np.ndarray, np.ndarray, Grid], classes: int) -> None:
    """The files of what `prepare` gave, with so many classes, into the empty `folder`."""
    image, label, grid = case
    found = [np.argwhere(label & (1 << k)) for k in range(classes)]
    kept = [places[::-(-len(places) // FOREGROUND)] if len(places) else places for places in found]
    for name, array in (('image', image), ('label', label), ('foreground', np.concatenate(kept).astype(np.uint16))):
        stored = cache.create_array(folder / f'{name}.npy', array.dtype, array.shape)
        stored[:] = array
        stored.flush()
    (folder / 'grid.json').write_text(json.dumps(grid._asdict() | {'counts': [len(places) for places in kept]}))


def named(row, settings: Settings) -> str:
    """A case as messages name it."""
    return f'{Path(settings.root) / row.path} ({row.case})'


def prepare(row, settings: Settings) -> tuple[np.ndarray, np.ndarray, Grid]:
    """`prepare_content` of what the files of a row of `rows` hold."""
    content = formats.named(settings.format).read(settings.root, row, settings.channels)
    return prepare_content(content, settings, spacing=row.spacing, where=named(row, settings))


def prepare_content(case: Content, settings: Settings, *, spacing: Sequence[float], where: str
                    ) -> tuple[np.ndarray, np.ndarray, Grid]:
    """(image (X, Y, Z, C) float16, label (X, Y, Z) bit sets, where they lie in the file) of a case.

    spacing: the file's mm along its axes; `where` names the case in messages. Each modality has mean 0 and standard
    deviation 1 inside the brain, which is where any of them is not the background (`brain.level`), and 0 outside.
    Raises InputError for a case without a brain.
    """
    codes = ''.join(nibabel.aff2axcodes(case.affine))
    turned = settings.orientation or codes
    image, brain = turn(case.image, codes, to=turned), turn(case.brain, codes, to=turned)
    if not brain.any():
        raise InputError(f'{where}: no voxel is other than the background')
    low, high = bounds(brain)
    box = tuple(map(slice, low, high))
    image = standardise(image[box], brain[box])
    label = np.zeros(image.shape[:3], labels.bits_dtype(len(settings.classes)))
    if case.label is not None:
        ids = turn(case.label, codes, to=turned)[box]
        for k, category in enumerate(settings.classes):
            label[ids == category] = 1 << k
    if settings.spacing:
        spacing = turned_spacing(spacing, codes, to=turned)
        shape = tuple(max(1, round(n * own / wanted))
                      for n, own, wanted in zip(label.shape, spacing, settings.spacing, strict=True))
        masks = labels.region_masks(label, tuple(1 << k for k in range(len(settings.classes)))).astype(np.float32)
        shares = resample(masks, shape)
        image, label = resample(image, shape), labels.pack(labels.largest(shares, 1 - shares.sum(-1)), label.dtype)
    return image.astype(np.float16), label, Grid(case.image.shape[:3], codes, turned, low, high)


def bounds(mask: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(first, last + 1) voxel of what is set, along each axis."""
    lines = [mask.any(tuple(b for b in range(mask.ndim) if b != a)).nonzero()[0] for a in range(mask.ndim)]
    return tuple(int(x[0]) for x in lines), tuple(int(x[-1]) + 1 for x in lines)


def turn(array: np.ndarray, codes: str, *, to: str) -> np.ndarray:
    """(X, Y, Z, …) whose axes point as `codes` says -> the same with axes that point as `to` says, no voxel lost."""
    if codes == to:
        return array
    axes = [nibabel.orientations.axcodes2ornt(text) for text in (codes, to)]
    return nibabel.orientations.apply_orientation(array, nibabel.orientations.ornt_transform(*axes))


def turned_spacing(spacing: list[float], codes: str, *, to: str) -> tuple[float, ...]:
    """The file's mm per voxel along the axes after `turn`."""
    axes = [nibabel.orientations.axcodes2ornt(text) for text in (codes, to)]
    new = nibabel.orientations.ornt_transform(*axes)[:, 0].astype(int)  # file axis a becomes axis new[a]
    return tuple(spacing[int(np.flatnonzero(new == a)[0])] for a in range(3))


def voxel_size(volume: Volume, spacing: list[float]) -> tuple[float, ...]:
    """mm along the axes of a prepared volume, whose file has `spacing`."""
    turned = turned_spacing(spacing, volume.grid.codes, to=volume.grid.turned)
    return tuple(mm * (high - low) / n for mm, low, high, n
                 in zip(turned, volume.grid.low, volume.grid.high, volume.label.shape, strict=True))


def resample(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(X, Y, Z, C) -> (*shape, C) by linear interpolation, the outer faces staying where they are."""
    if array.shape[:3] == tuple(shape):
        return array
    factors = [n / m for n, m in zip(shape, array.shape[:3], strict=True)]
    channels = [scipy.ndimage.zoom(array[..., c], factors, order=1, mode='nearest', grid_mode=True)
                for c in range(array.shape[-1])]
    return np.stack(channels, -1)


def put_back(array: np.ndarray, grid: Grid) -> np.ndarray:
    """The inverse of preparation for (x, y, z, R): -> (*grid.shape, R) in the file's voxels, 0 outside the box.

    Where the volume was resampled, floats are interpolated linearly; so hand over probabilities, not masks.
    """
    box = tuple(h - low for low, h in zip(grid.low, grid.high, strict=True))
    array = resample(array, box) if array.dtype.kind == 'f' else array
    turned = turn(np.broadcast_to(np.zeros((), array.dtype), grid.shape), grid.codes, to=grid.turned).shape
    whole = np.zeros((*turned, array.shape[-1]), array.dtype)
    whole[tuple(map(slice, grid.low, grid.high))] = array
    return turn(whole, grid.turned, to=grid.codes)
