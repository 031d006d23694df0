"""Images and slices on their way through the modes, decoded whole, segmented in batches: the functions of
`kinds.Kind`."""
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.evaluation import cases
from unet_jax.experiment import Experiment
from unet_jax.formats import mask_file
from unet_jax.formats.seam import Content
from unet_jax.inference import predictor as inference
from unet_jax.inference.temperature import calibrated, uncertainty
from unet_jax.pipeline import cache, decode, slices
from unet_jax.progress import bar

log = logging.getLogger('unet_jax')


def rows(experiment: Experiment, frame: pd.DataFrame) -> pd.DataFrame:
    """A row an image or slice; `mask_file` is where its predicted mask goes, in the folder of its subset's."""
    found = frames.images(frame)
    return found.assign(mask_file=experiment.format.masks(found))


def open_samples(experiment: Experiment, rows: pd.DataFrame) -> cache.Samples:
    data = experiment.config.data
    return cache.open_samples(rows, experiment.settings, data.cache, on_error=data.on_error, limit=data.cache_limit)


def training_samples(experiment: Experiment, *, train: pd.DataFrame, valid: pd.DataFrame,
                     kept: np.ndarray | None = None) -> dict[str, cache.Samples]:
    """What the loop trains on and validates on, without what cannot be read where the config says so.

    kept: positions in `train` of those trained on, all if None. Of patients all slices are opened: those
    that are not trained on count in the patient's scale, and are neighbours.
    Raises InputError where neighbours are asked for and the data have no slices.
    """
    check_patients(experiment, train)
    some = train if kept is None else train.iloc[kept].reset_index(drop=True)
    if not of_patients(experiment):
        return {'train': open_samples(experiment, some), 'valid': open_samples(experiment, valid)}
    whole = open_samples(experiment, train)
    return {'train': whole.some(np.flatnonzero(whole.rows.path.isin(set(some.path)))),
            'valid': open_samples(experiment, valid)}


def of_patients(experiment: Experiment) -> bool:
    """Whether what the network sees of a slice depends on the patient's others."""
    return bool(experiment.settings.patient or experiment.settings.neighbours)


def check_patients(experiment: Experiment, rows: pd.DataFrame) -> None:
    data = experiment.config.data
    if data.neighbours and rows.slice.isna().all():
        raise InputError(f'config.data.neighbours is {data.neighbours}, but {data.root} has no slices of patients, '
                         f'only images such as {rows.path.iloc[0]}. A config.data.group_pattern with two groups, '
                         '(patient) and (number), finds slices by their names; else leave it at 0')
    if data.standardise == 'patient' and not rows.group.duplicated().any():
        log.warning("config.data.standardise is 'patient', but no patient has several images, such as %s, so each is "
                    'standardised by itself; config.data.group_pattern finds patients in the names', rows.path.iloc[0])


def part(samples: cache.Samples, where: slice) -> cache.Samples:
    """Some consecutive samples, still memory-mapped."""
    return samples.some(where)


def segment(predictor: inference.Predictor, samples: cache.Samples, masks: Path | None) -> Iterator[cases.Case]:
    """Every case, slices stacked, with prediction and reference; PNGs of the predictions go to the folder `masks`, and
    where config.evaluation.uncertainty asks for it, of the uncertainty to uncertainty/ in it."""
    experiment, rows = predictor.experiment, samples.rows
    settings = experiment.config.evaluation
    if settings.lesions and rows.slice.isna().all():
        raise InputError(f'config.evaluation.lesions is {settings.lesions!r}, but {experiment.config.data.root} has '
                         'no slices of patients; lesion-wise scores are those of volumes, so leave it empty')

    def arrays() -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
        found = inference.enlarged(predictor, samples)
        for index, probability in bar(found, total=len(rows), desc='evaluating', unit='image'):
            row, bits = rows.iloc[index], inference.to_bits(predictor, probability, voxel=1.0)
            if masks:
                experiment.format.write(masks / row.mask_file, labels.to_ids(bits, experiment.classes),
                                        like=Path(experiment.settings.root) / row.path)
                if settings.uncertainty:
                    unsure = uncertainty(calibrated(probability, predictor.temperatures)).max(-1)
                    mask_file.write_uncertainty(masks / 'uncertainty' / row.mask_file, unsure / 100)
            inside = [brain(samples, index)] * settings.uncertainty
            yield index, (decode.decode_label(row, experiment.settings), bits, probability, *inside)

    for case in cases.stack(rows, arrays(), tuple(settings.spacing)):
        yield case._replace(temperatures=predictor.temperatures)


