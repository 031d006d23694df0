"""From restored parameters and samples to masks at the size of each file. Evaluation and prediction both come here,
so that both see the same masks."""
from collections.abc import Iterator

import jax
import numpy as np

from unet_jax.annotations import labels
from unet_jax.experiment import Experiment
from unet_jax.pipeline import decode, stream
from unet_jax.pipeline.cache import Samples
from unet_jax.training import sharding
from unet_jax.training.step import make_predict_step


def probabilities(experiment: Experiment, params, samples: Samples) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `samples`, probabilities (H, W, R) float32 at the network's size) of every sample, in order."""
    mesh = sharding.create_mesh()
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    batch_size = experiment.config.evaluation.batch_size
    sharding.check_batch_size(batch_size, mesh, 'config.evaluation.batch_size')
    step = make_predict_step(experiment.config, experiment.module, experiment.of)
    program = jax.jit(step, in_shardings=(everywhere, split), out_shardings=split)
    for batch in stream.once(samples, batch_size=batch_size):
        found = np.asarray(program(params, sharding.put(batch, mesh)))
        for k in np.flatnonzero(batch['valid']):
            yield int(batch['index'][k]), found[k]


def to_bits(experiment: Experiment, probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Probabilities (H, W, R) at the network's size -> bit sets (height, width) at the file's.

    The probabilities are interpolated, then compared with the threshold: smoother outlines than enlarging a mask.
    """
    masks = decode.extract(probability, height, width) > experiment.config.evaluation.threshold
    return labels.paint(masks, experiment.regions, experiment.classes)


def segment(experiment: Experiment, params, samples: Samples) -> Iterator[tuple[int, np.ndarray]]:
    """(position in `samples`, predicted bit sets at the file's own size) of every sample, in order."""
    for index, probability in probabilities(experiment, params, samples):
        row = samples.rows.iloc[index]
        yield index, to_bits(experiment, probability, row.height, row.width)
