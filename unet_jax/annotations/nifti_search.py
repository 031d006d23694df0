"""The cases in a folder of NIfTI files, by the names of the files, and the release that gives their labels a meaning.

Names of a release are looked for first. Where none fits, any name will do that ends as a sequence is called, and so
do files that are called like the sequence alone, in a folder a case.
"""
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations import schemas
from unet_jax.annotations.left_out import LeftOut
from unet_jax.annotations.nifti_file import describe
from unet_jax.annotations.schemas import MODALITIES, SCHEMAS, Schema
from unet_jax.errors import InputError

LAYOUT = ('Looked for .nii and .nii.gz there and up to 4 folders below. Download a BraTS release after registration '
          'at Synapse (synapse.org), or Task01_BrainTumour of the Decathlon (medicaldecathlon.com), and '
          'set config.data.root to its folder; configs/phantom.py needs no data')
ENDINGS = ('Known are NAME_flair, _t1, _t1ce (or _t1gd, _t1c), _t2 and the label _seg (or _segm, _tumor_segmentation, '
           '_glistrboost); NAME-t2f, -t1n, -t1c, -t2w and -seg; the same words alone, in a folder for each case; and '
           "the Decathlon's imagesTr/BRATS_001 with labelsTr/BRATS_001")
DEPTH = 4  # folders below the root that are searched
PATIENTS = (r'(BraTS-\w+-\d{5})-\d{3}', r'(UPENN-GBM-\d{5})_\d{2}', r'(UCSF-PDGM-\d{3,4})_FU\d+d',
            r'(TCGA-\w{2}-\w{4})[_-]\d{4}\.\d{2}\.\d{2}')  # and a time point, in sets that are no release of the table
BETTER = '_manuallycorrected'  # of TCGA's two labels of a case, the one that a person went over
NIFTI = re.compile(r'(?!\._)(.+?)(\.nii(?:\.gz)?)', re.IGNORECASE)  # ._NAME is a Mac's note about a file
NNUNET = re.compile(r'.+_\d{4}')
log = logging.getLogger('unet_jax')


class Files(NamedTuple):
    """A case on the disk."""
    name: str
    patient: str
    folder: Path
    modalities: dict[str, Path | None]  # the same 4-D file for every modality in the Decathlon
    label: Path | None


def find(root: Path, wanted: str, modalities: tuple[str, ...], missing_modalities: bool, reader: LeftOut, *,
         labelled: bool = True) -> tuple[tuple[str, ...], list[Files]]:
    """(the releases that the names allow, the cases).

    Cases with names of the release `wanted` are taken alone where there are some; otherwise, as for 'auto', those of
    any release, and then those of any name. No `modalities` are all that the release has.
    """
    files = [Path(folder) / name for folder, names in walk(root) for name in names if NIFTI.fullmatch(name)]
    for path in files:
        annotation_frame.locate(root, path.relative_to(root))
    if not files:
        raise InputError(f'config.data.root is {str(root)!r}: no NIfTI files there. {LAYOUT}')
    unlabelled = {path for path in files if labelled and path.parent.name == 'imagesTs'}
    if unlabelled:  # the Decathlon's own test images
        log.info('%s: %d images in imagesTs have no labels; --mode=predict takes them', root, len(unlabelled))
        files = [path for path in files if path not in unlabelled]
    matches = matches_of(files, wanted, labelled)
    if not matches:
        raise InputError(_unknown(root, files, labelled))
    first = next(iter(matches.values()))
    if any(set(found) != set(first) for found in matches.values()):
        raise InputError(f'{root}: cases of several releases ({", ".join(matches)}). Years overlap, so mixing them '
                         'leaks test cases: name one by config.data.schema, or choose a narrower root')
    named = SCHEMAS[next(iter(matches))]
    modalities = modalities or tuple(named.suffixes)
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


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(folders) if len(Path(folder).relative_to(root).parts) < DEPTH else []
        yield folder, sorted(names)


def matches_of(files: list[Path], wanted: str, labelled: bool) -> dict[str, dict[str, dict[str, Path]]]:
    """{release: what `_match` finds} by names of `wanted`, else of any release, else by any names: of the two ways to
    call the sequences the one that takes more files, where it gives a whole case."""
    for tried in ([schemas.schema(wanted)] if wanted != 'auto' else [], SCHEMAS.values()):
        if matches := {s.name: found for s in tried if (found := _match(files, s))}:
            return matches
    loose = {s.name: found for s in SCHEMAS.values() if s.loose and (found := _match(files, s, loose=True))}
    loose = {name: found for name, found in loose.items()
             if any(len(parts) > 1 and ('seg' in parts or not labelled) for parts in found.values())}
    taken = {name: sum(map(len, found.values())) for name, found in loose.items()}
    return {name: found for name, found in loose.items() if taken[name] == max(taken.values())}


