"""From the numbers of all cases to means with intervals, and the files that hold both: cases.csv and summary.json."""
import json
import math
import pathlib
from typing import Literal

import numpy as np
import pandas as pd

from unet_jax.errors import InputError
from unet_jax.evaluation import overlap, uncertainty
from unet_jax.evaluation.matched import Sizes
from unet_jax.evaluation.overlap import Convention
from unet_jax.evaluation.statistics import bootstrap_interval

KEYS = ['case', 'group', 'region']
COUNTS = ['tp', 'fp', 'fn', 'tn', 'volume_reference', 'volume_prediction', 'lesion_tp', 'lesion_fn', 'lesion_fp',
          'large_tp', 'large_fn', 'small_tp', 'small_fn', 'components_found', 'components_missed',
          'components_invented']
MEANS = ['mean', 'low', 'high', 'median', 'n']
LESION_WISE = ['lesion_dice', 'lesion_nsd', 'lesion_hd95']


def check_cases(cases: pd.DataFrame, name: str = 'the table of cases') -> None:
    """Raises InputError unless there are rows, the key columns, and one row a case and region."""
    if missing := [key for key in KEYS if key not in cases]:
        raise InputError(f'{name} has no column {", ".join(missing)}; expected {", ".join(KEYS)} and metrics')
    if cases.empty:
        raise InputError(f'{name} has no rows: nothing was evaluated. Is the subset empty?')
    if (unnamed := cases[KEYS].isna().sum()).any():
        raise InputError(f'{name} has rows without {", ".join(unnamed[unnamed > 0].index)}; give every row its own')
    twice = cases[cases.duplicated(['case', 'region'])]
    if len(twice):
        case, region = twice.iloc[0][['case', 'region']]
        raise InputError(f'{name} has case {case!r}, region {region!r} twice; give every case a name of its own')


def metrics(cases: pd.DataFrame) -> list[str]:
    """The columns that are averaged over cases."""
    return [name for name in cases.columns if name not in (*KEYS, *COUNTS)]


