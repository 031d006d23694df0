"""Volumes on their way through the modes, prepared once, trained on in patches, segmented by a sliding window: the
functions of `kinds.Kind`."""
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from unet_jax.annotations import labels, nifti_file
from unet_jax.errors import InputError
from unet_jax.evaluation import cases, modalities, overlap
from unet_jax.experiment import Experiment
from unet_jax.formats import mask_file
from unet_jax.formats.seam import Content
from unet_jax.inference import predictor as inference
from unet_jax.inference import sliding_window
from unet_jax.inference.temperature import calibrated, uncertainty
from unet_jax.pipeline import patches, prepared
from unet_jax.progress import bar
from unet_jax.training import space


def rows(experiment: Experiment, frame: pd.DataFrame) -> pd.DataFrame:
    """A row a case; `mask_file` is where its predicted mask goes, in the folder of its subset's."""
    found = prepared.rows(frame)
    return found.assign(mask_file=experiment.format.masks(found))


def open_samples(experiment: Experiment, rows: pd.DataFrame) -> prepared.Volumes:
    data = experiment.config.data
    return prepared.open_volumes(rows, experiment.settings, data.cache, on_error=data.on_error, limit=data.cache_limit)


def training_samples(experiment: Experiment, *, train: pd.DataFrame, valid: pd.DataFrame,
                     kept: np.ndarray | None = None
                     ) -> dict[str, patches.Patches | patches.Tiles]:
    """What the loop trains on and validates on, without what cannot be read where the config says so."""
    size, foreground, cut = (experiment.settings.size, experiment.config.data.foreground,
                             space.wire_size(experiment.config))
    train = train if kept is None else train.iloc[kept].reset_index(drop=True)
    train, valid = (open_samples(experiment, rows) for rows in (train, valid))
    return {'train': patches.Patches(train, train.rows, size, foreground, cut), 'valid': patches.tiles(valid, size)}


def part(samples: prepared.Volumes, where: slice) -> prepared.Volumes:
    """Some consecutive cases."""
    return prepared.Volumes(samples.folders[where], samples.rows[where].reset_index(drop=True))


def reference(experiment: Experiment, row) -> np.ndarray:
    """The label of a case in the file's own voxels (X, Y, Z), as bit sets."""
    ids = experiment.format.read_label(experiment.settings.root, row, experiment.classes)
    return labels.from_ids(ids, experiment.classes)


def segment_volume(predictor: inference.Predictor, volume: prepared.Volume, row, keep: tuple[bool, ...] | None = None
                   ) -> np.ndarray:
    """The predicted bit sets (X, Y, Z) of a case in the file's own voxels, from the modalities to `keep`."""
    return sliding_window.segment(predictor, volume, keep=keep, voxel=float(np.prod(row.spacing)))


def answer(predictor: inference.Predictor, volume: prepared.Volume, row) -> inference.Segmented:
    """What the predictor finds in a case; `row` has the file's `spacing`."""
    probability = sliding_window.probability(sliding_window.blend(predictor, volume))
    return inference.tell(predictor, probability, voxel=float(np.prod(row.spacing)))


def segment(predictor: inference.Predictor, samples: prepared.Volumes, masks: Path | None) -> Iterator[cases.Case]:
    """Every case with prediction and reference; a NIfTI of each prediction goes to the folder `masks`, and where
    config.evaluation.uncertainty asks for it, one of each region's uncertainty (X, Y, Z, R) to uncertainty/ in it."""
    experiment = predictor.experiment
    for index in bar(range(len(samples.rows)), desc='evaluating', unit='case'):
        row, volume = samples.rows.iloc[index], samples[index]
        probability = sliding_window.probability(sliding_window.blend(predictor, volume))
        bits = inference.to_bits(predictor, probability, voxel=float(np.prod(row.spacing)))
        wanted = experiment.config.evaluation.uncertainty
        if masks:
            like = Path(experiment.settings.root) / experiment.format.files(row)[0]
            experiment.format.write(masks / row.mask_file, labels.to_ids(bits, experiment.classes), like=like)
            if wanted:
                mask_file.save_nifti(masks / 'uncertainty' / row.mask_file,
                                     uncertainty(calibrated(probability, predictor.temperatures)), np.uint8, like=like)
        yield cases.Case(row.case, row.group, tuple(row.spacing), reference(experiment, row), bits, probability,
                         brain(volume) if wanted else None, temperatures=predictor.temperatures)


def brain(volume: prepared.Volume) -> np.ndarray:
    """(X, Y, Z) bool in the file's own voxels: where a prepared case is not 0 in every modality."""
    inside = (volume.image != 0).any(-1, keepdims=True).astype(np.float32)
    return prepared.put_back(inside, volume.grid)[..., 0] > 0.5


def with_modality_subsets(predictor: inference.Predictor, samples: prepared.Volumes) -> list[dict]:
    """Dice of every case, region and subset of the modalities: case, group, region, modalities, dice, present."""
    experiment, lines = predictor.experiment, []
    convention, names = experiment.config.evaluation.convention, tuple(experiment.config.data.modalities)
    chosen = modalities.subsets(names)
    for index, kept in bar([(k, c) for k in range(len(samples.rows)) for c in chosen], desc='modalities', unit='pass'):
        row = samples.rows.iloc[index]
        bits = segment_volume(predictor, samples[index], row, tuple(name in kept for name in names))
        pair = [labels.region_masks(b, experiment.region_bits) for b in (reference(experiment, row), bits)]
        lines += [{'case': row.case, 'group': row.group, 'region': name, 'modalities': '+'.join(kept),
                   'dice': overlap.dice(overlap.counts(*(m[..., r] for m in pair)), convention=convention),
                   'present': bool(pair[0][..., r].any())}
                  for r, name in enumerate(experiment.names)]
    return lines


def example(predictor: inference.Predictor, samples: prepared.Volumes, masks: Path) -> dict:
    """Fields of `html.Example` of the one case in `samples`, its prediction read back from the folder `masks`."""
    experiment, row = predictor.experiment, samples.rows.iloc[0]
    content = experiment.format.read(experiment.settings.root, row, experiment.settings.channels)
    ids, _ = nifti_file.read_label(masks / row.mask_file, experiment.classes)
    unsure = {}
    if experiment.config.evaluation.uncertainty:
        unsure['uncertainty'] = np.asarray(nibabel.load(masks / 'uncertainty' / row.mask_file).dataobj)
    return {'image': content.image, **unsure,
            'reference': labels.region_masks(reference(experiment, row), experiment.region_bits),
            'prediction': labels.region_masks(labels.from_ids(ids, experiment.classes), experiment.region_bits),
            'spacing': tuple(row.spacing), 'orientation': ''.join(nibabel.aff2axcodes(content.affine)),
            'affine': content.affine}


def predict(predictor: inference.Predictor, rows: pd.DataFrame
            ) -> Iterator[tuple[int, inference.Segmented | str, Content | None]]:
    """(position in `rows`, what was found in the file's own voxels, or why there is nothing; what was read) of cases
    to predict."""
    experiment, settings = predictor.experiment, predictor.experiment.settings
    for index, row in enumerate(rows.itertuples()):
        try:
            content = experiment.format.read(row.root, row, settings.channels)
            volume = prepared.in_memory(content, row, settings._replace(root=row.root))
        except InputError as error:
            yield index, str(error), None
        else:
            yield index, answer(predictor, volume, row), content
