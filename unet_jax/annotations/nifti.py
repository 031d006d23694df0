"""BraTS releases in NIfTI, and task 1 of the Medical Segmentation Decathlon: a case is a volume of four sequences."""
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pandas as pd

from unet_jax.annotations import brain, contrasts, schemas
from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations.brats_h5_file import standardise
from unet_jax.annotations.left_out import LeftOut, of_files
from unet_jax.annotations.nifti_file import Header, describe, read_header, read_image, read_label
from unet_jax.annotations.schemas import MODALITIES, SCHEMAS, Schema
from unet_jax.annotations.split import subsets
from unet_jax.errors import InputError
from unet_jax.progress import bar

LAYOUT = ('Looked for .nii and .nii.gz there and up to 4 folders below. Download a BraTS release after registration '
          'at Synapse (synapse.org), or Task01_BrainTumour of the Decathlon (medicaldecathlon.com), and '
          'set config.data.root to its folder; configs/phantom.py needs no data')
DEPTH = 4  # folders below the root that are searched
PATIENT = r'(BraTS-\w+-\d{5})-\d{3}'  # and a time point: of MEN, MET and SSA too
NIFTI = re.compile(r'(?!\._)(.+?)(\.nii(?:\.gz)?)', re.IGNORECASE)  # ._NAME is a Mac's note about a file
POST_TREATMENT = (182, 218, 182)  # shape of the 2024 adult cases only
log = logging.getLogger('unet_jax')


class Files(NamedTuple):
    """A case on the disk."""
    name: str
    patient: str
    folder: Path
    modalities: dict[str, Path | None]  # the same 4-D file for every modality in the Decathlon
    label: Path | None


class Case(NamedTuple):
    image: np.ndarray  # (X, Y, Z, C) float32, exactly 0 outside the brain
    label: np.ndarray | None  # (X, Y, Z) uint8 label values of the case's own release
    affine: np.ndarray  # (4, 4)
    header: nibabel.Nifti1Header  # to write a prediction with
    brain: np.ndarray  # (X, Y, Z) bool


def read_frame(root: str | Path, *, schema: str = 'auto', split: tuple[float, float, float] = (0.7, 0.15, 0.15),
               seed: int = 0, modalities: tuple[str, ...] = MODALITIES, missing_modalities: bool = False,
               folds: int = 0, fold: int = 0, on_error: str = 'raise', audit: bool = False) -> pd.DataFrame:
    """The annotation frame of the cases at or below `root`: a row per case and class present.

    `schema` is a key of `schemas.SCHEMAS`, or 'auto' to tell by file names and label values. Every header is checked
    and every label volume read once. All time points of a patient go to one subset, stratified by tumour volume; with
    `folds`, fold number `fold` is valid and the others train, after the test share of `split` was set aside. Added
    columns: modalities {name: file, or {'file', 'index'}, or None where `missing_modalities` allows it}, in channel
    order; label, the file; depth; spacing (mm); schema. height, width, depth are the array's axes (X, Y, Z).

    Raises InputError for cases that are incomplete, damaged, of unlike shape or affine, or of an unknown release. With
    on_error = 'skip', and for an `audit`, such cases are left out and counted in `frame.attrs['reader']`, unless the
    release is unknown.
    """
    root, reader = Path(root), of_files(on_error, audit=audit)
    if set(modalities) - set(MODALITIES) or not modalities:
        raise InputError(f'modalities {modalities}; choose from {MODALITIES}')
    candidates, cases = _find(root, schema, modalities, missing_modalities, reader)
    headers = {c.name: reader.attempt('unreadable', _check_headers, c, 'MSD' in candidates)
               for c in bar(cases, desc='headers', unit='case')}
    counts = {c.name: reader.attempt('unreadable', _count, c) for c in bar(cases, desc='reading labels', unit='case')
              if headers[c.name]}  # voxels of each value
    cases = [case for case in cases if counts.get(case.name) is not None]
    if not cases:
        raise InputError(f'{root}: no case can be read. {"; ".join(sum(reader.items.values(), [])[:3])}')
    headers, counts = ({case.name: of[case.name] for case in cases} for of in (headers, counts))
    found = SCHEMAS[schema] if schema != 'auto' else _decide(root, candidates, counts, headers)
    for case in cases:
        unknown = set(np.flatnonzero(counts[case.name]).tolist()) - {0, *found.names}
        if unknown:
            raise InputError(f'{case.label}: label values {sorted(unknown)}; release {found.name} has {found.names}. '
                             f'Choose another schema: {", ".join(SCHEMAS)}')
    tumour = {name: int(count[1:].sum()) for name, count in counts.items()}
    groups = pd.Series({case.name: case.patient for case in cases})
    subset = subsets(groups, split, seed, pd.Series(tumour)[groups.index], folds=folds, fold=fold)
    rows = []
    for case in cases:
        row = _row(case, root, found, headers[case.name]) | {'subset': subset[case.name]}
        voxels = {v: int(n) for v, n in enumerate(counts[case.name]) if v and n}
        rows += [row | {'category_id': v, 'category': found.names[v],
                        'segmentation': {'file': row['label'], 'label': v, 'voxels': n}}
                 for v, n in voxels.items()] or [row]
    frame = annotation_frame.build(rows)
    reader.note(frame, str(root))
    return frame


