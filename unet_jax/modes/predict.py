"""--mode=predict: masks of files that nobody annotated."""
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import labels
from unet_jax.annotations.nifti_file import read_header
from unet_jax.errors import InputError
from unet_jax.evaluation import patients
from unet_jax.experiment import Experiment
from unet_jax.formats import inputs, mask_file
from unet_jax.formats.inputs import check_output
from unet_jax.formats.seam import Content
from unet_jax.inference import ledger, members
from unet_jax.inference import predictor as inference
from unet_jax.inference.temperature import uncertainty
from unet_jax.modes import image_kind, kinds, tuned
from unet_jax.progress import bar
from unet_jax.text_file import write_text
from unet_jax.training import processes


def predict(config: ConfigDict, folder: Path, *, sources: Sequence[str], output: str | None, which: str,
            ensemble: Sequence[str] = (), report: bool = False) -> None:
    """Segments image files, HDF5 slices or folders of volumes with the checkpoints `which` of `folder`, and of the
    work directories `ensemble`; each may be a model file. `report`: also a page for each case. Of several processes
    all restore, and the first segments."""
    chosen = members.choose([folder, *map(Path, ensemble)], which)
    target = members.target(chosen, output, 'predictions')
    predictor, used = restore(config, chosen)
    processes.by_the_first(lambda: write(predictor, sources, target, used, report=report), 'predict')


def restore(config: ConfigDict, chosen: Sequence[members.Member]) -> tuple[inference.Predictor, str]:
    """(what predicts, with its temperatures and limits; the words that say which checkpoints that is, and these)."""
    predictor, used = inference.restore_members(config, chosen), str(members.told(chosen))
    predictor = tuned.settle(predictor, members.home(chosen), members.told(chosen), None)
    return predictor, ', '.join([used, *tuned.words(predictor)])


def write(predictor: inference.Predictor, sources: Sequence[str], output: Path, used: str, *, report: bool = False
          ) -> None:
    """A mask and an overlay of each file of `sources` into `output`, of images a predictions.json too; the numbers of
    all in predictions.csv. With config.evaluation.uncertainty also a map of it, with `report` a page a case.

    Files that an earlier call with the same network and settings has done are left as they are. Raises InputError at
    the end, with all others done, where some could not be read.
    """
    experiment = predictor.experiment
    rows, problems = experiment.format.find(sources, experiment.config.data)
    of_patients = not experiment.format.volumetric and image_kind.of_patients(experiment)
    if of_patients:
        rows = inputs.with_patients(rows, experiment.config.data.group_pattern, experiment.format.slice_of)
    rows = rows.assign(mask_file=experiment.format.masks(rows))
    twice = rows[rows.mask_file.duplicated(keep=False)]
    if len(twice):
        raise InputError(f'the masks of {twice.root.iloc[0]} and {twice.root.iloc[1]} would both be '
                         f'{twice.mask_file.iloc[0]}; predict them one by one, each with an --output of its own')
    check_output(output, masks=(output / name for name in rows.mask_file),
                 inputs=(Path(row.root) / name for row in rows.itertuples() for name in experiment.format.files(row)))
    book = ledger.open_book(output, predictor)
    open_ones = pd.Series([not ledger.is_done(book, row, experiment.format, beside(experiment, row.mask_file, report))
                           for row in rows.itertuples()])
    if of_patients:  # what is new of a patient changes what is seen of the others
        open_ones = open_ones.groupby(rows.group.to_numpy()).transform('any')
    to_do = rows[open_ones.to_numpy()].reset_index(drop=True)
    for name in to_do.mask_file:  # of an input that has changed since, or a mask that was deleted
        book.lines.pop(name, None)
    if len(to_do) < len(rows):
        print(f'{len(rows) - len(to_do)} of {len(rows)} are there already, by the same network and settings: left as '
              'they are')
    for index, found, content in bar(kinds.kind_of(experiment).predict(predictor, to_do), total=len(to_do),
                                     desc='predicting', unit='case'):
        row = to_do.iloc[index]
        if isinstance(found, str):
            problems.append(found)
            continue
        path = output / row.mask_file
        like = Path(row.root) / experiment.format.files(row)[0]
        experiment.format.write(path, labels.to_ids(found.bits, experiment.classes), like=like)
        numbers = measured(experiment, row, found, like)
        if experiment.config.evaluation.uncertainty:
            unsure = 1 - np.abs(2 * found.probability - 1)
            mask_file.write_uncertainty(output / 'uncertainty' / row.mask_file, unsure.max(-1), like=like)
        draw(experiment, row, found, content, output, numbers=numbers, used=used if report else '')
        ledger.note(book, row, found.bits, experiment, numbers)
    done = sum(name in book.lines for name in rows.mask_file)
    written = f'{done} masks in {output}, overlays in {output}/overlays'
    if not experiment.format.volumetric:
        mask_file.write_coco(output / 'predictions.json', dict(zip(experiment.classes, experiment.config.data.names,
                                                                   strict=True)), ledger.images(book, rows))
        written += f', COCO JSON in {output}/predictions.json'
    write_tables(book)
    print(f'{written}\nCheckpoint {used}')
    if problems:
        raise InputError(f'{len(problems)} of {done + len(problems)} inputs could not be predicted; the others are '
                         'done:\n  ' + '\n  '.join(problems))


