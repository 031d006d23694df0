"""The config that a work directory holds: --config=configs/saved.py:WORKDIR. main.py names it where you name none.

Fields that are newer than the run have their defaults.
"""
from pathlib import Path

from ml_collections import ConfigDict

from configs import default
from unet_jax.workdir import load_config


def get_config(workdir: str) -> ConfigDict:
    config = default.get_config()
    with config.unlocked(), config.ignore_type():
        config.update(load_config(Path(workdir)))
    return config.lock()
