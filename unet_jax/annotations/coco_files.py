"""The JSON files of a COCO data set: which they are, and what they hold, with ids in one form."""
import json
import os
import pathlib
import re
from collections import Counter
from typing import NamedTuple

from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError

FILE = '_annotations.coco.json'
SUBSETS = {'train': 'train', 'valid': 'valid', 'val': 'valid', 'validation': 'valid', 'test': 'test'}
INSTANCES = re.compile(r'(?:instances|stuff)_((train|validation|valid|val|test)\d*)', re.IGNORECASE)
KEYS = {'images': ('id', 'file_name', 'width', 'height'), 'annotations': ('image_id', 'category_id'),
        'categories': ('id', 'name')}
IDS = {'images': ('id',), 'annotations': ('image_id', 'category_id'), 'categories': ('id',)}
WHOLE = re.compile(r'-?(?:0|[1-9]\d*)(?:\.0+)?')  # 007 is a name, not the number 7
LAYOUTS = (f'Looked for train|valid|test/{FILE}, annotations/instances_train.json with images/train, or one JSON file '
           'with an image folder beside or below it. Set config.data.root to that folder, or to one JSON file. Such a '
           'set to download is pkdarabi/brain-tumor-image-dataset-semantic-segmentation on Kaggle; configs/phantom.py '
           'needs no data')


class Source(NamedTuple):
    """One JSON file."""
    file: pathlib.Path
    name: str  # of the file, relative to the root
    images: pathlib.Path  # the folder that the images lie in or below
    subset: str  # '' where the data set has none


def folder(root: str | os.PathLike) -> pathlib.Path:
    """The folder that a frame's paths are relative to: `root`, or the one that holds it where it is a JSON file, or a
    table in CSV."""
    root = pathlib.Path(root)
    if root.suffix.lower() not in ('.json', '.csv') or root.is_dir():
        return root
    return root.parent.parent if root.parent.name == 'annotations' else root.parent


def find(root: str | os.PathLike) -> tuple[list[Source], list[str]]:
    """(the JSON files of the data set in `root`, the JSON files beside them that are none, and why).

    Where names do not tell the subsets, a file counts by what it holds: images, annotations and categories. Raises
    InputError, saying what was looked for.
    """
    root = pathlib.Path(root)
    if root.is_file() and folder(root) != root:
        below = folder(root)
        return [Source(root, root.relative_to(below).as_posix(), _image_folder(below, root.stem), '')], []
    if not root.is_dir():
        raise InputError(f'config.data.root is {str(root)!r}: there is no such folder or JSON file. {LAYOUTS}')
    found, others = [(part / FILE, part, SUBSETS[part.name.lower()]) for part in sorted(root.iterdir())
                     if part.name.lower() in SUBSETS and (part / FILE).is_file()], []
    if not found:
        beside, inside = json_files(root), json_files(root / 'annotations')
        found = [(file, _image_folder(root, file.stem), SUBSETS[INSTANCES.fullmatch(file.stem)[2].lower()])
                 for file in inside if INSTANCES.fullmatch(file.stem)]
        others = [f'{file.relative_to(root).as_posix()}: not instances_train, _val or _test' for file in inside
                  if not INSTANCES.fullmatch(file.stem)] if found else []
        for files in (beside, inside) if not found else ():
            chosen, passed_over = _data_sets(root, files)
            others += passed_over
            found = [(file, _image_folder(root, ''), '') for file in chosen]
            if found:
                break
    if not found:
        below = [str(file.parent.parent) for file in sorted(root.glob(f'*/*/{FILE}'))]
        hint = f'There is one in {below[0]!r}. ' if below else ''
        seen = f'Passed over: {"; ".join(others[:5])}. ' if others else ''
        raise InputError(f'config.data.root is {str(root)!r}: no COCO annotations there. {seen}{hint}{LAYOUTS}')
    sources = [Source(file, file.relative_to(root).as_posix(), images, subset) for file, images, subset in found]
    for subset, count in Counter(source.subset for source in sources).items():
        if count > 1:
            names = [source.name for source in sources if source.subset == subset]
            raise InputError(f'{root}: {names[:5]} would all be {subset or "the data set"}. Leave one of them '
                             'there, or set config.data.root to one of the files')
    return sorted(sources, key=lambda source: (*frames.SUBSETS, '').index(source.subset)), others


def json_files(where: pathlib.Path) -> list[pathlib.Path]:
    """The JSON files in a folder, without those that begin with a dot, such as a Mac's notes about files, ._NAME."""
    return sorted(file for file in where.glob('*') if file.suffix.lower() == '.json' and file.is_file()
                  and not file.name.startswith('.')) if where.is_dir() else []


