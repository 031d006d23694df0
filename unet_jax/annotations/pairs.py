"""Folders of images with a mask image for each, in all the ways in which people name them.

What is a mask shows in a word of its path: a folder (masks/x.png, labelsTr/x.png) or the end of its name (x_mask.tif,
x-seg.png, mask_x.png). Image and mask belong together where their paths are equal once such words, and the words for
images, are left out: images/a/7.jpg and masks/a/7.png, TCGA_1/TCGA_1_12.tif and TCGA_1/TCGA_1_12_mask.tif.
"""
import logging
import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import mask_values, twins
from unet_jax.annotations import patients as people
from unet_jax.annotations.image_file import ENDINGS
from unet_jax.annotations.left_out import LeftOut, left_out
from unet_jax.annotations.split import source_stem, subsets
from unet_jax.errors import InputError
from unet_jax.progress import bar

DEPTH = 6  # folders below the root that are searched
MASK = (r'(?:binary|ground|segmentation|seg)?[_\- ]?'
        r'(?:masks?|labels?(?:tr|ts)?|annotations?|annots?|segmentations?|segs?|gts?|truths?|targets?)')
IMAGE = r'(?:images?(?:tr|ts)?|imgs?|inputs?|pictures?|scans?|slices?|mris?|data|original|x)'
SUBSETS = {'train': 'train', 'training': 'train', 'val': 'valid', 'valid': 'valid', 'validation': 'valid',
           'test': 'test', 'testing': 'test'}
END = re.compile(rf'^(?P<stem>.+?)[_\-. ]({MASK}|(?P<image>{IMAGE}))(?:[_\-]?\d{{1,2}})?$', re.IGNORECASE)
START = re.compile(rf'^({MASK}|(?P<image>{IMAGE}))[_\-. ](?P<stem>.+)$', re.IGNORECASE)
ANY = f'{MASK}|{IMAGE}|{"|".join(SUBSETS)}'
WORD = re.compile(rf'^(?P<first>{ANY})(?=[_\- ]|$)|(?:^|(?<=[_\- ]))(?P<last>{ANY})$', re.IGNORECASE)
LAYOUT = ('Looked for pairs of image and mask there and up to 6 folders below: images/x.png with masks/x.png, or '
          'x.png with x_mask.png; endings ' + ', '.join(ENDINGS))
log = logging.getLogger('unet_jax')


class Part(NamedTuple):
    """What the path of a file says."""
    path: str  # relative to the root, '/' between folders
    folders: tuple[str, ...]  # without words for masks, images and subsets
    stem: str  # likewise
    mask: bool
    subset: str  # '' where no folder names one

    @property
    def key(self) -> str:
        """The same for an image and its masks."""
        return '/'.join([self.subset, *self.folders, self.stem]).lower()


class Pair(NamedTuple):
    image: Part
    masks: tuple[str, ...]  # several are united: x_mask.png, x_mask_1.png


def part(path: str) -> Part:
    """Reads the words of a relative path."""
    *folders, name = PurePosixPath(path).parts
    masks, subset, kept = False, '', []
    for folder in folders:
        words, rest = [], folder
        while rest and (word := WORD.search(rest)):
            words.append(word['first'] or word['last'])
            rest = rest[word.end('first'):].lstrip('_- ') if word['first'] else rest[:word.start('last')].rstrip('_- ')
        subset = next((SUBSETS[w.lower()] for w in words if w.lower() in SUBSETS), subset)
        masks |= any(re.fullmatch(MASK, word, re.IGNORECASE) for word in words)
        kept += [rest] if rest else []
    stem = PurePosixPath(name).stem
    found = re.fullmatch(rf'(?P<stem>)({MASK}|(?P<image>{IMAGE}))', stem, re.IGNORECASE) or END.match(stem) \
        or START.match(stem)
    masks |= bool(found) and found['image'] is None
    return Part(path, tuple(kept), found['stem'] if found else stem, masks, subset)


def walk(root: Path) -> list[str]:
    """The image files at and below `root`, relative, but for hidden ones and a Mac's notes."""
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = sorted(f for f in folders if not f.startswith(('.', '__'))) if len(here.parts) < DEPTH else []
        found += [(here / name).as_posix() for name in sorted(names)
                  if not name.startswith('.') and PurePosixPath(name).suffix.lower() in ENDINGS]
    return found


