"""COCO JSON with images -> the annotation frame.

Where each subset has a file of its own (train/_annotations.coco.json, annotations/instances_train.json) the subsets
are kept; otherwise whole groups are split. What a policy leaves out, or an audit finds, is counted in the log and in
`frame.attrs['reader']`; everything else that is wrong raises InputError with file, count and the first few values.
"""
import json
import logging
import os
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from PIL import Image

from unet_jax.annotations import frame as frames
from unet_jax.annotations import segmentation as segmentations
from unet_jax.annotations import split as splits
from unet_jax.annotations.left_out import LeftOut, left_out
from unet_jax.errors import InputError

FILE = '_annotations.coco.json'
SUBSETS = {'train': 'train', 'valid': 'valid', 'val': 'valid', 'validation': 'valid', 'test': 'test'}
INSTANCES = re.compile(r'(?:instances|stuff)_((train|validation|valid|val|test)\d*)')
POLICIES = {'box_only': ('error', 'skip', 'box'), 'broken': ('error', 'skip'), 'missing': ('error', 'skip'),
            'unreadable': ('error', 'skip')}
KEYS = {'images': ('id', 'file_name', 'width', 'height'), 'annotations': ('image_id', 'category_id'),
        'categories': ('id', 'name')}
IMAGE_FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')  # Pillow runs programs for EPS
MAX_PIXELS = 64 * 2 ** 20
Image.MAX_IMAGE_PIXELS = None  # Pillow's own check only warns up to 179 megapixels; ours refuses earlier
LAYOUTS = (f'Looked for train|valid|test/{FILE}, annotations/instances_train.json with images/train, or one JSON file '
           'with an image folder beside or below it. Set config.data.root to that folder, or to one JSON file. Such a '
           'set to download is pkdarabi/brain-tumor-image-dataset-semantic-segmentation on Kaggle; configs/phantom.py '
           'needs no data')

log = logging.getLogger('unet_jax')


class Source(NamedTuple):
    """One JSON file."""
    file: pathlib.Path
    name: str  # of the file, relative to the root
    images: pathlib.Path  # the folder that the images lie in or below
    subset: str  # '' where the data set has none


def read(root: str | os.PathLike, *, box_only: str = 'error', broken: str = 'error', missing: str = 'error',
         unreadable: str = 'error', split: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0, folds: int = 0,
         fold: int = 0, audit: bool = False) -> pd.DataFrame:
    """All annotations of the folder or the JSON file `root`: the annotation frame and a column `iscrowd`.

    box_only: an annotation with a bounding box and no mask is an 'error', left out ('skip') or filled ('box').
    broken: one that cannot be drawn, or covers no pixel, is an 'error' or left out ('skip'); its image stays.
    missing: an image that is not on disk is an 'error' or left out with its annotations ('skip').
    unreadable: so is one that cannot be opened or is unlike its entry; in the subset test it is an error always.
    split, seed, folds, fold: as in `split.subsets`, where the data set has no subsets or nothing but train.
    audit: what would be an error by one of the four policies is left out and counted, and the frame may be empty.
    """
    policies = {'box_only': box_only, 'broken': broken, 'missing': missing, 'unreadable': unreadable}
    for name, policy in policies.items():
        if policy not in POLICIES[name]:
            raise InputError(f'config.data.{name} is {policy!r}; it can be one of {POLICIES[name]}')
    rows, reader, sources, below = [], left_out(policies, audit=audit), find(root), folder(root)
    for source in sources:
        dataset = _load(source)
        images = _images(source, dataset['images'], below, reader)
        rows += _rows(source, dataset, images, reader)
    if not rows and not audit:
        raise InputError(f'{root}: no images that can be read. {LAYOUTS}')
    _agree(rows)
    own = {source.subset for source in sources} - {'', 'train'}
    if own and folds:
        raise InputError(f'config.data.folds is {folds}, but {root} has subsets of its own, {sorted(own)}, which are '
                         'kept. Put all images into one folder with one JSON file to split them anew')
    if rows and not own:
        subsets = splits.subsets(pd.Series([row['group'] for row in rows]), split, seed, folds=folds, fold=fold)
        rows = [row | {'subset': subset} for row, subset in zip(rows, subsets)]
        log.warning('%s has no subsets: split by source image, shares %s', root, tuple(split))
    frame = frames.build(_with_cases(rows))
    reader.note(frame, str(root))
    frame.attrs['annotation_files'] = [source.name for source in sources]
    return frame