def brain(samples: cache.Samples, index: int) -> np.ndarray:
    """(H, W) bool at the file's own size: where an HDF5 slice is not 0; all of an image, which may have no 0."""
    row = samples.rows.iloc[index]
    if pd.isna(row.slice):
        return np.ones((row.height, row.width), bool)
    inside = (samples.take(index)[0] != 0).any(-1, keepdims=True).astype(np.float32)
    return decode.extract(inside, height=row.height, width=row.width)[..., 0] > 0.5


def example(predictor: inference.Predictor, samples: cache.Samples, masks: Path) -> dict:
    """Fields of `html.Example` of the one case in `samples`: image, reference and prediction at the file's size."""
    experiment, rows = predictor.experiment, samples.rows
    case, = segment(predictor, samples, None)
    root, channels = experiment.settings.root, experiment.settings.channels
    image = [experiment.format.read(root, row, channels).image for row in rows.itertuples()]
    volume = rows.slice.notna().any()
    found = {'image': np.stack(image, 2) if volume else image[0],
             'reference': labels.region_masks(case.reference, experiment.region_bits),
             'prediction': labels.region_masks(case.prediction, experiment.region_bits)}
    if experiment.config.evaluation.uncertainty:
        found['uncertainty'] = uncertainty(calibrated(case.probability, case.temperatures))
    if not volume:
        return found
    if not experiment.format.unspaced:
        return found | {'spacing': (1.0, 1.0, 1.0)}
    # rows and columns of pictures point as on a reading screen, though nothing in the files says so
    return found | {'spacing': tuple(experiment.config.evaluation.spacing) or None, 'orientation': 'PLS',
                    'letters': False}


def predict(predictor: inference.Predictor, rows: pd.DataFrame
            ) -> Iterator[tuple[int, inference.Segmented | str, Content | None]]:
    """(position in `rows`, what was found at the file's own size, or why there is nothing; what was read) of files to
    predict."""
    experiment, settings = predictor.experiment, predictor.experiment.settings
    for places in together(experiment, rows):
        read, where = [], []
        for index, row in zip(places, rows.iloc[places].itertuples(), strict=True):
            try:
                read.append(experiment.format.read(row.root, row, settings.channels))
                where.append(index)
            except InputError as error:
                yield index, str(error), None
        images = [content.image for content in read]
        for index, found, content in zip(where, answer(predictor, images, rows.iloc[where]), read, strict=True):
            yield index, found, content


def answer(predictor: inference.Predictor, images: Sequence[np.ndarray], rows: pd.DataFrame
           ) -> Iterator[inference.Segmented]:
    """What the predictor finds in each of `images`, (H, W, C) as `Format.read` gives them, in order.

    rows: of each its case, group and slice, by which patients are told where the network looks at them.
    """
    if not images:
        return
    experiment, settings = predictor.experiment, predictor.experiment.settings
    rows = rows.assign(height=[image.shape[0] for image in images], width=[image.shape[1] for image in images])
    wired = np.stack([decode.to_wire(image, settings) for image in images])
    blank = np.zeros((len(images), *settings.size), labels.bits_dtype(len(experiment.classes)))
    near = slices.near(rows, settings.neighbours) if of_patients(experiment) else None
    scale = slices.scale(wired, rows.group) if settings.patient else None
    for _, probability in inference.enlarged(predictor, cache.Samples(wired, blank, rows, {}, near, scale)):
        yield inference.tell(predictor, probability, voxel=1.0)


def together(experiment: Experiment, rows: pd.DataFrame) -> Iterator[list[int]]:
    """Positions in `rows` of what is read and segmented together: whole patients where they matter to what is seen,
    as many as fill a batch."""
    size = experiment.config.evaluation.batch_size
    if not of_patients(experiment):
        yield from (list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size))
        return
    held: list[int] = []
    for places in rows.reset_index(drop=True).groupby('group', sort=False).indices.values():
        held += places.tolist()
        if len(held) >= size:
            yield held
            held = []
    if held:
        yield held
