"""--mode=predict: masks of files that nobody annotated."""
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.formats import mask_file
from unet_jax.formats.inputs import check_output
from unet_jax.inference import ledger, members
from unet_jax.inference import predictor as inference
from unet_jax.modes import kinds, volume_kind
from unet_jax.progress import bar
from unet_jax.training import processes


def predict(config: ConfigDict, folder: Path, *, sources: Sequence[str], output: str | None, which: str,
            ensemble: Sequence[str] = ()) -> None:
    """Segments image files, HDF5 slices or folders of volumes with the checkpoints `which` of `folder`, and of the
    work directories `ensemble`; each may be a model file. Of several processes all restore, and the first segments."""
    chosen = members.choose([folder, *map(Path, ensemble)], which)
    target = members.target(chosen, output, 'predictions')
    predictor, used, home = inference.restore_members(config, chosen), members.told(chosen), members.home(chosen)
    if predictor.experiment.config.evaluation.postprocess and predictor.experiment.format.volumetric:
        predictor = predictor._replace(limits=volume_kind.limits(predictor, home, used, None))
        used = f'{used}, post-processed: {predictor.limits}, in mm³'
    processes.by_the_first(lambda: write(predictor, sources, target, used), 'predict')


def write(predictor: inference.Predictor, sources: Sequence[str], output: Path, used: str) -> None:
    """A mask and an overlay of each file of `sources` into `output`, of images a predictions.json too.

    Files that an earlier call with the same network and settings has done are left as they are. Raises InputError at
    the end, with all others done, where some could not be read.
    """
    experiment = predictor.experiment
    rows, problems = experiment.format.find(sources, experiment.config.data)
    rows = rows.assign(mask_file=experiment.format.masks(rows))
    twice = rows[rows.mask_file.duplicated(keep=False)]
    if len(twice):
        raise InputError(f'the masks of {twice.root.iloc[0]} and {twice.root.iloc[1]} would both be '
                         f'{twice.mask_file.iloc[0]}; predict them one by one, each with an --output of its own')
    check_output(output, (output / name for name in rows.mask_file),
                 (Path(row.root) / name for row in rows.itertuples() for name in experiment.format.files(row)))
    book = ledger.open_book(output, predictor)
    open_ones = [not ledger.is_done(book, row, experiment.format) for row in rows.itertuples()]
    to_do = rows[open_ones].reset_index(drop=True)
    for name in to_do.mask_file:  # of an input that has changed since, or a mask that was deleted
        book.lines.pop(name, None)
    if len(to_do) < len(rows):
        print(f'{len(rows) - len(to_do)} of {len(rows)} are there already, by the same network and settings: left as '
              'they are')
    for index, found in bar(kinds.kind_of(experiment).predict(predictor, to_do), total=len(to_do), desc='predicting',
                            unit='case'):
        row = to_do.iloc[index]
        if isinstance(found, str):
            problems.append(found)
            continue
        path = output / row.mask_file
        experiment.format.write(path, labels.to_ids(found, experiment.classes),
                                like=Path(row.root) / experiment.format.files(row)[0])
        picture = row.mask_file.removesuffix('.gz').removesuffix('.nii').removesuffix('.png')
        draw(predictor, row, found, output / 'overlays' / f'{picture}.png')
        ledger.note(book, row, found, experiment)
    done = sum(name in book.lines for name in rows.mask_file)
    written = f'{done} masks in {output}, overlays in {output}/overlays'
    if not experiment.format.volumetric:
        mask_file.write_coco(output / 'predictions.json', dict(zip(experiment.classes, experiment.config.data.names,
                                                                   strict=True)), ledger.images(book, rows))
        written += f', COCO JSON in {output}/predictions.json'
    print(f'{written}\nCheckpoint {used}')
    if problems:
        raise InputError(f'{len(problems)} of {done + len(problems)} inputs could not be predicted; the others are '
                         'done:\n  ' + '\n  '.join(problems))


def draw(predictor: inference.Predictor, row: pd.Series, bits: np.ndarray, path: Path) -> None:
    """The input with its predicted regions outlined."""
    from unet_jax.report import overlays  # matplotlib: 0.3 s that training need not wait for
    experiment = predictor.experiment
    content = experiment.format.read(row.root, row, experiment.settings.channels)
    space = {} if content.affine is None else {'spacing': tuple(row.spacing),
                                               'orientation': ''.join(nibabel.aff2axcodes(content.affine))}
    figure = overlays.overlay(content.image, None, labels.region_masks(bits, experiment.region_bits), experiment.names,
                              title=row.path if content.affine is None else row.case, **space)
    overlays.save(figure, path)