def _match(files: list[Path], schema: Schema, *, loose: bool = False) -> dict[str, dict[str, Path]]:
    """{case: {modality or 'seg': file}} of the files named as `schema` names them; `loose`: with any name in front."""
    suffixes = {suffix: m for m, suffix in schema.suffixes.items()} | {schema.label: 'seg'}
    suffixes |= {other: m for other, m in schemas.ALIASES.items() if loose and m in (*schema.aliased, 'seg')}
    between = '[-_.]' if loose else schema.separator
    tail = f'{between}({"|".join(suffixes)})' if schema.separator else '()'
    pattern = re.compile(f'(?P<case>{"(.+?)" if loose else schema.case}){tail}', re.IGNORECASE)
    found = defaultdict(dict)
    for path in files:
        stem = NIFTI.fullmatch(path.name)[1]
        if schema.separator and stem.lower() in suffixes:  # t1c.nii.gz in a folder that is called like the case
            stem = f'{path.absolute().parent.name}{schema.separator}{stem}'
        match = pattern.fullmatch(stem)
        if not match or not schema.separator and path.parent.name not in ('imagesTr', 'imagesTs', 'labelsTr'):
            continue
        keys = [suffixes[match.groups()[-1].lower()]] if schema.separator else (
            ['seg'] if path.parent.name == 'labelsTr' else MODALITIES)
        for key in keys:
            other = found[match['case']].setdefault(key, path)
            if loose and BETTER in f'{path.name}{other.name}'.lower():
                found[match['case']][key] = path if BETTER in path.name.lower() else other
            elif other != path:
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
        lacking = [*(schema.suffixes.get(m, m) for m in absent)] + [f'the label ({schema.label})'] * unlabelled
        raise InputError(f'{folder}: case {name} lacks {", ".join(lacking)}; download it again, or allow missing '
                         'modalities. Its files:\n' + _listing([*parts.values(), *others], folder))
    return Files(name, patient(name), folder, {m: parts.get(m) for m in modalities}, parts.get('seg'))


def patient(case: str) -> str:
    """Whose a case is: its name without the time point, where it is called as in a set that is known."""
    patterns = (*(one.case for one in SCHEMAS.values()), *PATIENTS)
    known = (re.fullmatch(pattern, case, re.IGNORECASE) for pattern in patterns)
    return next((match[1] for match in known if match), case)


def _unknown(root: Path, files: list[Path], labelled: bool) -> str:
    """What to say of files of which no name is known."""
    stems = [NIFTI.fullmatch(path.name)[1] for path in files]
    ends = Counter(re.split('[-_.]', stem)[-1] for stem in stems)
    found = ', '.join(f'{end} ({count})' for end, count in ends.most_common(8))
    advice = 'Rename the files so, or say by --config.data.format=volumes --config.data.files=… how they are called'
    if any(NNUNET.fullmatch(path.name.split('.')[0]) and path.parent.name.startswith('images') for path in files):
        advice = "These look like nnU-Net's: --config.data.format=nnunet_raw reads them by their dataset.json"
    whole = ' with a label' if labelled else ''
    return (f'{root}: no case{whole} among {len(files)} NIfTI files, whose names end in {found}. {ENDINGS}. {advice}. '
            f'Files found:\n{_listing(files)}')


def _listing(files: list[Path], folder: Path | None = None, most: int = 8) -> str:
    files = sorted({path for path in files if folder is None or path.is_relative_to(folder)})
    return '\n'.join([*map(describe, files[:most]), *([f'  and {len(files) - most} more'] if files[most:] else [])])


def decide(root: Path, candidates: tuple[str, ...], counts: dict[str, np.ndarray]) -> Schema:
    """The release, of those that the names allow, that the label values of all cases allow too.

    counts: {case: (256,) voxels of each label value}. Raises InputError where that is not one.
    """
    values = set(np.flatnonzero(sum(counts.values())).tolist()) - {0}
    if candidates == ('2024-PED',):
        if 4 in values:
            return SCHEMAS['2024-PED']
        candidates = ('2023', '2024-PED')  # 2023 gave cases of the same names labels 1, 2, 3 of other meaning
    elif candidates == ('MET',) and 4 not in values:  # 4 came in 2025
        return SCHEMAS['2023']
    elif len(candidates) == 1:
        return SCHEMAS[candidates[0]]
    elif set(candidates) == {'2023', '2024-GLI'}:  # 1, 2 and 3 mean the same in both (the shapes are alike since 2025)
        return SCHEMAS['2024-GLI' if 4 in values else '2023']
    elif values == {1, 2, 4} and '2021' in candidates:  # the same meaning from 2018 on
        return SCHEMAS['2021']
    raise InputError(f'{root}: the names of the files and the label values {sorted(values)} do not tell the release, '
                     f'so what the labels mean is unknown. {schemas.choices(values, candidates)}')


def check_values(case: Files, count: np.ndarray, schema: Schema, values: set[int]) -> None:
    """InputError where a case has a label that its release does not have; `values` are those of all cases."""
    unknown = sorted(set(np.flatnonzero(count).tolist()) - {0, *schema.names})
    if unknown:
        raise InputError(f'{case.label}: label values {unknown}; release {schema.name} has {schema.names}. '
                         f'{schemas.choices(values, (schema.name,))}')
