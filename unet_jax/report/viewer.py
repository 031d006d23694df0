"""Cases to walk through, inside one page: three linked planes, a surface that turns, lesions to jump to.

The page is opened from disk, where a browser lets it fetch nothing, so that script, styles and volumes are in it. The
script is our own and plain: no library, 37 kB. What exists brings more than the cases weigh, or cannot do this:
ipyniivue (2.4) is a widget of a notebook and its script 5.0 MB; k3d (3.2) has surfaces but no linked planes, 2.6 MB;
nilearn's views (0.14) are one image and one map with brainsprite, without window, lesions or choice of case, or niivue
again, 2.3 MB; plotly's script (7.1) is 4.8 MB and knows plots, not volumes of voxels. Ours also lets the page forbid
every script but this one, by its digest.

Volumes are turned to point left, posterior, inferior, cut to the head and packed by `viewer_pack`.
"""
import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cc3d
import nibabel as nib
import numpy as np

from unet_jax import palette
from unet_jax.annotations import labels
from unet_jax.report import overlays, viewer_pack

FOLDER = Path(__file__).parent
STYLE = (FOLDER / 'viewer.css').read_text(encoding='utf-8')
SCRIPT = '(() => {\n"use strict";\n' + ''.join(
    (FOLDER / f'{name}.js').read_text(encoding='utf-8')
    for name in ('viewer_decode', 'viewer_words', 'viewer_planes', 'viewer_surface', 'viewer')) + '})();\n'
# The only script that a page with a viewer shall run, as its Content-Security-Policy asks
POLICY = f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
BYTES = 18_500_000  # of all cases: with script, pictures and numbers the page stays under 20 MB
STEPS = (8, 10, 12, 16, 24, 32, 64)  # of the wavelet's coefficients; the first that fits is taken
VOXELS = 8_000_000  # of a case; of larger ones every second along the finest axis is shown
LESIONS = 60  # rows of a case's table, the largest lesions first
MARGIN = 2  # voxels kept around the head
NOTE = ('Connected parts (by faces, edges or corners) of the reference, each with all predicted parts that touch it; '
        'predicted parts that touch none are invented. Lesion-wise scores of the challenges join neighbours first.')


class Case(NamedTuple):
    """A case to walk through."""
    name: str
    kind: str  # the heading it stands under
    image: np.ndarray  # (H, W, C) or (X, Y, Z, C); floats are 0 outside the head
    sequences: tuple[str, ...]  # names of the channels
    reference: np.ndarray | None  # (…, R) bool
    prediction: np.ndarray | None  # (…, R) bool
    regions: tuple[str, ...]
    scores: dict[str, float]  # Dice of each region
    uncertainty: np.ndarray | None = None  # (…, R) uint8, 0 (sure) to 100
    spacing: tuple[float, ...] | None = None  # mm along each axis
    orientation: str | None = None  # where each axis points, as `nibabel.aff2axcodes`; None is 'LPS'
    affine: np.ndarray | None = None  # (4, 4) to mm in the scanner; None: mm are counted from the first voxel
    channel: int | None = None  # the one shown at first; None is the first, or of a colour image all


class Grid(NamedTuple):
    """Arrays as they are shown, (X, Y, Z, …), and what leads back."""
    image: np.ndarray
    reference: np.ndarray | None
    prediction: np.ndarray | None
    uncertainty: np.ndarray | None
    head: np.ndarray  # bool
    spacing: tuple[float, float, float]
    file: np.ndarray  # (4, 4) from these voxels to the file's


def html(cases: Sequence[Case]) -> str:
    """The viewer of the cases, hidden until its script runs; '' for none. The page needs STYLE, and POLICY in its own.

    Names of cases, sequences and regions may be anything: they are JSON here, and text in the page.
    """
    if not cases:
        return ''
    index = [{'kind': case.kind, 'label': ' · '.join([case.name, *(
        f'{name} {value:.3f}' for name, value in case.scores.items() if value == value)])} for case in cases]
    data = ''.join(f'<script type="application/json" class="case">{_json(packed(case, BYTES // len(cases)))}'
                   '</script>\n' for case in cases)
    return ('<noscript><p class="small">With scripts allowed one can walk through these cases here.</p></noscript>\n'
            f'<div class="viewer" hidden><script type="application/json" class="index">{_json(index)}</script>\n{data}'
            f'</div>\n<script>{SCRIPT}</script>\n')


