"""What data a run was made from: relative path, size and digest of every file, in identity.json of a work directory.

Neither where the root lies nor any time counts: a data set may be moved or copied, not changed. Images are read whole
where they are few, else their first and last part (`end_size`). For 57,195 files of 0.9 MB that is 64 KiB at each
end: 7 to 12 s from memory, 14 to 26 s from a disk, scaled up from 6,000 made-up files on two busy cores. PNG and gzip
hold checksums of all their content near their end; an edit in the middle of one of many large files without such, of
the same size, is not seen. What says the truth (COCO JSON, CSV, label volumes) is always read whole.
"""
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import nifti
from unet_jax.errors import InputError
from unet_jax.progress import bar
from unet_jax.text_file import write_text
from unet_jax.workdir import tell_once

FILE = 'identity.json'
BUDGET = 2 * 2 ** 30  # bytes read at the beginnings of all images, and as many at their ends
LEAST = 64 * 2 ** 10  # bytes at either end of each, however many there are
THREADS = 16  # hashing and reading release the interpreter's lock; over a network each waits for the server
ABSENT = 'absent'
SHOWN = 5  # files that a message names


def describe(frame: pd.DataFrame, root: str | os.PathLike) -> dict:
    """{'root', 'digest' of all, 'images' and 'annotations': {relative path: 'size digest'}} of the files that `frame`
    names below `root`; a file that is not there, or cannot be read, is 'absent'."""
    images, annotations = files_of(frame)
    found = {'images': contents(root, images), 'annotations': contents(root, annotations, whole=True)}
    return {'root': str(root), 'digest': digest(found), **found}


def files_of(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """(images, annotations): the files of a frame, relative to its root, each once.

    Annotations are what the readers note in `frame.attrs['annotation_files']`, and label volumes.
    """
    written = list(frame.attrs.get('annotation_files', ()))
    if 'modalities' not in frame.columns:
        return sorted({*frame['path']}), sorted({*written})
    cases = frame.drop_duplicates('case')
    images = {name for modalities in cases['modalities'] for name in nifti.sequence_files(modalities)}
    return sorted(images), sorted({*written, *cases['label'].dropna()})


def end_size(count: int) -> int:
    """Bytes to read at either end of each of `count` images: up to twice as long ones are read whole."""
    return max(LEAST, BUDGET // max(count, 1))


def contents(root: str | os.PathLike, paths: Iterable[str], *, whole: bool = False) -> dict[str, str]:
    """{path: 'size digest'} of files, of which the middle is left out unless `whole`."""
    paths = list(paths)
    end = end_size(len(paths))

    def one(path: str) -> str:
        try:
            with open(os.path.join(root, path), 'rb') as file:
                size = os.fstat(file.fileno()).st_size
                if whole or size <= 2 * end:
                    found = hashlib.file_digest(file, 'sha256')
                else:
                    found = hashlib.sha256(file.read(end))
                    file.seek(size - end)
                    found.update(file.read(end))
                return f'{size} {found.hexdigest()[:32]}'
        except OSError:
            return ABSENT

    with ThreadPoolExecutor(THREADS) as pool:
        found = bar(pool.map(one, paths), total=len(paths), desc='digests of the data', unit='file', delay=2)
        return dict(zip(paths, found, strict=True))


def digest(found: dict[str, dict[str, str]]) -> str:
    """32 hex digits that name all content."""
    lines = (f'{kind}\0{path}\0{what}\n' for kind in ('images', 'annotations')
             for path, what in sorted(found[kind].items()))
    return hashlib.sha256(''.join(lines).encode('utf-8', 'surrogatepass')).hexdigest()[:32]


def save(folder: Path, frame: pd.DataFrame, root: str | os.PathLike) -> None:
    """identity.json of the work directory `folder`."""
    write_text(folder / FILE, json.dumps(describe(frame, root), indent=1) + '\n')


def load(folder: Path) -> dict | None:
    """What `save` wrote; None where there is none. Raises InputError for a file that is something else."""
    path = folder / FILE
    try:
        known = json.loads(path.read_text(encoding='utf-8'))
        known['root'], known['digest'], {**known['images'], **known['annotations']}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: does not say which data the run was made from ({error!r}). Put it back from a '
                         'copy; without the file the next start takes the data for right as they are then') from error
    return known


def check_same_data(folder: Path, root: str | os.PathLike) -> None:
    """Raises InputError unless the files below `root` are those that the run in `folder` was made from.

    A work directory of an older version says nothing of its data: identity.json is written now, and this said.
    """
    known = load(folder)
    if not Path(root).exists():
        was = f', where the run in {folder} had them from {known["root"]}' if known else ''
        raise InputError(f'config.data.root: {root} is not there (any more){was}. If the data were moved, say where '
                         'to: --config.data.root=DIR')
    if known is None:
        frame = frames.load(folder / 'annotations.parquet')
        save(folder, frame, root)
        tell_once(f'{folder} was begun by a version that did not note its data: taken for those in {root} as they are '
                  f'now, and noted in {folder / FILE}')
        return
    now = {'images': contents(root, known['images']),
           'annotations': contents(root, known['annotations'], whole=True)}
    if digest(now) != known['digest']:
        raise InputError(difference(folder, known, now, root))


def difference(folder: Path, known: dict, now: dict[str, dict[str, str]], root: str | os.PathLike) -> str:
    """The message of `check`: both roots, the first files that differ, and what to do."""
    before, after = ({**found['annotations'], **found['images']} for found in (known, now))
    changed = {path: 'not there' if after[path] == ABSENT else
               'other content, of the same size' if after[path].split()[0] == what.split()[0] else
               f'{after[path].split()[0]} bytes, not {what.split()[0]}'
               for path, what in before.items() if after[path] != what}
    if not changed:
        return f'{folder / FILE}: was changed by hand, its digest does not fit its files; put it back from a copy'
    first = '; '.join(f'{path} ({how})' for path, how in list(changed.items())[:SHOWN])
    more = f' and {len(changed) - SHOWN} more' if len(changed) > SHOWN else ''
    there = known['root']
    where = f'the data in {there}' + ('' if Path(there).exists() else ', which is not there any more')
    where = 'these data as they were when it began' if Path(there) == Path(root) else where
    return (f'{folder} was made from {where}, and {len(changed)} of its {len(before)} files are others in {root}: '
            f'{first}{more}. Name another --workdir for the data as they are now, or put the files back as they were')
