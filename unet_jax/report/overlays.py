"""Reference and prediction drawn over the image, as on a reading screen, always beside the plain image.

One region: both outlines on one picture, reference solid, prediction dashed; nothing is filled, so the tissue stays
visible. Several regions: a picture each, in colours, because six outlines on one picture cannot be told apart.
Volumes are shown in three planes, radiological convention: the patient's right on the viewer's left.
"""
import base64
import io
import os
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

from unet_jax.errors import InputError
from unet_jax.palette import colour, window
from unet_jax.report import plainly

OPPOSITE = dict(zip('LRAPSI', 'RLPAIS', strict=True))
PLANES = (('axial', 2), ('coronal', 1), ('sagittal', 0))  # name, axis across the plane in an L-P-I array
MARGIN = 4  # voxels kept around the head
DPI = 160
DASHES = (0, (3, 1.6))  # off, (on, off) in line widths
RIM = 'black'  # around lines and letters, to keep them legible on bright tissue


class Plane(NamedTuple):
    """One picture to draw, its rows downwards and its columns to the right."""
    name: str
    image: np.ndarray  # (H, W) in 0..1, or in colour (H, W, 3)
    reference: np.ndarray | None  # (H, W, R) bool
    prediction: np.ndarray | None  # (H, W, R) bool
    pixel: tuple[float, float]  # height, width of a pixel
    towards: str  # what lies downwards and to the right, e.g. 'PL'; '' if unknown


@plainly
def overlay(image: np.ndarray, reference: np.ndarray | None, prediction: np.ndarray | None, names: tuple[str, ...], *,
            title: str = '', channel: int | None = None, region: int = 0, spacing: tuple[float, ...] | None = None,
            orientation: str | None = None, letters: bool = True) -> Figure:
    """One case: every plane plain and with outlines.

    image: (H, W), (H, W, C) or a volume (X, Y, Z, C); reference, prediction: the same grid, (…, R) bool, or None;
    names: one a region. `channel` is the one shown (C = 4: FLAIR, T1, T1Gd, T2 in the order of the data); None shows a
    colour image as it is, and the first channel of others. A volume is cut through the slices with most reference of
    `region`, or prediction where there is no reference. `spacing` is in mm per array axis.
    `orientation` says where each array axis points, as `nibabel.aff2axcodes`: 'LPS' is what BraTS files have and what
    volumes are taken to be; a 2-D image without it is shown as it is, without letters.
    letters: whether they are drawn, which takes an orientation that is known.
    Raises InputError where shapes do not fit.
    """
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim not in (3, 4):
        raise InputError(f'image of shape {image.shape}; expected (H, W), (H, W, C) or (X, Y, Z, C)')
    if channel is not None and not 0 <= channel < image.shape[-1]:
        raise InputError(f'channel {channel} of an image with {image.shape[-1]}')
    for what, mask in (('reference', reference), ('prediction', prediction)):
        if mask is not None and mask.shape != (*image.shape[:-1], len(names)):
            raise InputError(f'{what} of shape {mask.shape}; the image and {len(names)} regions need '
                             f'{(*image.shape[:-1], len(names))}')
    colour_too = channel is None and is_colour(image)
    grey, axes = window(image if colour_too else image[..., channel or 0]), image.ndim - 1
    spacing = tuple(spacing or (1.0,) * axes)
    if len(spacing) != axes:
        raise InputError(f'spacing {spacing} for an image with {axes} axes')
    if orientation and (len(orientation) != axes or not set(orientation) <= set(OPPOSITE)
                        or len(set(orientation) | {OPPOSITE[letter] for letter in orientation}) != 2 * axes):
        raise InputError(f"orientation {orientation!r}; expected a letter for each of {axes} axes, such as 'LPS'")
    if axes == 3:
        planes = _planes(grey, reference, prediction, spacing, orientation or 'LPS', region)
        return _draw(planes if letters else [plane._replace(towards='') for plane in planes], names, title)
    if orientation:  # a slice: a volume one voxel thick, of which one plane is worth seeing
        across = next(letter for letter in 'SPL' if not {letter, OPPOSITE[letter]} & set(orientation))
        thick = [None if array is None else array[:, :, None] for array in (grey, reference, prediction)]
        planes = _planes(*thick, (*spacing, 1.0), orientation + across, region)
        return _draw([planes['SPL'.index(across)]], names, title)
    return _draw([Plane('', grey, reference, prediction, spacing, '')], names, title)


