"""Volumes made small for a page: what viewer_decode.js and viewer_surface.js undo in the browser.

Everything becomes integers, deflated, in base64. Grey values go through a wavelet first: four sequences of a BraTS
case take 1.4 MB as coefficients rounded to steps of 8, which is wrong by 2 of 255 grey levels (root mean square),
against 4.1 MB for the differences of neighbouring bytes. WebP of quality 90 is as small and as wrong, but a browser
that guards against fingerprinting returns other pixels than it was given. Masks are exact.

Cohen, A., Daubechies, I., Feauveau, J.-C. 1992, Comm. Pure Appl. Math. 45; by lifting: Daubechies, I., Sweldens, W.
1998, J. Fourier Anal. Appl. 4, table 2 of whose 9/7 factors LIFTS and GAIN are.
"""
import base64
import zlib
from collections.abc import Iterator

import numpy as np

LEVELS = 3
LIFTS = ((1, -1.586134342), (0, -0.05298011854), (1, 0.8829110762), (0, 0.4435068522))  # (odd samples?, factor)
GAIN = 1.149604398
DEAD = 0.4  # a coefficient under 0.6 steps is 0: a tenth fewer bytes than plain rounding, and hardly more error
GRIDS = (1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0)  # side in mm of the cells that a surface is drawn through


def deflate(array: np.ndarray, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> str:
    """The array's bytes, deflated (zlib's format), in base64."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, strategy)
    return base64.b64encode(packer.compress(np.ascontiguousarray(array).data) + packer.flush()).decode()


def integers(values: np.ndarray) -> str:
    """Whole numbers within ±32767: first all low, then all high bytes, of 2 n, or of -2 n - 1 where n < 0."""
    values = values.astype(np.int32).ravel()
    folded = np.where(values < 0, -2 * values - 1, 2 * values)
    # Of coefficients only the 0s repeat: looking for no other matches is 4 % smaller, and 0.06 s a case and not 2.1
    return deflate(np.concatenate([folded & 255, folded >> 8]).astype(np.uint8), zlib.Z_RLE)


def greys(coefficients: np.ndarray, step: float) -> str:
    """Coefficients of `wavelet`, rounded to multiples of `step`, band by band."""
    rounded = np.sign(coefficients) * np.floor(np.abs(coefficients) / step + DEAD)
    return integers(np.concatenate([rounded[band].ravel() for band in bands()]))


def wavelet(volume: np.ndarray) -> np.ndarray:
    """(Z, Y, X) -> its coefficients, float32, in place: level k of `bands` lies on every 2^k-th voxel."""
    values = volume.astype(np.float32)
    for level in range(LEVELS):
        for axis in range(3):
            _lift(np.moveaxis(values[(slice(None, None, 1 << level),) * 3], axis, 0))
    return values


def bands() -> Iterator[tuple[slice, ...]]:
    """Where the coefficients of each band lie, from the finest details to the mean."""
    for level in range(LEVELS):
        for m in range(1, 8):
            yield tuple(slice((m >> axis & 1) << level, None, 2 << level) for axis in range(3))
    yield (slice(None, None, 1 << LEVELS),) * 3


def _lift(lines: np.ndarray) -> None:
    """The wavelet along the first axis, in place; mirrored at both ends. One sample stays as it is."""
    n = len(lines)
    if n < 2:
        return
    for odd, factor in LIFTS:
        at = np.arange(odd, n, 2)
        lines[at] += np.float32(factor) * (lines[np.abs(at - 1)] + lines[np.where(at + 1 < n, at + 1, at - 1)])
    lines[0::2] *= np.float32(GAIN)
    lines[1::2] /= np.float32(GAIN)


def surface(mask: np.ndarray, spacing: tuple[float, ...], most: int) -> dict | None:
    """A mask (X, Y, Z) as triangles, of at most about `most` vertices: None where nothing is set.

    Returns vertices, as steps of `unit` voxels from one to the next, counted from the volume's corner, and faces,
    three vertices each. The finest of GRIDS that is coarse enough is taken; what is too small for it is a cell.
    """
    from skimage.measure import marching_cubes  # takes 0.1 s, and pages are written once
    if not mask.any():
        return None
    for grid in GRIDS:
        cell = [max(1, round(grid / mm)) for mm in spacing]
        share = _blocks(mask, cell)
        if not (share > 0.5).any():
            share = (share > 0).astype(np.float32)
        places, faces, _, _ = marching_cubes(np.pad(share, 1), 0.5)
        if len(places) <= most:
            break
    unit = 2.0 ** np.ceil(np.log2(max(mask.shape) / 4096))  # a 16th of a voxel where the volume has up to 256
    whole = np.rint((places - 0.5) * cell / unit).astype(np.int32)
    return {'unit': unit, 'vertices': integers(np.diff(whole, axis=0, prepend=0)),
            'faces': integers(np.diff(faces.ravel(), prepend=0))}


def _blocks(mask: np.ndarray, cell: list[int]) -> np.ndarray:
    """The share of each block of `cell` voxels that is set."""
    padded = np.pad(mask, [(0, -n % c) for n, c in zip(mask.shape, cell, strict=True)]).astype(np.float32)
    (x, y, z), (a, b, c) = padded.shape, cell
    return padded.reshape(x // a, a, y // b, b, z // c, c).mean((1, 3, 5))