def _count(case: Files) -> np.ndarray:
    """(256,) voxels of each label value."""
    return np.bincount(read_label(case.label)[0].ravel(), minlength=256)


def find_cases(root: str | Path, schema: str, modalities: tuple[str, ...] = MODALITIES,
               missing_modalities: bool = False) -> pd.DataFrame:
    """The cases at or below `root`, labelled or not, a row each as `frame.images` gives them, without annotations.

    Files may be named as any release names them; `schema` is written beside each case. Cases that are incomplete,
    damaged or of unlike grids are left out and told in `attrs['problems']`. Raises InputError where no case is left.
    """
    root, reader = Path(root), of_files('skip')
    candidates, cases = _find(root, 'auto', modalities, missing_modalities, reader, labelled=False)
    rows = []
    for case in cases:
        header = reader.attempt('unreadable', _check_headers, case, 'MSD' in candidates)
        if header:
            rows.append(_row(case, root, SCHEMAS[candidates[0]], header)
                        | {'schema': schema, 'annotations': (), 'subset': 'test', 'label': None})
    problems = [*reader.items['missing'], *reader.items['unreadable']]
    if not rows:
        raise InputError(f'{root}: no case can be predicted. {"; ".join(problems[:3])}')
    found = pd.DataFrame(rows)
    found.attrs['problems'] = problems
    return found


def find_file(path: str | Path, schema: str, modalities: tuple[str, ...] = MODALITIES) -> pd.DataFrame:
    """The case in one file that holds the four sequences, in any folder, as `find_cases` gives it."""
    path = Path(path)
    name = NIFTI.fullmatch(path.name)[1]
    case = Files(name, name, path.parent, dict.fromkeys(modalities, path), None)
    row = _row(case, path.parent, SCHEMAS['MSD'], _check_headers(case, True))
    return pd.DataFrame([row | {'schema': schema, 'annotations': (), 'subset': 'test', 'label': None}])


def _row(case: Files, root: Path, schema: Schema, header: Header) -> dict:
    files = {m: None if p is None else p.relative_to(root).as_posix() for m, p in case.modalities.items()}
    path, label = case.folder.relative_to(root).as_posix(), case.label and case.label.relative_to(root).as_posix()
    if schema.name == 'MSD':
        path = next(iter(files.values()))
        files = {m: {'file': f, 'index': int(schema.suffixes[m])} for m, f in files.items()}
    return {'file_name': case.name, 'width': header.shape[1], 'height': header.shape[0], 'image_id': case.name,
            'path': path, 'group': case.patient, 'case': case.name, 'category_id': None, 'segmentation': None,
            'category': None, 'slice': None, 'modalities': files, 'label': label,
            'depth': header.shape[2], 'spacing': list(header.spacing), 'schema': schema.name}


