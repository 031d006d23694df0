"""What is handed to a predictor from Python: files or arrays, checked and read as --mode=predict reads files."""
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from unet_jax.annotations import nifti, nifti_file
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment
from unet_jax.formats.seam import Content

Source = str | os.PathLike | np.ndarray


class Given(NamedTuple):
    """One image or volume, read."""
    content: Content
    spacing: tuple[float, ...] | None  # mm of a voxel; None of an image for which nobody gave it
    like: Path | np.ndarray | None  # the geometry of its mask: a file, or an affine (4, 4); None of an image in memory
    files: tuple[Path, ...]  # that it was read from


def take(experiment: Experiment, case: Source | Mapping[str, Source], *, spacing: Sequence[float] | None,
         affine: np.ndarray | None) -> Given:
    """`case` as a predictor takes it; see `api.Predictor`. Raises InputError naming what cannot be used."""
    if spacing is not None and affine is not None:
        raise InputError('spacing and affine both say how large voxels are; give one of them')
    spacing = None if spacing is None else check_spacing(spacing)
    held = experiment.format.volumetric and isinstance(case, Mapping) and not any(map(is_path, case.values()))
    if affine is not None and not held:
        raise InputError('affine says where arrays of a volume lie; files know it themselves, and images have none')
    if is_path(case):
        return from_path(experiment, os.fspath(case), spacing)
    if experiment.format.volumetric:
        return from_sequences(experiment, case, spacing, affine)
    if isinstance(case, Mapping):
        case = stacked(experiment, case)
    array = numbers(case, 'the image')
    return Given(Content(experiment.format.from_array(array, experiment.settings.channels)), spacing, None, ())


def is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def check_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    try:
        found = tuple(float(mm) for mm in spacing)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(0 < mm < math.inf for mm in found):
        raise InputError(f'spacing is {spacing!r}; give mm along each of the three axes, such as (1, 1, 1)')
    return found


def numbers(array: Any, name: str) -> np.ndarray:
    """`array` as numpy has it. Raises InputError unless it holds real numbers."""
    try:
        found = np.asarray(array)
    except (TypeError, ValueError) as error:  # ragged lists
        raise InputError(f'{name}: is no array ({error})') from error
    if found.dtype.kind not in 'biuf':
        raise InputError(f'{name}: is {type(array).__name__} of {found.dtype}; give an array of numbers, or a path')
    return found.astype(np.uint8) * 255 if found.dtype.kind == 'b' else found


def from_path(experiment: Experiment, path: str, spacing: tuple[float, ...] | None) -> Given:
    """An image file, an HDF5 slice, a folder of one case's sequences, or one file that has them all."""
    if not os.path.exists(os.path.expanduser(path)):
        raise InputError(f'{path}: no such file or folder')
    rows, problems = experiment.format.find([path], experiment.config.data)
    if len(rows) + len(problems) != 1:
        raise InputError(f'{path}: holds {len(rows) + len(problems)} cases; hand over a list of them, one path each, '
                         'or use --mode=predict, which takes folders')
    if problems:
        raise InputError(problems[0])
    row = next(rows.itertuples())
    files = tuple(Path(row.root) / name for name in experiment.format.files(row))
    if experiment.format.volumetric:
        spacing = agreed(spacing, tuple(row.spacing), files[0])
    return Given(experiment.format.read(row.root, row, experiment.settings.channels), spacing, files[0], files)


def agreed(given: tuple[float, ...] | None, found: tuple[float, ...], path: Path) -> tuple[float, ...]:
    """The spacing that a file has. Raises InputError where another was given."""
    if given and not np.allclose(given, found, atol=1e-3):
        raise InputError(f'{path}: has a spacing of {found} mm, and spacing={given} was given; leave it out')
    return found


def ordered(experiment: Experiment, case: Mapping[str, Source]) -> dict[str, Source | None]:
    """{sequence: what was given, or None} of the network's sequences, in the order of its channels.

    Raises InputError for a sequence that it does not know, and for one that is missing and that it never went without.
    """
    config, names = experiment.config, tuple(experiment.config.data.modalities)
    unknown = [name for name in case if name not in names]
    if unknown:
        raise InputError(f'{", ".join(map(str, unknown))}: no such sequence; this network was trained with '
                         f'{", ".join(names)}')
    given = {name: case.get(name) for name in names}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(names):
        raise InputError(f'no sequence was given; this network was trained with {", ".join(names)}')
    if missing and not config.data.missing_modalities and not config.augment.modality_dropout:
        raise InputError(f'{", ".join(missing)}: missing, and this network was always shown {", ".join(names)}. One '
                         'that goes without is trained with --config.augment.modality_dropout=0.2, or on cases that '
                         'lack some with --config.data.missing_modalities=True')
    return given


