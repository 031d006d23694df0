"""The annotation frame: one row per annotation, one empty row for an image without any.

Every format is read into this one pandas frame, and everything later starts from it. `COLUMNS` gives the order; a
format may add columns behind them. An image is named by (subset, image_id), because ids restart in every subset.
"""
import csv
import json
import logging
import os
import pathlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from unet_jax.errors import InputError

SUBSETS = ('train', 'valid', 'test')
COLUMNS = ('file_name', 'width', 'height', 'category_id', 'segmentation', 'subset',
           'image_id', 'category', 'path', 'group', 'case', 'slice')
IMAGE_COLUMNS = ('file_name', 'width', 'height', 'subset', 'image_id', 'path', 'group', 'case', 'slice')
TEXT = ('file_name', 'subset', 'image_id', 'path', 'group', 'case')  # never missing, never empty
LISTED = 50  # examples named of anything that is counted

log = logging.getLogger('unet_jax')


def build(rows: Iterable[dict]) -> pd.DataFrame:
    """Rows -> the frame: columns in the order of `COLUMNS`, types set, contents checked.

    A row gives at least file_name, width, height, subset, image_id, path, group and case; category_id and
    segmentation where there is an annotation. `slice` and `category` may be left out. Other keys become columns.
    Segmentations come out as plain JSON values: tuples as lists, bytes as str.
    Raises InputError for what breaks the contract, naming the first row that does.
    """
    rows = list(rows)
    added = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in COLUMNS]
    columns = {name: [_missing_to_none(row.get(name)) for row in rows] for name in (*COLUMNS, *added)}
    columns['segmentation'] = [None if s is None else json.loads(_json(s)) for s in columns['segmentation']]
    for name in added:
        columns[name] = [None if value is None else json.loads(_json(value)) for value in columns[name]]
    frame = _typed(columns)
    _check(frame)
    return frame


def save(frame: pd.DataFrame, folder: str | os.PathLike) -> None:
    """Write annotations.parquet and annotations.csv to `folder`; a reader never sees half a file.

    In both, the segmentation and the columns behind `COLUMNS` are JSON text. The parquet file keeps `frame.attrs`.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = frame.copy()
    for name in ('segmentation', *_added(frame)):
        texts = [None if value is None else _json(value) for value in map(_missing_to_none, frame[name])]
        plain[name] = pd.Series(texts, index=frame.index, dtype=object)
    writers = {'annotations.parquet': lambda path: plain.to_parquet(path, index=False),
               'annotations.csv': lambda path: plain.to_csv(path, index=False, lineterminator='\n',
                                                           quoting=csv.QUOTE_NONNUMERIC)}  # a name may hold \r
    for name, write in writers.items():
        partial = folder / f'.{name}.{os.getpid()}'
        try:
            write(partial)
            os.replace(partial, folder / name)
        finally:
            partial.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> pd.DataFrame:
    """Read what `save` wrote, equal to what it was given. Raises InputError when it is not such a file."""
    path = pathlib.Path(path)
    try:
        if path.suffix == '.csv':
            plain = pd.read_csv(path, dtype=str, keep_default_na=False, encoding='utf-8')
            plain = plain.astype(object).where(plain != '', None)
        else:
            plain = pd.read_parquet(path)
        columns = {name: [_missing_to_none(value) for value in plain[name]] for name in plain.columns}
        for name in columns:
            if name == 'segmentation' or name not in COLUMNS:
                columns[name] = [None if text is None else json.loads(text) for text in columns[name]]
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise InputError(f'{path}: not an annotation frame: no column {missing}')
        frame = _typed(columns)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path}: cannot be read as an annotation frame ({error})') from error
    frame.attrs.update(plain.attrs)
    _check(frame)
    return frame


def images(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per image, in order of first appearance: `IMAGE_COLUMNS` and `annotations`.

    annotations is a tuple of (category_id, segmentation), empty for an image without annotation.
    """
    found = {}
    rows = zip(frame['subset'], frame['image_id'], frame['category_id'], frame['segmentation'], strict=True)
    for subset, image_id, category, segmentation in rows:
        annotations = found.setdefault((subset, image_id), [])
        if segmentation is not None:
            annotations.append((int(category), segmentation))
    one = frame.drop_duplicates(['subset', 'image_id'])[list(IMAGE_COLUMNS)].reset_index(drop=True)
    one['annotations'] = pd.Series([tuple(a) for a in found.values()], dtype=object)
    return one


def classes(frame: pd.DataFrame, categories: Iterable[int] = ()) -> tuple[int, ...]:
    """The foreground category ids, ascending: all that have annotations, or those chosen.

    Raises InputError for a chosen id without a single annotation, naming those that have some.
    """
    available = sorted(int(c) for c in frame['category_id'].dropna().unique())
    chosen = sorted({int(c) for c in categories}) or available
    unknown = [c for c in chosen if c not in available]
    if unknown:
        raise InputError(f'config.data.categories names {unknown}; the data has annotations of {available}')
    return tuple(chosen)


def categories(frame: pd.DataFrame) -> dict[int, str]:
    """Category id -> name, of every category that has annotations; the id itself where there is no name."""
    pairs = frame[['category_id', 'category']].dropna(subset='category_id').drop_duplicates('category_id')
    names = {int(c): str(c) if name is None else name
             for c, name in zip(pairs['category_id'], pairs['category'], strict=True)}
    return dict(sorted(names.items()))


