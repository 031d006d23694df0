"""What the rest of the project asks of a format. Nothing else compares a format's name."""
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import image_file


class Content(NamedTuple):
    """What the files of one sample hold, at their own size."""
    image: np.ndarray  # (H, W, C) uint8 or float32; of a volume (X, Y, Z, C) float32, 0 outside the brain
    label: np.ndarray | None = None  # (H, W, K) mask channels, (X, Y, Z) label numbers; None: not in a file
    affine: np.ndarray | None = None  # (4, 4), of a volume
    brain: np.ndarray | None = None  # (X, Y, Z) bool, of a volume


class Format(NamedTuple):
    """How data of one kind are found, read, laid out and written.

    A `row` is a row of `frame.images` (of volumes: of `pipeline.prepared.rows`); paths in it are relative to its root.
    All functions raise InputError for data that cannot be used, naming the file.
    """
    layout: str  # what is looked for below config.data.root, and where to get such data: ends messages
    read_frame: Callable[..., pd.DataFrame]  # (config.data, audit=bool) -> the annotation frame
    settle: Callable[[ConfigDict, pd.DataFrame], dict[str, Any]]  # (config.data, frame) -> fields left to the data
    read: Callable[..., Content]  # (root, row, channels)
    read_label: Callable[..., np.ndarray | None]  # (root, row, classes) -> `Content.label` alone
    files: Callable[[Any], list[str]]  # (row) -> all its files; the first has the geometry that masks are written with
    find: Callable[..., tuple[pd.DataFrame, list[str]]]  # (sources, config.data) -> (rows to predict, each with its
    # `root` and without annotations; what is wrong with those left out)
    masks: Callable[[pd.DataFrame], list[str]]  # (rows) -> `mask_file`, the names of their masks
    write: Callable[..., None]  # (path, label numbers, like=file with the geometry)
    dtype: type  # of images on their way to the device: np.uint8 or np.float16
    volumetric: bool = False  # a sample is a volume of which patches are cut, not an image or slice
    unspaced: bool = False  # nothing in the files says how many mm a pixel has (config.evaluation.spacing)
    sequences: bool = False  # channels are the sequences of an MRI, each of which may be missing
    slice_of: Callable[[str], tuple[str, int] | None] | None = None  # (path) -> (volume, number) of a slice,
    # None for another name; without it folders and names of all that is predicted are looked at (`pairs.patients`)
    channels: tuple[int, ...] = ()  # of images, which config.data.channels chooses; () leaves them to the data
    from_array: Callable[[np.ndarray, int], np.ndarray] = image_file.from_array  # (array, channels) -> `Content.image`
    # of an image in memory, as `read` gives it from a file
    make: Callable[[ConfigDict], None] | None = None  # (config.data) writes data that the project makes itself, where
    # they are not there yet; they lie in the work directory where no root is named
