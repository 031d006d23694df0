"""--mode=export: a checkpoint, with all that prediction needs, as one file."""
from pathlib import Path

import jax
from ml_collections import ConfigDict

from unet_jax.errors import InputError
from unet_jax.experiment import create, init_params
from unet_jax.inference import members, model_card, model_file
from unet_jax.inference import predictor as inference
from unet_jax.modes import portable
from unet_jax.shipped import PROGRAM
from unet_jax.training import processes, sharding

PATHS = ('root', 'cache', 'split_file')  # of config.data: places on the machine where the run was trained


def export(config: ConfigDict, folder: Path, *, output: str | None, which: str) -> Path:
    """Writes the checkpoint `which` of the work directory `folder` as the model file `output`, by default
    `folder`/model.zip, and returns its path. Needs no data; where they are there, the
    ONNX model in it is compared on them (`portable.files`).

    Called by every process together. What `config` says of evaluation goes along. Raises InputError for a folder that
    holds no such checkpoint, for several checkpoints, and where the ONNX model does not agree.
    """
    path = Path(output) if output else folder / 'model.zip'
    if model_file.is_model(folder):
        raise InputError(f'--workdir={folder}: is a model file already; name a work directory')
    if path.is_dir():
        raise InputError(f'--output={path}: is a folder; name the file to write, such as {path}/model.zip')
    if ',' in which:
        raise InputError(f'--checkpoint={which}: a model file holds one checkpoint; export each to a file of its own '
                         'and average them with --ensemble')
    member, = members.choose([folder], which)
    model, told = read(config, member)
    if not jax.process_index():
        path.parent.mkdir(parents=True, exist_ok=True)
        model_file.write(path, model)
        print(f'{path}: checkpoint {member.step} of {folder}, {path.stat().st_size / 1e6:.1f} MB, parameters '
              f'{model.card["parameters"]["digest"]}. To use it: {PROGRAM} --workdir={path} --mode=predict '
              f'--output=DIR FILE …. Without jax: {told}')
    processes.wait_for_all('export')
    return path


def read(config: ConfigDict, member: members.Member) -> tuple[model_file.Model, str]:
    """(what the model file of a checkpoint holds, a sentence about what of it runs without jax)."""
    settled, used = inference.settled_config(config, member.folder), model_card.used_names(member.folder)
    everywhere, experiment = sharding.replicated(sharding.create_mesh()), create(settled)
    tree = inference.load_params(member, init_params(experiment), everywhere)
    params = model_file.flatten(tree)
    limits, temperatures = (model_card.of_checkpoint(member, name)
                            for name in ('postprocess.json', 'calibration.json'))
    beside, told = portable.files(experiment, params, tree, member.folder, limits)
    values = settled.to_dict()
    values['data'] |= dict.fromkeys(PATHS, '')
    values['train'] |= {'init_from': ''}  # its seal stays
    card = model_card.describe(settled, member, params)
    return model_file.Model(values, member.step, params, limits, used, card, model_card.page(card), temperatures,
                            beside), told