def packed(case: Case, most: int) -> dict:
    """All that the script needs of a case, of about `most` bytes: the image as fine as fits."""
    grid = placed(case)
    found = lesions(grid, case.regions)
    thin = [1, 1, 1]
    while np.prod([-(-n // t) for n, t in zip(grid.head.shape, thin, strict=True)]) > VOXELS:
        thin[int(np.argmin([mm * t for mm, t in zip(grid.spacing, thin, strict=True)]))] *= 2
    every = tuple(slice(None, None, t) for t in thin)
    head, file = grid.head[every], grid.file @ np.diag([*thin, 1])
    spacing = tuple(mm * t for mm, t in zip(grid.spacing, thin, strict=True))
    flat, known = case.image.ndim == 3, case.affine is not None
    world = case.affine @ file if known else np.diag([*(*_spacing(case), 1.0)[:3], 1.0]) @ file
    start = found[0]['at'] if found else [n // 2 for n in grid.head.shape]
    for lesion in found:
        lesion['at'] = [int(n // t) for n, t in zip(lesion['at'], thin, strict=True)]
    content = {
        'name': case.name, 'shape': head.shape, 'spacing': spacing, 'unit': 'mm' if case.spacing else 'px',
        'regions': case.regions, 'order': _order(grid),
        'colours': [palette.colour(r) for r in range(len(case.regions))],
        'file': file[:3].tolist(), 'world': world[:3].tolist(), 'letters': ['LR', 'PA', 'IS'] if known else None,
        'colour': overlays.is_colour(case.image) or flat and case.image.shape[-1] == 3, 'shown': case.channel,
        'head': viewer_pack.deflate(np.packbits(_flat(head))),
        'lesions': found, 'note': NOTE, 'start': [int(n // t) for n, t in zip(start, thin, strict=True)],
        'meshes': [] if flat else surfaces(grid, every, spacing),
        'bytes': labels.bits_dtype(len(case.regions)).itemsize}
    for name in ('reference', 'prediction'):
        if (masks := getattr(grid, name)) is not None:
            bits = labels.pack(masks[every], labels.bits_dtype(len(case.regions)))
            content[name] = viewer_pack.deflate(_flat(bits))
    sequences = _sequences(case, grid, every)
    unsure = [] if grid.uncertainty is None else [
        viewer_pack.wavelet(_flat(grid.uncertainty[every][..., r] * 2.55)) for r in range(len(case.regions))]
    for step in STEPS:
        content |= {'step': step, 'sequences': [
            {**entry, 'data': viewer_pack.greys(entry['data'], step)} for entry in sequences]}
        content |= {'uncertainty': [viewer_pack.greys(values, 2 * step) for values in unsure]} if unsure else {}
        if len(_json(content)) <= most:
            break
    return content


def placed(case: Case) -> Grid:
    """The case's arrays turned as they are shown and cut to the head, with all masks."""
    flat = case.image.ndim == 3
    arrays = [case.image, case.reference, case.prediction, case.uncertainty]
    if flat:  # (rows, columns) -> (x, y, 1)
        arrays = [None if a is None else a.swapaxes(0, 1)[:, :, None] for a in arrays]
        turn, back = None, np.eye(4)
    else:
        turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(case.orientation or 'LPS'),
                                               nib.orientations.axcodes2ornt('LPI'))
        back = nib.orientations.inv_ornt_aff(turn, case.image.shape[:3])
        arrays = [None if a is None else nib.orientations.apply_orientation(a, turn) for a in arrays]
    image, reference, prediction, uncertainty = arrays
    head = np.isfinite(image).all(-1) & (image != 0).any(-1)
    if flat or not head.any():
        head = np.ones(image.shape[:3], bool)
    kept = np.any([head, *(m.any(-1) for m in (reference, prediction) if m is not None)], axis=0)
    box = tuple(slice(max(0, int(where.min()) - MARGIN), int(where.max()) + 1 + MARGIN) for where in np.nonzero(kept))
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    spacing = (*_spacing(case), 1.0)[:3]
    if turn is not None:
        spacing = tuple(spacing[int(np.flatnonzero(turn[:, 0] == axis)[0])] for axis in range(3))
    return Grid(*(None if a is None else a[box] for a in (image, reference, prediction, uncertainty, head)),
                tuple(map(float, spacing)), back @ corner)


def lesions(grid: Grid, names: tuple[str, ...]) -> list[dict]:
    """The connected parts of every region: name, region, at (a voxel of it, near its middle), state, and as text the
    volume in ml (pixels of images) of reference and prediction and their Dice; the largest LESIONS of them."""
    voxel = 1.0 if grid.head.shape[2] == 1 else float(np.prod(grid.spacing)) / 1000
    rows = []
    for r, region in enumerate(names):
        (true, n_true), (found, n_found) = (_parts(np.zeros_like(grid.head) if masks is None else masks[..., r])
                                            for masks in (grid.reference, grid.prediction))
        both = (true > 0) & (found > 0)
        met, shared = np.unique(true[both].astype(np.int64) * len(n_found) + found[both], return_counts=True)
        pairs = np.stack(np.divmod(met, len(n_found)))  # (2, n) of a reference and a predicted part that touch
        here = []
        for k in range(1, len(n_true)):
            touched = n_found[pairs[1, pairs[0] == k]].sum()
            dice = 2 * shared[pairs[0] == k].sum() / (n_true[k] + touched)
            state = '–' if grid.prediction is None else 'found' if touched else 'missed'
            here.append((n_true[k], touched, dice, state, true, k))
        here += [(0, n_found[k], 0.0, '–' if grid.reference is None else 'invented', found, k)
                 for k in range(1, len(n_found)) if k not in pairs[1]]
        here.sort(key=lambda part: -max(part[:2]))
        rows += [(max(part[:2]), r, f'{region} {number}', *part) for number, part in enumerate(here, 1)]
    largest = sorted(range(len(rows)), key=lambda k: -rows[k][0])[:LESIONS]
    return [{'name': name, 'region': r, 'at': _middle(numbered == k), 'state': state,
             'reference': _amount(mine * voxel), 'prediction': _amount(theirs * voxel),
             'dice': '–' if state == '–' else f'{dice:.3f}'}
            for _, r, name, mine, theirs, dice, state, numbered, k in (rows[k] for k in sorted(largest))]


def surfaces(grid: Grid, every: tuple[slice, ...], spacing: tuple[float, ...]) -> list[dict]:
    """The head, where the image has a background, and every region of reference and prediction."""
    found = []
    if not grid.head.all():
        found.append(('head', -1, viewer_pack.surface(grid.head[every], spacing, 6000)))
    for source in ('reference', 'prediction'):
        masks = getattr(grid, source)
        for r in range(0 if masks is None else masks.shape[-1]):
            found.append((source, r, viewer_pack.surface(masks[every][..., r], spacing, 5000)))
    return [{'of': source, 'region': r, **mesh} for source, r, mesh in found if mesh]


def _sequences(case: Case, grid: Grid, every: tuple[slice, ...]) -> list[dict]:
    """Per channel its name, the values that 0 and 255 stand for, the window to begin with, and its wavelet."""
    head, found = grid.head[every], []
    names = case.sequences if len(case.sequences) == grid.image.shape[-1] else [
        f'channel {c + 1}' for c in range(grid.image.shape[-1])]
    for c, name in enumerate(names):
        values = np.nan_to_num(grid.image[every][..., c].astype(np.float32), posinf=0, neginf=0)
        whole = np.issubdtype(case.image.dtype, np.uint8)  # of image files
        low, high = (0.0, 255.0) if whole else map(float, np.percentile(values[head], (0.05, 99.95)))
        scale = 255 / (high - low) if high > low else 0.0
        grey = np.where(head, np.clip((values - low) * scale, 0, 255), 0)
        window = (0.0, 255.0) if whole and grid.image.shape[-1] == 3 else np.percentile(grey[head], (0.5, 99.5))
        found.append({'name': name, 'low': low, 'high': high, 'window': [float(n) for n in window],
                      'data': viewer_pack.wavelet(_flat(grey))})
    return found


def _order(grid: Grid) -> list[int]:
    """The regions from the largest to the smallest, as they are drawn over one another."""
    masks = [m for m in (grid.reference, grid.prediction) if m is not None]
    return np.argsort([-m.sum() for m in np.moveaxis(sum(m.astype(int) for m in masks), -1, 0)], kind='stable').tolist(
        ) if masks else []


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a mask numbered from 1, and how many voxels have each number."""
    numbered = cc3d.connected_components(mask.copy(), connectivity=26)  # it wants what may be written
    return numbered, np.bincount(numbered.ravel())


def _middle(part: np.ndarray) -> list[int]:
    """The voxel of a part that is nearest to its centre of mass."""
    where = np.argwhere(part)
    return where[np.argmin(((where - where.mean(0)) ** 2).sum(1))].tolist()


def _amount(value: float) -> str:
    return '–' if not value else f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _spacing(case: Case) -> tuple[float, ...]:
    return tuple(case.spacing or (1.0,) * (case.image.ndim - 1))


def _flat(array: np.ndarray) -> np.ndarray:
    """(X, Y, Z) -> (Z, Y, X), so that x runs fastest."""
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def _json(value) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(value, separators=(',', ':'), allow_nan=False).replace('<', '\\u003c')
