"""What has to be true of a whole config before any work begins: each field by its table, and fields together."""
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from unet_jax import formats
from unet_jax.annotations import labels
from unet_jax.config import FIELDS, build, flat
from unet_jax.errors import InputError
from unet_jax.model import networks, unet
from unet_jax.training import dispatch, optimizer


def check_config(config: ConfigDict) -> None:
    """Raises InputError, which names the field, its value and what to give, for a config that cannot be followed.

    Reads no data and starts no device; what depends on them, such as category ids, is checked when they are known.
    Values of `config` that may be written in several ways, such as one pair for a tuple of pairs, are then in one.
    """
    write_alike(config, flat(build(flat(config))))
    if config.train.plan:  # the rest is decided from the data, and checked then
        return
    for one in (check_formats, check_sizes, check_patients, check_split, check_regions, check_schedule,
                check_together):
        one(config)
    dispatch.check_dispatch(config.train, 0)
    networks.build(config.model, 1)
    check_optimizer(config)


def write_alike(config: ConfigDict, values: dict[str, Any]) -> None:
    """Puts {'section.name': value} in place of those in `config` that are written in another way."""
    given = flat(config)
    with config.ignore_type():
        for name, value in values.items():
            if repr(value) != repr(given[name]):
                *sections, last = name.split('.')
                functools.reduce(getattr, sections, config)[last] = value


def refuse(config: ConfigDict, name: str, why: str) -> None:
    value = flat(config)[name]
    raise InputError(f'config.{name} is {value!r}: {why}')


def check_formats(config: ConfigDict) -> None:
    data, form = config.data.format, formats.named(config.data.format)
    for name, value in flat(config).items():
        field = FIELDS[name]
        if field.only and not getattr(form, field.only) and value != field.default:
            what = {'unspaced': 'image files'}.get(field.only, 'volumes')
            refuse(config, name, f'is for {what} only; config.data.format is {data!r}, so leave it at '
                   f'{field.default!r}')
    if form.channels and config.data.channels not in form.channels:
        refuse(config, 'data.channels', f'{data} has {" or ".join(map(str, form.channels))}')


def check_sizes(config: ConfigDict) -> None:
    size, model = tuple(config.data.size), config.model
    wanted = 3 if formats.named(config.data.format).volumetric else 2
    for name, kind in (('data.size', 'sides'), ('augment.flip', 'axes')):
        if len(flat(config)[name]) != wanted:
            shown = ','.join(['128' if name == 'data.size' else 'True'] * wanted)
            refuse(config, name, f'samples of config.data.format = {config.data.format} have {wanted} {kind}; give '
                   f'--config.{name}={shown}')
    for name in ('strides', 'kernels'):
        if model[name] and len(model[name][0]) != wanted:
            refuse(config, f'model.{name}', f'samples of config.data.format = {config.data.format} have {wanted} axes')
        if model[name] and len(model[name]) != len(model.features):
            refuse(config, f'model.{name}', f'config.model.features has {len(model.features)} levels; give an entry '
                   'for each, finest first')
    factors = unet.shrinkage(model, wanted)[-1]
    pixel = max(factors)
    if all(n > side for n, side in zip(factors, size, strict=True)):
        refuse(config, 'model.features', f'{len(model.features)} levels and config.model.stem = {model.stem} make one '
               f'pixel of {pixel} at the coarsest level, more than config.data.size = {size}; take fewer levels')
    if size[0] % config.train.spatial:
        refuse(config, 'train.spatial', f'must divide the first of config.data.size = {size}')
    if config.augment.scale[0] > config.augment.scale[1]:
        refuse(config, 'augment.scale', 'give the lowest factor first')


def check_patients(config: ConfigDict) -> None:
    data, form = config.data, formats.named(config.data.format)
    if data.standardise == 'patient' and form.dtype is not np.uint8:
        refuse(config, 'data.standardise', f'{data.format} is standardised inside the brain as it is read; leave it '
               'at True')
    if data.neighbours and form.volumetric:
        refuse(config, 'data.neighbours', 'volumes have their neighbours in the third axis of config.data.size; leave '
               'it at 0')
    if form.unspaced and config.evaluation.lesions and not config.evaluation.spacing:
        refuse(config, 'evaluation.lesions', 'counts lesions from a size in mm³ on, and image files do not tell '
               'theirs; give --config.evaluation.spacing=HEIGHT,WIDTH,BETWEEN_SLICES in mm')
    if config.report.channel >= (count := len(data.modalities) if form.volumetric else data.channels):
        refuse(config, 'report.channel', f'the images have {count}, counted from 0; -1 leaves it to them')
    if data.neighbours and config.augment.modality_dropout:
        refuse(config, 'augment.modality_dropout', f'would drop single slices of config.data.neighbours = '
               f'{data.neighbours}; set one of them to 0')


def check_split(config: ConfigDict) -> None:
    data = config.data
    if not math.isclose(sum(data.split), 1, abs_tol=1e-6):
        refuse(config, 'data.split', f'the shares of train, valid and test add up to {sum(data.split):g}, not to 1')
    if data.folds == 1:
        refuse(config, 'data.folds', 'give 2 or more, or 0 to split by config.data.split alone')
    if data.fold >= max(data.folds, 1):
        refuse(config, 'data.fold', f'of config.data.folds = {data.folds}; the first is 0')
    if data.folds and data.split_file:
        refuse(config, 'data.folds', f'config.data.split_file = {data.split_file!r} says how to split too; set one of '
               'them')


def check_regions(config: ConfigDict) -> None:
    data = config.data
    if len(data.categories) > 32:
        refuse(config, 'data.categories', 'at most 32 can be segmented at once')
    if data.names and len(data.names) != len(data.categories):
        refuse(config, 'data.names', f'give as many as config.data.categories = {tuple(data.categories)}, or none')
    if data.categories and data.regions:
        found = tuple(labels.Region(name, tuple(ids), paint) for name, ids, paint in data.regions)
        labels.region_bits(found, tuple(data.categories))


def check_schedule(config: ConfigDict) -> None:
    steps, chosen = config.train.steps, config.optimizer
    if chosen.warmup >= steps:
        refuse(config, 'optimizer.warmup', f'the training is over by then; it must be less than config.train.steps = '
               f'{steps}, such as --config.optimizer.warmup={steps // 10}')
    if chosen.accumulate > steps:
        refuse(config, 'optimizer.accumulate', f'config.train.steps = {steps} would end before the first update')


def check_together(config: ConfigDict) -> None:
    train = config.train
    if train.seeds:
        for name, alone in (('resident', False), ('steps_per_dispatch', 1), ('fsdp', 1), ('spatial', 1),
                            ('minutes', 0)):
            if train[name] != alone:
                refuse(config, f'train.{name}', f'config.train.seeds = {tuple(train.seeds)} goes with {alone} alone')


def check_optimizer(config: ConfigDict) -> None:
    """Tries an update of made-up parameters, by shapes alone."""
    chosen = config.optimizer
    like = {'kernel': jax.ShapeDtypeStruct((2, 2), jnp.float32), 'bias': jax.ShapeDtypeStruct((2,), jnp.float32)}

    def update(params):
        made = optimizer.create(chosen, config.train.steps)
        return made.update(params, made.init(params), params)

    try:
        jax.eval_shape(update, like)
    except InputError:
        raise
    except Exception as error:  # whatever optax makes of an argument that it cannot use
        raise InputError(f'config.optimizer.arguments is {tuple(chosen.arguments)}: optax.{chosen.name} cannot be '
                         f'used with them ({type(error).__name__}: {str(error):.300})') from error