def stem(mask: str) -> str:
    return mask.removesuffix('.gz').removesuffix('.nii').removesuffix('.png')


def beside(experiment: Experiment, mask: str, report: bool) -> list[str]:
    """The files that are asked for beside a mask, relative to the output."""
    unsure = experiment.config.evaluation.uncertainty
    return [f'uncertainty/{mask}'] * unsure + [f'reports/{stem(mask)}.html'] * report


def measured(experiment: Experiment, row: pd.Series, found: inference.Segmented, like: Path) -> list[dict]:
    """The rows of a case in predictions.csv, one a region; of volumes in mm, else in pixels: images tell no size."""
    masks, space = labels.region_masks(found.bits, experiment.region_bits), {'spacing': None}
    if experiment.format.volumetric:
        codes = nibabel.aff2axcodes(read_header(like).affine)
        space = {'spacing': row.spacing, 'axial': next(k for k, code in enumerate(codes) if code in 'SI')}
    names = {'case': row.case, 'patient': row.group, 'time_point': patients.time_point(row.case, row.group)}
    return [names | one for one in patients.measure(masks, experiment.names, probability=found.probability, **space)]


def write_tables(book: ledger.Book) -> None:
    """predictions.csv of all in an output folder; changes.csv where patients have several time points."""
    lines = ledger.numbers(book)
    if not lines:
        return
    table = patients.table(lines)
    write_text(book.folder / 'predictions.csv', table.to_csv(index=False))
    print(f'Volumes, lesions and diameters: {book.folder}/predictions.csv')
    changes = patients.changes(table)
    if len(changes):
        write_text(book.folder / 'changes.csv', changes.to_csv(index=False))
        print(f'{changes.to_string(index=False)}\nChange since the first and since the smallest before: '
              f'{book.folder}/changes.csv')


def draw(experiment: Experiment, row: pd.Series, found: inference.Segmented, content: Content, output: Path, *,
         numbers: list[dict], used: str) -> None:
    """The input, as it was read, with its predicted regions outlined, in overlays/; and where `used` says by what, its
    page in reports/."""
    from unet_jax.report import case_page, overlays, viewer  # matplotlib: 0.3 s that training need not wait for
    space = {} if content.affine is None else {'spacing': tuple(row.spacing),
                                               'orientation': ''.join(nibabel.aff2axcodes(content.affine))}
    masks = labels.region_masks(found.bits, experiment.region_bits)
    figure = overlays.overlay(content.image, None, masks, experiment.names,
                              title=row.path if content.affine is None else row.case, channel=experiment.shown,
                              **space)
    overlays.save(figure, output / 'overlays' / f'{stem(row.mask_file)}.png')
    if used:
        image = content.image if content.image.ndim > 2 else content.image[..., None]
        shown = viewer.Case(row.case, 'prediction', image, experiment.sequences, None, masks, experiment.names, {},
                            uncertainty(found.probability), affine=content.affine,
                            channel=experiment.shown, **space)
        case_page.write(output / 'reports' / f'{stem(row.mask_file)}.html', shown, numbers, f'Checkpoint {used}')
