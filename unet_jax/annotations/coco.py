"""COCO JSON with images -> the annotation frame.

Where each subset has a file of its own (train/_annotations.coco.json, annotations/instances_train.json) the subsets
are kept, and valid is taken from train where there are train and test only; otherwise whole groups are split, those
with nearly the same image together. What a policy leaves out, or an audit finds, is counted in the log and in
`frame.attrs['reader']`; everything else that is wrong raises InputError with file, count and the first few values.
"""
import logging
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import image_file, matching, patients, twins
from unet_jax.annotations import segmentation as segmentations
from unet_jax.annotations import split as splits
from unet_jax.annotations.coco_files import LAYOUTS, Source, find, folder, load, refuse
from unet_jax.annotations.image_file import ENDINGS, IMAGE_FORMATS, MAX_PIXELS  # noqa: F401  (others ask for them here)
from unet_jax.annotations.left_out import LeftOut, left_out
from unet_jax.errors import InputError

POLICIES = {'box_only': ('error', 'skip', 'box'), 'broken': ('error', 'skip'), 'missing': ('error', 'skip'),
            'unreadable': ('error', 'skip')}
COUNTED = {'emptied': 'left out',  # images whose annotations were all left out: not known to be without a tumour
           'orientation': 'pixels as stored', 'other_json': 'passed over'}
UNTOLD = 'that the size does not tell'

log = logging.getLogger('unet_jax')


def read(root: str | os.PathLike, *, box_only: str = 'error', broken: str = 'error', missing: str = 'error',
         unreadable: str = 'error', split: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0, folds: int = 0,
         fold: int = 0, group_pattern: str = '', audit: bool = False) -> pd.DataFrame:
    """All annotations of the folder or the JSON file `root`: the annotation frame and a column `iscrowd`.

    box_only: an annotation with a bounding box and no mask is an 'error', left out ('skip') or filled ('box').
    broken: one that cannot be drawn, or covers no pixel, is an 'error' or left out ('skip'): of several polygons
    those that cannot be drawn. An image whose annotations are all left out goes with them, as it may show a tumour.
    missing: an image that is not on disk is an 'error' or left out with its annotations ('skip').
    unreadable: so is one that cannot be opened or is unlike its entry; in the subset test it is an error always.
    split, seed, folds, fold: as in `split.subsets`, where the data set has no subsets or nothing but train; folds are
    made of all that is not test, where it has. Groups that share an image, or nearly the same one, are split together
    (`twins.unite`).
    group_pattern: says by an image's path who its patient is, and which slice it is (`patients.by_pattern`); patients
    are groups then, and their numbered slices one case.
    audit: what would be an error by one of the four policies is left out and counted, and the frame may be empty.
    """
    policies = {'box_only': box_only, 'broken': broken, 'missing': missing, 'unreadable': unreadable}
    for name, policy in policies.items():
        if policy not in POLICIES[name]:
            raise InputError(f'config.data.{name} is {policy!r}; it can be one of {POLICIES[name]}')
    rows, reader, below = [], left_out(policies | COUNTED, audit=audit), folder(root)
    sources, others = find(root)
    reader.items['other_json'] += others
    for source in sources:
        dataset = load(source)
        images = _images(source, dataset['images'], below, reader)
        rows += _rows(source, dataset, images, reader)
    if not rows and not audit:
        why = [f'{kind}: {len(items)}, first {items[0]}' for kind, items in reader.items.items() if items]
        raise InputError(f'{root}: no images that can be read. {"; ".join(why) or LAYOUTS}')
    _agree(rows)
    rows = _with_patients(rows, group_pattern, root) if group_pattern else rows
    own = {source.subset for source in sources} - {'', 'train'}
    if rows and own and folds:
        rows = _in_folds(rows, below, split, seed, group_pattern, folds=folds, fold=fold)
    elif rows and not own:
        groups = _groups(rows, below, group_pattern)
        subsets = splits.subsets(groups, split, seed, folds=folds, fold=fold)
        rows = [row | {'subset': subset} for row, subset in zip(rows, subsets, strict=True)]
        log.warning('%s has no subsets: split by %s, shares %s', root, 'patient' if group_pattern else 'source image',
                    tuple(split))
    elif own == {'test'}:
        rows = _with_valid(rows, below, split, seed, group_pattern)
    rows = _with_cases(rows)
    patients.check_sizes(rows)
    frame = frames.build(rows)
    reader.note(frame, str(root))
    frame.attrs['annotation_files'] = [source.name for source in sources]
    for shared in frames.shared_names(frame):
        log.warning('%s: %s', root, shared)
    return frame


def _groups(rows: list[dict], root: pathlib.Path, pattern: str) -> pd.Series:
    """What is split together: patients where a pattern names them, whose slices above the head are all alike, else
    images with their copies."""
    return pd.Series([row['group'] for row in rows]) if pattern else twins.unite(rows, root)


