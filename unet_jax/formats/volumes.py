"""Volumes in NIfTI under any names, of any sequences and label numbers: config.data.files says how they are called."""
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import frame as frames
from unet_jax.annotations import image_cases, nifti, nifti_search, patterns, schemas, volumes
from unet_jax.annotations.left_out import LeftOut, of_files
from unet_jax.annotations.nifti_search import Files
from unet_jax.errors import InputError
from unet_jax.formats import inputs
from unet_jax.formats import nifti as brats

LAYOUT = 'Looked for .nii and .nii.gz there and up to 4 folders below, called as config.data.files says'
log = logging.getLogger('unet_jax')


def listed(root: Path) -> list[str]:
    """The NIfTI files at and below `root`, relative to it."""
    found = [Path(folder) / name for folder, names in nifti_search.walk(root) for name in names
             if nifti_search.NIFTI.fullmatch(name)]
    for path in found:
        frames.locate(root, path.relative_to(root))
    return [path.relative_to(root).as_posix() for path in found]


def named_files(data: ConfigDict, paths: list[str]) -> dict[str, str]:
    """{sequence or 'label': pattern}: those of the config, or what the files tell."""
    if data.files:
        return dict(data.files)
    if not paths:
        raise InputError(f'config.data.root is {data.root!r}: no NIfTI files there. {LAYOUT}')
    return dict(patterns.name_roles(patterns.guess(paths), data.root))


def sequences(data: ConfigDict, found: Sequence[str]) -> tuple[str, ...]:
    """The channels: those that the config names, of those `found`, or all of them."""
    unknown = [name for name in data.modalities if name not in found]
    if unknown:
        raise InputError(f'config.data.modalities names {unknown}; the data have {tuple(found)}')
    return tuple(data.modalities) or tuple(found)


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    root, reader = Path(data.root), of_files(data.on_error, audit=audit)
    paths = listed(root)
    files = named_files(data, paths)
    if patterns.LABEL not in files:
        raise InputError(f"config.data.files is {tuple(data.files)}; it has to say how the 'label' is called")
    wanted = sequences(data, [name for name in files if name != patterns.LABEL])
    cases, problems = patterns.cases(root, paths, files, wanted, missing_modalities=data.missing_modalities,
                                     labelled=True)
    if problems and reader.refuses('missing'):
        raise InputError('\n'.join(problems[:3]) + (f'\nand {len(problems) - 3} more' if problems[3:] else ''))
    reader.items['missing'] += problems
    frame = frame_of(data, root, cases, reader, audit=audit)
    frame.attrs['files'] = [[name, pattern] for name, pattern in files.items()]
    return frame


def frame_of(data: ConfigDict, root: Path, cases: list[Files], reader: LeftOut, *,
             subset_of=None, audit: bool = False) -> pd.DataFrame:
    """The frame of cases whose labels mean what the config's schema says, or what their numbers tell."""
    def meaning(counts: volumes.Counts) -> volumes.Meaning:
        return meaning_of(data, tuple(cases[0].modalities) if cases else (), counts)

    subset_of = subset_of or volumes.by_patient(data.split, data.split_seed, folds=data.folds, fold=data.fold)
    frame = volumes.build(root, cases, reader, meaning, subset_of=subset_of)
    if frame.schema.iloc[0] in schemas.SCHEMAS and set(frame.modalities.iloc[0]) <= {*schemas.MODALITIES}:
        nifti.check_intensities(frame, root, on_error=data.on_error, audit=audit)
    return frame


def by_names(given: dict[str, str], data: ConfigDict) -> Callable[[list[Files], volumes.Counts], dict[str, str]]:
    """The function (cases, counts) -> {case: subset} that follows {case: subset} as far as it goes; others by patient,
    stratified by tumour volume."""
    def subset_of(cases: list[Files], counts: volumes.Counts) -> dict[str, str]:
        known = [image_cases.Image(case.name, case.patient, '', '', given.get(case.name, '')) for case in cases]
        tumour = [int(counts[case.name][1:].sum()) for case in cases]
        made = image_cases.subsets_of(known, tumour, split=data.split, seed=data.split_seed, folds=data.folds,
                                      fold=data.fold)
        return {case.name: subset for case, subset in zip(cases, made, strict=True)}

    return subset_of


