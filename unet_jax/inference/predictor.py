"""From restored parameters and samples to masks at the size of each file. Evaluation and prediction both come here,
so that both see the same masks."""
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment, init_params, settle
from unet_jax.experiment import create as create_experiment
from unet_jax.inference import engines, members, model_file, postprocess
from unet_jax.inference.temperature import calibrated, uncalibrated
from unet_jax.model import unet
from unet_jax.pipeline import decode, stream
from unet_jax.pipeline.cache import Samples
from unet_jax.training import checkpoint, sharding
from unet_jax.training.step import make_predict_step
from unet_jax.workdir import ALIKE, FREE, differences, inference_config, load_run


class Predictor(NamedTuple):
    """A network with the parameters of one or more checkpoints, whose probabilities are averaged."""
    experiment: Experiment
    params: tuple[Any, ...]
    program: Callable[[Any, dict], jax.Array]  # (params, batch) -> probabilities (B, *S, R), compiled at first
    mesh: jax.sharding.Mesh  # the devices of this process
    temperatures: tuple[float, ...] = ()  # of the regions; () leaves the probabilities as they are
    limits: postprocess.Limits = {}
    settle: Callable[['Predictor', dict], 'Predictor'] | None = None  # see `settled`


class Segmented(NamedTuple):
    """What was found in a file, at its own size."""
    bits: np.ndarray  # (…) bit sets, post-processed
    probability: np.ndarray  # (…, R) float32 of the regions, calibrated where the run is; 0 where it did not look


def create(experiment: Experiment, *params: Any) -> Predictor:
    """A predictor over all devices of this process; with several, each segments its own cases."""
    program, mesh = compiled(experiment, jax.local_devices())
    return Predictor(experiment, tuple(jax.device_put(p, sharding.replicated(mesh)) for p in params), program, mesh,
                     settle=engines.chooser(experiment.config.evaluation.engine, list(mesh.devices.flat)))


def compiled(experiment: Experiment, devices: list) -> tuple[Callable[[Any, dict], jax.Array], jax.sharding.Mesh]:
    """(`Predictor.program` for `devices`, compiled when first called, their mesh)."""
    mesh = sharding.create_mesh(devices)
    sharding.check_batch_size(experiment.config.evaluation.batch_size, mesh, 'config.evaluation.batch_size')
    module = unet.for_devices(experiment.module, mesh.devices.flat)
    step = make_predict_step(experiment.config, module, experiment.region_bits)
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    return jax.jit(step, in_shardings=(everywhere, split), out_shardings=split), mesh


def settled(predictor: Predictor, batch: dict) -> Predictor:
    """`predictor` with the engine that config.evaluation.engine asks for, which is compared with jax on the first
    `batch` (`engines.chooser`); it may then have one program for all its parameters."""
    return predictor.settle(predictor, batch) if predictor.settle else predictor


def restore(config: ConfigDict, folders: Sequence[Path], which: str) -> tuple[Predictor, int | str]:
    """The network with the averaged parameters of the checkpoints `which`, such as 'best' or 'best,latest,400', in
    each of `folders`; and what they are: the step, or, of several, their names. See `restore_members`."""
    chosen = members.choose(folders, which)
    return restore_members(config, chosen), members.told(chosen)


def restore_members(config: ConfigDict, chosen: Sequence[members.Member]) -> Predictor:
    """The network with the parameters of the `chosen` checkpoints, whose probabilities are averaged.

    Called by every process together. The config is that of the first folder, with what `config` may say of inference
    (`inference_config`). Raises InputError where a folder's network or input is another.
    """
    config = settled_config(config, chosen[0].folder)
    experiment = create_experiment(config)
    everywhere, like = sharding.replicated(sharding.create_mesh()), init_params(experiment)
    for folder in members.runs(chosen):
        check_alike(config, folder)
    return create(experiment, *(load_params(member, like, everywhere) for member in chosen))


