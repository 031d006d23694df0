"""Cases: slices stacked to volumes, shares of processes that never cut a case."""
import numpy as np
import pandas as pd
import pytest

from unet_jax.evaluation import cases


def rows(*names):
    """A row a slice, numbered within its case."""
    seen = {}
    numbers = [seen.setdefault(n, []).append(0) or len(seen[n]) - 1 for n in names]
    paths = [f'{name}{k}' for name, k in zip(names, numbers, strict=True)]
    return pd.DataFrame({'case': names, 'group': names, 'path': paths, 'slice': pd.array(numbers, dtype='Int64')})


def test_slices_are_stacked_in_their_order_a_millimetre_apart():
    table = cases.by_case(rows('b', 'a', 'b', 'a', 'b'))
    found = ((k, (np.full((2, 3), k, np.uint8), np.full((2, 3), 10 + k, np.uint8), np.full((2, 3, 4), k, np.uint8),
                  np.ones((2, 3), bool))) for k in range(5))
    a, b = cases.stack(table, found)
    assert (a.name, b.name) == ('a', 'b') and a.spacing == (1, 1, 1)
    assert a.prediction.shape == (2, 3, 2) and b.reference[0, 0].tolist() == [2, 3, 4]
    assert b.prediction[0, 0].tolist() == [12, 13, 14] and b.brain.shape == (2, 3, 3)
    assert b.probability.shape == (2, 3, 3, 4) and b.probability[0, 0, :, 0].tolist() == [2, 3, 4]


def test_an_image_is_a_case_of_its_own_measured_in_pixels():
    table = rows('a', 'b').assign(slice=pd.NA)
    (first, _) = cases.stack(table, ((k, (np.zeros((2, 3)), np.zeros((2, 3)))) for k in range(2)))
    assert first.probability is None and first.prediction.shape == (2, 3) and first.spacing == (1, 1)


@pytest.mark.parametrize('processes', [1, 2, 3, 4, 7])
def test_shares_hold_whole_cases_and_every_row_once(processes):
    table = cases.by_case(rows(*'aaabbcccccdde'))
    shares = [table[cases.share(table, p, processes)] for p in range(processes)]
    assert pd.concat(shares).index.tolist() == list(range(13))
    held = [set(share.case) for share in shares]
    assert sum(map(len, held)) == 5 and max(map(len, held)) - min(map(len, held)) <= 1
