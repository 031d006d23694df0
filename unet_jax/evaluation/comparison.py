"""Two runs on the same cases, pair by pair."""
import pandas as pd

from unet_jax.errors import InputError
from unet_jax.evaluation import uncertainty
from unet_jax.evaluation.statistics import paired
from unet_jax.evaluation.summary import check_cases, json_safe, metrics, present

LESS_IS_BETTER = ['hd95', 'lesion_hd95', 'large_hd95', *uncertainty.COSTS]


def compare(cases_a: pd.DataFrame, cases_b: pd.DataFrame, *, seed: int = 0) -> dict:
    """Two runs, case by case, on the cases and metrics that both have: `statistics.paired` per region and metric.

    Returns {'cases': number in common, 'only_a', 'only_b': what only one run has, by name, 'regions': {region:
    {metric: {n, difference (b - a), low, high, p, wins, ties, losses (of b), 'with_region': the same of the cases that
    have the region in the reference}}}}, NaN as None. Intervals are over the groups of `cases_a`. Raises InputError
    for an unusable table, where nothing is in common, and where a case has another reference in one than in the other.
    """
    check_cases(cases_a, 'the first table of cases')
    check_cases(cases_b, 'the second table of cases')
    common = cases_a.merge(cases_b, on=['case', 'region'], how='outer', suffixes=('_a', '_b'), indicator=True)
    only = {side: [f'{row.case} {row.region}' for row in common[common['_merge'] == which].itertuples()]
            for side, which in (('only_a', 'left_only'), ('only_b', 'right_only'))}
    both = common[common['_merge'] == 'both']
    if both.empty:
        raise InputError(f'the two tables have no case in common: {only["only_a"][0]!r}, … and {only["only_b"][0]!r}, '
                         '…; compare evaluations of the same subset')
    check_references(both)
    shared = [name for name in metrics(cases_a) if name in metrics(cases_b)]
    regions = {}
    for region in (name for name in cases_a['region'].unique() if name in set(both['region'])):
        rows = both[both['region'] == region]
        regions[region] = {name: pairs(rows, name, seed) for name in shared}
        there = present(rows.rename(columns={'tp_a': 'tp', 'fn_a': 'fn'}))
        if there is not None:
            for name in shared:
                regions[region][name]['with_region'] = pairs(rows[there], name, seed)
    return dict(cases=int(both['case'].nunique()), **only, regions=regions)


def pairs(rows: pd.DataFrame, name: str, seed: int) -> dict[str, float | int | None]:
    """`statistics.paired` of a metric, NaN as None."""
    found = paired(rows[f'{name}_a'], rows[f'{name}_b'], groups=rows['group_a'],
                   lower_is_better=name in LESS_IS_BETTER, seed=seed)
    return {key: value if isinstance(value, int) else json_safe(value) for key, value in found.items()}


def check_references(both: pd.DataFrame) -> None:
    """Raises InputError where the reference of a case and region does not have equally many voxels in both tables."""
    if not {'tp_a', 'fn_a', 'tp_b', 'fn_b'} <= set(both.columns):
        return
    sizes = [both[f'tp_{side}'] + both[f'fn_{side}'] for side in 'ab']
    if (other := sizes[0] != sizes[1]).any():
        row = both[other].iloc[0]
        raise InputError(f'case {row.case!r}, region {row.region!r} has {int(sizes[0][other].iloc[0])} voxels in the '
                         f'reference of the first and {int(sizes[1][other].iloc[0])} in that of the second: the two '
                         'were scored against other annotations or regions, so they cannot be compared')
