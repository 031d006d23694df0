"""--mode=annotate: the annotation frame of a data set, and what is odd about it."""
import json
from pathlib import Path

import pandas as pd
from ml_collections import ConfigDict

from unet_jax import workdir as files
from unet_jax.annotations import audit, split
from unet_jax.annotations import frame as frames
from unet_jax.experiment import read_frame


def annotate(config: ConfigDict, folder: Path, *, missing: str = 'skip') -> pd.DataFrame:
    """Writes the annotation frame, its split and its audit into `folder`; prints the audit.

    Images that are annotated but not there are counted in the audit; with missing = 'error' they raise InputError.
    """
    frame = read_frame(config, missing=missing)
    folder.mkdir(parents=True, exist_ok=True)
    frames.save(frame, folder)
    split.write_splits(frame, folder / 'splits.json')
    found = audit.audit(frame, Path(config.data.root), categories=tuple(config.data.categories),
                        on_error=config.data.on_error)
    files.write_text(folder / 'audit.json', json.dumps(found, indent=2) + '\n')
    files.write_text(folder / 'audit.txt', audit.table(found) + '\n')
    print(audit.table(found))
    print(f'\n{len(frame)} rows in {folder}/annotations.parquet and .csv, audit in {folder}/audit.json')
    return frame
