"""What every mode does first."""
import logging
import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from unet_jax.pipeline import cache
from unet_jax.training import sharding


def start(config: ConfigDict, folder: Path, *, distributed: bool | None = False) -> None:
    """Settings of the process, before jax starts: other processes are joined (`distributed`: see `sharding.join`),
    compiled programs are kept in the user's cache folder; phantoms lie in `folder`."""
    if config.train.deterministic:  # read when the backend starts, which is after this
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'
    sharding.join(distributed)
    logging.getLogger('unet_jax').setLevel(logging.ERROR if jax.process_index() else logging.INFO)
    jax.config.update('jax_compilation_cache_dir', str(cache.default_folder() / 'compiled'))
    if config.data.format == 'phantom' and not config.data.root:
        config.data.root = str(folder / 'phantoms')
