"""Several runs on the same cases: ranks, as the BraTS challenges rank, and every two of them pair by pair."""
import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy  # its parts are loaded when first used: scipy.stats takes half a second

from unet_jax.errors import InputError
from unet_jax.evaluation import uncertainty
from unet_jax.evaluation.statistics import bootstrap_interval, by_group, holm, paired, permutation
from unet_jax.evaluation.summary import check_cases, json_safe, metrics, present

LESS_IS_BETTER = ['hd95', 'lesion_hd95', 'large_hd95', 'ece', 'brier', *uncertainty.COSTS]
# What BraTS ranks by: since 2025 by lesions and whether they are found, in 2023-24 by lesions, before by whole regions
RANKED = (('lesion_f1', 'lesion_dice', 'lesion_nsd'), ('lesion_dice', 'lesion_hd95'), ('dice', 'hd95'), ('dice',))
SHOWN = 15  # cases that are listed as those in which runs differ most
ONE = ['case', 'region']


def compare(tables: Mapping[str, pd.DataFrame], *, seed: int = 0) -> dict:
    """Two runs or more, {name: table of cases}, on the metrics that all have.

    Returns {'cases': their number, 'ranked_by': metrics, 'ranking': see `ranking`, 'pairs': [{'a', 'b': names, 'rank':
    the difference of their mean ranks, 'regions': {region: {metric: {n, difference (b - a), low, high, p and
    p_permutation, each also corrected (…_holm) for the number of pairs, wins, ties, losses (of b), 'with_region': the
    same of the cases that have the region in the reference}}}}], 'differ_most': see `differ_most`}, NaN as None.
    Intervals and tests are over the groups of the first run. Raises InputError for an unusable table and where cases,
    regions or references are not the same in all.
    """
    for name, table in tables.items():
        check_cases(table, f'the table of {name}')
    check_same_cases(tables)
    first = next(iter(tables.values()))
    aligned = {name: first[ONE].merge(table, on=ONE) for name, table in tables.items()}  # in one order
    shared = [name for name in metrics(first) if all(name in table for table in tables.values())]
    ranked_by = next((list(names) for names in RANKED if set(names) <= set(shared)), shared[:1])
    ranks = rank(aligned, ranked_by)
    pairs = [{'a': a, 'b': b, 'rank': rank_difference(ranks, a, b, seed),
              'regions': by_region(aligned, a, b, shared, seed)} for a, b in itertools.combinations(tables, 2)]
    correct(pairs)
    return dict(cases=int(first['case'].nunique()), ranked_by=ranked_by, ranking=ranking(ranks, list(tables), seed),
                pairs=pairs, differ_most=differ_most(aligned, ranked_by))


def check_same_cases(tables: Mapping[str, pd.DataFrame]) -> None:
    """Raises InputError, naming the runs, where one has a case or region that another has not, or a reference of
    another size."""
    (first, table), *others = tables.items()
    keys = pd.MultiIndex.from_frame(table[ONE])
    for name, other in others:
        theirs = pd.MultiIndex.from_frame(other[ONE])
        for whose, missing in ((first, keys.difference(theirs)), (name, theirs.difference(keys))):
            if len(missing):
                shown = ', '.join(' '.join(key) for key in missing[:3])
                raise InputError(f'{len(missing)} cases and regions are in the scores of {whose} alone, such as '
                                 f'{shown}, so {first} and {name} cannot be compared. Evaluate both on the same cases')
        check_references(table.merge(other, on=ONE, suffixes=('_a', '_b')), first, name)


def check_references(both: pd.DataFrame, first: str, second: str) -> None:
    """Raises InputError where the reference of a case and region does not have equally many voxels in both tables."""
    if not {'tp_a', 'fn_a', 'tp_b', 'fn_b'} <= set(both.columns):
        return
    sizes = [both[f'tp_{side}'] + both[f'fn_{side}'] for side in 'ab']
    if (other := sizes[0] != sizes[1]).any():
        row = both[other].iloc[0]
        raise InputError(f'case {row.case!r}, region {row.region!r} has {int(sizes[0][other].iloc[0])} voxels in the '
                         f'reference of {first} and {int(sizes[1][other].iloc[0])} in that of {second}: they '
                         'were scored against other annotations or regions, so they cannot be compared')


def rank(aligned: Mapping[str, pd.DataFrame], ranked_by: list[str]) -> pd.DataFrame:
    """A row for each case, region and metric: case, group, region, metric, and of each run its rank, 1 the best.

    Runs that are equal share the better rank. A number that is not defined is the best: neither mask has anything.
    """
    first, parts = next(iter(aligned.values())), []
    for name in ranked_by:
        values = np.stack([table[name].to_numpy(float) for table in aligned.values()], 1)
        costs = np.where(np.isnan(values), -np.inf, values if name in LESS_IS_BETTER else -values)
        found = pd.DataFrame(scipy.stats.rankdata(costs, method='min', axis=1), columns=list(aligned))
        parts.append(pd.concat([first[['case', 'group', 'region']].assign(metric=name), found], axis=1))
    return pd.concat(parts, ignore_index=True)