def is_colour(image: np.ndarray) -> bool:
    """Whether (…, C) is of an image file with red, green and blue, and not of three sequences of a volume."""
    return image.dtype == np.uint8 and image.shape[-1] == 3


@plainly
def save(figure: Figure, path: Path) -> Path:
    """Writes the picture, in the format of the path's suffix, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.part-{os.getpid()}-{path.name}')
    figure.savefig(part, dpi=DPI, facecolor=figure.get_facecolor())
    part.replace(path)
    return path


def data_uri(path: Path) -> str:
    """A saved picture as lossy WebP, a sixth of the PNG's bytes, for a page that holds its pictures."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert('RGB').save(buffer, 'webp', quality=85, method=4)
    return 'data:image/webp;base64,' + base64.b64encode(buffer.getvalue()).decode()


def _planes(grey, reference, prediction, spacing, orientation: str, region: int) -> list[Plane]:
    """The three planes of a volume (X, Y, Z), or in colour (X, Y, Z, 3), turned so that axes point left, posterior,
    inferior."""
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(orientation),
                                           nib.orientations.axcodes2ornt('LPI'))
    grey, reference, prediction = (None if array is None else nib.orientations.apply_orientation(array, turn)
                                   for array in (grey, reference, prediction))
    mm = np.empty(3)
    mm[turn[:, 0].astype(int)] = spacing
    masks = [mask for mask in (reference, prediction) if mask is not None]
    centre = [_busiest([mask[..., region] for mask in masks], axis, grey.shape[axis]) for axis in range(3)]
    lit = grey.reshape(*grey.shape[:3], -1).max(-1) > 0.02
    head = _bounds(np.any([lit, *(mask.any(-1) for mask in masks)], axis=0))
    planes = []
    for name, axis in PLANES:
        columns, rows = [a for a in range(3) if a != axis]
        cut = tuple(centre[a] if a == axis else head[a] for a in range(3))
        pictures = [None if array is None else np.swapaxes(array[cut], 0, 1)
                    for array in (grey, reference, prediction)]
        planes.append(Plane(name, *pictures, (mm[rows], mm[columns]), 'LPI'[rows] + 'LPI'[columns]))
    return planes


