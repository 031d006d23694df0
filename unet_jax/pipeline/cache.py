"""Samples decoded once, then read through the page cache: two .npy files in a folder named after their content.

The folder's name is a digest of the rows, the settings and each file's size and times, so that a changed image,
annotation or setting is another folder. It is written under a temporary name and renamed when complete: a folder
with the right name is whole, and two runs at once write one each, of which the first to finish is kept.
"""
import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.pipeline import decode
from unet_jax.progress import bar

VERSION = 1  # raised whenever `decode.decode` gives other arrays for the same input
log = logging.getLogger('unet_jax')


class Samples(NamedTuple):
    """The decoded rows of a subset, in the order of `rows`."""
    image: np.ndarray  # (N, H, W, C) uint8 or float16, memory-mapped
    label: np.ndarray  # (N, H, W) bit sets, memory-mapped
    rows: pd.DataFrame  # of `frame.images`


def default_folder() -> Path:
    """The user's cache folder, by the XDG convention."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'unet_jax'


def key(rows: pd.DataFrame, settings: decode.Settings) -> str:
    """A digest of all that the decoded arrays depend on.

    Of a file: its size, its modification time and its inode's change time (which no program can set back), to the
    nanosecond. Raises InputError naming the first file that is missing.
    """
    digest = hashlib.sha256(repr((VERSION, settings)).encode())
    for row in rows.itertuples():
        try:
            stat = os.stat(Path(settings.root) / row.path)
        except FileNotFoundError as error:
            raise InputError(f'{Path(settings.root) / row.path}: no such file; the annotations name it') from error
        digest.update(json.dumps([row.path, row.width, row.height, row.annotations, stat.st_size, stat.st_mtime_ns,
                                  stat.st_ctime_ns], default=str).encode())
    return digest.hexdigest()[:32]


def open_samples(rows: pd.DataFrame, settings: decode.Settings, folder: str | Path = '') -> Samples:
    """The samples of `rows` (of `frame.images`), decoded now unless they already are. Raises what `decode` raises."""
    folder = Path(folder or default_folder() / 'samples')
    target = folder / key(rows, settings)
    if target.is_dir() and not _whole(target):
        aside = target.with_name(f'{target.name}.damaged-{os.getpid()}')
        log.warning('the cache %s is not whole: moved to %s and made again', target, aside.name)
        target.rename(aside)
    if not target.is_dir():
        _write(rows, settings, target, os.getpid())
    return Samples(*(np.load(target / name, mmap_mode='r') for name in ('image.npy', 'label.npy')), rows)


def _whole(target: Path) -> bool:
    try:
        sizes = json.loads((target / 'sizes.json').read_text())
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _create(path: Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
    need = int(np.prod(shape)) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(path.parent).free
    if need > 0.95 * free:
        raise InputError(f'the cache {path.parent} needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; '
                         'choose another folder (config.data.cache) or a smaller config.data.size')
    return np.lib.format.open_memmap(path, 'w+', dtype, shape)


def _write(rows: pd.DataFrame, settings: decode.Settings, target: Path, writer: int) -> None:
    temporary = target.with_name(f'.{target.name}.{writer}')
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same number
    temporary.mkdir(parents=True)
    try:
        float16 = bool(len(rows)) and decode.is_hdf5(rows.path.iloc[0])
        image = _create(temporary / 'image.npy', np.float16 if float16 else np.uint8,
                        (len(rows), *settings.size, settings.channels))
        label = _create(temporary / 'label.npy', labels.bits_dtype(len(settings.classes)), (len(rows), *settings.size))

        def store(k, row):  # in threads: Pillow decodes and scales without the interpreter's lock
            image[k], label[k] = decode.decode(row, settings)

        with ThreadPoolExecutor() as pool:
            stored = pool.map(store, range(len(rows)), rows.itertuples())
            list(bar(stored, total=len(rows), desc='decoding', unit='image'))
        sizes = {name: (temporary / name).stat().st_size for name in ('image.npy', 'label.npy')}
        image.flush(), label.flush()
        (temporary / 'sizes.json').write_text(json.dumps(sizes))
        try:
            temporary.rename(target)
        except OSError:
            if not _whole(target):  # else another run was first: its copy is the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