def load_params(member: members.Member, like: Any, where: jax.sharding.Sharding) -> Any:
    """The parameters of a checkpoint as the tree `like`, from its work directory, by all processes, or model file."""
    if model_file.is_model(member.folder):
        return model_file.fill(like, model_file.read_params(member.folder), member.folder)
    restored = checkpoint.restore_params(member.folder / 'checkpoints', member.step, like, where)
    return jax.tree.map(lambda x: x.addressable_data(0), restored)


def settled_config(config: ConfigDict, folder: Path) -> ConfigDict:
    """`inference_config` of a run, or of a model file, with all that an older version left to the data."""
    config = inference_config(folder, config)
    if len(config.data.names) != len(config.data.categories) or not config.data.regions:
        config = settle(config, frames.load(folder / 'annotations.parquet'))
    return config


def check_alike(config: ConfigDict, folder: Path) -> None:
    """Raises InputError unless the run in `folder` has the network, input and regions of `config`."""
    changed = differences(load_run(folder), config)
    unlike = {k: v for k, v in changed.items() if k.startswith(ALIKE) and not k.startswith(FREE)}
    if unlike:
        raise InputError(f'{folder} holds another network: ' + '; '.join(
            f'{field} is {there!r} there, {here!r} here' for field, (there, here) in unlike.items()))


def probabilities(predictor: Predictor, samples: Samples, keep: Sequence[bool] = ()
                  ) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `samples`, probabilities (H, W, R) float32 at the network's size) of every sample, in order.

    `keep` says which sequences to look at; all if (). The others become 0 as missing ones are, in neighbours too.
    """
    for batch in stream.once(samples, batch_size=predictor.experiment.config.evaluation.batch_size):
        if keep:
            kept = np.tile(np.asarray(keep), batch['image'].shape[-1] // len(keep))
            batch['image'] = batch['image'] * kept.astype(batch['image'].dtype)
        placed = sharding.put(batch, predictor.mesh)
        predictor = settled(predictor, placed)
        found = sum(np.asarray(predictor.program(params, placed)) for params in predictor.params)
        for k in np.flatnonzero(batch['valid']):
            yield int(batch['index'][k]), found[k] / np.float32(len(predictor.params))


def enlarged(predictor: Predictor, samples: Samples, keep: Sequence[bool] = ()) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `samples`, probabilities (H, W, R) at the file's own size) of every sample, in order.

    They are interpolated before they are compared with the threshold: smoother outlines than enlarging a mask.
    """
    for index, probability in probabilities(predictor, samples, keep):
        row = samples.rows.iloc[index]
        yield index, decode.extract(probability, height=row.height, width=row.width)


def to_bits(predictor: Predictor, probability: np.ndarray, *, voxel: float) -> np.ndarray:
    """The network's own probabilities (…, R) at the file's size -> bit sets (…), post-processed where limits are.

    voxel: mm³ of a voxel, 1 of a pixel. A threshold is that of the calibrated probabilities.
    """
    experiment = predictor.experiment
    at = np.full(len(experiment.regions), experiment.config.evaluation.threshold)
    if predictor.temperatures:
        at = uncalibrated(at, predictor.temperatures)
    kinds = {'regions': experiment.regions, 'classes': experiment.classes}
    bits = labels.from_probabilities(probability, threshold=at.astype(np.float32), **kinds)
    if not predictor.limits:
        return bits
    masks = postprocess.apply(labels.region_masks(bits, experiment.region_bits),
                              calibrated(probability, predictor.temperatures), predictor.limits,
                              region_bits=experiment.region_bits, voxel=voxel)
    return labels.paint(masks, **kinds)


def tell(predictor: Predictor, probability: np.ndarray, *, voxel: float) -> Segmented:
    """What follows from the network's own probabilities; see `to_bits`."""
    return Segmented(to_bits(predictor, probability, voxel=voxel), calibrated(probability, predictor.temperatures))