def folder(root: str | os.PathLike) -> pathlib.Path:
    """The folder that a frame's paths are relative to: `root`, or the one that holds it where it is a JSON file."""
    root = pathlib.Path(root)
    if root.suffix.lower() != '.json' or root.is_dir():
        return root
    return root.parent.parent if root.parent.name == 'annotations' else root.parent


def find(root: str | os.PathLike) -> list[Source]:
    """The JSON files of the data set in `root`. Raises InputError, saying what was looked for."""
    root = pathlib.Path(root)
    if root.is_file() and folder(root) != root:
        below = folder(root)
        return [Source(root, root.relative_to(below).as_posix(), _image_folder(below, root.stem), '')]
    if not root.is_dir():
        raise InputError(f'config.data.root is {str(root)!r}: there is no such folder or JSON file. {LAYOUTS}')
    found = [(part / FILE, part, SUBSETS[part.name.lower()]) for part in sorted(root.iterdir())
             if part.name.lower() in SUBSETS and (part / FILE).is_file()]
    for file in [] if found else sorted(root.glob('annotations/*.json')):
        parts = INSTANCES.fullmatch(file.stem)
        if parts:
            found.append((file, _image_folder(root, file.stem), SUBSETS[parts[2]]))
    if not found:
        files = sorted(root.glob('*.json')) or sorted(root.glob('annotations/*.json'))
        found = [(file, _image_folder(root, ''), '') for file in files]
    if not found:
        below = [str(file.parent.parent) for file in sorted(root.glob(f'*/*/{FILE}'))]
        hint = f'There is one in {below[0]!r}. ' if below else ''
        raise InputError(f'config.data.root is {str(root)!r}: no COCO annotations there. {hint}{LAYOUTS}')
    sources = [Source(file, file.relative_to(root).as_posix(), images, subset) for file, images, subset in found]
    for subset, count in Counter(source.subset for source in sources).items():
        if count > 1:
            names = [source.name for source in sources if source.subset == subset]
            raise InputError(f'{root}: {names[:5]} would all be {subset or "the data set"}. Leave one of them '
                             'there, or set config.data.root to one of the files')
    return sorted(sources, key=lambda source: (*frames.SUBSETS, '').index(source.subset))


def _image_folder(root: pathlib.Path, stem: str) -> pathlib.Path:
    """Where the images of the JSON file called `stem` lie: images/train, train, images or `root`."""
    parts = INSTANCES.fullmatch(stem)
    folders = (root / 'images' / parts[1], root / parts[1], root / 'images') if parts else (root / 'images',)
    return next((part for part in folders if part.is_dir()), root)


def _load(source: Source) -> dict:
    """The JSON of a data set, known to hold images, annotations and categories that have the keys they need."""
    try:
        dataset = json.loads(source.file.read_bytes().decode('utf-8-sig'))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'{source.name}: not JSON in UTF-8 ({error})') from error
    if isinstance(dataset, list):
        raise InputError(f'{source.name}: a list of {len(dataset)} results, not a data set, which has {list(KEYS)}')
    absent = [key for key in KEYS if not isinstance(dataset, dict) or not isinstance(dataset.get(key), list)]
    _refuse(source, absent, 'keys absent or no list')
    for key, fields in KEYS.items():
        bad = [f'{key}[{i}] {str(entry)[:80]}' for i, entry in enumerate(dataset[key])
               if not isinstance(entry, dict) or any(entry.get(field) is None for field in fields)]
        _refuse(source, bad, f'entries without one of {fields}')
        if 'id' in fields:
            count = Counter(str(entry['id']) for entry in dataset[key])
            _refuse(source, [i for i in count if count[i] > 1], f'ids given twice in {key}')
    return dataset


