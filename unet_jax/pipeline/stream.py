"""From decoded samples to batches: the batch of a step is a pure function of (samples, seed, step, batch size).

So nothing about the stream is ever saved: a resumed run asks for the batch of its next step, and any number of
processes and threads gives the same global batches (each process its own share of every one).
"""
import sys
from collections.abc import Callable, Iterator

import grain
import numpy as np
import pandas as pd

from unet_jax.pipeline import threads as reading
from unet_jax.pipeline.cache import Samples

Batch = dict[str, np.ndarray]


def order(samples: int, *, seed: int) -> grain.MapDataset:
    """Which of so many samples each visit sees: element `visit` of an endless stream, every epoch shuffled anew."""
    return grain.MapDataset.source(range(samples)).seed(seed).shuffle().repeat()


def members(samples: int, *, seed: int, step: int, batch_size: int) -> list[tuple[int, int]]:
    """(visit, index) of every sample in the whole batch of a step, whatever the number of processes."""
    visits = range(step * batch_size, (step + 1) * batch_size)
    return list(zip(visits, map(int, map(order(samples, seed=seed).__getitem__, visits)), strict=True))


def dataset(samples: Samples, *, seed: int, batch_size: int, process: int = 0, processes: int = 1,
            arrays: bool = True) -> grain.MapDataset:
    """The endless stream of training batches: element `step` is this process's share of that step's batch.

    A batch holds image (b, H, W, C), label (b, H, W), index (b,) position in `samples`, visit (b,) running number in
    the stream, valid (b,) ones, of volumes spacing (b, 3), mm of a voxel, and of slices that are standardised by
    patient scale (b, 2, C); b = batch_size / processes. Every epoch
    is shuffled anew, before the stride over processes, which would otherwise pair neighbouring slices. Without
    `arrays` there are no images and labels, for a step that has them at hand.
    """
    if batch_size % processes:
        raise ValueError(f'batch size {batch_size} does not divide over {processes} processes')

    names = ('image', 'label', 'scale' if isinstance(samples, Samples) else 'spacing')

    def sample(visit: int, index: int) -> Batch:
        found = samples.sample(index, seed=seed, visit=visit) if arrays else ()
        found = dict(zip(names[:len(found)], found, strict=True))
        return {**found, 'index': np.int32(index), 'visit': np.uint32(visit), 'valid': np.float32(1)}

    share = order(len(samples.rows), seed=seed).map_with_index(sample)[process::processes]
    return share.batch(batch_size // processes, drop_remainder=True)


def batch(samples: Samples, *, seed: int, step: int, batch_size: int) -> Batch:
    """The whole batch of one step."""
    return dataset(samples, seed=seed, batch_size=batch_size)[step]


def iterate(data: grain.MapDataset, *, start: int, threads: int = 2, ahead: int = 4, timeout: float = reading.PATIENCE,
            stop: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
    """The batches of steps start, start + 1, …; each thread reads up to `ahead` of them before they are asked for.

    Ends where one has to be waited for and `stop()`. Raises what reading raises, and InputError where a batch is not
    there `timeout` seconds after it was asked for.
    """
    return reading.in_order(data.__getitem__, range(start, sys.maxsize), threads=threads, ahead=ahead, timeout=timeout,
                    stop=stop, name=lambda step: f'config.train.input_timeout: the batch of step {step + 1}')


def once(samples: Samples, *, batch_size: int, process: int = 0, processes: int = 1, timeout: float = reading.PATIENCE
         ) -> Iterator[Batch]:
    """Every sample once, in order; the last batch is filled up with zeros whose `valid` is 0.

    Of several processes each gets its own consecutive piece of every batch, and reads no other sample. A thread reads
    ahead by two batches; raises InputError where one is not there `timeout` seconds after it was asked for.
    """
    if batch_size % processes:
        raise ValueError(f'batch size {batch_size} does not divide over {processes} processes')
    share, total = batch_size // processes, len(samples.rows)

    def read(number: int) -> Batch:
        start = number * batch_size + process * share
        index = np.arange(start, max(start, min(start + share, total)), dtype=np.int32)
        image, label = samples.take(index)
        arrays = {'image': image, 'label': label, 'index': index, 'visit': index.astype(np.uint32),
                  'valid': np.ones(len(index), np.float32)}
        if getattr(samples, 'scale', None) is not None:
            arrays['scale'] = samples.scale[index]
        missing = share - len(index)
        return {k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for k, v in arrays.items()}

    return reading.in_order(read, range(-(-total // batch_size)), threads=1, ahead=2, timeout=timeout,
                            name=lambda number: f'batch {number + 1} of those that are looked at once')


def thin(rows: pd.DataFrame, *, share: float, seed: int) -> pd.DataFrame:
    """`rows` (of `frame.images`) with only a `share` of those that have no annotation, chosen by `seed`."""
    empty = np.flatnonzero([not annotations for annotations in rows.annotations])
    drop = np.random.default_rng(seed).permutation(empty)[round(len(empty) * share):]
    return rows.drop(rows.index[drop])
