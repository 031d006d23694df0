"""What a config means: its frame, classes, regions and network. Every mode starts here."""
from pathlib import Path
from typing import NamedTuple

import jax
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import phantom
from unet_jax.annotations import brats_h5, coco, labels, left_out, nifti, schemas, split
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.model import unet
from unet_jax.pipeline import decode, volumes


class Experiment(NamedTuple):
    """Everything that follows from a config whose categories and regions are settled."""
    config: ConfigDict
    classes: tuple[int, ...]  # category ids in bit order
    regions: tuple[labels.Region, ...]
    of: tuple[int, ...]  # the regions as bit sets
    settings: decode.Settings | volumes.Settings
    module: unet.UNet

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(region.name for region in self.regions)

    @property
    def volumetric(self) -> bool:
        """Whether a sample is a volume, not an image or a slice."""
        return isinstance(self.settings, volumes.Settings)


def data_folder(config: ConfigDict) -> Path:
    """The folder that the paths of the annotation frame are relative to."""
    return coco.folder(config.data.root)


def read_frame(config: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """The annotation frame of `config.data`.

    Raises InputError for settings that are none, and for data that its policies do not allow; an `audit` counts such
    data in `frame.attrs['reader']` instead and goes on without it.
    """
    data = config.data
    readers = {'coco': (read_coco, coco.LAYOUTS), 'phantom': (read_coco, ''), 'nifti': (read_volumes, nifti.LAYOUT),
               'brats_h5': (read_slices, brats_h5.LAYOUT)}
    if data.format not in readers:
        raise InputError(f'config.data.format is {data.format!r}; choose one of {", ".join(map(repr, readers))}')
    left_out.of_files(data.on_error)  # refuses a misspelt policy
    if data.folds and data.split_file:
        raise InputError(f'config.data.folds = {data.folds} and config.data.split_file = {data.split_file!r} both say '
                         'how to split; set one of them')
    read, layout = readers[data.format]
    if data.format == 'phantom':
        phantom.write_coco(Path(data.root), **data.phantom, seed=config.seed)
    elif not data.root:
        raise InputError(f'config.data.root is empty: name the data set, --config.data.root=DIR. {layout}')
    frame = read(config, audit=audit, split=data.split, seed=config.seed, folds=data.folds, fold=data.fold)
    return split.read_splits(frame, data.split_file) if data.split_file else frame


def read_coco(config: ConfigDict, *, audit: bool, **splitting) -> pd.DataFrame:
    data = config.data
    files = 'skip' if data.on_error == 'skip' else 'error'
    frame = coco.read(data.root, box_only=data.box_only, broken=data.broken, missing=files, unreadable=files,
                      audit=audit, **splitting)
    return frames.apply_unannotated(frame, data.unannotated, audit=audit)


def read_slices(config: ConfigDict, *, audit: bool, **splitting) -> pd.DataFrame:
    """The frame of Kaggle slices, after a look at whether tumours are as bright as they should be."""
    data = config.data
    frame = brats_h5.read_frame(data.root, on_error=data.on_error, audit=audit, **splitting)
    brats_h5.check_channels(frame, data.root, on_error=data.on_error, audit=audit)
    return frame


def read_volumes(config: ConfigDict, *, audit: bool, **splitting) -> pd.DataFrame:
    """The frame of NIfTI volumes, after a look at whether tumours are as bright as they should be."""
    data = config.data
    frame = nifti.read_frame(data.root, schema=data.schema, modalities=tuple(data.modalities),
                             missing_modalities=data.missing_modalities, on_error=data.on_error, audit=audit,
                             **splitting)
    nifti.check_intensities(frame, data.root, on_error=data.on_error, audit=audit)
    return frame


def settle(config: ConfigDict, frame: pd.DataFrame) -> ConfigDict:
    """A copy of `config` in which the categories and regions that were left to the data are written out."""
    settled = config.copy_and_resolve_references()
    if config.data.format == 'nifti':
        return settle_volumes(settled, frame)
    names, chosen = frames.categories(frame), tuple(config.data.categories)
    if config.data.format == 'brats_h5':  # whichever of them its slices happen to show
        names = schemas.schema('2020').names
        unknown = sorted({*chosen} - {*brats_h5.CLASSES})
        if unknown:
            raise InputError(f'config.data.categories names {unknown}; slices have the labels {names}')
        classes = tuple(sorted(chosen or brats_h5.CLASSES))
    else:
        classes = frames.classes(frame, chosen)
    if not classes:
        raise InputError(f'{config.data.root}: no annotation of any category, so there is nothing to learn')
    with settled.unlocked():
        settled.data.categories = classes
        settled.data.names = tuple(names[c] for c in classes)
        settled.data.regions = tuple(config.data.regions) or tuple((names[c], (c,), c) for c in classes)
    return settled.lock()


def settle_volumes(config: ConfigDict, frame: pd.DataFrame) -> ConfigDict:
    """`config` with the classes and regions of the release, whichever of them its cases happen to show."""
    schema = schemas.schema(frame.schema.iloc[0])
    classes = schemas.classes(schema.name)
    if tuple(config.data.categories) not in ((), classes):
        raise InputError(f'config.data.categories is {tuple(config.data.categories)}; the labels of release '
                         f'{schema.name} are {classes}. Choose among them by config.data.regions')
    with config.unlocked():
        config.data.schema = schema.name
        config.data.categories = classes
        config.data.channels = len(config.data.modalities)
        config.data.names = tuple(schema.names[c] for c in classes)
        config.data.regions = tuple(config.data.regions) or tuple(map(tuple, schema.regions))
    return config.lock()


def create(config: ConfigDict) -> Experiment:
    """The experiment of a settled config. Raises InputError for a config that cannot be built."""
    classes = tuple(config.data.categories)
    regions = tuple(labels.Region(name, tuple(ids), paint) for name, ids, paint in config.data.regions)
    if not classes or not regions:
        raise InputError('config.data.categories and config.data.regions are empty; train or annotate first')
    settings = decode.Settings(str(data_folder(config)), tuple(config.data.size), config.data.channels, classes)
    if config.data.format == 'nifti':
        settings = volumes.Settings(*settings, tuple(config.data.spacing), config.data.orientation)
        volumes.check(settings)
    unet.check_size(config.model, settings.size)
    channels = len(regions) + (config.loss.activation == 'softmax')
    return Experiment(config, classes, regions, labels.region_bits(regions, classes), settings,
                      unet.build(config.model, channels))


def init_params(experiment: Experiment):
    """The parameters before training, from `config.seed`."""
    settings = experiment.settings
    return unet.init(experiment.module, jax.random.key(experiment.config.seed), settings.size, settings.channels)