def _find(root: Path, wanted: str, modalities: tuple[str, ...], missing_modalities: bool, reader: LeftOut, *,
          labelled: bool = True) -> tuple[tuple[str, ...], list[Files]]:
    """(the releases that the names allow, the cases). Cases of any name are taken where no release's names match."""
    files = [Path(folder) / name for folder, names in _walk(root) for name in names if NIFTI.fullmatch(name)]
    for path in files:
        annotation_frame.locate(root, path.relative_to(root))
    if not files:
        raise InputError(f'config.data.root is {str(root)!r}: no NIfTI files there. {LAYOUT}')
    unlabelled = {path for path in files if labelled and path.parent.name == 'imagesTs'}
    if unlabelled:  # the Decathlon's own test images
        log.info('%s: %d images in imagesTs have no labels; --mode=predict takes them', root, len(unlabelled))
        files = [path for path in files if path not in unlabelled]
    tried = [schemas.schema(wanted)] if wanted != 'auto' else list(SCHEMAS.values())
    matches = {s.name: found for s in tried if (found := _match(files, s, s.case))}
    if not matches:
        loose = {s.name: _match(files, s, '(.+)') for s in tried if s.separator}
        matches = {name: found for name, found in loose.items()
                   if found and all(len(parts) > 1 and ('seg' in parts or not labelled) for parts in found.values())}
    if not matches:
        raise InputError(f'{root}: no case of a known release ({", ".join(s.name for s in tried)}). Files found:\n'
                         + _listing(files))
    first = next(iter(matches.values()))
    if any(set(found) != set(first) for found in matches.values()):
        raise InputError(f'{root}: cases of several releases ({", ".join(matches)}). Years overlap, so mixing them '
                         'leaks test cases: name one by schema, or choose a narrower root')
    named = SCHEMAS[next(iter(matches))]
    taken = {path for parts in first.values() for path in parts.values()}
    others = [path for path in files if path not in taken]
    cases = [reader.attempt('missing', _case, name, parts, named, modalities, missing_modalities, others, labelled)
             for name, parts in sorted(first.items())]
    cases = [case for case in cases if case is not None]
    unused = set(others) - {case.label for case in cases}
    if unused:
        log.warning('%s: %d NIfTI files belong to no case and are left out, such as %s', root, len(unused),
                    min(unused))
    return tuple(matches), cases


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(folders) if len(Path(folder).relative_to(root).parts) < DEPTH else []
        yield folder, sorted(names)


def _match(files: list[Path], schema: Schema, case: str) -> dict[str, dict[str, Path]]:
    """{case: {modality or 'seg': file}} of the files named as `schema` names them."""
    suffixes = {suffix: m for m, suffix in schema.suffixes.items()} | {'seg': 'seg'}
    tail = f'{schema.separator}({"|".join(suffixes)})' if schema.separator else '()'
    pattern, found = re.compile(f'(?P<case>{case}){tail}', re.IGNORECASE), defaultdict(dict)
    for path in files:
        match = pattern.fullmatch(NIFTI.fullmatch(path.name)[1])
        if not match or not schema.separator and path.parent.name not in ('imagesTr', 'imagesTs', 'labelsTr'):
            continue
        keys = [suffixes[match.groups()[-1].lower()]] if schema.separator else (
            ['seg'] if path.parent.name == 'labelsTr' else MODALITIES)
        for key in keys:
            other = found[match['case']].setdefault(key, path)
            if other != path:
                raise InputError(f'{other} and {path} are both {key} of {match["case"]}; keep one')
    return dict(found)


def _case(name: str, parts: dict[str, Path], schema: Schema, modalities: tuple[str, ...], missing_modalities: bool,
          others: list[Path], labelled: bool) -> Files:
    folder = Path(os.path.commonpath([path.parent for path in parts.values()]))
    if 'seg' not in parts:  # case 355 of 2020 calls its label W39_1998.09.19_Segm.nii
        odd = [path for path in others if path.parent == folder and 'seg' in path.name.lower()]
        parts = parts | {'seg': odd[0]} if len(odd) == 1 else parts
    absent = [m for m in modalities if m not in parts]
    unlabelled = labelled and 'seg' not in parts
    if unlabelled or absent and (not missing_modalities or len(absent) == len(modalities)):
        lacking = [*(schema.suffixes[m] for m in absent), *(('the label (seg)',) if unlabelled else ())]
        raise InputError(f'{folder}: case {name} lacks {", ".join(lacking)}; download it again, or allow missing '
                         'modalities. Its files:\n' + _listing([*parts.values(), *others], folder))
    patterns = (*(s.case for s in SCHEMAS.values()), PATIENT)
    known = (re.fullmatch(pattern, name, re.IGNORECASE) for pattern in patterns)
    patient = next((match[1] for match in known if match), name)
    return Files(name, patient, folder, {m: parts.get(m) for m in modalities}, parts.get('seg'))


def _listing(files: list[Path], folder: Path | None = None, most: int = 8) -> str:
    files = sorted({path for path in files if folder is None or path.is_relative_to(folder)})
    return '\n'.join([*map(describe, files[:most]), *([f'  and {len(files) - most} more'] if files[most:] else [])])


