"""Folders that may not be writable, tried before they are needed; and the user's cache folder, wherever that is."""
import functools
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

from unet_jax.errors import InputError

log = logging.getLogger('unet_jax')


def obstacle(folder: str | Path) -> str:
    """Why nothing can be written into `folder`, which need not exist yet; '' where it can. Leaves nothing behind.

    It is tried, since permissions do not tell of read-only mounts, quotas and what root may: a file is made, written,
    renamed and removed in the folder or, where that is not there, in the nearest one above it that is.
    """
    place = Path(os.path.abspath(folder))
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f'{place} is no folder'
    try:
        probe = Path(tempfile.mkdtemp(prefix='.probe-', dir=place))
        try:
            (probe / 'written').write_bytes(b'1')
            (probe / 'written').rename(probe / 'renamed')
        finally:
            shutil.rmtree(probe, ignore_errors=True)
    except OSError as error:
        return f'nothing can be written into {place}: {error.strerror or error}'
    return ''


def check_writable(folder: str | Path, option: str) -> None:
    """Raises InputError where nothing can be written into `folder`, which the user named by `option`."""
    if reason := obstacle(folder):
        raise InputError(f'{option}={folder}: cannot be written to ({reason}); name a folder that can')


def default_folder() -> Path:
    """The user's cache folder: in $XDG_CACHE_HOME, else in ~/.cache; where neither can be written, as in containers
    without a home, one in the temporary folder, and that is said. Raises InputError where that cannot be either."""
    given, home = os.environ.get('XDG_CACHE_HOME'), os.path.expanduser('~')  # '~' where there is no home
    places = [os.path.abspath(os.path.expanduser(given))] if given else []
    return _first_writable(*places, *([os.path.join(home, '.cache')] if os.path.isabs(home) else []))


@functools.cache
def _first_writable(*places: str) -> Path:
    reasons = []
    for place in places:
        folder = Path(place) / 'unet_jax'
        if not (reason := obstacle(folder)):
            return folder
        reasons.append(reason)
    found = _temporary('; '.join(reasons) or 'this user has no home')
    log.warning('The cache goes to %s, which may not last (%s). To keep it elsewhere: XDG_CACHE_HOME=DIR', found,
                '; '.join(reasons) or 'this user has no home')
    return found


def _temporary(reason: str) -> Path:
    """A folder of this user's alone: compiled programs are code, so nobody else may have put them there."""
    try:
        folder = Path(tempfile.gettempdir()) / f'unet_jax-{os.getuid()}'
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        return folder if mine and not obstacle(folder) else Path(tempfile.mkdtemp(prefix='unet_jax-'))
    except FileExistsError:  # a file, or a link to nowhere
        return Path(tempfile.mkdtemp(prefix='unet_jax-'))
    except OSError as error:
        raise InputError(f'there is no folder for caches ({reason}; {error}); name one: XDG_CACHE_HOME=DIR') from error