def stacked(experiment: Experiment, case: Mapping[str, Source]) -> np.ndarray:
    """{sequence: (H, W)} of a slice -> (H, W, C)."""
    if not experiment.sequences or len(experiment.sequences) != experiment.settings.channels:
        raise InputError(f'{", ".join(map(str, case))}: this network looks at images, not at sequences; give an array '
                         'or a path')
    arrays = {name: None if value is None else numbers(value, name)
              for name, value in ordered(experiment, case).items()}
    shape = check_shapes(arrays, 2, '(height, width)')
    return np.stack([np.zeros(shape) if array is None else array for array in arrays.values()], -1)


def check_shapes(arrays: Mapping[str, np.ndarray | None], rank: int, axes: str) -> tuple[int, ...]:
    """The shape of all that are there. Raises InputError for another rank, and where they differ."""
    shapes = {name: array.shape for name, array in arrays.items() if array is not None}
    for name, shape in shapes.items():
        if len(shape) != rank or not min(shape):
            raise InputError(f'{name}: is an array of shape {shape}; expected {axes}')
    if len(set(shapes.values())) > 1:
        raise InputError('the sequences do not have one shape: '
                         + ', '.join(f'{name} {shape}' for name, shape in shapes.items()))
    return next(iter(shapes.values()))


def from_sequences(experiment: Experiment, case: Any, spacing: tuple[float, ...] | None, affine: np.ndarray | None
                   ) -> Given:
    """A volume of {sequence: (X, Y, Z) or the path of a NIfTI file}."""
    names = tuple(experiment.config.data.modalities)
    if not isinstance(case, Mapping):
        raise InputError(f'a volume is given as {{sequence: array or path}}, of {", ".join(names)}, or as the path of '
                         f'its folder; this is {type(case).__name__}')
    arrays, headers = {}, {}
    for name, value in ordered(experiment, case).items():
        if is_path(value):
            path = Path(os.path.expanduser(value))
            arrays[name], headers[path] = nifti_file.read_image(path)
        else:
            arrays[name] = None if value is None else nifti_file.intensities(numbers(value, name), name)
    shape = check_shapes(arrays, 3, 'three axes')
    spacing, affine = geometry(experiment, headers, spacing, affine)

    def channels() -> Iterator[tuple[str, np.ndarray | None]]:
        yield from arrays.items()

    image, brain = nifti.assemble(channels(), shape, len(names))
    like = next(iter(headers), affine)
    return Given(Content(image, None, affine, brain), spacing, like, tuple(headers))


def geometry(experiment: Experiment, headers: Mapping[Path, nifti_file.Header], spacing: tuple[float, ...] | None,
             affine: np.ndarray | None) -> tuple[tuple[float, ...], np.ndarray]:
    """(mm of a voxel, affine (4, 4)) from the files where there are some, else from what was given.

    Arrays of which only the spacing is known have their axes as the network does (`config.data.orientation`), else R,
    A, S. Raises InputError where nothing tells, or files do not lie on one grid.
    """
    if headers:
        path, first = next(iter(headers.items()))
        if any(not np.allclose(header.affine, first.affine, atol=1e-3) for header in headers.values()):
            raise InputError('the files do not lie on one grid; register and resample them first:\n'
                             + '\n'.join(nifti_file.describe(p, h) for p, h in headers.items()))
        return agreed(spacing, first.spacing, path), first.affine
    if affine is not None:
        affine = numbers(affine, 'affine').astype(float)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InputError(f'affine is {affine.tolist()}; give the (4, 4) matrix from voxels to mm')
        return tuple(nibabel.affines.voxel_sizes(affine).tolist()), affine
    if spacing is None:
        raise InputError('spacing is missing: a volume in memory does not say how large its voxels are; give mm along '
                         'its three axes, such as spacing=(1, 1, 1), or affine=')
    axes = nibabel.orientations.axcodes2ornt(experiment.settings.orientation or 'RAS')
    affine = np.eye(4)
    affine[:3, :3] = 0
    for k, (axis, sign) in enumerate(axes):
        affine[int(axis), k] = sign * spacing[k]
    return spacing, affine
