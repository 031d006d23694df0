"""--mode=annotate: the annotation frame of a data set, and what is odd about it."""
import json
import shutil
from pathlib import Path

import pandas as pd
from ml_collections import ConfigDict

from unet_jax import formats, lock
from unet_jax import workdir as files
from unet_jax.annotations import audit, identity, run_lengths, split
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.experiment import data_folder, read_frame
from unet_jax.pipeline import prepared


@lock.writer
def annotate(config: ConfigDict, folder: Path, *, training: bool = False) -> pd.DataFrame:
    """Writes the annotation frame, its split, the identity of its data and its audit into `folder`; prints the audit.

    The audit counts and names what is box-only, broken, missing or unreadable, and goes through whatever the config
    says of it; for `training` the config is followed, and what it does not allow raises InputError. Where a run has
    begun in `folder`, an audit leaves its frame and split as they are, and other data than the run's are refused.
    """
    begun = not training and (folder / 'config.json').exists()
    if begun:
        check_data(config, folder)
    frame = read_frame(config, audit=not training)
    if not begun:
        frames.save(frame if training else with_masks(frame, config), folder)
        split.write_splits(frame, folder / 'splits.json')
        identity.save(folder, frame, data_folder(config))
    found = audit.audit(frame, data_folder(config), categories=tuple(config.data.categories),
                        on_error=config.data.on_error if training else 'skip')
    files.write_text(folder / 'audit.json', json.dumps(found, indent=2) + '\n')
    files.write_text(folder / 'audit.txt', audit.table(found) + '\n')
    print(audit.table(found))
    where = f'not written, as {folder} holds a run' if begun else f'in {folder}/annotations.parquet and .csv'
    print(f'\n{len(frame)} rows {where}; audit in {folder}/audit.json')
    return frame


def with_masks(frame: pd.DataFrame, config: ConfigDict) -> pd.DataFrame:
    """The frame with run-length encoded masks where the reader refers to files, so that its six columns say all.

    Training reads the files themselves: 0.1 s a case of 240×240×155 is worth it for a table that others read.
    """
    form = formats.named(config.data.format)
    rows = prepared.rows(frame) if form.volumetric else frames.images(frame)
    return run_lengths.fill_in(frame, rows, lambda row: form.read_label(data_folder(config), row, None))


def check_data(config: ConfigDict, folder: Path) -> None:
    """Raises InputError unless the data of `config` are those that the run in `folder` was made from.

    Data that the project makes are made again by the run's own config where they were deleted, and stay if they come
    out the same.
    """
    root, run = data_folder(config), files.load_config(folder)
    make = formats.named(run.data.format).make
    again = make and not root.exists() and identity.load(folder) is not None
    if again:
        make(run.data)
    try:
        identity.check_same_data(folder, root)
    except InputError:
        if again:
            shutil.rmtree(root)
        raise
