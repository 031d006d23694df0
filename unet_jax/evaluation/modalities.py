"""Dice with only some of the modalities: what a network is worth at a hospital that does not have them all."""
from itertools import combinations

import pandas as pd

from unet_jax.evaluation.table import aligned, json_safe, number


def subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every subset of `modalities` but the empty one, the small ones first: 15 of four."""
    return [chosen for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]


def text(scores: pd.DataFrame, *, convention: str) -> str:
    """The mean Dice over cases, a row a subset and a column a region, as an aligned table.

    scores: one row a case, region and subset: columns `modalities`, `region` and `dice`; NaN is left out.
    """
    means = scores.pivot_table(index='modalities', columns='region', values='dice', aggfunc='mean', dropna=False,
                               sort=False)[list(scores['region'].unique())]
    rows = [('modalities', *means.columns)]
    rows += [(name, *(number(json_safe(value), 'dice') for value in line)) for name, *line in means.itertuples()]
    return f'Mean Dice over cases, convention {convention}, of what is seen with these modalities alone\n\n' \
           f'{aligned(rows, 1)}\n'