def of_one_name(names: dict[int, str]) -> dict[str, tuple[int, ...]]:
    """Name -> the category ids that are called so, in the order of `names`: one class, whatever the file says."""
    return {name: tuple(i for i, other in names.items() if other == name) for name in names.values()}


def shared_names(frame: pd.DataFrame) -> list[str]:
    """A line for every name that several categories with annotations share, and what becomes of them."""
    return [f'categories {" and ".join(map(str, ids))} are all called {name!r}: they are one region, unless '
            'config.data.regions or config.data.categories says otherwise'
            for name, ids in of_one_name(categories(frame)).items() if len(ids) > 1]


def locate(root: str | os.PathLike, path: str | os.PathLike) -> pathlib.Path:
    """The file `path` of a data set. InputError where it lies outside `root`, by '..', an absolute name or a link."""
    found = pathlib.Path(root) / path
    if not found.resolve().is_relative_to(pathlib.Path(root).resolve()):
        raise InputError(f'{path}: leads out of the data root {root}, by its name or by a link; copy the file there')
    return found


def note_left_out(frame: pd.DataFrame, *, kind: str, policy: str, items: list[str]) -> None:
    """Writes into `frame.attrs['reader']` what a reader left out, or filled, of one kind, by which policy."""
    frame.attrs.setdefault('reader', {})[kind] = {'policy': policy, 'count': len(items), 'first': items[:LISTED]}


def apply_unannotated(frame: pd.DataFrame, policy: str, *, audit: bool = False) -> pd.DataFrame:
    """What an image without annotation means: 'negative' keeps it, 'skip' drops it, 'error' raises InputError.

    Only the user knows: such an image may show no tumour, or one that nobody has drawn. They are counted in
    `frame.attrs['reader']`; an `audit` refuses none.
    """
    if policy not in ('negative', 'skip', 'error'):
        raise InputError(f"config.data.unannotated is {policy!r}; it can be 'negative', 'skip' or 'error'")
    empty = frame['category_id'].isna()
    paths = frame.loc[empty, 'path'].tolist()
    if policy == 'error' and paths and not audit:
        raise InputError(f'{len(paths)} images have no annotation, first {", ".join(paths[:5])}. Set '
                         "config.data.unannotated to 'negative' if they show no tumour, to 'skip' to leave them out")
    kept = frame[~empty].reset_index(drop=True) if policy == 'skip' and paths else frame
    note_left_out(kept, kind='unannotated', policy=policy, items=paths)
    if len(kept) < len(frame):
        log.warning('%d images without annotation left out, first %s', len(paths), ', '.join(paths[:5]))
    return kept


def _added(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name not in COLUMNS]


def _json(value) -> str:
    def plain(item):
        if isinstance(item, bytes):
            return item.decode('ascii')
        if isinstance(item, (np.generic, np.ndarray)):
            return item.tolist()
        raise TypeError(f'{type(item).__name__} cannot be kept in an annotation frame')
    try:
        return json.dumps(value, default=plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f'{str(value)[:80]}: {error}') from error


def _missing_to_none(value):
    return None if value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)) else value


def _typed(columns: dict[str, list]) -> pd.DataFrame:
    """Columns of Python values, None where missing -> the frame. The type of an added column follows its values."""
    typed = {}
    for name, values in columns.items():
        try:
            if name in ('width', 'height'):
                typed[name] = pd.Series([_integer(v) for v in values], dtype='int64')
            elif name in ('category_id', 'slice'):
                typed[name] = pd.Series([None if v is None else _integer(v) for v in values], dtype='Int64')
            elif name in TEXT:
                typed[name] = pd.Series(values, dtype='str')
            elif name == 'category':
                typed[name] = pd.Series([None if v in (None, '') else str(v) for v in values], dtype=object)
            elif name == 'segmentation':
                typed[name] = pd.Series(values, dtype=object)
            else:
                typed[name] = pd.Series(values, dtype=_added_type(values))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f'annotation frame: column {name}: {error}') from error
    return pd.DataFrame(typed)


def _integer(value) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(f'{value!r} is not a whole number')
    return int(value)


def _added_type(values: list):
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int}:
        return 'Int64'
    return 'float64' if kinds and kinds <= {int, float} else object


def _check(frame: pd.DataFrame) -> None:
    def refuse(bad: pd.Series, why: str) -> None:
        if bad.any():
            row = int(np.argmax(bad.to_numpy()))
            raise InputError(f'annotation frame, row {row} ({frame["path"][row]}): {why} ({int(bad.sum())} such rows)')

    for name in TEXT:
        refuse(frame[name].isna() | (frame[name] == ''), f'no {name}')
    refuse(~frame['subset'].isin(SUBSETS), f'subset is none of {SUBSETS}')
    refuse((frame['width'] < 1) | (frame['height'] < 1), 'width and height must be positive')
    drawn = frame['segmentation'].notna()
    refuse(drawn != frame['category_id'].notna(), 'category_id and segmentation must be given both or neither')
    key = ['subset', 'image_id']
    refuse(~drawn & frame.duplicated(key, keep=False), 'an image with annotations has an empty row besides')
    first = frame[key].merge(frame.drop_duplicates(key), on=key, how='left')
    for name in ('file_name', 'width', 'height', 'path', 'group', 'case'):
        refuse(frame[name] != first[name], f'{name} differs from another row of the same image')
    places = frame[['case', 'subset', 'group']].drop_duplicates()
    torn = set(places.loc[places.duplicated('case'), 'case'])
    refuse(frame['case'].isin(torn), 'its case lies in several subsets or groups')
