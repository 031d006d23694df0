"""Copies on two sides of a split: images that are equal or nearly so, by thumbnails that correlate, and volumes that
are equal, by a file of each. Groups are united by them before a split."""
import gzip
import hashlib
import logging
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from unet_jax.annotations import frame as frames
from unet_jax.annotations.image_file import IMAGE_FORMATS
from unet_jax.errors import InputError

TWIN = 0.98  # correlation of two thumbnails above which the images count as near-duplicates
SIDE = 32  # pixels of a thumbnail
MOST = 20_000  # images whose thumbnails are compared, 2 · 10⁸ pairs; of more only equal files are found
MIDDLE = 64 * 2 ** 10  # bytes of a file of which many have the same size
LARGEST = 0.25  # share of the images that groups united by near copies may hold; beyond, all images are alike

log = logging.getLogger('unet_jax')


def unite(rows: Sequence[dict], root: pathlib.Path) -> pd.Series:
    """The group of each row, the same for groups that share an image, or nearly the same one.

    rows have 'path' and 'group'. Groups are called by the first name among them, so what has no twin is split as ever.
    Where near copies would tie more than a quarter of the images into one group, as among slices that all look alike,
    they say nothing; then equal files alone unite groups, and the log says so.
    """
    group = {row['path']: row['group'] for row in rows}
    paths = sorted(group)
    equal = _equal_files(paths, root)
    near = _near(paths, root) if len(paths) <= MOST else []
    united = _components(group, [*equal, *near])
    largest = pd.Series([united[group[path]] for path in paths]).value_counts().iloc[0]
    alone = pd.Series(group.values()).value_counts().iloc[0]
    if len(paths) > MOST:
        log.warning('%s: %d images are too many to look for near copies; only equal files are kept together', root,
                    len(paths))
    elif near and largest > max(LARGEST * len(paths), alone, 3):
        log.warning('%s: %d of %d images are near copies of one another, too many to keep together; only equal files '
                    'are. The subsets may hold nearly the same images', root, largest, len(paths))
        united = _components(group, equal)
    elif tied := len(set(united)) - len(set(united.values())):
        log.warning('%s: %d groups hold a copy or near copy (correlation > %s) of an image in another group; such '
                    'groups are split together', root, tied, TWIN)
    return pd.Series([united[row['group']] for row in rows])


def unite_equal(groups: pd.Series, files: Sequence[pathlib.Path | None]) -> pd.Series:
    """`groups` of volumes, the same for those whose file in `files`, one for each or None, holds the same: of .gz
    unpacked.

    Cheap: of all files 8 bytes (gzip's own checksum) or 64 KiB from the middle are read; those that agree in that are
    read whole. Near copies are not looked for, as that would take unpacking every volume.
    """
    group = {str(k): name for k, name in enumerate(groups)}
    alike, pairs, first = pd.Series([file and _look(file) for file in files], list(group)), [], {}
    for k in alike.index[alike.duplicated(keep=False) & alike.notna()]:
        content = _content(files[int(k)])
        pairs += [(first[content], k)] if content in first else []
        first.setdefault(content, k)
    united = _components(group, pairs)
    if tied := len(set(united)) - len(set(united.values())):
        a, b = (files[int(k)] for k in pairs[0])
        log.warning('%d groups hold a copy of a volume in another group, such as %s and %s; such groups are split '
                    'together', tied, a, b)
    return groups.map(united)


def _look(file: pathlib.Path) -> bytes | None:
    """What equal files share, at the cost of a few bytes; None where it cannot be read, which is told elsewhere."""
    try:
        with open(file, 'rb') as opened:
            size = file.stat().st_size
            if file.suffix.lower() == '.gz':
                opened.seek(max(0, size - 8))
                return opened.read()
            opened.seek(max(0, size // 2 - MIDDLE // 2))
            return hashlib.sha256(opened.read(MIDDLE)).digest() + size.to_bytes(8)
    except OSError:
        return None


def _content(file: pathlib.Path) -> bytes:
    """Digest of a whole file, of .gz unpacked; of its name alone where it cannot be read."""
    try:
        with (gzip.open if file.suffix.lower() == '.gz' else open)(file, 'rb') as opened:
            return hashlib.file_digest(opened, 'sha256').digest()
    except (OSError, EOFError, zlib.error):
        return str(file).encode()


def _components(group: dict[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """{group: the first name among all the groups that `pairs` of paths tie it to}."""
    parent = {name: name for name in group.values()}

    def first(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for a, b in pairs:
        low, high = sorted((first(group[a]), first(group[b])))
        parent[high] = low
    return {name: first(name) for name in parent}


def _equal_files(paths: Sequence[str], root: pathlib.Path) -> list[tuple[str, str]]:
    """Pairs of files with the same bytes, which are told by size and digest; not of flat images, such as black ones,
    which every patient may have."""
    sizes, first, pairs = pd.Series([(root / path).stat().st_size for path in paths], paths), {}, []
    for path in sizes.index[sizes.duplicated(keep=False)]:
        digest = hashlib.sha256((root / path).read_bytes()).digest()
        if digest in first and _vector(path, root).any():
            pairs.append((first[digest], path))
        first.setdefault(digest, path)
    return pairs


def _near(paths: Sequence[str], root: pathlib.Path) -> list[tuple[str, str]]:
    vectors = np.zeros((len(paths), SIDE ** 2), np.float32)
    for k, path in enumerate(paths):
        vectors[k] = _vector(path, root)
    return [(paths[i], paths[j]) for i, j, _ in correlated(vectors, vectors) if i < j]


def _vector(path: str, root: pathlib.Path) -> np.ndarray:
    """(SIDE²) of a file's thumbnail; zeros where it cannot be decoded, which is reported where the file is used."""
    try:
        return standardised(file_thumbnail(root, path))
    except InputError:
        return np.zeros(SIDE ** 2, np.float32)


def correlated(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int, float]]:
    """(i, j, correlation) of the rows a[i], b[j] of unit length with a scalar product above `TWIN`."""
    found = []
    for start in range(0, len(a), 1024):  # 1024 × 50,000 products take 200 MB
        products = a[start:start + 1024] @ b.T
        found += [(start + int(i), int(j), float(products[i, j])) for i, j in np.argwhere(products > TWIN)]
    return found


def file_thumbnail(root: pathlib.Path, path: str) -> np.ndarray:
    """(h, w) grey values of an image file, small where its format allows. Raises InputError for what is none."""
    try:
        with Image.open(frames.locate(root, path), formats=IMAGE_FORMATS) as image:
            image.draft('L', (4 * SIDE, 4 * SIDE))  # a JPEG is decoded at down to an eighth: 2 s for 2146 of 640²
            deep = image.mode[0] in 'IF'  # 16 or 32 bits; 'L' would saturate
            return np.asarray(image if deep else image.convert('L'), np.float32)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f'{root / path}: cannot be read as an image ({error})') from error


def standardised(grey: np.ndarray) -> np.ndarray:
    """(h, w) -> (SIDE²) of mean 0 and length 1; zeros, which correlate with nothing, for a flat image."""
    small = Image.fromarray(np.asarray(grey, np.float32)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(small, np.float32).ravel()
    values = values - values.mean()
    length = np.linalg.norm(values)
    return values / length if length > 1e-3 else np.zeros_like(values)