def ranking(ranks: pd.DataFrame, names: list[str], seed: int) -> list[dict]:
    """The runs, the best first: {'run', 'place' (equals share the better), 'rank': mean over all cases, regions and
    metrics, low, high: its bootstrap interval over groups, 'regions': {region: {metric: mean rank}}}."""
    means = {name: float(ranks[name].mean()) for name in names}
    found = []
    for name in sorted(names, key=lambda name: means[name]):
        low, high = bootstrap_interval(ranks[name], groups=ranks['group'], seed=seed)
        detail = ranks.groupby(['region', 'metric'], sort=False)[name].mean()
        regions = {region: detail[region].to_dict() for region in ranks['region'].unique()}
        found.append({'run': name, 'place': 1 + sum(mean < means[name] - 1e-9 for mean in means.values()),
                      'rank': means[name], 'low': json_safe(low), 'high': json_safe(high), 'regions': regions})
    return found


def rank_difference(ranks: pd.DataFrame, a: str, b: str, seed: int) -> dict:
    """The mean rank of b less that of a, its interval and p of the permutation of the two runs within groups."""
    differences = (ranks[b] - ranks[a]).to_numpy(float)
    sums, _ = by_group(differences, ranks['group'])
    low, high = bootstrap_interval(differences, groups=ranks['group'], seed=seed)
    return dict(difference=json_safe(differences.mean()), low=json_safe(low), high=json_safe(high),
                p_permutation=json_safe(permutation(sums, seed=seed)))


def by_region(aligned: Mapping[str, pd.DataFrame], a: str, b: str, shared: list[str], seed: int) -> dict:
    """{region: {metric: `statistics.paired`, and under 'with_region' of the cases that have it}}."""
    regions: dict[str, dict] = {}
    for region, rows in aligned[a].groupby('region', sort=False):
        other, there = aligned[b].loc[rows.index], present(rows)
        regions[region] = {name: pair(rows, other, name, seed) for name in shared}
        if there is not None:
            for name in shared:
                regions[region][name]['with_region'] = pair(rows[there], other[there], name, seed)
    return regions


def pair(a: pd.DataFrame, b: pd.DataFrame, name: str, seed: int) -> dict[str, float | int | None]:
    """`statistics.paired` of a metric, NaN as None."""
    found = paired(a[name], b[name], groups=a['group'], lower_is_better=name in LESS_IS_BETTER, seed=seed)
    return {key: value if isinstance(value, int) else json_safe(value) for key, value in found.items()}


def correct(pairs: list[dict]) -> None:
    """Adds to every p that of Holm's correction over all pairs of runs, as …_holm."""
    families = [[found['rank'] for found in pairs]]
    for region, entries in pairs[0]['regions'].items():
        for name, entry in entries.items():
            same = [found['regions'][region][name] for found in pairs]
            families += [same] + ([[one['with_region'] for one in same]] if 'with_region' in entry else [])
    for family in families:
        for key in [key for key in ('p', 'p_permutation') if key in family[0]]:
            ps = holm([float('nan') if entry[key] is None else entry[key] for entry in family])
            for entry, p in zip(family, ps, strict=True):
                entry[f'{key}_holm'] = json_safe(p)


def differ_most(aligned: Mapping[str, pd.DataFrame], ranked_by: list[str]) -> list[dict]:
    """The cases and regions in which the runs lie furthest apart in Dice, or else in what they are ranked by first:
    {'case', 'region', 'metric', 'spread', 'values': {run: number}}, the widest first, none where all are equal."""
    first = next(iter(aligned.values()))
    name = 'dice' if all('dice' in table for table in aligned.values()) else ranked_by[0]
    values = np.stack([table[name].to_numpy(float) for table in aligned.values()], 1)
    known = np.nan_to_num(values, nan=0 if name in LESS_IS_BETTER else 1, posinf=1e9)
    spread = known.max(1) - known.min(1)
    order = [k for k in np.argsort(-spread, kind='stable')[:SHOWN] if spread[k] > 0]
    return [{'case': first['case'].iloc[k], 'region': first['region'].iloc[k], 'metric': name,
             'spread': float(spread[k]), 'values': dict(zip(aligned, map(json_safe, values[k]), strict=True))}
            for k in order]


def pairs_table(found: dict) -> pd.DataFrame:
    """The pairs of a comparison, a row for every two runs, region, metric and kind of cases (all, with region)."""
    rows = []
    for one in found['pairs']:
        for region, entries in one['regions'].items():
            for name, entry in entries.items():
                kinds = {'all': entry, 'with region': entry.get('with_region')}
                rows += [{'a': one['a'], 'b': one['b'], 'region': region, 'metric': name, 'cases': kind,
                          **{key: value for key, value in some.items() if key != 'with_region'}}
                         for kind, some in kinds.items() if some]
    return pd.DataFrame(rows)
