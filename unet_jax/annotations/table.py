"""A table of paths: CSV, or JSON with a list of objects; one row a case.

Columns: a path for each sequence, `label` (or mask, seg); and if they are there `case`, `patient` (or group, subject)
and `subset` (train, valid, test). Paths are relative to the table, and stay in its folder. Other columns are left
alone.
"""
import io
import json
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations import schemas
from unet_jax.annotations.coco_files import SUBSETS, folder
from unet_jax.annotations.image_file import ENDINGS
from unet_jax.annotations.nifti_search import NIFTI, patient
from unet_jax.errors import InputError

ROLES = {'case': ('case', 'case_id', 'id', 'name'), 'subset': ('subset', 'split', 'set'),
         'patient': ('patient', 'patient_id', 'group', 'subject', 'subject_id'),
         'label': ('label', 'mask', 'seg', 'segmentation', 'label_path', 'mask_path', 'ground_truth')}
LAYOUT = ('Looked for one CSV, or JSON list of objects, whose columns hold paths: one for each sequence, and label. '
          'Set config.data.root to the table or its folder')
MOST = 64 * 2 ** 20  # bytes of a table


class Row(NamedTuple):
    name: str
    patient: str
    subset: str  # '' where the table names none
    sequences: dict[str, Path | None]
    label: Path | None


def find(root: Path) -> Path:
    """The table that `root` is, or holds. Raises InputError where that is not one."""
    if root.is_file():
        return root
    found = [path for path in sorted(root.glob('*')) if path.suffix.lower() in ('.csv', '.json') and is_table(path)]
    if len(found) != 1:
        names = '\n'.join(f'  --config.data.root={path}' for path in found)
        raise InputError(f'config.data.root is {str(root)!r}: {len(found)} tables of paths there. '
                         f'{f"Name one:{chr(10)}{names}" if found else LAYOUT}')
    return found[0]


def is_table(path: Path) -> bool:
    """Whether a file is a table of which a column holds paths of images or volumes."""
    try:
        return bool(sequences_of(load(path)))
    except InputError:
        return False


def load(path: Path) -> pd.DataFrame:
    """The table as text, '' where there is nothing. Raises InputError for what is none."""
    try:
        if path.stat().st_size > MOST:
            raise InputError(f'{path}: over {MOST >> 20} MB; a table of paths is smaller')
        text = path.read_bytes().decode('utf-8-sig')
        if path.suffix.lower() == '.json':
            rows = json.loads(text)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError('no list of objects')
            return pd.DataFrame([{key: '' if value is None else str(value) for key, value in row.items()}
                                 for row in rows]).fillna('')
        found = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, sep=None, engine='python')
        return found.fillna('')  # of rows that are cut short
    except (OSError, ValueError, RecursionError, pd.errors.ParserError) as error:
        raise error if isinstance(error, InputError) else InputError(
            f'{path}: cannot be read as a table ({error}). {LAYOUT}') from error


def column(table: pd.DataFrame, what: str) -> str | None:
    """The column that is a row's case, patient, subset or label."""
    return next((name for known in ROLES[what] for name in table.columns if str(name).strip().lower() == known), None)


def sequences_of(table: pd.DataFrame) -> dict[str, str]:
    """{sequence: column} of the columns that hold paths, but for the label's, in the order of channels."""
    taken = {column(table, what) for what in ROLES}
    found = {}
    for name in table.columns:
        first = next((value for value in table[name] if value), '')
        if name not in taken and (NIFTI.fullmatch(PurePosixPath(first).name) or first.lower().endswith(ENDINGS)):
            found[schemas.sequence(str(name).strip().removesuffix('_path'))] = name
    return {name: found[name] for name in schemas.in_order(found)}


def read(path: Path, *, labelled: bool = True) -> list[Row]:
    """The rows of a table, their files found. Raises InputError that names the table's line and column."""
    table = load(path)
    sequences, label = sequences_of(table), column(table, 'label')
    if not sequences or labelled and label is None:
        raise InputError(f'{path}: its columns are {list(table.columns)}; needed are one with paths for each sequence '
                         'and one called label')
    rows = []
    for line, entry in enumerate(table.to_dict('records'), 2):
        def at(what, entry=entry):
            return str(entry.get(column(table, what)) or '').strip()

        files = {name: locate(path, line, key, entry[key]) for name, key in sequences.items()}
        first = next((file for file in files.values() if file), None)
        if first is None:
            raise InputError(f'{path}, line {line}: names no image. Columns with paths are {list(sequences.values())}')
        subset = SUBSETS.get(at('subset').lower(), '')
        if at('subset') and not subset:
            raise InputError(f'{path}, line {line}: {column(table, "subset")} is {at("subset")!r}; choose train, '
                             'valid or test, or leave the column out')
        mask = locate(path, line, label, entry[label]) if label and labelled else None
        if labelled and mask is None:
            raise InputError(f'{path}, line {line}: {label} is empty. Name the label, or take the row out')
        name = at('case') or first.relative_to(folder(path)).as_posix().split('.')[0].replace('/', '_')
        rows.append(Row(name, at('patient') or patient(name), subset, files, mask))
    twice = pd.Series([row.name for row in rows])
    if twice.duplicated().any():
        raise InputError(f'{path}: the case {twice[twice.duplicated()].iloc[0]!r} comes twice; give each row its own')
    return rows


def locate(table: Path, line: int, key: str, value: str) -> Path | None:
    """The file that a cell names; None for an empty one."""
    value, base = str(value).strip(), folder(table)
    if not value:
        return None
    if '\0' in value:
        raise InputError(f'{table}, line {line}: {key} is {value!r}, which is no path')
    path = base / value.replace('\\', '/')
    found = annotation_frame.locate(base, path)
    if not found.is_file():
        raise InputError(f'{table}, line {line}: {key} is {value!r}; there is no such file beside the table. Paths '
                         'are relative to the table')
    return path