def meaning_of(data: ConfigDict, sequences: tuple[str, ...], counts: volumes.Counts) -> volumes.Meaning:
    """What label numbers mean: the schema's where the config names one; BraTS's of 2018 to 2021 where the sequences
    are its four and the numbers 1, 2 and 4; else each number is a class, called as config.data.names says."""
    values = sorted(set(np.flatnonzero(sum(counts.values())).tolist()) - {0})
    if not values:
        raise InputError(f'{data.root}: every label is empty, so there is nothing to learn. Look at the files that '
                         'were taken for labels, config.data.files')
    name = data.schema
    if name == 'auto' and values == [1, 2, 4] and set(sequences) == {*schemas.MODALITIES}:
        name = '2021'
        log.info('%s: four sequences and the labels 1, 2 and 4 are those of BraTS 2018 to 2021: WT, TC and ET. '
                 'Another meaning: --config.data.regions', data.root)
    if name != 'auto':
        found = schemas.schema(name)
        return volumes.Meaning(found.name, found.names, found.regions)
    called = tuple(data.names) if len(data.names) == len(values) else \
        ('foreground',) if len(values) == 1 else tuple(f'label {v}' for v in values)
    return volumes.Meaning('numbers', dict(zip(values, called, strict=True)))


def settle(data: ConfigDict, frame: pd.DataFrame) -> dict[str, Any]:
    """Sequences, classes and regions as the frame has them; how files are called, where that was found out."""
    found = {'files': tuple(map(tuple, frame.attrs['files']))} if frame.attrs.get('files') else {}
    if frame.schema.iloc[0] in schemas.SCHEMAS:
        return found | brats.settle(data, frame)
    modalities = tuple(frame.modalities.iloc[0])
    return found | {'channels': len(modalities), 'modalities': modalities} | settle_classes(data, frame)


def settle_classes(data: ConfigDict, frame: pd.DataFrame) -> dict[str, Any]:
    """Categories, names and regions from what the reader noted; a class that no case shows is told."""
    names = {int(v): name for v, name in frame.attrs.get('classes', ())} or frames.categories(frame)
    unknown = sorted({*data.categories} - {*names})
    if unknown:
        raise InputError(f'config.data.categories names {unknown}; the labels are {names}')
    classes = tuple(sorted(data.categories or names))
    regions = tuple(data.regions) or tuple((name, tuple(ids), paint)
                                           for name, ids, paint in frame.attrs.get('regions', ()))
    if data.categories and not data.regions:
        regions = tuple(region for region in regions if {*region[1]} <= {*classes})
    if not regions:
        alike = frames.of_one_name({c: names[c] for c in classes})
        regions = tuple((name, ids, ids[-1]) for name, ids in alike.items())
    seen = {*frame.category_id.dropna()}
    empty = [name for name, ids, _ in regions if not seen & {*ids}]
    if empty:
        kept = tuple(region for region in regions if region[0] not in empty)
        log.warning('%s: no case shows %s, so it cannot be learnt, and scores of it mean nothing. To leave it out: '
                    '--config.data.regions="%s"', data.root, ' and '.join(map(repr, empty)), kept)
    return {'categories': classes, 'names': tuple(names[c] for c in classes), 'regions': regions}


def find(sources: Sequence[str], data: ConfigDict) -> tuple[pd.DataFrame, list[str]]:
    """A row a case among the files that are called as config.data.files says; a file named takes its whole case."""
    files = {name: pattern for name, pattern in data.files if name in data.modalities}
    if not files:
        raise InputError("config.data.files is empty; it says how the files of a sequence are called, such as "
                         "(('t1','{case}_T1.nii.gz'),)")
    parts, problems = [], []
    for source in inputs.existing(sources):
        path = source.absolute()
        root = path if path.is_dir() else path.parent
        names = listed(root) if path.is_dir() else [name for name in sorted(os.listdir(root))
                                                    if nifti_search.NIFTI.fullmatch(name)]
        cases, lacking = patterns.cases(root, names, files, tuple(data.modalities),
                                        missing_modalities=data.missing_modalities, labelled=False)
        reader = of_files('skip')
        for case in cases:
            if path.is_dir() or path in case.modalities.values():
                header = reader.attempt('unreadable', volumes.check_headers, case)
                parts += [volumes.row_of(case, root, None, header) | nifti.unknown(data.schema)
                          | {'root': os.fspath(root)}] if header else []
        problems += [*(lacking if path.is_dir() else ()), *reader.items['unreadable']]
    if not parts:
        raise InputError(f'--input={sources[0]}: no case can be predicted. {"; ".join(problems[:3])}')
    rows = pd.DataFrame(parts)
    return rows[~rows.duplicated(['root', 'case'])].reset_index(drop=True), list(dict.fromkeys(problems))


FORMAT = brats.FORMAT._replace(layout=LAYOUT, read_frame=read_frame, settle=settle, find=find)
