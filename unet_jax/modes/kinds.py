"""The two kinds of samples, images and volumes, as the modes see them: the same functions of both.

image_kind.py and volume_kind.py fill in the fields; every mode asks `kind_of(experiment)` and then does not know
which it has.
"""
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from unet_jax.evaluation.cases import Case
from unet_jax.experiment import Experiment
from unet_jax.formats.seam import Content
from unet_jax.inference.predictor import Segmented
from unet_jax.modes import image_kind, volume_kind


class Kind(NamedTuple):
    """`samples` stands for what `open_samples` returns: `cache.Samples` or `prepared.Volumes`."""
    rows: Callable[[Experiment, pd.DataFrame], pd.DataFrame]  # the frame -> a row a sample, with its `mask_file`
    open_samples: Callable[[Experiment, pd.DataFrame], Any]  # (experiment, rows) -> samples
    training_samples: Callable[..., dict[str, Any]]  # (experiment, train=rows, valid=rows, kept=positions in
    # train of those trained on) -> {'train', 'valid'}
    part: Callable[[Any, slice], Any]  # some consecutive samples
    segment: Callable[..., Iterator[Case]]  # (predictor, samples, folder of masks) -> every case, its mask written
    example: Callable[..., dict]  # (predictor, samples of one case, folder of masks) -> fields of html.Example
    predict: Callable[..., Iterator[tuple[int, Segmented | str, Content | None]]]  # (predictor, rows of
    # `Format.find`) -> (position in rows, what was found at the file's own size, or why there is nothing; what was
    # read)


IMAGES, VOLUMES = (Kind(**{name: getattr(module, name) for name in Kind._fields})
                   for module in (image_kind, volume_kind))


def kind_of(experiment: Experiment) -> Kind:
    return VOLUMES if experiment.format.volumetric else IMAGES
