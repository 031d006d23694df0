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
from unet_jax.inference import members
from unet_jax.inference.postprocess import Limits
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
    limits: Limits = Limits()  # of post-processing


def create(experiment: Experiment, *params: Any) -> Predictor:
    """A predictor over all devices of this process; with several, each segments its own cases."""
    program, mesh = compiled(experiment, jax.local_devices())
    return Predictor(experiment, tuple(jax.device_put(p, sharding.replicated(mesh)) for p in params), program, mesh)


def compiled(experiment: Experiment, devices: list) -> tuple[Callable[[Any, dict], jax.Array], jax.sharding.Mesh]:
    """(`Predictor.program` for `devices`, compiled when first called, their mesh)."""
    mesh = sharding.create_mesh(devices)
    sharding.check_batch_size(experiment.config.evaluation.batch_size, mesh, 'config.evaluation.batch_size')
    module = unet.for_devices(experiment.module, mesh.devices.flat)
    step = make_predict_step(experiment.config, module, experiment.region_bits)
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    return jax.jit(step, in_shardings=(everywhere, split), out_shardings=split), mesh


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
    first = chosen[0].folder
    config = inference_config(first, config)
    if len(config.data.names) != len(config.data.categories) or not config.data.regions:  # of an older version
        config = settle(config, frames.load(first / 'annotations.parquet'))
    experiment = create_experiment(config)
    everywhere, like = sharding.replicated(sharding.create_mesh()), init_params(experiment)
    for folder in members.runs(chosen):
        check_alike(config, folder)
    restored = [checkpoint.restore_params(m.folder / 'checkpoints', m.step, like, everywhere) for m in chosen]
    return create(experiment, *(jax.tree.map(lambda x: x.addressable_data(0), params) for params in restored))


def check_alike(config: ConfigDict, folder: Path) -> None:
    """Raises InputError unless the run in `folder` has the network, input and regions of `config`."""
    changed = differences(load_run(folder), config)
    unlike = {k: v for k, v in changed.items() if k.startswith(ALIKE) and not k.startswith(FREE)}
    if unlike:
        raise InputError(f'{folder} holds another network: ' + '; '.join(
            f'{field} is {there!r} there, {here!r} here' for field, (there, here) in unlike.items()))


def probabilities(predictor: Predictor, samples: Samples) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `samples`, probabilities (H, W, R) float32 at the network's size) of every sample, in order."""
    for batch in stream.once(samples, batch_size=predictor.experiment.config.evaluation.batch_size):
        placed = sharding.put(batch, predictor.mesh)
        found = sum(np.asarray(predictor.program(params, placed)) for params in predictor.params)
        for k in np.flatnonzero(batch['valid']):
            yield int(batch['index'][k]), found[k] / np.float32(len(predictor.params))


def enlarged(predictor: Predictor, samples: Samples) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `samples`, probabilities (H, W, R) at the file's own size) of every sample, in order.

    They are interpolated before they are compared with the threshold: smoother outlines than enlarging a mask.
    """
    for index, probability in probabilities(predictor, samples):
        row = samples.rows.iloc[index]
        yield index, decode.extract(probability, row.height, row.width)


def to_bits(experiment: Experiment, probability: np.ndarray) -> np.ndarray:
    """Probabilities (…, R) -> bit sets (…)."""
    return labels.from_probabilities(probability, threshold=experiment.config.evaluation.threshold,
                                     regions=experiment.regions, classes=experiment.classes)


def segment(predictor: Predictor, samples: Samples) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `samples`, predicted bit sets at the file's own size) of every sample, in order."""
    for index, probability in enlarged(predictor, samples):
        yield index, to_bits(predictor.experiment, probability)


def uncertainty(probability):
    """Probabilities -> uint8 from 0 (0 or 1: sure) to 100 (1/2): twice the smaller of p and 1 - p, in per cent."""
    return (100.5 - 100 * abs(2 * probability - 1)).astype('uint8')
