"""Masks of other files written into the annotation frame, as COCO's compressed run-length encoding.

Of a volume (X, Y, Z) the slices z stand side by side, as one picture of X rows and Y · Z columns, in which the columns
z · Y to (z + 1) · Y are slice z; so any COCO tool decodes it, and `.reshape(X, Y, Z, order='F')` of what comes out is
the mask in the file's own axes. `height`, `width` and `depth` of the frame are X, Y and Z.
"""
import logging
from collections.abc import Callable

import numpy as np
import pandas as pd
from faster_coco_eval import mask as coco_mask

from unet_jax.errors import InputError
from unet_jax.progress import bar

log = logging.getLogger('unet_jax')


def encode(voxels: np.ndarray, shape: tuple[int, ...]) -> dict:
    """Ascending positions in column-major order -> {'size', 'counts'} of a mask of `shape`, (H, W) or (X, Y, Z)."""
    height, width = shape[0], int(np.prod(shape[1:]))
    starts = np.flatnonzero(np.diff(voxels, prepend=-2) != 1)
    first, last = voxels[starts], voxels[[*(starts[1:] - 1), -1]] + 1
    edges = np.concatenate([[0], np.stack([first, last], 1).ravel(), [height * width]])
    rle = coco_mask.frPyObjects({'size': [height, width], 'counts': np.diff(edges).tolist()}, height, width)
    return {'size': [height, width], 'counts': rle['counts'].decode()}


def of_numbers(label: np.ndarray) -> dict[int, dict]:
    """Label numbers (H, W) or (X, Y, Z) -> {number: its mask}, without 0."""
    flat = label.ravel(order='F')
    voxels = np.flatnonzero(flat)
    numbers = flat[voxels]
    return {int(v): encode(voxels[numbers == v], label.shape) for v in np.unique(numbers)}


def fill_in(frame: pd.DataFrame, rows: pd.DataFrame, read: Callable) -> pd.DataFrame:
    """`frame` with a mask in place of every segmentation that refers to a file.

    `rows` has a row an image or case; read(row) gives its label numbers (H, W) or (X, Y, Z), or its mask channels
    (H, W, K), which a segmentation numbers. A file that cannot be read keeps its reference, and is told.
    """
    kept, lost = frame.segmentation.tolist(), []
    lines = frame.groupby(['subset', 'image_id'], sort=False).indices
    categories = frame.category_id.tolist()
    for row in bar(rows.itertuples(), total=len(rows), desc='masks', unit='file'):
        mine = [k for k in lines[row.subset, row.image_id] if isinstance(kept[k], dict) and 'file' in kept[k]]
        if not mine:
            continue
        try:
            stored = read(row)
        except InputError as error:
            lost.append(str(error).splitlines()[0])
            continue
        numbered = of_numbers(stored) if 'channel' not in kept[mine[0]] else None
        for k in mine:
            kept[k] = numbered[categories[k]] if numbered is not None else \
                of_numbers((stored[..., kept[k]['channel']] != 0).astype(np.uint8)).get(1)
    if lost:
        log.warning('%d masks cannot be read and are named by their files only, first %s', len(lost), lost[0])
    filled = frame.assign(segmentation=pd.Series(kept, index=frame.index, dtype=object))
    filled.attrs.update(frame.attrs)
    return filled
