"""Images and slices on their way through the modes: decoded whole, segmented in batches. volumes.py is the twin."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels
from unet_jax.evaluation import cases
from unet_jax.experiment import Experiment
from unet_jax.inference import export, inputs
from unet_jax.inference import predict as inference
from unet_jax.pipeline import cache, decode
from unet_jax.progress import bar


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """A row an image or slice; `png` is where its predicted mask goes, in the folder of its subset's."""
    found = frames.images(frame)
    return found.assign(png=export.mask_names(found.path))


def open_samples(experiment: Experiment, rows: pd.DataFrame) -> cache.Samples:
    data = experiment.config.data
    return cache.open_samples(rows, experiment.settings, data.cache, on_error=data.on_error)


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
            export.write_mask(masks / row.png, bits, experiment.classes)
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
    root = Path(experiment.settings.root)
    image = [decode.read(root / path, experiment.settings.channels)[0] for path in rows.path]
    volume = rows.slice.notna().any()
    picture, reference, prediction = (np.stack(a, 2) if volume else a[0] for a in (image, true, found))
    return {'image': picture, 'reference': labels.region_masks(reference, experiment.of),
            'prediction': labels.region_masks(prediction, experiment.of),
            'spacing': (1.0, 1.0, 1.0) if volume else None}


def predict(predictor: inference.Predictor, source: tuple[str, ...], output: Path) -> str:
    """Segments image files or HDF5 slices: a PNG of category ids and an overlay each, and predictions.json. Returns
    what was written where."""
    from unet_jax.report import overlays  # matplotlib: 0.3 s that training need not wait for
    experiment = predictor.experiment
    root, found = inputs.find(source, experiment.settings.channels)
    settings = experiment.settings._replace(root=str(root))
    export.check_output(output, root, found)
    writer = export.CocoWriter(dict(zip(experiment.classes, experiment.config.data.names)))
    size = experiment.config.evaluation.batch_size
    for start in bar(range(0, len(found), size), desc='predicting', unit='batch'):
        batch = found.iloc[start:start + size].reset_index(drop=True)
        arrays = [decode.decode(row, settings) for row in batch.itertuples()]
        samples = cache.Samples(*(np.stack(a) for a in zip(*arrays, strict=True)), batch)
        for index, bits in inference.segment(predictor, samples):
            row = batch.iloc[index]
            export.write_mask(output / row.png, bits, experiment.classes)
            writer.add(row, bits)
            image, _ = decode.read(root / row.path, settings.channels)
            figure = overlays.overlay(image, None, labels.region_masks(bits, experiment.of), experiment.names,
                                      title=row.path)
            overlays.save(figure, output / 'overlays' / row.png)
    writer.write(output / 'predictions.json')
    return f'{len(found)} masks in {output}, overlays in {output}/overlays, COCO JSON in {output}/predictions.json'
