"""BraTS releases in NIfTI, and task 1 of the Medical Segmentation Decathlon: a case is a volume of four sequences."""
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pandas as pd

from unet_jax.annotations import brain, contrasts, nifti_search, schemas, volumes
from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations.brats_h5_file import standardise
from unet_jax.annotations.left_out import of_files
from unet_jax.annotations.nifti_file import read_image, read_label
from unet_jax.annotations.nifti_search import LAYOUT, NIFTI, Files  # noqa: F401  (others ask for LAYOUT here)
from unet_jax.annotations.schemas import MODALITIES, SCHEMAS
from unet_jax.errors import InputError

POSITIONS = {m: int(place) for m, place in SCHEMAS['MSD'].suffixes.items()}  # in the Decathlon's one file
log = logging.getLogger('unet_jax')


class Case(NamedTuple):
    image: np.ndarray  # (X, Y, Z, C) float32, exactly 0 outside the brain
    label: np.ndarray | None  # (X, Y, Z) uint8 label values of the case's own release
    affine: np.ndarray  # (4, 4)
    header: nibabel.Nifti1Header  # to write a prediction with
    brain: np.ndarray  # (X, Y, Z) bool


def read_frame(root: str | Path, *, schema: str = 'auto', split: tuple[float, float, float] = (0.7, 0.15, 0.15),
               seed: int = 0, modalities: tuple[str, ...] = (), missing_modalities: bool = False,
               folds: int = 0, fold: int = 0, on_error: str = 'raise', audit: bool = False) -> pd.DataFrame:
    """The annotation frame of the cases at or below `root`: a row per case and class present.

    `schema` is a key of `schemas.SCHEMAS` and says what the labels mean, whatever the files are called; 'auto' tells
    it by file names and label values. Every header is checked and every label volume read once. All time points of a
    patient, and copies of a volume, go to one subset, stratified by tumour volume; with `folds`, fold number `fold` is
    valid and the others train, after the test share of `split` was set aside. Added columns: modalities {name: file,
    or {'file', 'index'}, or None where `missing_modalities` allows it}, in channel order; label, the file; depth;
    spacing (mm); schema. height, width, depth are the array's axes (X, Y, Z).

    Raises InputError for cases that are incomplete, damaged, of unlike shape or affine, or of an unknown release. With
    on_error = 'skip', and for an `audit`, such cases are left out and counted in `frame.attrs['reader']`, unless the
    release is unknown.
    """
    root, reader = Path(root), of_files(on_error, audit=audit)
    if set(modalities) - set(MODALITIES):
        raise InputError(f'modalities {modalities}; choose from {MODALITIES}')
    candidates, cases = nifti_search.find(root, schema, modalities, missing_modalities, reader)
    decathlon = 'MSD' in candidates

    def meaning(counts: dict[str, np.ndarray]) -> volumes.Meaning:
        found = SCHEMAS[schema] if schema != 'auto' else nifti_search.decide(root, candidates, counts)
        values = set(np.flatnonzero(sum(counts.values())).tolist()) - {0}
        for case in cases:
            if case.name in counts:
                nifti_search.check_values(case, counts[case.name], found, values)
        return volumes.Meaning(found.name, found.names, found.regions)

    return volumes.build(root, cases, reader, meaning, positions=POSITIONS if decathlon else None,
                         subset_of=volumes.by_patient(split, seed, folds=folds, fold=fold))


def find_cases(root: str | Path, schema: str, *, modalities: tuple[str, ...] = (),
               missing_modalities: bool = False) -> pd.DataFrame:
    """The cases at or below `root`, labelled or not, a row each as `frame.images` gives them, without annotations.

    Files may be named as any release names them; `schema` is written beside each case. Cases that are incomplete,
    damaged or of unlike grids are left out and told in `attrs['problems']`. Raises InputError where no case is left.
    """
    root, reader = Path(root), of_files('skip')
    candidates, cases = nifti_search.find(root, 'auto', modalities, missing_modalities, reader, labelled=False)
    rows, positions = [], POSITIONS if 'MSD' in candidates else None
    for case in cases:
        header = reader.attempt('unreadable', volumes.check_headers, case, positions)
        if header:
            rows.append(volumes.row_of(case, root, positions, header) | unknown(schema))
    problems = [*reader.items['missing'], *reader.items['unreadable']]
    if not rows:
        raise InputError(f'{root}: no case can be predicted. {"; ".join(problems[:3])}')
    found = pd.DataFrame(rows)
    found.attrs['problems'] = problems
    return found


