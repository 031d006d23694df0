"""The project's own programs for a given shape, for benchmarks: nothing is built here that training does not use."""
from pathlib import Path
from typing import Any

import common  # noqa: F401  (finds the project)
import jax
import numpy as np

from configs import default
from unet_jax import experiment as experiments
from unet_jax.model import unet
from unet_jax.modes import start
from unet_jax.planning import memory
from unet_jax.training import loop, sharding

REGIONS = (('WT', (1, 2, 3), 2), ('TC', (1, 3), 1), ('ET', (3,), 3))
OFF = {'spatial_probability': 0.0, 'intensity_probability': 0.0, 'modality_dropout': 0.0}


def create(size: tuple[int, ...], channels: int, features: tuple[int, ...], *, batch: int, blocks: int = 2,
           downsample: str = 'conv', dtype: str = 'float32', augment: bool = False, remat: bool = False
           ) -> experiments.Experiment:
    """Plain blocks, instance norm, leaky ReLU, Dice + binary cross-entropy of three regions, AdamW at a constant
    1e-3, neither clipping nor averaging. Sets the process up as main.py does, before jax starts."""
    config = default.get_config()
    with config.unlocked():
        config.data.update({'format': 'brats_h5' if len(size) == 2 else 'nifti', 'size': tuple(size),
                            'channels': channels, 'standardise': False, 'categories': (1, 2, 3),
                            'names': ('NCR', 'ED', 'ET'), 'regions': REGIONS})
        config.model.update({'features': tuple(features), 'encoder_blocks': (blocks,) * len(features),
                             'decoder_blocks': (blocks,) * (len(features) - 1), 'downsample': downsample,
                             'dtype': dtype, 'remat': remat})
        config.augment.flip = (augment,) * len(size)
        if not augment:
            config.augment.update(OFF)
        config.optimizer.update({'schedule': 'constant', 'clip': 0.0, 'ema': 0.0})
        config.train.batch_size = config.evaluation.batch_size = batch
        config.evaluation.engine = 'jax'
    start.start(config.lock(), Path('.'))
    return experiments.create(config)


def host_batch(experiment: experiments.Experiment, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch as the stream makes it: images of standard normal numbers, blobs of every class as labels."""
    rng = np.random.default_rng(seed)
    shapes = memory.abstract_batch(experiment, experiment.config.train.batch_size)
    arrays = {name: np.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    arrays['image'][:] = rng.standard_normal(arrays['image'].shape)
    for k, side in enumerate((2, 3, 4)):  # nested cubes, a bit each
        inside = tuple(slice(s // side, s // side + s // 4) for s in experiment.config.data.size)
        arrays['label'][(slice(None), *inside)] = 1 << k
    arrays['valid'][:] = 1
    arrays['visit'][:] = np.arange(len(arrays['visit']))
    return arrays


def parameters(params: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def flat(params: Any) -> dict[str, np.ndarray]:
    """{'encoder_0_block_0/first/conv/kernel': array, …}"""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {'/'.join(str(k.key) for k in path): np.asarray(x) for path, x in leaves}


class Side:
    """One network with its compiled forward and training step."""

    def __init__(self, experiment: experiments.Experiment):
        self.experiment, self.programs = experiment, loop.create_programs(experiment, devices=jax.devices()[:1])
        self.state = self.programs.create()
        self.host = host_batch(experiment)
        self.batch = sharding.put(self.host, self.programs.mesh)
        self.image = jax.device_put(self.host['image'].astype(np.float32))
        module = unet.for_devices(experiment.module, jax.devices()[:1])
        self.apply = jax.jit(lambda params, image: unet.apply(module, params, image))

    def forward(self) -> np.ndarray:
        """The logits, waited for but left on the device."""
        return jax.block_until_ready(self.apply(self.state.params, self.image))

    def train(self) -> dict[str, float]:
        self.state, metrics = self.programs.train(self.state, self.batch)
        jax.block_until_ready(self.state.params)
        return metrics
