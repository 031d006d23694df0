"""What a config means: its frame, classes, regions and network. Every mode starts here."""
from pathlib import Path
from typing import NamedTuple

import jax
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import phantom
from unet_jax.annotations import brats_h5, coco, labels
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.model import unet
from unet_jax.pipeline import decode


class Experiment(NamedTuple):
    """Everything that follows from a config whose categories and regions are settled."""
    config: ConfigDict
    classes: tuple[int, ...]  # category ids in bit order
    regions: tuple[labels.Region, ...]
    of: tuple[int, ...]  # the regions as bit sets
    settings: decode.Settings
    module: unet.UNet

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(region.name for region in self.regions)


def read_frame(config: ConfigDict, **reading) -> pd.DataFrame:
    """The annotation frame of `config.data`; `reading` goes to the COCO reader. Raises InputError."""
    data = config.data
    if data.format == 'brats_h5':
        frame = brats_h5.read_frame(data.root, split=data.split, seed=config.seed)
        brats_h5.check_channels(frame, data.root)
        return frame
    if data.format == 'phantom':
        phantom.write_coco(Path(data.root), **data.phantom, seed=config.seed)
    elif not data.root:
        raise InputError('config.data.root is empty: name the folder of the data set, --config.data.root=DIR; '
                         'configs/phantom.py needs none')
    elif data.format != 'coco':
        raise InputError(f"config.data.format is {data.format!r}; choose 'coco', 'brats_h5' or 'phantom'")
    policies = {'box_only': data.box_only, 'broken': data.broken, **reading}
    frame = coco.read(data.root, split=data.split, seed=config.seed, **policies)
    return frames.apply_unannotated(frame, data.unannotated)


def settle(config: ConfigDict, frame: pd.DataFrame) -> ConfigDict:
    """A copy of `config` in which the categories and regions that were left to the data are written out."""
    settled = config.copy_and_resolve_references()
    classes = frames.classes(frame, tuple(config.data.categories))
    if not classes:
        raise InputError(f'{config.data.root}: no annotation of any category, so there is nothing to learn')
    names = frames.categories(frame)
    with settled.unlocked():
        settled.data.categories = classes
        settled.data.regions = tuple(config.data.regions) or tuple((names[c] or str(c), (c,), c) for c in classes)
    return settled.lock()


def create(config: ConfigDict) -> Experiment:
    """The experiment of a settled config. Raises InputError for a config that cannot be built."""
    classes = tuple(config.data.categories)
    regions = tuple(labels.Region(name, tuple(ids), paint) for name, ids, paint in config.data.regions)
    if not classes or not regions:
        raise InputError('config.data.categories and config.data.regions are empty; train or annotate first')
    settings = decode.Settings(str(config.data.root), tuple(config.data.size), config.data.channels, classes)
    channels = len(regions) + (config.loss.activation == 'softmax')
    return Experiment(config, classes, regions, labels.region_bits(regions, classes), settings,
                      unet.build(config.model, channels))


def init_params(experiment: Experiment):
    """The parameters before training, from `config.seed`."""
    settings = experiment.settings
    return unet.init(experiment.module, jax.random.key(experiment.config.seed), settings.size, settings.channels)
