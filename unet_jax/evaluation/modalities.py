"""Dice with only some of the modalities: what a network is worth at a hospital that does not have them all."""
from itertools import combinations

import pandas as pd

from unet_jax.annotations import labels
from unet_jax.evaluation import overlap
from unet_jax.evaluation.cases import Case
from unet_jax.evaluation.summary import describe
from unet_jax.evaluation.table import aligned, number
from unet_jax.experiment import Experiment


def subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every subset of `modalities` but the empty one, the small ones first: 15 of four."""
    return [chosen for size in range(1, len(modalities) + 1) for chosen in combinations(modalities, size)]


def score(experiment: Experiment, case: Case, kept: tuple[str, ...]) -> list[dict]:
    """A line a region: case, group, region, modalities (those `kept`, with + between), dice, and `present`, whether
    the reference has the region."""
    pair = [labels.region_masks(bits, experiment.region_bits) for bits in (case.reference, case.prediction)]
    convention = experiment.config.evaluation.convention
    return [{'case': case.name, 'group': case.group, 'region': name, 'modalities': '+'.join(kept),
             'dice': overlap.dice(overlap.counts(*(masks[..., r] for masks in pair)), convention=convention),
             'present': bool(pair[0][..., r].any())} for r, name in enumerate(experiment.names)]


def text(scores: pd.DataFrame, *, convention: str, seed: int = 0) -> str:
    """The mean Dice over cases and its interval, a row a subset and a column a region, as an aligned table; below it,
    where some cases lack a region, a second one of the cases that have it.

    scores: one row a case, region and subset: columns `group`, `modalities`, `region`, `dice`, where NaN is left out,
    and `present`, whether the reference has the region.
    """
    parts = [table_of(scores, seed)]
    if not scores.present.all():
        parts.append(f'Of the cases whose reference has the region\n\n{table_of(scores[scores.present], seed)}')
    return 'Mean Dice over cases (95 % bootstrap interval over groups), ' \
           f'convention {convention}, of what is seen with these modalities alone\n\n' + '\n'.join(parts)


def table_of(scores: pd.DataFrame, seed: int) -> str:
    """One of the two tables."""
    regions = list(scores['region'].unique())
    rows = [('modalities', *regions)]
    for name, lines in scores.groupby('modalities', sort=False):
        found = [describe(part['dice'], part['group'], seed) for part in (lines[lines.region == r] for r in regions)]
        rows.append((name, *('{} ({} .. {})'.format(*(number(f[key], 'dice') for key in ('mean', 'low', 'high')))
                             for f in found)))
    return f'{aligned(rows, 1)}\n'
