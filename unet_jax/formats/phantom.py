"""Made-up brains, written as images with COCO JSON and then read like any others."""
from pathlib import Path

import pandas as pd
from ml_collections import ConfigDict

from unet_jax import phantom
from unet_jax.formats import coco


def make(data: ConfigDict) -> None:
    phantom.write_coco(Path(data.root), **data.phantom, seed=data.split_seed)


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    make(data)
    return coco.read_frame(data, audit=audit)


FORMAT = coco.FORMAT._replace(layout='', read_frame=read_frame, make=make)