def _in_folds(rows: list[dict], root: pathlib.Path, split: Sequence[float], seed: int, pattern: str, *, folds: int,
              fold: int) -> list[dict]:
    """`rows` of a data set with subsets of its own, all but test dealt into folds; ids, which restart in every JSON
    file, are then told apart by the subset they had."""
    test = pd.Series([row['subset'] == 'test' for row in rows])
    rest = [row for row in rows if row['subset'] != 'test']
    united = iter(_groups(rest, root, pattern)) if rest else iter(())
    groups = pd.Series([row['group'] if row['subset'] == 'test' else next(united) for row in rows])
    subsets = splits.subsets(groups, split, seed, folds=folds, fold=fold, test=test)
    log.warning('%s: %d folds of the images that are not test; %s', root, folds,
                'the subset test stays as it is' if test.any() else f'there is none, so shares {tuple(split)} count')
    return [row if row['subset'] == 'test' else
            row | {'subset': subset, 'image_id': f'{row["subset"]}/{row["image_id"]}'}
            for row, subset in zip(rows, subsets, strict=True)]


def _with_valid(rows: list[dict], root: pathlib.Path, split: Sequence[float], seed: int, pattern: str) -> list[dict]:
    """`rows` of train and test, with a share of train's groups as valid: as large, beside train, as `split` says."""
    train = [row for row in rows if row['subset'] == 'train']
    share = split[1] / (split[0] + split[1]) if len(split) == 3 and split[0] + split[1] > 0 else 0
    if not train or not share > 0:
        return rows
    subsets = splits.by_group(_groups(train, root, pattern), (1 - share, share, 0), seed)
    taken = {row['path'] for row, subset in zip(train, subsets, strict=True) if subset == 'valid'}
    log.warning('%s has train and test but no valid: %d of the %d images in train are valid now, whole groups by the '
                'shares of config.data.split', root, len(taken), len({row['path'] for row in train}))
    new = iter(subsets)
    return [row | {'subset': next(new)} if row['subset'] == 'train' else row for row in rows]


def _images(source: Source, entries: list[dict], root: pathlib.Path, reader: LeftOut) -> dict:
    """Image id -> the image columns of its rows, for the images on disk, whose sizes are checked."""
    found = matching.match((str(entry['file_name']) for entry in entries), source.images, (source.file.parent, root))
    unsure = [f'{entry["file_name"]}: {list(match.several[:3])}' for entry, match in zip(entries, found, strict=True)
              if match.several]
    refuse(source, unsure, f'names that fit several files below {source.images}')
    outside = [path for path, *_ in found if path and not path.resolve().is_relative_to(root.resolve())]
    refuse(source, outside, f'images that are links out of {root}; copy them there')
    absent = [f'{entry["file_name"]}' + (f' (of that name, but in another folder: {match.elsewhere[0]})'
                                         if match.elsewhere else '')
              for entry, match in zip(entries, found, strict=True) if match.file is None]
    _leave_out(reader, source, 'missing', absent, f'images not on disk in {source.images} (config.data.on_error = '
                                                  "'skip' leaves them out)")
    images, problems, turned = {}, [], []
    for entry, (path, *_) in zip(entries, found, strict=True):
        if path is None:
            continue
        name, relative = str(entry['file_name']), pathlib.Path(os.path.relpath(path, root)).as_posix()
        width, height, problem, turn = _size(entry, path)
        if problem:
            problems.append(f'{name} {problem}')
            continue
        turned += [f'{name} {turn}'] if turn else []
        images[entry['id']] = {
            'file_name': name, 'width': width, 'height': height, 'subset': source.subset,
            'image_id': entry['id'], 'path': relative, 'iscrowd': None,
            'group': splits.source_stem(name) if splits.COPY.search(name) else relative}
    _leave_out(reader, source, 'unreadable', problems, 'images unlike their entry', always=source.subset == 'test')
    if doubtful := sum(UNTOLD in what for what in turned):
        log.warning('%s: %d images have an EXIF orientation %s. Masks are laid over the pixels as stored; %s',
                    source.name, doubtful, UNTOLD, image_file.UPRIGHT)
    reader.items['orientation'] += [f'{source.name}: {what}' for what in turned]
    return images


def _size(entry: dict, path: pathlib.Path) -> tuple[int, int, str, str]:
    """(width, height, problem, turn): the size of the file and how it disagrees with its entry, and how EXIF says that
    the stored pixels are to be turned; '' where nothing is to be said."""
    try:
        width, height, orientation = image_file.look(path)
        if isinstance(entry['width'], bool) or isinstance(entry['height'], bool):
            raise ValueError('true and false are no sizes')
        said = float(entry['width']), float(entry['height'])
    except InputError as error:
        return 0, 0, str(error), ''
    except (TypeError, OverflowError, ValueError) as error:
        return 0, 0, f'has no size in its entry ({error})', ''
    turn = ''
    if orientation != 1:
        hidden = image_file.hidden_turn(orientation, width=width, height=height)
        turn = f'has EXIF orientation {orientation} ({image_file.SHOWN[orientation]}' + (f'), {UNTOLD}' if hidden else
                                                                                       '), annotated as stored')
    if said == (width, height):
        return width, height, '', turn
    problem = f'is {width} × {height} pixels (width × height), its entry says {entry["width"]} × {entry["height"]}'
    if orientation > 4 and said == (height, width):
        problem += f', and EXIF orientation {orientation} turns it: {image_file.UPRIGHT}'
    return width, height, problem, ''