def json_safe(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None


def describe(values: pd.Series, groups: pd.Series, seed: int) -> dict[str, float | int | None]:
    """mean, its interval low..high, median, n values; how many were undefined (NaN, left out) and infinite."""
    known = values.to_numpy(float)
    known = known[~np.isnan(known)]
    low, high = bootstrap_interval(values, groups=groups, seed=seed)
    return dict(mean=json_safe(known.mean() if known.size else math.nan), low=json_safe(low), high=json_safe(high),
                median=json_safe(np.median(known) if known.size else math.nan), n=known.size,
                undefined=len(values) - known.size, infinite=int(np.isinf(known).sum()))


def present(cases: pd.DataFrame) -> pd.Series | None:
    """Which rows are of a case that has the region in its reference; None of a table that does not tell."""
    return cases['tp'] + cases['fn'] > 0 if {'tp', 'fn'} <= set(cases.columns) else None


def unscored(cases: pd.DataFrame) -> bool:
    """Whether no case has any of the regions in its reference, so that no score says anything: a hidden test set."""
    there = present(cases)
    return there is not None and not there.any()


def summarise(cases: pd.DataFrame, *, convention: Convention, units: Literal['mm', 'px'], tolerance: float = 1.0,
              lesion: str | None = None, whole_tolerance: float = 0.5, sizes: Sizes | None = None, seed: int = 0
              ) -> dict:
    """Mean over cases with its 95 % bootstrap interval over groups (patients), per region and metric.

    `cases` has one row a case and region: case, group, region and what `measure.score` returned, with the same
    convention, tolerances, lesion and sizes. Returns {'convention', 'cases', 'units', 'regions': {region: {metric:
    {mean, low, high, median, n, undefined, infinite, 'with_region': the same of the cases that have the region in the
    reference}, 'pooled_dice': Dice of ΣTP, ΣFP, ΣFN}}}; NaN and infinity are None; surface_dice and *nsd also tell
    their tolerance, lesion_* and uncertainty_* their challenge, large_* and small_* their rule. Where no case has any
    region the metrics are left out and 'unscored' is True.
    Raises InputError for an unusable table or convention.
    """
    check_cases(cases)
    overlap.check_convention(convention)
    told = rules(metrics(cases), convention, tolerance, lesion, whole_tolerance, sizes)
    found = dict(convention=convention, cases=int(cases['case'].nunique()), units=units)
    if unscored(cases):
        return found | {'unscored': True, 'regions': {region: {} for region in cases['region'].unique()}}
    regions = {}
    for region, rows in cases.groupby('region', sort=False):
        regions[region] = {name: both_means(rows, name, seed) | told.get(name, {}) for name in metrics(cases)}
        if {'tp', 'fp', 'fn'} <= set(rows.columns):
            tp, fp, fn = (int(rows[name].sum()) for name in ('tp', 'fp', 'fn'))
            regions[region]['pooled_dice'] = json_safe(
                overlap.dice(overlap.Counts(tp, fp, fn, 0), convention=convention))
    return found | {'regions': regions}


def rules(names: list[str], convention: Convention, tolerance: float, lesion: str | None, whole_tolerance: float,
          sizes: Sizes | None) -> dict[str, dict]:
    """{metric: what its numbers depend on}."""
    told = {name: {} for name in names}
    for name in names:
        if name in ('surface_dice', 'lesion_nsd', 'large_nsd'):
            told[name] |= {'tolerance': tolerance}
        if name == 'nsd':
            told[name] |= {'tolerance': whole_tolerance}
        if name in LESION_WISE and convention != 'brats2025':
            told[name] |= {'challenge': lesion}
        if name in uncertainty.METRICS:
            told[name] |= {'challenge': 'QU-BraTS'}
        if sizes and name.startswith(('large_', 'small_')):
            told[name] |= {'rule': f'{"from" if name.startswith("large") else "below"} {sizes.volume:g} mm³, found at '
                                   f'Dice {sizes.dice:g}'}
    return told


def both_means(rows: pd.DataFrame, metric: str, seed: int) -> dict:
    """`describe` over all cases, and under 'with_region' over those that have the region, where the table tells."""
    everyone, there = describe(rows[metric], rows['group'], seed), present(rows)
    if there is None:
        return everyone
    some = everyone if there.all() else describe(rows[metric][there], rows['group'][there], seed)
    return everyone | {'with_region': dict(some)}


def means_table(summary: dict) -> pd.DataFrame:
    """The means of a summary, a row for each region and metric over all cases, and one over those that have it."""
    rows = []
    for region, entries in summary.get('regions', {}).items():
        for name, entry in entries.items():
            if isinstance(entry, dict):
                rows += [{'region': region, 'metric': name, 'cases': which, **{key: some[key] for key in MEANS}}
                         for which, some in (('all', entry), ('with region', entry.get('with_region'))) if some]
    return pd.DataFrame(rows, columns=['region', 'metric', 'cases', *MEANS])


def write(folder: str | pathlib.Path, cases: pd.DataFrame, summary: dict, images: pd.DataFrame | None = None) -> None:
    """cases.csv, summary.json and summary.csv in `folder`, each there whole or not at all; images.csv too, where there
    are rows of single slices, and not otherwise."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if images is None or images.empty:
        (folder / 'images.csv').unlink(missing_ok=True)
    files = {'cases.csv': cases.to_csv(index=False), 'summary.csv': means_table(summary).to_csv(index=False),
             'summary.json': json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + '\n'}
    files |= {} if images is None or images.empty else {'images.csv': images.to_csv(index=False)}
    for name, content in files.items():
        part = folder / f'{name}.part'
        part.write_text(content, encoding='utf-8')
        part.replace(folder / name)


def read_cases(folder: str | pathlib.Path) -> pd.DataFrame:
    """The table that `write` put into `folder`, equal to it. Raises InputError where there is none."""
    path = pathlib.Path(folder) / 'cases.csv'
    if not path.is_file():
        raise InputError(f'{path} does not exist; evaluate the run first')
    numbers = pd.read_csv(path, nrows=0).columns.difference(KEYS)  # a case may be called 001 or NA
    return pd.read_csv(path, dtype=dict.fromkeys(KEYS, str), keep_default_na=False,
                       na_values=dict.fromkeys(numbers, ['']), float_precision='round_trip')


def read_summary(folder: str | pathlib.Path) -> dict:
    """The summary that `write` put into `folder`; {} where there is none, or none that can be read."""
    try:
        found = json.loads((pathlib.Path(folder) / 'summary.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
