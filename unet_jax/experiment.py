"""What a config means: its frame, classes, regions and network. Every mode starts here."""
from pathlib import Path
from typing import NamedTuple

import jax
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import formats
from unet_jax.annotations import coco, labels, split
from unet_jax.errors import InputError
from unet_jax.model import networks, unet
from unet_jax.pipeline import decode, prepared


class Experiment(NamedTuple):
    """Everything that follows from a config whose categories and regions are settled."""
    config: ConfigDict
    classes: tuple[int, ...]  # category ids in bit order
    regions: tuple[labels.Region, ...]
    region_bits: tuple[int, ...]  # the regions as bit sets
    settings: decode.Settings | prepared.Settings
    module: unet.UNet

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(region.name for region in self.regions)

    @property
    def carried(self) -> tuple[str, ...]:
        """What batches hold beside image, label and the numbers of a sample."""
        return ('spacing',) if self.format.volumetric else ('scale',) * self.settings.patient

    @property
    def sequences(self) -> tuple[str, ...]:
        """The names of the channels of a volume or slice, in order; () of image files."""
        return tuple(self.config.data.modalities) if self.format.sequences else ()

    @property
    def shown(self) -> int | None:
        """The channel that pictures show; None leaves it to the image."""
        channel = self.config.report.channel
        return channel if channel >= 0 else None

    @property
    def format(self) -> formats.Format:
        """How its data are read, laid out and written."""
        return formats.named(self.config.data.format)


def data_folder(config: ConfigDict) -> Path:
    """The folder that the paths of the annotation frame are relative to."""
    return coco.folder(config.data.root)


def read_frame(config: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """The annotation frame of `config.data`.

    Raises InputError for settings that are none, and for data that its policies do not allow; an `audit` counts such
    data in `frame.attrs['reader']` instead and goes on without it.
    """
    data = config.data
    form = formats.named(data.format)
    if not data.root:
        raise InputError(f'config.data.root is empty: name the data set, --config.data.root=DIR. {form.layout}')
    frame = form.read_frame(data, audit=audit)
    return split.read_splits(frame, data.split_file) if data.split_file else frame


def settle(config: ConfigDict, frame: pd.DataFrame) -> ConfigDict:
    """A copy of `config` in which the categories, regions and whatever else was left to the data are written out."""
    settled = config.copy_and_resolve_references()
    with settled.unlocked():
        settled.data.update(formats.named(config.data.format).settle(config.data, frame))
    return settled.lock()


def create(config: ConfigDict) -> Experiment:
    """The experiment of a settled config. Raises InputError for a config that cannot be built."""
    classes = tuple(config.data.categories)
    regions = tuple(labels.Region(name, tuple(ids), paint) for name, ids, paint in config.data.regions)
    if not classes or not regions:
        raise InputError('config.data.categories and config.data.regions are empty; train or annotate first')
    data = config.data
    shared = {'root': str(data_folder(config)), 'size': tuple(data.size), 'channels': data.channels,
              'classes': classes, 'format': data.format}
    if formats.named(data.format).volumetric:
        settings = prepared.Settings(**shared, spacing=tuple(data.spacing), orientation=data.orientation)
    else:
        settings = decode.Settings(**shared, patient=data.standardise == 'patient', neighbours=data.neighbours)
    channels = len(regions) + (config.loss.activation == 'softmax')
    module = networks.build(config.model, channels)
    if isinstance(module, unet.UNet):
        unet.check_size(config.model, settings.size)
    return Experiment(config, classes, regions, labels.region_bits(regions, classes), settings, module)


def init_params(experiment: Experiment):
    """The parameters before training, from `config.seed`."""
    settings = experiment.settings
    return unet.init(experiment.module, jax.random.key(experiment.config.seed), settings.size, settings.inputs)
