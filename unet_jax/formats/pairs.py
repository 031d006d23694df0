"""Images with a mask image for each."""
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import pairs
from unet_jax.formats import coco


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    return pairs.read_frame(data.root, on_error=data.on_error, audit=audit, split=data.split, seed=data.split_seed,
                            folds=data.folds, fold=data.fold, group_pattern=data.group_pattern,
                            values=tuple(data.mask_values))


FORMAT = coco.FORMAT._replace(layout=pairs.LAYOUT, read_frame=read_frame)