def _data_sets(root: pathlib.Path, files: list[pathlib.Path]) -> tuple[list[pathlib.Path], list[str]]:
    """(the files that hold COCO data sets, what the others are); one file alone is taken, for `load` to judge.

    Of several, those without any annotation are passed over where another has some.
    """
    if len(files) < 2:
        return files, []
    why, annotations = {}, {}
    for file in files:
        name = file.relative_to(root).as_posix()
        try:
            dataset = parse(file, name)
            lists = {key: value for key in KEYS if isinstance(value := dataset.get(key), list)}
            if not lists.get('images') or set(KEYS) - set(lists):
                why[file] = f'{name}: no COCO data set, as it has no ' + (
                    'images' if not lists.get('images') else ' and no '.join(sorted(set(KEYS) - set(lists))))
            annotations[file] = len(lists.get('annotations', ()))
        except InputError as error:
            why[file] = str(error)
    most = max((annotations[file] for file in files if file not in why), default=0)
    why |= {file: f'{file.relative_to(root).as_posix()}: no annotations' for file in files
            if most and file not in why and not annotations[file]}
    return [file for file in files if file not in why], list(why.values())


def _image_folder(root: pathlib.Path, stem: str) -> pathlib.Path:
    """Where the images of the JSON file called `stem` lie: images/train, train, images or `root`.

    The subset's folder may be written in other letter case, or by another of its names where just one is there.
    """
    parts = INSTANCES.fullmatch(stem)
    for place in (root / 'images', root) if parts else ():
        folders = [part for part in sorted(place.iterdir()) if part.is_dir()] if place.is_dir() else []
        for fits in (lambda name: name == parts[1], lambda name: name.lower() == parts[1].lower(),
                     lambda name: SUBSETS.get(name.lower()) == SUBSETS[parts[2].lower()]):
            found = [part for part in folders if fits(part.name)]
            if len(found) == 1:
                return found[0]
    return root / 'images' if (root / 'images').is_dir() else root


def parse(file: pathlib.Path, name: str) -> dict:
    """The JSON object in `file`. Raises InputError, with `name`, for anything else."""
    try:
        dataset = json.loads(file.read_bytes().decode('utf-8-sig'))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'{name}: not JSON in UTF-8 ({error})') from error
    if isinstance(dataset, list):
        raise InputError(f'{name}: a list of {len(dataset)} results, not a data set, which has {list(KEYS)}')
    return dataset if isinstance(dataset, dict) else {}


def load(source: Source) -> dict[str, list[dict]]:
    """Images, annotations and categories that have the keys they need; ids are text, '1' for 1, 1.0 and '1'."""
    dataset = parse(source.file, source.name)
    refuse(source, [key for key in KEYS if not isinstance(dataset.get(key), list)], 'keys absent or no list')
    found = {}
    for key, fields in KEYS.items():
        bad = [f'{key}[{i}] {str(entry)[:80]}' for i, entry in enumerate(dataset[key])
               if not isinstance(entry, dict) or any(entry.get(field) is None for field in fields)]
        refuse(source, bad, f'entries without one of {fields}')
        found[key] = [entry | {field: _id(entry[field]) for field in IDS[key]} for entry in dataset[key]]
        bad = [f'{key}[{i}] {field} {str(entry[field])[:40]!r}' for i, entry in enumerate(dataset[key])
               for field in IDS[key] if not found[key][i][field]]
        refuse(source, bad, 'ids that are neither numbers nor text')
        if 'id' in fields:
            count = Counter(entry['id'] for entry in found[key])
            refuse(source, [i for i in count if count[i] > 1], f'ids given twice in {key}')
    odd = [f'{c["id"]} ({c["name"]})' for c in found['categories']
           if not WHOLE.fullmatch(c['id']) or abs(int(c['id'])) >= 2 ** 53]
    refuse(source, odd, 'category ids that are no whole numbers; number the categories, which are written into masks')
    return found


def _id(value) -> str:
    """An id as text, the same for a number however it is written; '' for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return ''
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ''
    text = str(value).strip()
    return text.split('.')[0] if WHOLE.fullmatch(text) else text


def refuse(source: Source, problems: list, what: str) -> None:
    """InputError that counts the problems and names the first, where there are any."""
    if problems:
        raise InputError(f'{source.name}: {len(problems)} {what}, first: {"; ".join(map(str, problems[:3]))}')
