"""Samples decoded once, then read through the page cache: two .npy files in a folder named after their content.

The folder's name is a digest of the rows, the settings and each file's size and times, so that a changed image,
annotation or setting is another folder. It is written under a temporary name and renamed when complete: a folder
with the right name is whole, and two runs at once write one each, of which the first to finish is kept. How much the
folders may hold together is for cache_limit.py.
"""
import errno
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from unet_jax import formats
from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.folders import default_folder
from unet_jax.pipeline import cache_limit, decode, slices, threads
from unet_jax.progress import bar

SKIPPED = 'skipped.json'  # {path: reason}, where on_error = 'skip' left rows out
VERSION = 2  # raised whenever `decode.decode` gives other arrays for the same input
log = logging.getLogger('unet_jax')


class Samples(NamedTuple):
    """The decoded rows of a subset, in the order of `rows`."""
    image: np.ndarray  # (N, H, W, C) uint8 or float16, memory-mapped
    label: np.ndarray  # (N, H, W) bit sets, memory-mapped
    rows: pd.DataFrame  # of `frame.images`
    skipped: dict[str, str] = {}  # path of each row that was left out: why
    near: np.ndarray | None = None  # of each row the positions in `image` of its channels' slices (`slices.near`),
    # where there are neighbours, or where the rows are some of the images only; None: image k is that of row k
    scale: np.ndarray | None = None  # of each row, (2, C) (`slices.scale`), where it is standardised by patient

    def sample(self, index: int, *, seed: int, visit: int) -> tuple[np.ndarray, ...]:
        """(image, label) of a row, and its scale if any: the same at every visit, whatever the seed."""
        return *self.take(index), *(() if self.scale is None else (self.scale[index],))

    def take(self, index: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """(images (n, H, W, C), labels (n, H, W)) of n rows, neighbours as channels; of one row without the n."""
        if self.near is None:
            return self.image[index], self.label[index]
        return slices.take(self.image, self.label, self.near[index])

    def some(self, where: slice | np.ndarray) -> 'Samples':
        """Those rows alone, everything still memory-mapped: `where` are consecutive unless there is `near`."""
        rows, scale = self.rows.iloc[where].reset_index(drop=True), None if self.scale is None else self.scale[where]
        if self.near is None:
            return Samples(self.image[where], self.label[where], rows, self.skipped, None, scale)
        return Samples(self.image, self.label, rows, self.skipped, self.near[where], scale)


def key(rows: pd.DataFrame, settings: decode.Settings) -> str:
    """A digest of all that the decoded arrays depend on. Raises InputError naming the first file that is missing."""
    return digest((VERSION, settings._replace(neighbours=0)), (
        [row.path, row.width, row.height, row.annotations, *[row.group] * settings.patient,
         *stamp(Path(settings.root) / row.path)] for row in rows.itertuples()))


def digest(settings: object, parts: Iterable[list]) -> str:
    """32 hex digits that name the content described by `settings` and `parts`."""
    found = hashlib.sha256(repr(settings).encode())
    for part in parts:
        found.update(json.dumps(part, default=str).encode())
    return found.hexdigest()[:32]


def stamp(path: Path) -> tuple[int, int, int]:
    """A file's size, its modification time and its inode's change time (which no program can set back), in ns."""
    try:
        stat = os.stat(path)
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file; the annotations name it') from error
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def open_samples(rows: pd.DataFrame, settings: decode.Settings, folder: str | Path = '', *, on_error: str = 'raise',
                 limit: float = 100.0) -> Samples:
    """The samples of `rows` (of `frame.images`), decoded now unless they already are.

    limit: GB that the folder may hold (see `cache_limit.make_room`). Raises what `decode` raises; with on_error =
    'skip' such rows are left out, and said why in `skipped`, unless nothing would be left.
    """
    folder = Path(folder or default_folder() / 'samples')
    there = rows
    if on_error == 'skip':
        there = rows[[(Path(settings.root) / path).exists() for path in rows.path]].reset_index(drop=True)
    present = set(there.path)
    absent = {path: f'{path}: no such file' for path in rows.path if path not in present}
    check_any(len(rows), absent)
    target = folder / key(there, settings)
    if not ready(target):
        need = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout(there, settings).values())
        cache_limit.make_room(folder, need=need, limit=limit)
        _write(there, settings, target, on_error)
    skipped = json.loads((target / SKIPPED).read_text()) if (target / SKIPPED).exists() else {}
    if skipped and on_error != 'skip':
        raise InputError(next(iter(skipped.values())))
    kept = there[~there.path.isin(list(skipped))].reset_index(drop=True)
    check_any(len(rows), absent | skipped)
    return Samples(*(np.load(target / name, mmap_mode='r')[:len(kept)] for name in ('image.npy', 'label.npy')), kept,
                   {**absent, **skipped},
                   near=slices.near(kept, settings.neighbours) if settings.neighbours or settings.patient else None,
                   scale=np.load(target / 'scale.npy') if settings.patient else None)


