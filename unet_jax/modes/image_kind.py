"""Images and slices on their way through the modes, decoded whole, segmented in batches: the functions of
`kinds.Kind`."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.evaluation import cases
from unet_jax.experiment import Experiment
from unet_jax.inference import predictor as inference
from unet_jax.pipeline import cache, decode
from unet_jax.progress import bar


def rows(experiment: Experiment, frame: pd.DataFrame) -> pd.DataFrame:
    """A row an image or slice; `mask_file` is where its predicted mask goes, in the folder of its subset's."""
    found = frames.images(frame)
    return found.assign(mask_file=experiment.format.masks(found))


def open_samples(experiment: Experiment, rows: pd.DataFrame) -> cache.Samples:
    data = experiment.config.data
    return cache.open_samples(rows, experiment.settings, data.cache, on_error=data.on_error, limit=data.cache_limit)


def training_samples(experiment: Experiment, train: pd.DataFrame, valid: pd.DataFrame) -> dict[str, cache.Samples]:
    """What the loop trains on and validates on, without what cannot be read where the config says so."""
    return {name: open_samples(experiment, rows) for name, rows in (('train', train), ('valid', valid))}


def part(samples: cache.Samples, where: slice) -> cache.Samples:
    """Some consecutive samples, still memory-mapped."""
    return cache.Samples(samples.image[where], samples.label[where], samples.rows[where].reset_index(drop=True))


def segment(predictor: inference.Predictor, samples: cache.Samples, masks: Path) -> Iterator[cases.Case]:
    """Every case, slices stacked, with prediction and reference; PNGs of the predictions go to the folder `masks`."""
    experiment, rows = predictor.experiment, samples.rows

    def arrays() -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
        found = inference.enlarged(predictor, samples)
        for index, probability in bar(found, total=len(rows), desc='evaluating', unit='image'):
            row, bits = rows.iloc[index], inference.to_bits(experiment, probability)
            experiment.format.write(masks / row.mask_file, labels.to_ids(bits, experiment.classes),
                                    like=Path(experiment.settings.root) / row.path)
            unsure = ()
            if experiment.config.evaluation.uncertainty:
                unsure = inference.uncertainty(probability), brain(samples, index)
            yield index, (bits, decode.decode_label(row, experiment.settings), *unsure)

    return cases.stack(rows, arrays())


def brain(samples: cache.Samples, index: int) -> np.ndarray:
    """(H, W) bool at the file's own size: where an HDF5 slice is not 0; all of an image, which may have no 0."""
    row = samples.rows.iloc[index]
    if pd.isna(row.slice):
        return np.ones((row.height, row.width), bool)
    inside = (samples.image[index] != 0).any(-1, keepdims=True).astype(np.float32)
    return decode.extract(inside, row.height, row.width)[..., 0] > 0.5


def example(predictor: inference.Predictor, samples: cache.Samples, masks: Path) -> dict:
    """Fields of `html.Example` of the one case in `samples`: image, reference and prediction at the file's size."""
    experiment, rows = predictor.experiment, samples.rows
    found = [bits for _, bits in inference.segment(predictor, samples)]
    true = [decode.decode_label(row, experiment.settings) for row in rows.itertuples()]
    root, channels = experiment.settings.root, experiment.settings.channels
    image = [experiment.format.read(root, row, channels).image for row in rows.itertuples()]
    volume = rows.slice.notna().any()
    picture, reference, prediction = (np.stack(a, 2) if volume else a[0] for a in (image, true, found))
    return {'image': picture, 'reference': labels.region_masks(reference, experiment.region_bits),
            'prediction': labels.region_masks(prediction, experiment.region_bits),
            'spacing': (1.0, 1.0, 1.0) if volume else None}


def predict(predictor: inference.Predictor, rows: pd.DataFrame
            ) -> Iterator[tuple[int, inference.Segmented | str]]:
    """(position in `rows`, what was found at the file's own size, or why there is nothing) of files to predict."""
    experiment, size = predictor.experiment, predictor.experiment.config.evaluation.batch_size
    settings = experiment.settings
    for start in range(0, len(rows), size):
        read, where = [], []
        for index, row in enumerate(rows.iloc[start:start + size].itertuples(), start):
            try:
                image = experiment.format.read(row.root, row, settings.channels).image
            except InputError as error:
                yield index, str(error)
                continue
            read.append((decode.to_wire(image, settings), image.shape[:2]))
            where.append(index)
        if not where:
            continue
        images, shapes = (list(part) for part in zip(*read, strict=True))
        found = rows.iloc[where].assign(height=[h for h, _ in shapes], width=[w for _, w in shapes])
        blank = np.zeros((len(where), *settings.size), labels.bits_dtype(len(experiment.classes)))
        for k, probability in inference.enlarged(predictor, cache.Samples(np.stack(images), blank, found)):
            yield where[k], inference.Segmented(inference.to_bits(experiment, probability), probability)
