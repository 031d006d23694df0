"""Image files with annotations in COCO JSON."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import coco, image_file
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.formats import inputs, mask_file
from unet_jax.formats.seam import Content, Format


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    files = 'skip' if data.on_error == 'skip' else 'error'
    frame = coco.read(data.root, box_only=data.box_only, broken=data.broken, missing=files, unreadable=files,
                      audit=audit, split=data.split, seed=data.split_seed, folds=data.folds, fold=data.fold,
                      group_pattern=data.group_pattern)
    return frames.apply_unannotated(frame, data.unannotated, audit=audit)


def settle(data: ConfigDict, frame: pd.DataFrame) -> dict[str, Any]:
    """Categories, their names and regions, as far as the config left them to the data."""
    classes, names = frames.classes(frame, tuple(data.categories)), frames.categories(frame)
    if not classes:
        raise InputError(f'{data.root}: no annotation of any category, so there is nothing to learn')
    alike = frames.of_one_name({c: names[c] for c in classes})
    return {'categories': classes, 'names': tuple(names[c] for c in classes),
            'regions': tuple(data.regions) or tuple((name, ids, ids[-1]) for name, ids in alike.items())}


def read(root: str | Path, row, channels: int) -> Content:
    return Content(image_file.read(frames.locate(root, row.path), channels))


def find(sources: Sequence[str], data: ConfigDict) -> tuple[pd.DataFrame, list[str]]:
    rows, problems = inputs.find_images(sources, image_file.ENDINGS, 'an image')
    image_file.warn_of_turned(Path(rows.root.iloc[0]), rows.path)
    return rows, problems


def files(row) -> list[str]:
    return [row.path]


FORMAT = Format(
    layout=coco.LAYOUTS,
    read_frame=read_frame,
    settle=settle,
    read=read,
    read_label=lambda root, row, classes: None,  # the frame holds the polygons
    files=files,
    find=find,
    masks=lambda rows: mask_file.names(rows.path),
    write=mask_file.write_png,
    dtype=np.uint8,
    unspaced=True,
    channels=(1, 3),
)
