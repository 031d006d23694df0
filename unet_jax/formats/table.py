"""A CSV or JSON of paths, to volumes in NIfTI or to images with masks."""
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import coco_files, image_cases, mask_values, nifti, table
from unet_jax.annotations import volumes as builder
from unet_jax.annotations.left_out import of_files
from unet_jax.annotations.nifti_search import NIFTI, Files
from unet_jax.errors import InputError
from unet_jax.formats import coco, inputs, volumes


def opened(data: ConfigDict, *, images: bool) -> tuple[Path, Path, list[table.Row]]:
    """(the table, the folder that paths are relative to, its rows). Raises InputError for rows of the other kind."""
    path = table.find(Path(data.root))
    rows = table.read(path)
    for row in rows:
        first = next(file for file in row.sequences.values() if file)
        if images == bool(NIFTI.fullmatch(first.name)):
            other = 'table' if images else 'table_images'
            raise InputError(f'{path}: names {first.name}; --config.data.format={other} reads such files')
    return path, coco_files.folder(path), rows


def case_of(row: table.Row, wanted: Sequence[str], *, missing: bool) -> Files:
    absent = [name for name in wanted if row.sequences[name] is None]
    if absent and (not missing or len(absent) == len(wanted)):
        raise InputError(f'case {row.name}: the table names no file for {", ".join(absent)}. Name it, or allow it: '
                         '--config.data.missing_modalities=True')
    files = {name: row.sequences[name] for name in wanted}
    return Files(row.name, row.patient, next(file for file in files.values() if file).parent, files, row.label)


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """Volumes. Subsets are the table's, where it has them."""
    path, root, rows = opened(data, images=False)
    reader = of_files(data.on_error, audit=audit)
    wanted = volumes.sequences(data, list(rows[0].sequences))
    one_case = partial(case_of, wanted=wanted, missing=data.missing_modalities)
    found = [reader.attempt('missing', one_case, row) for row in rows]
    given = {row.name: row.subset for row in rows}

    frame = volumes.frame_of(data, root, [case for case in found if case], reader, audit=audit,
                             subset_of=volumes.by_names(given, data))
    frame.attrs['annotation_files'] = [path.relative_to(root).as_posix()]
    return frame


def read_images(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """Images, grey or RGB, with what the values of their masks say as classes."""
    path, root, rows = opened(data, images=True)
    reader = of_files(data.on_error, audit=audit)
    columns = list(rows[0].sequences)
    if len(columns) > 1:
        raise InputError(f'{path}: has the image columns {columns}; an image has one file, grey or RGB. Take the '
                         'others out, or merge up to three channels into RGB')
    images = [image_cases.Image(row.name, row.patient, row.sequences[columns[0]].relative_to(root).as_posix(),
                                row.label.relative_to(root).as_posix(), row.subset) for row in rows]
    frame = image_cases.build(root, images, reader,
                              lambda values: mask_values.decide(values, tuple(data.mask_values), where=str(path)),
                              split=data.split, seed=data.split_seed, folds=data.folds, fold=data.fold)
    frame.attrs['annotation_files'].append(path.relative_to(root).as_posix())
    return frame


def find(sources: Sequence[str], data: ConfigDict) -> tuple[pd.DataFrame, list[str]]:
    """A row a case of the tables named, or in the folders named; a label is not needed."""
    parts, reader = [], of_files('skip')
    one_case = partial(case_of, wanted=data.modalities, missing=data.missing_modalities)
    for source in inputs.existing(sources):
        path = table.find(source.absolute())
        root = coco_files.folder(path)
        for row in table.read(path, labelled=False):
            unknown = [name for name in data.modalities if name not in row.sequences]
            if unknown:
                raise InputError(f'{path}: has no column for {", ".join(unknown)}; the network was trained on '
                                 f'{", ".join(data.modalities)}')
            case = reader.attempt('missing', one_case, row)
            header = case and reader.attempt('unreadable', builder.check_headers, case)
            parts += [builder.row_of(case, root, None, header) | nifti.unknown(data.schema) | {'root': str(root)}] \
                if header else []
    problems = [*reader.items['missing'], *reader.items['unreadable']]
    if not parts:
        raise InputError(f'--input={sources[0]}: no case can be predicted. {"; ".join(problems[:3])}')
    return pd.DataFrame(parts), problems


def find_images(sources: Sequence[str], data: ConfigDict) -> tuple[pd.DataFrame, list[str]]:
    """A row an image: of those that tables name, and of those named or in the folders named."""
    found = []
    for source in map(os.fspath, inputs.existing(sources)):
        if source.lower().endswith(('.csv', '.json')):
            rows = table.read(Path(source).absolute(), labelled=False)
            found += [os.fspath(file) for row in rows for file in row.sequences.values() if file]
        else:
            found.append(source)
    return coco.find(found, data)


FORMAT = volumes.FORMAT._replace(layout=table.LAYOUT, read_frame=read_frame, find=find)
IMAGES = coco.FORMAT._replace(layout=table.LAYOUT, read_frame=read_images, find=find_images)