def find_file(path: str | Path, schema: str, modalities: tuple[str, ...] = ()) -> pd.DataFrame:
    """The case in one file that holds the four sequences, in any folder, as `find_cases` gives it."""
    path = Path(path)
    name = NIFTI.fullmatch(path.name)[1]
    case = Files(name, name, path.parent, dict.fromkeys(modalities or MODALITIES, path), None)
    row = volumes.row_of(case, path.parent, POSITIONS, volumes.check_headers(case, POSITIONS))
    return pd.DataFrame([row | unknown(schema)])


def sequence_files(modalities: dict[str, str | dict | None]) -> list[str]:
    """The files of a case's `modalities`, relative to the root, each once: the Decathlon has all in one."""
    places = [place if isinstance(place, str) else place['file'] for place in modalities.values() if place]
    return list(dict.fromkeys(places))


def unknown(schema: str) -> dict:
    """What the row of a case to predict has where others have annotations."""
    return {'schema': schema, 'annotations': (), 'subset': 'test', 'label': None}


def read_case(root: str | Path, row) -> Case:
    """The volumes of a row of `read_frame`'s frame, channels in the order of its modalities.

    Intensities are the files' own. Outside the brain, where every modality holds the number that its border is made of
    (`brain.level`: 0, or what a release holds there: negative numbers, -32768), all channels are 0; so is a missing
    modality. Where a border is made of no such number, a warning says so and all of the volume is brain.
    Raises InputError for damaged files, values that are not finite, and labels that are not of the release.
    """
    root, shape, header = Path(root), (row.height, row.width, row.depth), None

    def channels() -> Iterator[tuple[Path | None, np.ndarray | None]]:
        nonlocal header
        for place in row.modalities.values():
            if place is None:
                yield None, None
                continue
            path = annotation_frame.locate(root, place if isinstance(place, str) else place['file'])
            if header is None or isinstance(place, str):  # a 4-D file is read once
                volume, header = read_image(path)
            yield path, volume if isinstance(place, str) else volume[..., place['index']]

    image, inside = assemble(channels(), shape, len(row.modalities))
    allowed = schemas.classes(row.schema) if row.schema in SCHEMAS else None
    label = read_label(annotation_frame.locate(root, row.label), allowed)[0] if row.label else None
    return Case(image, label, header.affine, header.nifti, inside)


def assemble(channels: Iterable[tuple[object, np.ndarray | None]], shape: tuple[int, int, int], count: int
             ) -> tuple[np.ndarray, np.ndarray]:
    """(image (X, Y, Z, C) float32, brain (X, Y, Z) bool) of (its name, its voxels or None) of each of `count`
    sequences in turn; see `read_case`. Raises InputError for one that is not of `shape`."""
    image, inside = np.zeros((*shape, count), np.float32), np.zeros(shape, bool)
    for c, (name, channel) in enumerate(channels):
        if channel is None:
            continue
        if channel.shape != shape:
            raise InputError(f'{name}: shape {channel.shape}; expected {shape}, as the others of its case have')
        outside = brain.level(channel)
        if outside is None:
            log.warning('%s: no one number makes up a quarter of its border, so nothing tells where the brain ends '
                        'and all of the volume is taken for brain. Strip the skull, or set what is outside to 0', name)
        inside |= True if outside is None else channel != outside
        image[..., c] = channel
    image[~inside] = 0
    return image, inside


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
    return contrasts.check_contrasts(measured, row.schema, tuple(row.modalities), str(root))
