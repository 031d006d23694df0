"""Images with a mask image for each."""
from collections.abc import Sequence

import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import pairs
from unet_jax.formats import coco


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    return pairs.read_frame(data.root, on_error=data.on_error, audit=audit, split=data.split, seed=data.split_seed,
                            folds=data.folds, fold=data.fold, group_pattern=data.group_pattern,
                            values=tuple(data.mask_values))


def find(sources: Sequence[str], data: ConfigDict) -> tuple[pd.DataFrame, list[str]]:
    """As of other images, without the masks that lie beside them."""
    rows, problems = coco.find(sources, data)
    parts = [pairs.part(path) for path in rows.path]
    images = {found.key for found in parts if not found.mask}
    return rows[[not (found.mask and found.key in images) for found in parts]].reset_index(drop=True), problems


FORMAT = coco.FORMAT._replace(layout=pairs.LAYOUT, read_frame=read_frame, find=find)
