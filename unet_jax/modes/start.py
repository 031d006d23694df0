"""What every mode does first."""
import logging
import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from unet_jax import config_check
from unet_jax.pipeline import cache
from unet_jax.training import sharding


def start(config: ConfigDict, folder: Path, *, distributed: bool | None = False) -> None:
    """Settings of the process, before jax starts: other processes are joined (`distributed`: see `sharding.join`),
    compiled programs are kept in the user's cache folder. Raises InputError for a config that cannot be followed."""
    config_check.check(config)
    make_absolute(config, folder)
    flags = os.environ.get('XLA_FLAGS', '')  # read when the backend starts, which is after this
    if config.train.deterministic:
        flags += ' --xla_gpu_deterministic_ops=true'
    if jax.__version_info__ < (0, 11) and 'ynn_fusion_type' not in flags:
        # Its convolutions on CPUs keep 1.4 of 2 cores busy; without: forward 33 ms instead of 43, gradient 147
        # instead of 172 (configs/coco.py, 12 images). jax 0.12 is as fast without the flag.
        flags += ' --xla_cpu_experimental_ynn_fusion_type='
    os.environ['XLA_FLAGS'] = flags.strip()
    sharding.join(distributed)
    logging.getLogger('unet_jax').setLevel(logging.ERROR if jax.process_index() else logging.INFO)
    jax.config.update('jax_compilation_cache_dir', str(cache.default_folder() / 'compiled'))


def make_absolute(config: ConfigDict, folder: Path) -> None:
    """Paths of `config.data` as seen from anywhere, since a work directory is used from other folders later; phantoms
    lie in `folder`."""
    if config.data.format == 'phantom' and not config.data.root:
        config.data.root = str(folder / 'phantoms')
    for field in ('root', 'cache', 'split_file'):
        if config.data[field]:
            config.data[field] = os.path.abspath(os.path.expanduser(config.data[field]))
