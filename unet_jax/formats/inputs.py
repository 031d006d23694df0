"""What to predict, as rows of the kind that `frame.images` gives, without annotations.

A row has its `root`, the folder its path is relative to, and no size yet: nothing is opened, so that a damaged file
is met only when its turn comes.
"""
import glob
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import nifti, nifti_file, pairs
from unet_jax.errors import InputError

log = logging.getLogger('unet_jax')


def existing(sources: Sequence[str]) -> list[Path]:
    """The paths that `sources` name, each once: a path as it is, a pattern such as new/*.jpg as what it fits, and,
    where there is no such file, a list with commas as its parts; ~ is the home folder. Raises InputError where nothing
    is there."""
    choices = 'name images, HDF5 slices, NIfTI files or cases, or folders of them'
    if not sources:
        raise InputError(f'--input is missing: {choices}')
    found: list[Path] = []
    for source in sources:
        path = os.path.expanduser(source)
        if os.path.exists(path):
            found.append(Path(path))
        elif matches := sorted(glob.glob(path, recursive=True)):
            found += map(Path, matches)
        elif ',' in path:
            found += existing([part.strip() for part in path.split(',') if part.strip()])
        else:
            raise InputError(f'--input={source}: no such file or folder; {choices}')
    return list(dict.fromkeys(found))


def find_images(sources: Sequence[str], endings: tuple[str, ...], what: str) -> tuple[pd.DataFrame, list[str]]:
    """(a row a file with one of the `endings`: those named, and those anywhere below the folders named; no problems).

    Their common folder is the root. Raises InputError where there is none, and for a file that is named and has
    another ending.
    """
    def known(path: Path) -> bool:
        return not path.name.startswith('.') and path.suffix.lower() in endings

    named, found = [Path(os.path.abspath(path)) for path in existing(sources)], []
    for path in named:
        inside = [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.is_file() and known(p))
        if not inside or not known(inside[0]):
            raise InputError(f'--input={path}: is not {what}; known endings: {", ".join(endings)}')
        found += inside
    root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in named]))
    names = [path.relative_to(root).as_posix() for path in dict.fromkeys(found)]
    return pd.DataFrame([{'file_name': name, 'path': name, 'root': str(root), 'annotations': (), 'case': name,
                          'group': name, 'slice': pd.NA, 'subset': 'test', 'image_id': name} for name in names]), []


def with_patients(rows: pd.DataFrame, pattern: str = '', slice_of: Callable | None = None) -> pd.DataFrame:
    """`rows` of `find_images` with the patients that folders, names or the run's `pattern` show as groups and cases,
    and the numbers of their slices; or as `slice_of` (of `seam.Format`) tells them of every path. Where there are none
    each image stands alone, which is said."""
    root = Path(rows.root.iloc[0])
    told = [slice_of(path) for path in rows.path] if slice_of else [None]
    if all(told):
        volumes, numbers = zip(*told, strict=True)
        return rows.assign(group=volumes, case=volumes, slice=pd.array(numbers, 'Int64'))
    paths = [f'{root.name}/{path}' for path in rows.path]  # of one patient's folder the name tells as well
    found = pairs.patients(paths, pattern if pattern and all(re.search(pattern, path) for path in paths) else '',
                           least=2, folders=1)
    if all(number is None for _, number in found):
        log.warning('%s: no slices of patients are to be seen in the names, such as %s, so each image is segmented by '
                    'itself', root, rows.path.iloc[0])
    case = [path if number is None else who for path, (who, number) in zip(rows.path, found, strict=True)]
    return rows.assign(group=[who for who, _ in found], case=case,
                       slice=pd.array([number for _, number in found], 'Int64'))


def find_volumes(sources: Sequence[str], data: ConfigDict) -> tuple[pd.DataFrame, list[str]]:
    """(a row a case of `sources`; what is wrong with cases that are left out). No labels are needed.

    A source is a folder, itself a case or with cases up to four folders below, or a file: the Decathlon's four
    sequences in one, or one of a case, whose others lie beside it. `data.schema` is the release whose label numbers
    are written. Raises InputError where there is no case.
    """
    found = [cases_of(path.absolute(), data) for path in existing(sources)]
    problems = [problem for rows in found for problem in rows.attrs.pop('problems', [])]
    rows = pd.concat(found, ignore_index=True)
    return rows[~rows.duplicated(['root', 'path', 'case'])].reset_index(drop=True), list(dict.fromkeys(problems))


def cases_of(path: Path, data: ConfigDict) -> pd.DataFrame:
    """The cases of one file or folder; absolute, as the release shows in the names of folders too."""
    modalities = tuple(data.modalities)
    if path.is_dir():
        return nifti.find_cases(path, data.schema, modalities=modalities,
                                missing_modalities=data.missing_modalities).assign(root=str(path))
    if not nifti.NIFTI.fullmatch(path.name):
        raise InputError(f'--input={path}: is no NIfTI file; expected NAME.nii or NAME.nii.gz')
    if len(nifti_file.read_header(path).shape) == 4:
        return nifti.find_file(path, data.schema, modalities).assign(root=str(path.parent))
    found = nifti.find_cases(path.parent, data.schema, modalities=modalities,
                             missing_modalities=data.missing_modalities)
    mine = [path.name in {Path(name).name for name in nifti.sequence_files(row.modalities)}
            for row in found.itertuples()]
    if not any(mine):
        raise InputError(f'--input={path}: belongs to no case with {", ".join(modalities) or "its sequences"} in its '
                         'folder. '
                         + '; '.join(found.attrs['problems'][:3]))
    return found[mine].reset_index(drop=True).assign(root=str(path.parent))


def check_output(output: Path, *, masks: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises InputError if one of the `masks` would be written over one of the `inputs`."""
    taken = {path.resolve() for path in inputs}
    hit = next((path for path in masks if path.resolve() in taken), None)
    if hit:
        raise InputError(f'--output={output}: the mask of {hit.name} would overwrite an input; name another folder')