def match(paths: list[str]) -> tuple[list[Pair], list[str], list[str]]:
    """(pairs in the order of `paths`, images without a mask, masks without an image). Raises InputError where two
    images could own a mask."""
    images, masks = {}, defaultdict(list)
    for path in paths:
        found = part(path)
        if found.mask:
            masks[found.key].append(path)
        elif found.key in images:
            raise InputError(f'{images[found.key].path} and {path} could both be the image of one mask; keep one of '
                             'them, or put them into folders of their own')
        else:
            images[found.key] = found
    pairs = [Pair(image, tuple(masks[key])) for key, image in images.items() if key in masks]
    lone = [image.path for key, image in images.items() if key not in masks]
    return pairs, lone, [path for key, those in masks.items() if key not in images for path in those]


def patients(paths: list[str], pattern: str = '', *, least: int = people.LEAST, folders: int = 2) -> people.Found:
    """(patient, slice number) of each image; the number is None where images stand alone.

    `pattern` decides where it is given (`people.by_pattern`), else folders and names (`people.by_name`).
    """
    if pattern:
        return people.by_pattern(paths, pattern)
    parts = [part(path) for path in paths]
    found = people.by_name([('/'.join(p.folders), p.stem) for p in parts], least=least, folders=folders)
    return found or [(source_stem(path) if '/' not in path else f'{os.path.dirname(path)}/{source_stem(path)}', None)
                     for path in paths]


def read_frame(root: str | Path, *, split=(0.7, 0.15, 0.15), seed: int = 0, folds: int = 0, fold: int = 0,
               on_error: str = 'raise', group_pattern: str = '', values: tuple = (), audit: bool = False
               ) -> pd.DataFrame:
    """The annotation frame of the pairs at or below `root`; masks become run-length encoded segmentations.

    Subsets are those of the folders' names where there are any, else made by patient (`patients`), near copies
    together; folds are made of all that is not in the folder test. Classes are the masks' values
    (`mask_values.decide`). Raises InputError for images without mask, masks without image or of another size, and
    files that cannot be read; with on_error = 'skip', and for an `audit`, those are left out and counted.
    """
    root = Path(root)
    reader = left_out(dict.fromkeys(('missing', 'unreadable'), on_error), audit=audit)
    pairs, lone, widows = match(walk(root))
    if not pairs:
        raise InputError(f'config.data.root is {str(root)!r}: no image with a mask there. {LAYOUT}')
    _tell_missing(reader, root, lone, widows)
    found = [reader.attempt('unreadable', mask_values.read, root, pair.image.path, pair.masks)
             for pair in bar(pairs, desc='reading masks', unit='mask')]
    pairs, found = ([x for x, f in zip(those, found, strict=True) if f is not None] for those in (pairs, found))
    if not pairs:
        raise InputError(f'{root}: no pair can be read. {"; ".join(reader.items["unreadable"][:3])}')
    classes = mask_values.decide([f.values for f in found], values, where=str(root))
    who = patients([pair.image.path for pair in pairs], group_pattern)
    people.tell(who, str(root))
    own = {pair.image.subset for pair in pairs} - {''}
    share = pd.Series([float(bool(f.values)) for f in found])
    subset = [pair.image.subset or 'train' for pair in pairs]
    if folds or not own - {'train'}:
        groups = pd.Series([patient for patient, _ in who])
        if all(number is None for _, number in who):  # slices above the head are all alike, and would tie patients
            groups = twins.unite([{'path': pair.image.path, 'group': group}
                                  for pair, group in zip(pairs, groups, strict=True)], root)
        test = pd.Series([name == 'test' for name in subset])
        subset = subsets(groups, split, seed, share, folds=folds, fold=fold, test=test)
    rows = []
    for pair, content, (patient, number), where in zip(pairs, found, who, subset, strict=True):
        name = pair.image.path
        case = patient if number is not None else name
        row = {'file_name': name, 'path': name, 'width': content.width, 'height': content.height, 'subset': where,
               'image_id': name, 'group': patient, 'case': case, 'slice': number}
        rows += [row | {'category_id': c, 'category': classes.names[c], 'segmentation': rle}
                 for c, rle in mask_values.segmentations(content, classes)] or [row]
    people.check_sizes(rows)
    frame = frames.build(rows)
    frame.attrs['annotation_files'] = sorted(name for pair in pairs for name in pair.masks)
    reader.note(frame, str(root))
    return frame


def _tell_missing(reader: LeftOut, root: Path, lone: list[str], widows: list[str]) -> None:
    reader.items['missing'] += [f'{path}: has no mask' for path in lone]
    reader.items['missing'] += [f'{path}: has no image' for path in widows]
    if (lone or widows) and reader.refuses('missing'):
        raise InputError(f'{root}: {len(lone)} images have no mask ({", ".join(lone[:3]) or "none"}), {len(widows)} '
                         f'masks no image ({", ".join(widows[:3]) or "none"}). Add what is missing (a black mask says '
                         'that there is nothing to segment), or leave these out: --config.data.on_error=skip')
