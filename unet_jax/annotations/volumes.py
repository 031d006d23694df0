"""The annotation frame of volumes whose files are known: whatever they are called, and wherever they lie.

Who finds the files (`nifti_search`, `nnunet`, `table`, `patterns`) hands over a `Files` a case and what its label
numbers mean; here every header is checked, every label read once, and the rows are made.
"""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations import twins
from unet_jax.annotations.labels import Region
from unet_jax.annotations.left_out import LeftOut
from unet_jax.annotations.nifti_file import Header, describe, read_header, read_label
from unet_jax.annotations.nifti_search import Files
from unet_jax.annotations.split import subsets
from unet_jax.errors import InputError
from unet_jax.progress import bar


class Meaning(NamedTuple):
    """What label numbers stand for."""
    schema: str  # a key of `schemas.SCHEMAS`, or a word for numbers of no release
    names: dict[int, str]  # every label number there may be, and its class
    regions: tuple[Region, ...] = ()  # trained and scored; () is every class by itself


Counts = dict[str, np.ndarray]  # {case: (256,) voxels of each label number}


def by_patient(split: tuple[float, float, float], seed: int, *, folds: int = 0, fold: int = 0
               ) -> Callable[[list[Files], Counts], dict[str, str]]:
    """The function (cases, counts) -> {case: subset} that keeps patients, and copies of a volume, together,
    stratified by tumour volume."""
    def subset_of(cases: list[Files], counts: Counts) -> dict[str, str]:
        groups = pd.Series({case.name: case.patient for case in cases})
        groups = twins.unite_equal(groups, [next(filter(None, case.modalities.values())) for case in cases])
        tumour = pd.Series({name: int(count[1:].sum()) for name, count in counts.items()})
        return subsets(groups, split, seed, tumour[groups.index], folds=folds, fold=fold).to_dict()

    return subset_of


def build(root: Path, cases: list[Files], reader: LeftOut, meaning: Callable[[Counts], Meaning], *,
          subset_of: Callable[[list[Files], Counts], dict[str, str]], positions: dict[str, int] | None = None
          ) -> pd.DataFrame:
    """The frame: a row per case and class present, with the columns that `nifti.read_frame` describes.

    `positions`: where one 4-D file holds all sequences, the place of each. `frame.attrs` has the classes and regions
    of `meaning`. Raises InputError for files that cannot be read or do not lie on one grid, and for a label number
    without a meaning; with the reader's leave such cases are left out and counted.
    """
    headers = {case.name: reader.attempt('unreadable', check_headers, case, positions)
               for case in bar(cases, desc='headers', unit='case')}
    counts = {case.name: reader.attempt('unreadable', count, case)
              for case in bar(cases, desc='reading labels', unit='case') if headers[case.name]}
    cases = [case for case in cases if counts.get(case.name) is not None]
    if not cases:
        raise InputError(f'{root}: no case can be read. {"; ".join(sum(reader.items.values(), [])[:3])}')
    headers, counts = ({case.name: values[case.name] for case in cases} for values in (headers, counts))
    found = meaning(counts)
    subset = subset_of(cases, counts)
    rows = []
    for case in cases:
        row = row_of(case, root, positions, headers[case.name])
        row |= {'schema': found.schema, 'subset': subset[case.name]}
        voxels = {v: int(n) for v, n in enumerate(counts[case.name]) if v and n}
        check_named(case, voxels, found)
        rows += [row | {'category_id': v, 'category': found.names[v],
                        'segmentation': {'file': row['label'], 'label': v, 'voxels': n}}
                 for v, n in voxels.items()] or [row]
    frame = annotation_frame.build(rows)
    frame.attrs['classes'] = [[v, name] for v, name in sorted(found.names.items())]
    frame.attrs['regions'] = [[region.name, list(region.classes), region.paint] for region in found.regions]
    reader.note(frame, str(root))
    return frame


def check_named(case: Files, voxels: dict[int, int], meaning: Meaning) -> None:
    unknown = {v: n for v, n in voxels.items() if v not in meaning.names}
    if unknown:
        held = ', '.join(f'{v} ({n} voxels)' for v, n in unknown.items())
        raise InputError(f'{case.label}: holds the label numbers {held}; 0 and {meaning.names} are known. Name them '
                         'where the labels are named, or mend the file')


def count(case: Files) -> np.ndarray:
    """(256,) voxels of each label number."""
    return np.bincount(read_label(case.label)[0].ravel(), minlength=256)


def row_of(case: Files, root: Path, positions: dict[str, int] | None, header: Header) -> dict:
    """The columns of a case that do not depend on its label's contents."""
    files = {m: None if p is None else p.relative_to(root).as_posix() for m, p in case.modalities.items()}
    path, label = case.folder.relative_to(root).as_posix(), case.label and case.label.relative_to(root).as_posix()
    if positions:
        path = next(iter(files.values()))
        files = {m: {'file': f, 'index': positions[m]} for m, f in files.items()}
    return {'file_name': case.name, 'width': header.shape[1], 'height': header.shape[0], 'image_id': case.name,
            'path': path, 'group': case.patient, 'case': case.name, 'category_id': None, 'segmentation': None,
            'category': None, 'slice': None, 'modalities': files, 'label': label,
            'depth': header.shape[2], 'spacing': list(header.spacing)}


def check_headers(case: Files, positions: dict[str, int] | None = None) -> Header:
    """The label's header, or without one an image's, after all files of the case were found to lie on one grid."""
    images = dict.fromkeys(filter(None, case.modalities.values()))
    headers = {path: read_header(path) for path in (*images, case.label) if path}
    first = headers[case.label or next(iter(images))]
    grid = first._replace(shape=first.shape if case.label or not positions else first.shape[:3])
    for path, header in headers.items():
        axes = (*grid.shape, len(positions)) if positions and path != case.label else grid.shape
        if len(grid.shape) != 3 or header.shape != axes or not np.allclose(header.affine, grid.affine, atol=1e-3):
            raise InputError(f'{case.folder}: the files of {case.name} do not lie on one grid; nothing is resampled '
                             'silently, so register and resample them first:\n'
                             + '\n'.join(describe(p, h) for p, h in headers.items()))
    return grid