def _rows(source: Source, dataset: dict, images: dict, reader: LeftOut) -> list[dict]:
    """The frame's rows of one JSON file, image by image, without the images whose annotations were all left out."""
    listed = {entry['id'] for entry in dataset['images']}
    categories = {category['id']: str(category['name']) for category in dataset['categories']}
    entries = list(enumerate(dataset['annotations']))
    refuse(source, [f'{_label(i, a)}: {a["image_id"]}' for i, a in entries if a['image_id'] not in listed],
           'annotations of an unknown image_id')
    unknown = [(i, a) for i, a in entries if a['category_id'] not in categories]
    refuse(source, [f'{_label(i, a)}: {a["category_id"]}' for i, a in unknown],
           f'annotations of an unknown category_id (known are {sorted(categories)})')
    drawn, problems = defaultdict(list), {'box_only': [], 'broken': []}
    for i, annotation in entries:
        image = images.get(annotation['image_id'])
        if image is None:  # left out with its image
            continue
        kind, reason, plain = _plain(annotation, image, reader.policies['box_only'])
        if kind in problems:
            problems[kind].append(f'{_label(i, annotation)} of {image["file_name"]}{reason and ": " + reason}')
        drawn[image['image_id']] += [] if plain is None else [{
            'category_id': int(annotation['category_id']), 'category': categories[annotation['category_id']],
            'segmentation': plain, 'iscrowd': int(annotation.get('iscrowd') in (1, '1'))}]
    for kind, what in (('box_only', 'that have a box only'), ('broken', 'that cannot be drawn')):
        _leave_out(reader, source, kind, problems[kind], f'annotations {what} (config.data.{kind} can be '
                                                       f'{" or ".join(map(repr, POLICIES[kind]))})')
    emptied = {i for i, kept in drawn.items() if not kept}
    reader.items['emptied'] += [f'{source.name}: {images[i]["file_name"]}' for i in images if i in emptied]
    return [image | annotation for i, image in images.items() if i not in emptied for annotation in drawn[i] or [{}]]


def _plain(annotation: dict, image: dict, box_only: str) -> tuple[str, str, list | dict | None]:
    """(kind, reason, the segmentation in plain form or None): of a 'broken' one the polygons that can be drawn."""
    given, bbox = annotation.get('segmentation'), annotation.get('bbox')
    size = {'height': image['height'], 'width': image['width']}
    kind, reason = segmentations.kind(given, **size, bbox=bbox)
    if kind in ('polygon', 'rectangle', 'rle'):
        return kind, '', segmentations.parse(given, **size)
    if kind == 'box_only' and box_only == 'box':
        outline = segmentations.box_polygon(bbox)
        outside, reason = segmentations.kind(outline, **size)
        return ('broken', reason, None) if outside == 'broken' else (kind, '', outline)
    if kind == 'box_only':
        return kind, reason, None
    sound = segmentations.sound_polygons(given)
    if sound and segmentations.kind(sound, **size)[0] != 'broken':
        return 'broken', f'{reason}; its other polygons are kept', sound
    return 'broken', reason or 'a mask in another file', None


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
    """Each image is a case, called by its file name, or its path where the name occurs in two subsets, unless it is a
    slice of one already."""
    count = Counter(name for name, _ in {(row['file_name'], row['path']) for row in rows})
    return [{'case': row['file_name'] if count[row['file_name']] == 1 else row['path']} | row for row in rows]


def _with_patients(rows: list[dict], pattern: str, root: str | os.PathLike) -> list[dict]:
    """`rows` with patients as groups, and numbered slices of one as one case."""
    paths = list(dict.fromkeys(row['path'] for row in rows))
    found = patients.by_pattern(paths, pattern)
    patients.tell(found, str(root))
    told = {path: {'group': who} | ({} if number is None else {'case': who, 'slice': number})
            for path, (who, number) in zip(paths, found, strict=True)}
    return [row | told[row['path']] for row in rows]


def _leave_out(reader: LeftOut, source: Source, kind: str, problems: list, what: str, *, always: bool = False) -> None:
    """Counts `problems` of a kind; refuses them where the policy, or `always`, says so."""
    if reader.refuses(kind) or always and not reader.audit:
        refuse(source, problems, what)
    reader.items[kind] += [f'{source.name}: {problem}' for problem in problems]