def _images(source: Source, entries: list[dict], root: pathlib.Path, reader: LeftOut) -> dict:
    """Image id -> the image columns of its rows, for the images on disk, whose sizes are checked."""
    paths = _match(source, [str(entry['file_name']) for entry in entries])
    outside = [path for path in paths if path and not path.resolve().is_relative_to(root.resolve())]
    _refuse(source, outside, f'images that are links out of {root}; copy them there')
    absent = [entry['file_name'] for entry, path in zip(entries, paths) if path is None]
    _leave_out(reader, source, 'missing', absent, f'images not on disk in {source.images} (config.data.on_error = '
                                                  "'skip' leaves them out)")
    images, problems = {}, []
    for entry, path in zip(entries, paths):
        if path is None:
            continue
        name, relative = str(entry['file_name']), pathlib.Path(os.path.relpath(path, root)).as_posix()
        width, height, problem = _size(entry, path)
        if problem:
            problems.append(f'{name} {problem}')
            continue
        images[str(entry['id'])] = {
            'file_name': name, 'width': width, 'height': height, 'subset': source.subset,
            'image_id': str(entry['id']), 'path': relative, 'iscrowd': None,
            'group': splits.source_stem(name) if splits.COPY.search(name) else relative}
    _leave_out(reader, source, 'unreadable', problems, 'images unlike their entry', always=source.subset == 'test')
    return images


def _match(source: Source, names: list[str]) -> list[pathlib.Path | None]:
    """The file of each name: where the name says, else the one file below that is called so in any letter case.

    Exports carry folders that exist on the annotator's machine only, and .jpg for .JPG.
    """
    files = {(pathlib.Path(folder) / name).relative_to(source.images).as_posix()
             for folder, _, inside in os.walk(source.images) for name in inside}
    called = defaultdict(list)
    for file in sorted(files):
        called[file.rsplit('/', 1)[-1].lower()].append(file)
    matches, ambiguous = [], []
    for name in (name.replace('\\', '/') for name in names):
        candidates = [name] if name in files else called[name.rsplit('/', 1)[-1].lower()]
        if len(candidates) > 1:
            ambiguous.append(f'{name}: {candidates[:3]}')
        matches.append(source.images / candidates[0] if candidates else None)
    _refuse(source, ambiguous, f'names that fit several files below {source.images}')
    return matches


