"""The four modes of the command line: annotate, train, evaluate, predict."""
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import workdir as files
from unet_jax.annotations import audit, labels
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.evaluation import cases, table
from unet_jax.experiment import Experiment, create, init_params, read_frame, settle
from unet_jax.inference import export, inputs
from unet_jax.inference import predict as inference
from unet_jax.pipeline import cache, decode, stream
from unet_jax.progress import bar
from unet_jax.report import html, overlays
from unet_jax.training import checkpoint, loop, sharding

log = logging.getLogger('unet_jax')
SAFE = ('train.steps', 'train.log_every', 'train.keep', 'data.cache', 'data.root', 'evaluation.')


def start(config: ConfigDict, folder: Path) -> None:
    """Settings of the process: compiled programs are kept in the user's cache folder; phantoms lie in `folder`."""
    log.setLevel(logging.INFO)
    jax.config.update('jax_compilation_cache_dir', str(cache.default_folder() / 'compiled'))
    if config.data.format == 'phantom' and not config.data.root:
        config.data.root = str(folder / 'phantoms')


def annotate(config: ConfigDict, folder: Path) -> pd.DataFrame:
    """Writes the annotation frame and its audit into `folder`; prints the audit."""
    frame = read_frame(config)
    folder.mkdir(parents=True, exist_ok=True)
    frames.save(frame, folder)
    found = audit.audit(frame, Path(config.data.root), categories=tuple(config.data.categories))
    files.write_text(folder / 'audit.json', json.dumps(found, indent=2) + '\n')
    files.write_text(folder / 'audit.txt', audit.table(found) + '\n')
    print(audit.table(found))
    print(f'\n{len(frame)} rows in {folder}/annotations.parquet and .csv, audit in {folder}/audit.json')
    return frame


def train(config: ConfigDict, folder: Path) -> None:
    """Trains, or goes on, and evaluates the best checkpoint on the test subset."""
    known = folder / 'annotations.parquet'
    resumed = (folder / 'config.json').exists()
    frame = frames.load(known) if resumed and known.exists() else annotate(config, folder)
    config = settle(config, frame)
    if resumed:
        check_config(files.load_config(folder), config, folder)
    experiment = create(config)
    files.save_config(folder, config)
    files.write_text(folder / 'environment.json', json.dumps(files.environment(), indent=2) + '\n')
    images = frames.images(frame)
    rows = {name: images[images.subset == name].reset_index(drop=True) for name in ('train', 'valid')}
    rows['train'] = stream.thin(rows['train'], share=config.data.empty_slices, seed=config.seed).reset_index(drop=True)
    for name, part in rows.items():
        if part.empty:
            raise InputError(f'{config.data.root}: no image in the subset {name!r}, which training needs; '
                             f'there are {images.subset.value_counts().to_dict()}')
    samples = {name: cache.open_samples(part, experiment.settings, config.data.cache) for name, part in rows.items()}
    if not loop.train(experiment, samples, folder):
        print(f'Interrupted and saved. To go on: python main.py --mode=train --workdir={folder}')
        return
    evaluate(config, folder, subset='test' if (images.subset == 'test').any() else 'valid', which='best')


def check_config(old: ConfigDict, new: ConfigDict, folder: Path) -> None:
    """Raises InputError where a run would go on with another config, but for fields that change no step."""
    changed = {k: v for k, v in files.differences(old, new).items() if not k.startswith(SAFE)}
    if changed:
        lines = '\n'.join(f'  {field}: {was!r} there, {now!r} here' for field, (was, now) in changed.items())
        raise InputError(f'{folder} holds a run with another config:\n{lines}\nName another --workdir, or leave out '
                         '--config to go on with the saved one')


def restore(config: ConfigDict, folder: Path, which: str) -> tuple[Experiment, object, int]:
    """The experiment, the averaged parameters and the step of a checkpoint."""
    experiment = create(config)
    step = checkpoint.choose(folder / 'checkpoints', which)
    everywhere = sharding.replicated(sharding.create_mesh())
    params = checkpoint.restore_params(folder / 'checkpoints', step, init_params(experiment), everywhere)
    return experiment, params, step


