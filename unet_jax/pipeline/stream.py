"""From decoded samples to batches: the batch of a step is a pure function of (samples, seed, step, batch size).

So nothing about the stream is ever saved: a resumed run asks for the batch of its next step, and any number of
processes and threads gives the same global batches (each process its own share of every one).
"""
from collections.abc import Iterator

import grain
import numpy as np
import pandas as pd

from unet_jax.pipeline.cache import Samples

Batch = dict[str, np.ndarray]


def dataset(samples: Samples, *, seed: int, batch_size: int, process: int = 0, processes: int = 1) -> grain.MapDataset:
    """The endless stream of training batches: element `step` is this process's share of that step's batch.

    A batch holds image (b, H, W, C), label (b, H, W), index (b,) position in `samples`, visit (b,) running number in
    the stream, valid (b,) ones; b = batch_size / processes. Every epoch is shuffled anew, before the stride over
    processes, which would otherwise pair neighbouring slices.
    """
    if batch_size % processes:
        raise ValueError(f'batch size {batch_size} does not divide over {processes} processes')

    def sample(visit: int, index: int) -> Batch:
        return {'image': samples.image[index], 'label': samples.label[index], 'index': np.int32(index),
                'visit': np.uint32(visit), 'valid': np.float32(1)}

    order = grain.MapDataset.source(range(len(samples.rows))).seed(seed).shuffle().repeat()
    share = order.map_with_index(sample)[process::processes]
    return share.batch(batch_size // processes, drop_remainder=True)


def batch(samples: Samples, *, seed: int, step: int, batch_size: int) -> Batch:
    """The whole batch of one step."""
    return dataset(samples, seed=seed, batch_size=batch_size)[step]


def iterate(data: grain.MapDataset, *, start: int) -> Iterator[Batch]:
    """The batches of steps start, start + 1, …, read ahead by two threads."""
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)  # grain's default holds 500 batches
    return iter(data[start:].to_iter_dataset(options))


def once(samples: Samples, *, batch_size: int) -> Iterator[Batch]:
    """Every sample once, in order; the last batch is filled up with zeros whose `valid` is 0."""
    for start in range(0, len(samples.rows), batch_size):
        index = np.arange(start, min(start + batch_size, len(samples.rows)), dtype=np.int32)
        arrays = {'image': samples.image[index], 'label': samples.label[index], 'index': index,
                  'visit': index.astype(np.uint32), 'valid': np.ones(len(index), np.float32)}
        missing = batch_size - len(index)
        yield {k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for k, v in arrays.items()}


def thin(rows: pd.DataFrame, *, share: float, seed: int) -> pd.DataFrame:
    """`rows` (of `frame.images`) with only a `share` of those that have no annotation, chosen by `seed`."""
    empty = np.flatnonzero([not annotations for annotations in rows.annotations])
    drop = np.random.default_rng(seed).permutation(empty)[round(len(empty) * share):]
    return rows.drop(rows.index[drop])
