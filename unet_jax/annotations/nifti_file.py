"""One NIfTI file, read with suspicion: nibabel notices neither damaged gzip streams nor sizes a file cannot hold."""
import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from unet_jax.errors import InputError

DEFLATE = 1032  # the most bytes that one byte of a deflate stream can stand for (zlib's technical notes)
SLACK = 1 << 20  # room for header extensions
MAX_VOXELS = 1 << 26  # 7 times 240×240×155; scaled to float64 and cast, they take 1.3 GB
OUTSIDE = -32768  # some releases hold this outside the brain


class Header(NamedTuple):
    shape: tuple[int, ...]  # three axes, or four with the modalities last
    affine: np.ndarray  # (4, 4), voxel index to mm
    spacing: tuple[float, float, float]  # mm
    nifti: nibabel.Nifti1Header


def read_header(path: Path) -> Header:
    """Shape and affine without the voxels. Raises InputError for what is no NIfTI or cannot hold what it claims."""
    return _header(_load(path), path)


def describe(path: Path, header: Header | None = None) -> str:
    """One line with name, shape and affine, for messages."""
    try:
        shape, affine, *_ = header or read_header(path)
    except InputError as error:
        return f'  {error}'
    rows = ' '.join(str(row) for row in np.round(affine[:3], 2).tolist())
    return f'  {path.name}: shape {shape}, affine {rows}'


def read(path: Path) -> tuple[np.ndarray, Header]:
    """(voxels with the header's scaling applied, header); the whole gzip stream is checked against its checksum."""
    image = _load(path)
    header = _header(image, path)
    limit = _claimed(image) + SLACK
    try:
        with (gzip.open if _is_gzip(path) else open)(path, 'rb') as f:
            raw = f.read(limit + 1)  # reading to the end makes gzip compare the checksum
        if len(raw) > limit:
            raise InputError(f'{path}: holds more data than its shape {header.shape} asks for')
        voxels = np.asanyarray(type(image).from_bytes(raw).dataobj)
    except (OSError, EOFError, zlib.error, ValueError, ArithmeticError, ImageFileError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path}: is damaged ({error}); copy or download it again') from error
    return voxels.reshape(header.shape), header


def read_image(path: Path) -> tuple[np.ndarray, Header]:
    """(float32 intensities, header), -32768 replaced by 0. Raises InputError for values that are not finite."""
    voxels, header = read(path)
    return intensities(voxels, path), header


def intensities(voxels: np.ndarray, where: object) -> np.ndarray:
    """Voxels of any number type -> float32, -32768 replaced by 0. Raises InputError for what is not finite."""
    with np.errstate(over='ignore'):  # a forged scaling; what it makes infinite is refused below
        image = voxels.astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f'{where}: {(~np.isfinite(image)).sum()} voxels are not finite numbers')
    image[voxels == OUTSIDE] = 0
    return image


def read_label(path: Path, allowed: tuple[int, ...] | None = None) -> tuple[np.ndarray, Header]:
    """(uint8 label values, header). Stored values are rounded, since some files scale them (1.0039 for 1).

    Raises InputError for a value further than 0.1 from a whole number, and one that is not 0 or in `allowed`.
    """
    voxels, header = read(path)
    if voxels.dtype.kind == 'f':
        if not np.isfinite(voxels).all():
            raise InputError(f'{path}: {(~np.isfinite(voxels)).sum()} label voxels are not finite numbers')
        rounded = np.rint(voxels)
        off = np.abs(voxels - rounded) > 0.1
        if off.any():
            raise InputError(f'{path}: {off.sum()} label voxels are no whole numbers, such as {voxels[off][0]:g}: it '
                             'was interpolated, or is an image. Resample labels with nearest neighbour')
        voxels = rounded
    if voxels.size and (voxels.min() < 0 or voxels.max() > 255):
        raise InputError(f'{path}: label values from {voxels.min()} to {voxels.max()}; this is no label file')
    label = voxels.astype(np.uint8)
    unknown = set(np.flatnonzero(np.bincount(label.ravel())).tolist()) - {0, *(allowed or range(256))}
    if unknown:
        raise InputError(f'{path}: label values {sorted(unknown)}; expected 0 and {list(allowed)}. Is the schema '
                         '(release) right?')
    return label, header


def _load(path: Path) -> nibabel.Nifti1Image:
    try:
        image = nibabel.load(path)
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file') from error
    except (OSError, EOFError, zlib.error, ValueError, ArithmeticError, ImageFileError, HeaderDataError) as error:
        with open(path, 'rb') as f:
            start = f.read(64).lstrip().lower()
        page = start.startswith((b'<!doctype', b'<html', b'<?xml'))
        what = 'is a web page, not a NIfTI image: the download failed' if page else f'is no NIfTI image ({error})'
        raise InputError(f'{path}: {what}; download it again') from error
    if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one too
        raise InputError(f'{path}: is {type(image).__name__}, not a NIfTI image')
    return image


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith('.gz')


def _claimed(image: nibabel.Nifti1Image) -> int:
    """Bytes of the uncompressed file, in Python's unbounded integers."""
    count = 1
    for n in image.shape:
        count *= int(n)
    return count * image.get_data_dtype().itemsize + int(image.dataobj.offset)


def _header(image: nibabel.Nifti1Image, path: Path) -> Header:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:  # (X, Y, Z, 1) is (X, Y, Z)
        shape = shape[:-1]
    if len(shape) not in (2, 3, 4) or min(shape) < 1 or image.get_data_dtype().kind not in 'iuf':
        raise InputError(f'{path}: shape {shape}, type {image.get_data_dtype()}; expected numbers in 3 axes, or 4 '
                         'with the modalities last')
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f'{path}: shape {shape} is {math.prod(shape)} voxels; at most {MAX_VOXELS} are read, so that '
                         'a few bytes of gzip cannot fill the memory. Cut the volume to the head')
    size = path.stat().st_size
    if _claimed(image) > size * (DEFLATE if _is_gzip(path) else 1):
        raise InputError(f'{path}: {size} bytes cannot hold the {_claimed(image)} bytes that its shape {shape} takes: '
                         'cut short or forged; download it again')
    if not np.isfinite(image.affine).all():
        raise InputError(f'{path}: its affine is not finite')
    spacing = tuple(float(z) for z in (*image.header.get_zooms()[:3], 1.0)[:3])
    return Header((*shape, 1)[:3] if len(shape) == 2 else shape, image.affine, spacing, image.header)