def check_any(count: int, skipped: dict[str, str]) -> None:
    """Raises InputError where all of `count` samples were skipped, so that nothing is left of a subset."""
    if skipped and len(skipped) == count:
        first = next(iter(skipped.values()))
        raise InputError(f'none of the {count} samples of a subset can be read; the first: {first}')


def ready(target: Path) -> bool:
    """Whether the folder is there and whole, which makes it one in use; one that is not whole is moved aside."""
    if target.is_dir() and not _whole(target):
        aside = target.with_name(f'{target.name}.damaged-{os.getpid()}')
        log.warning('the cache %s is not whole: moved to %s and made again', target, aside.name)
        target.rename(aside)
    if not target.is_dir():
        return False
    cache_limit.touch(target)
    return True


def _whole(target: Path) -> bool:
    try:
        sizes = json.loads((target / 'sizes.json').read_text())
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def create_array(path: Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A new memory-mapped .npy file, its room on the disk taken now: where a page of a sparse file finds none when it
    is written, the system kills the process (SIGBUS). Raises InputError where there is none."""
    need = int(np.prod(shape)) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(path.parent).free
    reason = f'the cache {path.parent} needs {need:,} bytes for {path.name}, {free:,} are free; make room, or name ' \
        'another folder (config.data.cache)'
    if need > free:
        raise InputError(reason)
    array = np.lib.format.open_memmap(path, 'w+', dtype, shape)
    if hasattr(os, 'posix_fallocate'):  # not on macOS
        try:
            with open(path, 'r+b') as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise InputError(f'{reason} ({error.strerror})') from error
            log.info('%s: its room on the disk cannot be taken beforehand (%s)', path.parent, error)
    return array


def fill(target: Path, write: Callable[[Path], None]) -> None:
    """The folder `target`, by `write(folder)` under a temporary name and, once complete, renamed.

    Raises InputError where there cannot be such a folder, and what `write` raises.
    """
    # drawn at random: in containers that share a cache every process may have the number 1
    temporary = target.with_name(f'.{target.name}.{uuid.uuid4().hex[:12]}')
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f'{target.parent}: decoded samples cannot be written there ({error.strerror}); name another '
                         'folder: config.data.cache') from error
    try:
        write(temporary)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        (temporary / 'sizes.json').write_text(json.dumps(sizes))
        try:
            temporary.rename(target)
        except OSError:
            if not _whole(target):  # else another run was first: its copy is the same
                raise
        cache_limit.touch(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def layout(rows: pd.DataFrame, settings: decode.Settings) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{file: (shape, type)} of the decoded `rows`."""
    image = np.dtype(formats.named(settings.format).dtype)
    return {'image.npy': ((len(rows), *settings.size, settings.channels), image),
            'label.npy': ((len(rows), *settings.size), labels.bits_dtype(len(settings.classes)))}


def _write(rows: pd.DataFrame, settings: decode.Settings, target: Path, on_error: str = 'raise') -> None:
    def write(folder: Path) -> None:
        image, label = (create_array(folder / name, dtype, shape)
                        for name, (shape, dtype) in layout(rows, settings).items())
        listed = list(rows.itertuples())

        def store(k: int) -> str | None:  # in threads: Pillow decodes and scales without the interpreter's lock
            try:
                image[k], label[k] = decode.decode(listed[k], settings)
            except InputError as error:
                if on_error != 'skip':
                    raise
                return str(error)

        stored = threads.in_order(store, range(len(rows)), threads=min(32, (os.cpu_count() or 1) + 4), ahead=64,
                                  name=lambda k: f'{Path(settings.root) / listed[k].path}: the decoded image')
        with closing(stored):
            reasons = list(bar(stored, total=len(rows), desc='decoding', unit='image'))
        skipped = {path: reason for path, reason in zip(rows.path, reasons, strict=True) if reason}
        if skipped:  # the others move up
            for new, old in enumerate(k for k, reason in enumerate(reasons) if not reason):
                image[new], label[new] = image[old], label[old]
            (folder / SKIPPED).write_text(json.dumps(skipped))
        if settings.patient:
            kept = rows.group[[not reason for reason in reasons]]
            np.save(folder / 'scale.npy', slices.scale(image[:len(kept)], kept))
        image.flush(), label.flush()

    fill(target, write)
