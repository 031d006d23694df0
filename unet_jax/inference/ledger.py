"""What a folder of predictions holds already, so that a second call goes on where the first one stopped."""
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from unet_jax.experiment import Experiment
from unet_jax.formats import Format, mask_file
from unet_jax.inference.predictor import Predictor
from unet_jax.workdir import append_line, read_lines, write_text

NAME = 'predicted.jsonl'


class Book(NamedTuple):
    """The lines of predicted.jsonl in an output folder, all of one network with one set of settings."""
    folder: Path
    lines: dict[str, dict]  # by the name of the mask


def network(predictor: Predictor) -> str:
    """32 hex digits that name the parameters and all settings that masks depend on."""
    config, found = predictor.experiment.config, hashlib.sha256()
    for leaf in jax.tree.leaves(predictor.params):
        found.update(np.ascontiguousarray(leaf))
    settings = [config.evaluation[name] for name in ('threshold', 'flips', 'overlap')]
    settings += [config.augment.flip, config.data.to_dict() | {'root': '', 'cache': ''}, config.model.to_dict()]
    found.update(repr((settings, predictor.limits, predictor.temperatures)).encode())
    return found.hexdigest()[:32]


def open_book(folder: Path, predictor: Predictor) -> Book:
    """The book of `folder`; a new one where there is none, or one of another network or settings."""
    path, name = folder / NAME, network(predictor)
    lines = read_lines(path)
    if not lines or lines[0].get('network') != name:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({'network': name}) + '\n')
        lines = []
    return Book(folder, {line['mask']: line for line in lines[1:]})


def stamps(row: pd.Series, form: Format) -> list[list[int]]:
    """Size and modification time (ns) of each file of an input."""
    found = [os.stat(Path(row.root) / path) for path in form.files(row)]
    return [[stat.st_size, stat.st_mtime_ns] for stat in found]


def is_done(book: Book, row: pd.Series, form: Format, beside: Iterable[str] = ()) -> bool:
    """Whether the mask of this very input is there, with its numbers and the files `beside` it."""
    line = book.lines.get(row.mask_file)
    return bool(line) and all((book.folder / name).exists() for name in (row.mask_file, *beside)) \
        and line['root'] == row.root and line['stamps'] == stamps(row, form) and 'numbers' in line


def note(book: Book, row: pd.Series, bits: np.ndarray, experiment: Experiment, numbers: list[dict]) -> None:
    """An input whose mask has been written, with its row of `numbers` for each region; of an image also what
    predictions.json says of it."""
    line = {'mask': row.mask_file, 'root': row.root, 'stamps': stamps(row, experiment.format), 'shape': bits.shape,
            'numbers': [{key: None if value != value else value for key, value in one.items()} for one in numbers]}
    if bits.ndim == 2:
        line['annotations'] = mask_file.annotations(bits, experiment.classes)
    append_line(book.folder / NAME, line)
    book.lines[row.mask_file] = line


def numbers(book: Book) -> list[dict]:
    """The rows of all inputs, of earlier calls too, whose masks are there."""
    return [row for name, line in sorted(book.lines.items()) if (book.folder / name).exists()
            for row in line.get('numbers', ())]


def images(book: Book, rows: pd.DataFrame) -> Iterator[mask_file.Drawn]:
    """The predicted images of `rows`, for predictions.json."""
    for row in rows.itertuples():
        line = book.lines.get(row.mask_file)
        if line:
            yield mask_file.Drawn(row.path, *line['shape'], line['annotations'])
