"""The Kaggle BraTS2020 slices: an HDF5 file a slice, scored as volumes."""
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import brats_h5, brats_h5_file, schemas
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.formats import coco, inputs
from unet_jax.formats.seam import Content

ENDINGS = ('.h5', '.hdf5')


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """The frame, after a look at whether tumours are as bright as they should be."""
    frame = brats_h5.read_frame(data.root, on_error=data.on_error, audit=audit, split=data.split,
                                seed=data.split_seed, folds=data.folds, fold=data.fold)
    brats_h5.check_channels(frame, data.root, on_error=data.on_error, audit=audit)
    return frame


def settle(data: ConfigDict, frame: pd.DataFrame) -> dict[str, Any]:
    """The classes of BraTS 2020, whichever of them the slices happen to show."""
    names = schemas.schema('2020').names
    unknown = sorted({*data.categories} - {*brats_h5.CLASSES})
    if unknown:
        raise InputError(f'config.data.categories names {unknown}; slices have the labels {names}')
    classes = tuple(sorted(data.categories or brats_h5.CLASSES))
    return {'modalities': schemas.MODALITIES, 'categories': classes, 'names': tuple(names[c] for c in classes),
            'regions': tuple(data.regions) or tuple((names[c], (c,), c) for c in classes)}


def read(root: str | Path, row, channels: int) -> Content:
    path = frames.locate(root, row.path)
    image, masks = brats_h5.read_slice(path)
    if image.shape[-1] != channels:
        raise InputError(f'{path}: {image.shape[-1]} channels; config.data.channels is {channels}')
    return Content(image, masks)


def read_label(root: str | Path, row, classes: tuple[int, ...]) -> np.ndarray | None:
    """(H, W, K) mask channels; None, unread, where the frame says that a slice shows no tumour."""
    return brats_h5.read_slice(frames.locate(root, row.path))[1] if row.annotations else None


FORMAT = coco.FORMAT._replace(
    layout=brats_h5.LAYOUT,
    read_frame=read_frame,
    settle=settle,
    read=read,
    read_label=read_label,
    find=lambda sources, data: inputs.find_images(sources, ENDINGS, 'an HDF5 slice'),
    dtype=np.float16,
    unspaced=False,  # 1 mm, as all of BraTS
    sequences=True,
    from_array=brats_h5_file.from_array,
    slice_of=brats_h5.slice_of,
    channels=(4,),
)