def _size(entry: dict, path: pathlib.Path) -> tuple[int, int, str]:
    """(width, height, problem): the size of the file, and how it disagrees with its entry; '' where it does not."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:  # the header only; EXIF's orientation is not applied
            width, height = image.size
        if width * height > MAX_PIXELS:
            return 0, 0, f'is {width} × {height} pixels; at most 64 megapixels are read, so scale it down first'
        agrees = (float(entry['width']), float(entry['height'])) == (width, height)
    except (TypeError, OverflowError, ValueError, OSError, SyntaxError) as error:
        return 0, 0, f'cannot be opened, or its entry has no size ({error})'
    said = f'{entry["width"]} × {entry["height"]}'
    return width, height, '' if agrees else f'is {width} × {height} pixels (width × height), its entry says {said}'


def _rows(source: Source, dataset: dict, images: dict, reader: LeftOut) -> list[dict]:
    """The frame's rows of one JSON file, image by image."""
    listed = {str(entry['id']) for entry in dataset['images']}
    categories = {str(category['id']): str(category['name']) for category in dataset['categories']}
    entries = list(enumerate(dataset['annotations']))
    _refuse(source, [f'{_label(i, a)}: {a["image_id"]}' for i, a in entries if str(a['image_id']) not in listed],
            'annotations of an unknown image_id')
    unknown = [(i, a) for i, a in entries if str(a['category_id']) not in categories]
    _refuse(source, [f'{_label(i, a)}: {a["category_id"]}' for i, a in unknown],
            f'annotations of an unknown category_id (known are {sorted(categories)})')
    drawn, problems = defaultdict(list), {'box_only': [], 'broken': []}
    for i, annotation in entries:
        image = images.get(str(annotation['image_id']))
        if image is None:  # left out with its image
            continue
        kind, reason, plain = _plain(annotation, image, reader.policies['box_only'])
        if kind in problems:
            problems[kind].append(f'{_label(i, annotation)} of {image["file_name"]}{reason and ": " + reason}')
        if plain is not None:
            drawn[image['image_id']].append({
                'category_id': annotation['category_id'], 'category': categories[str(annotation['category_id'])],
                'segmentation': plain, 'iscrowd': int(annotation.get('iscrowd') in (1, '1'))})
    for kind, what in (('box_only', 'that have a box only'), ('broken', 'that cannot be drawn')):
        _leave_out(reader, source, kind, problems[kind], f'annotations {what} (config.data.{kind} can be '
                                                       f'{" or ".join(map(repr, POLICIES[kind]))})')
    return [image | annotation for i, image in images.items() for annotation in drawn[i] or [{}]]


def _plain(annotation: dict, image: dict, box_only: str) -> tuple[str, str, list | dict | None]:
    """(kind, reason, the segmentation in plain form or None)."""
    given, bbox, size = annotation.get('segmentation'), annotation.get('bbox'), (image['height'], image['width'])
    kind, reason = segmentations.kind(given, *size, bbox=bbox)
    if kind in ('polygon', 'rectangle', 'rle'):
        return kind, '', segmentations.parse(given, *size)
    if kind == 'box_only' and box_only == 'box':
        outline = segmentations.box_polygon(bbox)
        outside, reason = segmentations.kind(outline, *size)
        return ('broken', reason, None) if outside == 'broken' else (kind, '', outline)
    return (kind, reason, None) if kind == 'box_only' else ('broken', reason or 'a mask in another file', None)


def _label(index: int, annotation: dict) -> str:
    return f'annotation {annotation.get("id", f"number {index}")}'


def _agree(rows: list[dict]) -> None:
    """Files of one data set must not share an image, nor give one category id two names."""
    paths = Counter(row['path'] for row in {(r['subset'], r['image_id']): r for r in rows}.values())
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
        raise InputError(f'{len(twice)} image files are named by two entries, first {twice[:3]}')
    names = defaultdict(set)
    for row in rows:
        names[row.get('category_id')].add(row.get('category'))
    torn = {i: sorted(called) for i, called in names.items() if len(called) > 1}
    if torn:
        raise InputError(f'category ids with two names in different subsets: {torn}')


def _with_cases(rows: list[dict]) -> list[dict]:
    """Each image is a case, called by its file name; by its path, where the name occurs in two subsets."""
    count = Counter(name for name, _ in {(row['file_name'], row['path']) for row in rows})
    return [row | {'case': row['file_name'] if count[row['file_name']] == 1 else row['path']} for row in rows]


def _leave_out(reader: LeftOut, source: Source, kind: str, problems: list, what: str, *, always: bool = False) -> None:
    """Counts `problems` of a kind; refuses them where the policy, or `always`, says so."""
    if reader.refuses(kind) or always and not reader.audit:
        _refuse(source, problems, what)
    reader.items[kind] += [f'{source.name}: {problem}' for problem in problems]


def _refuse(source: Source, problems: list, what: str) -> None:
    if problems:
        raise InputError(f'{source.name}: {len(problems)} {what}, first: {"; ".join(map(str, problems[:3]))}')
