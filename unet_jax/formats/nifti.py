"""Volumes in NIfTI: the BraTS releases and the Medical Segmentation Decathlon's task 1."""
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import frame as frames
from unet_jax.annotations import nifti, nifti_file, schemas
from unet_jax.errors import InputError
from unet_jax.formats import inputs, mask_file
from unet_jax.formats.seam import Content, Format


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """The frame, after a look at whether tumours are as bright as they should be."""
    frame = nifti.read_frame(data.root, schema=data.schema, modalities=tuple(data.modalities),
                             missing_modalities=data.missing_modalities, on_error=data.on_error, audit=audit,
                             split=data.split, seed=data.split_seed, folds=data.folds, fold=data.fold)
    nifti.check_intensities(frame, data.root, on_error=data.on_error, audit=audit)
    return frame


def settle(data: ConfigDict, frame: pd.DataFrame) -> dict[str, Any]:
    """The classes and regions of the release, whichever of them the cases happen to show."""
    schema = schemas.schema(frame.schema.iloc[0])
    classes = schemas.classes(schema.name)
    if tuple(data.categories) not in ((), classes):
        raise InputError(f'config.data.categories is {tuple(data.categories)}; the labels of release {schema.name} '
                         f'are {classes}. Choose among them by config.data.regions')
    modalities = tuple(data.modalities) or tuple(frame.modalities.iloc[0])
    return {'schema': schema.name, 'categories': classes, 'channels': len(modalities), 'modalities': modalities,
            'names': tuple(schema.names[c] for c in classes),
            'regions': tuple(data.regions) or tuple(map(tuple, schema.regions))}


def read(root: str | Path, row, channels: int) -> Content:
    case = nifti.read_case(root, row)
    return Content(case.image, case.label, case.affine, case.brain)


def read_label(root: str | Path, row, classes: tuple[int, ...]) -> np.ndarray | None:
    """(X, Y, Z) label numbers in the file's own voxels; None where there is no label."""
    return nifti_file.read_label(frames.locate(root, row.label), classes)[0] if isinstance(row.label, str) else None


def files(row) -> list[str]:
    """The sequences, each file once, and the label where there is one."""
    return [*nifti.sequence_files(row.modalities), *([row.label] if isinstance(row.label, str) else [])]


FORMAT = Format(
    layout=nifti.LAYOUT,
    read_frame=read_frame,
    settle=settle,
    read=read,
    read_label=read_label,
    files=files,
    find=inputs.find_volumes,
    masks=lambda rows: [f'{case}.nii.gz' for case in rows.case],
    write=mask_file.write_nifti,
    dtype=np.float16,
    volumetric=True,
)