def evaluate(config: ConfigDict, folder: Path, *, subset: str, which: str) -> dict:
    """Scores a checkpoint on a subset: table, masks, pictures and the report. Returns the summary."""
    experiment, params, step = restore(config, folder, which)
    images = frames.images(frames.load(folder / 'annotations.parquet'))
    rows = cases.by_case(images[images.subset == subset].reset_index(drop=True))
    if rows.empty:
        raise InputError(f'--subset={subset}: no such images; there are {images.subset.value_counts().to_dict()}')
    samples = cache.open_samples(rows, experiment.settings, config.data.cache)
    masks = folder / 'predictions' / subset

    def pairs() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        found = inference.segment(experiment, params, samples)
        for index, bits in bar(found, total=len(rows), desc=f'evaluating {subset}', unit='image'):
            row = rows.iloc[index]
            export.write_mask(export.mask_path(masks, row.path), bits, experiment.classes)
            yield index, bits, decode.decode_label(row, experiment.settings)

    scores = pd.DataFrame([line for case in cases.stack(rows, pairs()) for line in cases.score(experiment, case)])
    units = 'mm' if rows.slice.notna().any() else 'px'
    summary = table.summarise(scores, convention=config.evaluation.convention, units=units, seed=config.seed,
                              tolerance=config.evaluation.tolerance)
    summary = {**summary, 'subset': subset, 'checkpoint': step}
    table.write(folder / 'evaluation' / subset, scores, summary)
    chosen = html.choose_examples(scores, config.evaluation.pictures)
    examples = [example(experiment, params, samples, scores, case, kind) for case, kind in chosen]
    report = html.write(folder, subset, examples)
    print(table.text(summary))
    print(f'\nCheckpoint {step} on {subset}: {folder}/evaluation/{subset}/cases.csv and summary.json\n'
          f'Masks: {masks}\nReport: {report}')
    return summary


def example(experiment: Experiment, params, samples: cache.Samples, scores: pd.DataFrame, case: str,
            kind: str) -> html.Example:
    """What the report shows of a case: its image at the file's own size, reference and prediction."""
    index = np.flatnonzero(samples.rows.case == case)
    part = cache.Samples(samples.image[index], samples.label[index], samples.rows.iloc[index])
    found = [bits for _, bits in inference.segment(experiment, params, part)]
    true = [decode.decode_label(row, experiment.settings) for row in part.rows.itertuples()]
    root = Path(experiment.settings.root)
    image = [decode.read(root / path, experiment.settings.channels)[0] for path in part.rows.path]
    volume = part.rows.slice.notna().any()
    picture, reference, prediction = (np.stack(a, 2) if volume else a[0] for a in (image, true, found))
    dice = scores[scores.case == case].set_index('region').dice.to_dict()
    return html.Example(case, kind, dice, picture, labels.region_masks(reference, experiment.of),
                        labels.region_masks(prediction, experiment.of), experiment.names,
                        (1.0, 1.0, 1.0) if volume else None)


def predict(config: ConfigDict, folder: Path, *, source: str | None, output: str | None, which: str) -> None:
    """Segments image files or HDF5 slices: a PNG of category ids and an overlay each, and predictions.json."""
    experiment, params, _ = restore(config, folder, which)
    root, rows = inputs.find(source, experiment.settings.channels)
    output = Path(output) if output else folder / 'predictions'
    experiment = experiment._replace(settings=experiment.settings._replace(root=str(root)))
    names = {c: region.name for region in experiment.regions for c in region.classes if len(region.classes) == 1}
    writer = export.CocoWriter({c: names.get(c, str(c)) for c in experiment.classes})
    size = config.evaluation.batch_size
    for start in bar(range(0, len(rows), size), desc='predicting', unit='batch'):
        part = rows.iloc[start:start + size].reset_index(drop=True)
        arrays = [decode.decode(row, experiment.settings) for row in part.itertuples()]
        samples = cache.Samples(*(np.stack(a) for a in zip(*arrays, strict=True)), part)
        for index, bits in inference.segment(experiment, params, samples):
            row = part.iloc[index]
            export.write_mask(export.mask_path(output, row.path), bits, experiment.classes)
            writer.add(row, bits)
            image, _ = decode.read(root / row.path, experiment.settings.channels)
            figure = overlays.overlay(image, None, labels.region_masks(bits, experiment.of), experiment.names,
                                      title=row.path)
            overlays.save(figure, export.mask_path(output / 'overlays', row.path))
    writer.write(output / 'predictions.json')
    print(f'{len(rows)} masks in {output}, overlays in {output}/overlays, COCO JSON in {output}/predictions.json')
