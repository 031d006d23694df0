"""How large the caches may become. What was used least recently goes first, and only what this project wrote.

An entry counts as used when it is opened, and every six hours for as long as the process that opened it runs; one
that was used within a day stays, whoever uses it, on whatever host: volumes are opened again at every look. A killed
process holds nothing, as there is no lock, which not every network file system has.
"""
import functools
import logging
import os
import re
import shutil
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

GB = 1e9
DAY = 24 * 3600.0  # seconds
AGAIN = 6 * 3600.0  # seconds after which an entry in use is marked again
PROGRAMS = 2 * GB  # bytes of compiled programs; a run of configs/phantom.py leaves 0.8 MB, on CPUs
# `cache.fill` writes folders named by a digest, under the second form until they are complete; `cache.ready` moves
# damaged ones aside. Of a folder with such a name every file has one of these names too, else it is not ours.
WHOLE, UNFINISHED = re.compile(r'([0-9a-f]{32})(\.damaged-\d+)?'), re.compile(r'\.([0-9a-f]{32})\.[0-9a-f]{12}')
FILES = {'image.npy', 'label.npy', 'foreground.npy', 'grid.json', 'sizes.json', 'skipped.json'}
log = logging.getLogger('unet_jax')
in_use: set[Path] = set()  # by this process


class Entry(NamedTuple):
    path: Path
    size: int  # bytes
    used: float  # when, in seconds since 1970
    whole: bool  # not left behind by a process that was killed


def touch(target: Path) -> None:
    """Marks the entry `target` as used, now and for as long as this process runs."""
    in_use.add(target)
    with suppress(OSError):  # of a cache that others filled and that is only read here, the owner keeps the time
        os.utime(target)
    _keep_touching()


@functools.cache
def _keep_touching() -> None:
    def again() -> None:
        while True:
            time.sleep(AGAIN)
            for target in tuple(in_use):
                with suppress(OSError):
                    os.utime(target)

    threading.Thread(target=again, daemon=True, name='cache in use').start()


def entries(folder: Path) -> list[Entry]:
    """What this project wrote into `folder`, least recently used first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        whole = WHOLE.fullmatch(path.name)
        if not (whole or UNFINISHED.fullmatch(path.name)) or path.is_symlink() or not path.is_dir():
            continue
        with suppress(FileNotFoundError):  # another process has just removed or renamed it
            files = [(file.name, file.stat(follow_symlinks=False)) for file in os.scandir(path)]
            if {name for name, _ in files} <= FILES:
                used = max(stat.st_mtime for stat in (path.stat(), *(stat for _, stat in files)))
                found.append(Entry(path, sum(stat.st_size for _, stat in files), used, bool(whole)))
    return sorted(found, key=lambda entry: entry.used)


def make_room(folder: Path, *, need: float, limit: float) -> None:
    """Says where samples go, and removes old ones until `need` more bytes keep `folder` within `limit` GB.

    What a killed process left unfinished goes after a day. Where the limit cannot be kept, or the disk has no room,
    that is said, and the samples are written all the same as far as they fit.
    """
    since, removed = time.time() - DAY, []
    kept = []
    for entry in entries(folder):
        if not entry.whole and entry.used < since:
            remove(entry.path)
        else:
            kept.append(entry)
    total = sum(entry.size for entry in kept)
    for entry in kept:
        if total + need <= limit * GB or entry.used >= since:
            break
        remove(entry.path)
        removed.append(entry)
        total -= entry.size
    log.info('samples go to %s: %.2f GB there, about %.2f to come, %g allowed (config.data.cache, data.cache_limit)%s',
             folder, total / GB, need / GB, limit, f'; {len(removed)} of earlier runs, '
             f'{sum(entry.size for entry in removed) / GB:.2f} GB, were removed' if removed else '')
    if total + need > limit * GB:
        log.warning('%s grows beyond config.data.cache_limit = %g GB: all in it was used within a day', folder, limit)
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if need > free:
        log.warning('%s: about %.2f GB are needed, %.2f are free; make room, or name another folder '
                    '(config.data.cache)', folder, need / GB, free / GB)


def remove(path: Path) -> None:
    """Deletes an entry, under another name first, so that nobody opens a part of it."""
    key = (WHOLE.fullmatch(path.name) or UNFINISHED.fullmatch(path.name))[1]
    aside = path.with_name(f'.{key}.{uuid.uuid4().hex[:12]}')
    with suppress(OSError):  # another process was first, or it belongs to somebody else
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def trim_programs(folder: Path, limit: float = PROGRAMS) -> None:
    """Removes the compiled programs in jax's cache `folder` that were read least recently, beyond `limit` bytes.

    jax's own limit, jax_compilation_cache_max_size, needs a package more (filelock), and after a kill between its two
    writes, an entry and its time, it writes no entry any more. Where the file system keeps no times of reading, the
    oldest go.
    """
    found = []
    for path in folder.glob('*-cache'):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with suppress(OSError):
            path.unlink()
        total -= size
