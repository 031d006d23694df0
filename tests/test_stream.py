"""The batch of a step is a pure function of samples, seed, step and batch size."""
import threading

import numpy as np
import pandas as pd
import pytest

from unet_jax.errors import InputError
from unet_jax.pipeline import stream
from unet_jax.pipeline.cache import Samples


@pytest.fixture
def samples() -> Samples:
    """Ten samples whose pixels are their own position."""
    image = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 4, 4, 1))
    rows = pd.DataFrame({'annotations': [((1, None),) if k % 2 else () for k in range(10)]})
    return Samples(image, image[..., 0], rows)


def test_a_batch_has_the_documented_shapes_and_types(samples):
    batch = stream.batch(samples, seed=0, step=0, batch_size=4)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        'image': ((4, 4, 4, 1), 'uint8'), 'label': ((4, 4, 4), 'uint8'), 'index': ((4,), 'int32'),
        'visit': ((4,), 'uint32'), 'valid': ((4,), 'float32')}


def test_index_names_the_sample_and_visit_counts_the_stream(samples):
    for step in range(5):
        batch = stream.batch(samples, seed=3, step=step, batch_size=4)
        assert np.array_equal(batch['image'][:, 0, 0, 0], batch['index'])
        assert batch['visit'].tolist() == list(range(4 * step, 4 * step + 4))


def test_every_sample_comes_once_an_epoch_in_a_new_order(samples):
    order = np.concatenate([stream.batch(samples, seed=1, step=s, batch_size=5)['index'] for s in range(4)])
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert not np.array_equal(order[:10], order[10:])


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_the_processes_together_see_the_global_batch(samples, processes):
    whole = stream.batch(samples, seed=5, step=7, batch_size=8)
    shares = [stream.dataset(samples, seed=5, batch_size=8, process=p, processes=processes)[7]
              for p in range(processes)]
    visits = np.concatenate([share['visit'] for share in shares])
    order = np.argsort(visits)
    assert np.array_equal(np.concatenate([share['index'] for share in shares])[order], whole['index'])
    assert np.array_equal(visits[order], whole['visit'])


def test_starting_late_gives_the_same_batches_as_reading_through(samples):
    data = stream.dataset(samples, seed=2, batch_size=3)
    through, late = stream.iterate(data, start=0), stream.iterate(data, start=6)
    skipped = [next(through) for _ in range(8)]
    for expected in skipped[6:]:
        found = next(late)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_once_gives_every_sample_and_pads_the_last_batch(samples):
    batches = list(stream.once(samples, batch_size=4))
    assert [b['valid'].tolist() for b in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    seen = np.concatenate([b['index'][b['valid'] > 0] for b in batches])
    assert seen.tolist() == list(range(10))


@pytest.mark.parametrize('processes', [2, 4])
def test_the_processes_together_look_once_at_every_sample_in_pieces_of_each_batch(samples, processes):
    whole = list(stream.once(samples, batch_size=8))
    shares = [list(stream.once(samples, batch_size=8, process=p, processes=processes)) for p in range(processes)]
    for number, batch in enumerate(whole):
        found = {name: np.concatenate([share[number][name] for share in shares]) for name in batch}
        seen = found['valid'] > 0
        assert np.array_equal(found['valid'], batch['valid'])
        assert all(np.array_equal(found[name][seen], batch[name][seen]) for name in batch)
    assert {len(share) for share in shares} == {len(whole)}


def test_a_sample_that_is_not_to_be_had_ends_the_looking_with_a_reason(samples):
    released = threading.Event()

    class Hung(Samples):
        def take(self, index):
            return released.wait() if 0 in index else super().take(index)

    batches = stream.once(Hung(*samples), batch_size=4, timeout=0.2)
    with pytest.raises(InputError, match='batch 1 of those .* not there after 0.2 s.*hangs'):
        next(batches)
    released.set()


def test_thinning_drops_a_share_of_the_empty_samples_only(samples):
    kept = stream.thin(samples.rows, share=0.4, seed=0)
    assert sum(1 for a in kept.annotations if a) == 5 and sum(1 for a in kept.annotations if not a) == 2
    assert len(stream.thin(samples.rows, share=1.0, seed=0)) == 10
    assert kept.equals(stream.thin(samples.rows, share=0.4, seed=0))


def test_a_batch_that_does_not_divide_over_processes_is_refused(samples):
    with pytest.raises(ValueError, match='7 does not divide over 2'):
        stream.dataset(samples, seed=0, batch_size=7, processes=2)
