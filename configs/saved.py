"""The config that a work directory holds: --config=configs/saved.py:WORKDIR. main.py names it where you name none."""
from pathlib import Path

from ml_collections import ConfigDict

from unet_jax.workdir import load_config


def get_config(workdir: str) -> ConfigDict:
    return load_config(Path(workdir))
