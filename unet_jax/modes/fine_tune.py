"""Training that starts from the parameters of a model file or another run: config.train.init_from.

    W/started_from.safetensors   the parameters of the first step, so that the source is not needed again
    W/started_from.csv           what became of each parameter
    W/started_from.json          what the source was, and what it had been trained on
"""
import json
import logging
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from ml_collections import ConfigDict
from safetensors import numpy as safetensors

from unet_jax.errors import InputError
from unet_jax.experiment import Experiment, create, init_params
from unet_jax.inference import members, model_card, model_file, transfer
from unet_jax.inference import predictor as inference
from unet_jax.text_file import write_bytes, write_text
from unet_jax.training import checkpoint, processes, sharding
from unet_jax.workdir import load_config, load_run

log = logging.getLogger('unet_jax')


def read_source(place: Path) -> transfer.Source:
    """The best checkpoint of a work directory, or that of a model file. By all processes together."""
    member, = members.choose([place], 'best')
    config = inference.settled_config(load_run(place), place)
    everywhere = sharding.replicated(sharding.create_mesh())
    params = inference.load_params(member, jax.eval_shape(lambda: init_params(create(config))), everywhere)
    return transfer.Source(model_file.flatten(params), transfer.sequences(config), transfer.outputs(config))


def note_seal(config: ConfigDict, folder: Path, *, resumed: bool) -> ConfigDict:
    """`config` with config.train.init_seal, the digest of the parameters that config.train.init_from holds.

    A run that goes on has it already. Raises InputError for a source that cannot be read, and for one that does not
    hold the parameters of a seal that was given.
    """
    given = config.train
    if not given.init_from:
        return config
    known = load_config(folder).train if resumed else None
    if known and known.init_from == given.init_from:
        seal = known.init_seal
    else:
        seal = model_file.params_digest(read_source(Path(given.init_from)).params)
        if given.init_seal not in ('', seal):
            raise InputError(f'config.train.init_from = {given.init_from}: holds the parameters {seal}, not those of '
                             f'config.train.init_seal = {given.init_seal}; leave that empty to take them')
    noted = config.copy_and_resolve_references()
    noted.train.init_seal = seal
    return noted.lock()


def first_params(experiment: Experiment, folder: Path, frame: pd.DataFrame) -> Any:
    """The parameters that training in `folder` starts from; None where it starts from random ones or goes on from a
    checkpoint. By all processes together.

    Raises InputError where the source no longer holds what config.train.init_seal says, or fits too little.
    """
    chosen, path = experiment.config.train, folder / 'started_from.safetensors'
    there = path.exists()
    processes.wait_for_all('start')
    if not chosen.init_from or checkpoint.steps(folder / 'checkpoints'):
        return None
    fresh = init_params(experiment)
    if there:
        return model_file.fill(fresh, safetensors.load(path.read_bytes()), path)
    source = read_source(Path(chosen.init_from))
    if model_file.params_digest(source.params) != chosen.init_seal:
        raise InputError(f'config.train.init_from = {chosen.init_from}: was changed since the run in {folder} began; '
                         'put it back, or start anew in another --workdir')
    found, table = transfer.adapt(source, experiment, fresh)
    if not jax.process_index():
        write(experiment.config, folder, found, table, frame)
    processes.wait_for_all('started from')
    return model_file.fill(fresh, found, path)


def write(config: ConfigDict, folder: Path, found: dict, table: pd.DataFrame, frame: pd.DataFrame) -> None:
    """The three files, the parameters last; prints the table, and says which cases to score the source knows."""
    place = Path(config.train.init_from)
    used = members.used_by(place)
    met = members.common(used, frame[frame.subset.isin(('test', config.train.validate))])
    if met:
        log.warning('%s was trained on or chosen by %d of the cases that this run will be scored on, such as %s: its '
                    'scores there say nothing of other cases', place, len(met), ', '.join(met[:3]))
    print(f'Started from {place}, parameters {config.train.init_seal}\n{transfer.text(table)}')
    write_text(folder / 'started_from.csv', table.to_csv(index=False))
    told = {'source': place.name, 'seal': config.train.init_seal, 'used': model_card.used_names(place)}
    write_text(folder / members.STARTED, json.dumps(told) + '\n')
    write_bytes(folder / 'started_from.safetensors', safetensors.save(found))
