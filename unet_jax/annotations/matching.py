"""Which file an entry of a COCO JSON means, by the path that it spells.

Exports carry folders that exist on the annotator's machine only, leave folders out, and write .jpg for .JPG. Names are
compared in one Unicode form and without regard to letter case, a name that is spelt exactly first.

1. The path as it is spelt, below the image folder, the JSON's own folder or the root.
2. Else the one file below the image folder whose path ends in what is spelt: folders are left out in the JSON.
3. Else, where no entry at all was found so, the first folders that all entries share are left out, for all of them
   alike, as many as it takes for rule 1 to find one; but none that is called like a folder on the disk.

So folders that tell entries apart must be there, and A/slice_0.png is never B/slice_0.png. What fits several files is
refused with them.
"""
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class Match(NamedTuple):
    file: Path | None
    several: tuple[str, ...] = ()  # files that fit, where there are more than one
    elsewhere: tuple[str, ...] = ()  # where none fits, the files of that name in other folders


def match(names: Iterable[str], images: Path, bases: Sequence[Path] = ()) -> list[Match]:
    """The file of every name: below the folder `images`, or where the name is spelt out from one of `bases`."""
    files = sorted((Path(folder) / name).relative_to(images).as_posix()
                   for folder, _, inside in os.walk(images) for name in inside)
    exact, called, folders = set(files), defaultdict(list), set()
    for file in files:
        parts = _folded(file)
        called[parts[-1]].append((parts, file))
        folders.update(parts[:-1])

    def find(spelt: list[str], *, endings: bool) -> Match:
        name, parts = '/'.join(spelt), _folded('/'.join(spelt))
        if name in exact:
            return Match(images / name)
        alike = called.get(parts[-1], [])
        whole = [file for path, file in alike if path == parts]
        if not whole and (beside := _spelt_from(bases, name)):
            return Match(beside)
        fits = whole or [file for path, file in alike if endings and path[-len(parts):] == parts]
        if len(fits) == 1:
            return Match(images / fits[0])
        return Match(None, tuple(fits), () if fits else tuple(file for _, file in alike))

    spelling = [[part for part in name.replace('\\', '/').split('/') if part not in ('', '.')] for name in names]
    found = [find(spelt, endings=True) for spelt in spelling]
    shared = os.path.commonprefix([_folded('/'.join(spelt))[:-1] for spelt in spelling]) if spelling else ()
    for dropped in range(1, len(shared) + 1):
        if shared[dropped - 1] in folders or any(one.file or one.several for one in found):
            break
        found = [find(spelt[dropped:], endings=False) for spelt in spelling]
    return found


def _spelt_from(bases: Sequence[Path], name: str) -> Path | None:
    """The file called `name`, as seen from the first of `bases` that has it, in either Unicode form."""
    forms = dict.fromkeys((name, unicodedata.normalize('NFC', name), unicodedata.normalize('NFD', name)))
    return next((base / form for base in bases for form in forms if _is_file(base / form)), None)


def _folded(path: str) -> tuple[str, ...]:
    """The parts of a path in the form in which paths are compared."""
    return tuple(unicodedata.normalize('NFC', unicodedata.normalize('NFC', path).casefold()).split('/'))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL in it
        return False