def _check_headers(case: Files, decathlon: bool) -> Header:
    """The label's header, or without one an image's, after all files of the case were found to lie on one grid."""
    images = dict.fromkeys(filter(None, case.modalities.values()))
    headers = {path: read_header(path) for path in (*images, case.label) if path}
    first = headers[case.label or next(iter(images))]
    grid = first._replace(shape=first.shape if case.label or not decathlon else first.shape[:3])
    for path, header in headers.items():
        axes = (*grid.shape, len(MODALITIES)) if decathlon and path != case.label else grid.shape
        if len(grid.shape) != 3 or header.shape != axes or not np.allclose(header.affine, grid.affine, atol=1e-3):
            raise InputError(f'{case.folder}: the files of {case.name} do not lie on one grid; nothing is resampled '
                             'silently, so register and resample them first:\n'
                             + '\n'.join(describe(p, h) for p, h in headers.items()))
    return grid


def _decide(root: Path, candidates: tuple[str, ...], counts: dict[str, np.ndarray], headers: dict[str, Header]
            ) -> Schema:
    """The release, of those that the names allow, that the label values of all cases allow too."""
    values = set(np.flatnonzero(sum(counts.values())).tolist()) - {0}
    if candidates == ('2024-PED',):
        if 4 in values:
            return SCHEMAS['2024-PED']
        candidates = ('2023', '2024-PED')  # 2023 gave cases of the same names labels 1, 2, 3 of other meaning
    elif len(candidates) == 1:
        return SCHEMAS[candidates[0]]
    elif set(candidates) == {'2023', '2024-GLI'}:  # 1, 2 and 3 mean the same in both
        later = 4 in values or any(header.shape == POST_TREATMENT for header in headers.values())
        return SCHEMAS['2024-GLI' if later else '2023']
    elif values == {1, 2, 4} and '2021' in candidates:  # the same meaning from 2018 on
        return SCHEMAS['2021']
    raise InputError(f'{root}: the names of the files and the label values {sorted(values)} do not tell the release, '
                     f'so what the labels mean is unknown. Name it by schema: {", ".join(candidates)}')


def read_case(root: str | Path, row) -> Case:
    """The volumes of a row of `read_frame`'s frame, channels in the order of its modalities.

    Intensities are the files' own. Outside the brain, where every modality holds the number that its border is made of
    (`brain.level`: 0, or what a release holds there: negative numbers, -32768), all channels are 0; so is a missing
    modality. Where a border is made of no such number, a warning says so and all of the volume is brain.
    Raises InputError for damaged files, values that are not finite, and labels that are not of the release.
    """
    root, shape = Path(root), (row.height, row.width, row.depth)
    image, inside, header = np.zeros((*shape, len(row.modalities)), np.float32), np.zeros(shape, bool), None
    for c, place in enumerate(row.modalities.values()):
        if place is None:
            continue
        path = annotation_frame.locate(root, place if isinstance(place, str) else place['file'])
        if header is None or isinstance(place, str):  # a 4-D file is read once
            volume, header = read_image(path)
        channel = volume if isinstance(place, str) else volume[..., place['index']]
        if channel.shape != shape:
            raise InputError(f'{path}: shape {channel.shape}; annotated as {shape}')
        outside = brain.level(channel)
        if outside is None:
            log.warning('%s: no one number makes up a quarter of its border, so nothing tells where the brain ends, '
                        'and all of the volume is taken for brain. Strip the skull, or set what is outside to 0', path)
        inside |= True if outside is None else channel != outside
        image[..., c] = channel
    image[~inside] = 0
    label = read_label(annotation_frame.locate(root, row.label), schemas.classes(row.schema))[0] if row.label else None
    return Case(image, label, header.affine, header.nifti, inside)


def check_intensities(frame: pd.DataFrame, root: str | Path, *, most: int = 5, on_error: str = 'raise',
                      audit: bool = False) -> dict[str, float]:
    """Whether tumours look as they should in each modality: `brats_h5.check_channels` on up to `most` cases."""
    def measure(row) -> contrasts.Means:
        case = read_case(root, row)
        return contrasts.means(standardise(case.image, case.brain), case.label)

    reader = of_files(on_error, audit=audit, kinds=['damaged'])
    cases = frame[frame.category_id.notna()].drop_duplicates('case')
    measured = [found for row in cases.iloc[::max(1, len(cases) // most)][:most].itertuples()
                if (found := reader.attempt('damaged', measure, row)) is not None]
    reader.note(frame, str(root))
    if not measured:
        return {}
    row = frame.iloc[0]
    return contrasts.check(measured, row.schema, tuple(row.modalities), str(root))