def _busiest(masks: list[np.ndarray], axis: int, length: int) -> int:
    """Index along `axis` with most voxels of the first mask that has any (of equals the middle), else the middle."""
    others = tuple(a for a in range(3) if a != axis)
    for mask in masks:
        if mask.any():
            counts = mask.sum(others)
            fullest = np.flatnonzero(counts == counts.max())
            return int(fullest[len(fullest) // 2])
    return length // 2


def _bounds(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around what is set, with a margin; everything where nothing is."""
    if not mask.any():
        return tuple(slice(0, length) for length in mask.shape)
    return tuple(slice(max(where.min() - MARGIN, 0), where.max() + 1 + MARGIN) for where in np.nonzero(mask))


def _draw(planes: list[Plane], names: tuple[str, ...], title: str) -> Figure:
    """A volume: one row a plane, one column a view. A single plane: its views below one another."""
    views = _views(planes[0], len(names))
    if len(planes) > 1:
        grid = [[(plane, view) for view in views] for plane in planes]
    else:
        grid = [[(planes[0], view)] for view in views]
    cell = {1: 4.4, 2: 2.6, 3: 2.2}[len(grid[0])]  # inches
    widest = max(plane.image.shape[1] * plane.pixel[1] for plane in planes)
    heights = [row[0][0].image.shape[0] * row[0][0].pixel[0] * cell / widest for row in grid]
    handles = _legend(planes[0], names)
    gap, above, below = 0.06, 0.36 if title else 0.06, 0.12 + 0.24 * -(-len(handles) // 3)
    width = len(grid[0]) * (cell + gap) + gap
    height = above + sum(heights) + gap * len(heights) + below
    figure = Figure(figsize=(width, height), facecolor='black')
    bottom = height - above
    for row, tall in zip(grid, heights, strict=True):
        bottom -= tall
        for column, (plane, view) in enumerate(row):
            left = gap + column * (cell + gap)
            axes = figure.add_axes((left / width, bottom / height, cell / width, tall / height))
            _panel(axes, plane, view)
        bottom -= gap
    if title:
        title = title if len(title) <= 44 else f'{title[:21]}…{title[-22:]}'
        figure.text(0.5, 1 - 0.18 / height, title, color='white', size=10, ha='center', va='center', parse_math=False)
    if handles:
        legend = figure.legend(handles=handles, loc='lower center', ncols=min(len(handles), 3), frameon=False,
                               fontsize=9, labelcolor='white', handlelength=2.6, borderpad=0.2, columnspacing=1.4)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _views(plane: Plane, regions: int) -> list[tuple[str, ...]]:
    """The masks on each picture of a plane: first none, then both together for one region, one at a time for more."""
    given = [what for what in ('reference', 'prediction') if getattr(plane, what) is not None]
    if regions == 1:
        return [(), tuple(given)] if given else [()]
    return [(), *((what,) for what in given)]


def _panel(axes: Axes, plane: Plane, view: tuple[str, ...]) -> None:
    """One picture, with pixels of their true shape."""
    rows, columns = plane.image.shape[:2]
    frame = {'extent': (-0.5, columns - 0.5, rows - 0.5, -0.5), 'aspect': plane.pixel[0] / plane.pixel[1]}
    # Bicubic, as viewers do: the squares of nearest-neighbour scaling hide soft borders. Masks keep their squares.
    axes.imshow(plane.image, cmap='gray', vmin=0, vmax=1, interpolation='bicubic', **frame)
    axes.set_axis_off()
    for what in view:
        mask = getattr(plane, what)
        if mask.shape[-1] > 1:
            axes.imshow(_paint(mask), interpolation='nearest', **frame)
        for r in range(mask.shape[-1]):
            _outline(axes, mask[..., r], colour(r), 0.9 if mask.shape[-1] > 1 else 1.4,
                     DASHES if what == 'prediction' and mask.shape[-1] == 1 else 'solid')
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    heading = plane.name if not view else '' if len(view) > 1 else view[0]
    _note(axes, heading, 0.015, 0.985, ha='left', va='top')
    if plane.towards:
        down, right = plane.towards
        _note(axes, OPPOSITE[down], 0.5, 0.985, ha='center', va='top')
        _note(axes, down, 0.5, 0.015, ha='center', va='bottom')
        _note(axes, OPPOSITE[right], 0.015, 0.5, ha='left', va='center')
        _note(axes, right, 0.985, 0.5, ha='right', va='center')


def _note(axes: Axes, text: str, x: float, y: float, **where: str) -> None:
    axes.text(x, y, text, color='white', size=8, transform=axes.transAxes,
              path_effects=[withStroke(linewidth=2, foreground=RIM)], **where)


def _paint(masks: np.ndarray) -> np.ndarray:
    """(H, W, R) booleans -> (H, W, 4) translucent colours, smaller regions over larger ones, as ET over TC over WT."""
    inks = np.zeros((*masks.shape[:2], 4))
    for r in sorted(range(masks.shape[-1]), key=lambda r: -masks[..., r].sum()):
        inks[masks[..., r]] = to_rgba(colour(r), 0.4)
    return inks


def _outline(axes: Axes, mask: np.ndarray, ink: str, width: float, style) -> None:
    """The line half-way between pixels inside and outside, closed at the border of the picture."""
    if not mask.any():
        return
    rows, columns = mask.shape
    lines = axes.contour(np.arange(-1, columns + 1), np.arange(-1, rows + 1), np.pad(mask, 1).astype(np.float32),
                         levels=[0.5], colors=[ink], linewidths=width, linestyles=[style])
    lines.set_path_effects([withStroke(linewidth=width + 0.8, foreground=RIM)])


def _legend(plane: Plane, names: tuple[str, ...]) -> list[Line2D]:
    """A line for each region; with one region, also what solid and dashed mean."""
    given = [what for what in ('reference', 'prediction') if getattr(plane, what) is not None]
    if not given:
        return []
    lines = [Line2D([], [], color=colour(r), lw=2.4, label=name) for r, name in enumerate(names)]
    styles = {'reference': 'solid', 'prediction': DASHES} if len(names) == 1 else {}
    return lines + [Line2D([], [], color='white', lw=1.4, linestyle=styles[what], label=what)
                    for what in given if what in styles]
