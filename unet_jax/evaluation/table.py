"""From masks to numbers, and from numbers to the files and text that people read. Every table names its convention."""
import json
import math
import pathlib
from typing import Literal

import numpy as np
import pandas as pd

from unet_jax.errors import InputError
from unet_jax.evaluation import overlap, uncertainty
from unet_jax.evaluation.lesions import lesion_wise
from unet_jax.evaluation.overlap import Convention
from unet_jax.evaluation.statistics import bootstrap_interval, paired
from unet_jax.evaluation.surface import PENALTY, hd95, surface_dice

KEYS = ['case', 'group', 'region']
COUNTS = ['tp', 'fp', 'fn', 'tn', 'volume_reference', 'volume_prediction', 'lesion_tp', 'lesion_fn', 'lesion_fp']
LESION_WISE = ['lesion_dice', 'lesion_hd95']
DISTANCES = ['hd95', 'lesion_hd95']
LESS_IS_BETTER = [*DISTANCES, *uncertainty.COSTS]
EMPTY = {
    'brats': 'Both masks empty: Dice 1, HD95 0. One empty: Dice 0, HD95 {penalty}.',
    'nnunet': 'Both masks empty: left out. One empty: Dice 0.',
    'monai': 'Both masks empty: left out. One empty: Dice 0, HD95 infinite.',
    'deepmind': 'Both masks empty: left out. One empty: Dice 0, HD95 infinite.',
}


def score(reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, ...],
          convention: Convention = 'brats', tolerance: float = 1.0, lesion: str | None = None,
          surface: bool = True) -> dict[str, float]:
    """All numbers of one region of one case, from two bool masks (D, H, W) or (H, W).

    dice, iou, sensitivity, specificity; with `surface` hd95 (unless the convention is nnunet, which has none) and
    surface_dice at `tolerance`, both in the units of `spacing`; with `lesion`, the name of a BraTS challenge, what
    `lesion_wise` returns; tp, fp, fn, tn in voxels; volume_reference and volume_prediction in mm³, or in pixels where
    `spacing` is 1; Python's own numbers, as they go into JSON. Raises InputError for masks, spacings and names that
    cannot be used.
    """
    c = overlap.counts(reference, prediction)
    scores = dict(dice=overlap.dice(c, convention=convention), iou=overlap.iou(c, convention=convention),
                  sensitivity=overlap.sensitivity(c), specificity=overlap.specificity(c))
    if surface and convention != 'nnunet':
        scores['hd95'] = hd95(reference, prediction, spacing=spacing, convention=convention)
    if surface:
        scores['surface_dice'] = surface_dice(reference, prediction, spacing=spacing, tolerance=tolerance,
                                              convention=convention)
    if lesion:
        scores |= lesion_wise(reference, prediction, spacing=spacing, challenge=lesion)
    voxel = float(np.prod(spacing))
    scores |= c._asdict() | dict(volume_reference=(c.tp + c.fn) * voxel, volume_prediction=(c.tp + c.fp) * voxel)
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in scores.items()}


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


def summarise(cases: pd.DataFrame, *, convention: Convention, units: Literal['mm', 'px'], tolerance: float = 1.0,
              lesion: str | None = None, seed: int = 0) -> dict:
    """Mean over cases with its 95 % bootstrap interval over groups (patients), per region and metric.

    `cases` has one row a case and region: case, group, region and what `score` returned, with the same convention,
    tolerance and lesion. Returns {'convention', 'cases', 'units', 'regions': {region: {metric: {mean, low, high,
    median, n, undefined, infinite}, 'pooled_dice': Dice of ΣTP, ΣFP, ΣFN}}}; NaN and infinity are None; surface_dice
    also tells its tolerance, lesion_* and uncertainty_* their challenge. Raises InputError for an unusable table or
    convention.
    """
    check_cases(cases)
    overlap.check_convention(convention)
    told = {'surface_dice': {'tolerance': tolerance}} | dict.fromkeys(LESION_WISE, {'challenge': lesion}) | \
        dict.fromkeys(uncertainty.METRICS, {'challenge': 'QU-BraTS'})
    regions = {}
    for region, rows in cases.groupby('region', sort=False):
        regions[region] = {name: describe(rows[name], rows['group'], seed) | told.get(name, {})
                           for name in metrics(cases)}
        if {'tp', 'fp', 'fn'} <= set(rows.columns):
            tp, fp, fn = (int(rows[name].sum()) for name in ('tp', 'fp', 'fn'))
            regions[region]['pooled_dice'] = json_safe(
                overlap.dice(overlap.Counts(tp, fp, fn, 0), convention=convention))
    return dict(convention=convention, cases=int(cases['case'].nunique()), units=units, regions=regions)


def write(folder: str | pathlib.Path, cases: pd.DataFrame, summary: dict) -> None:
    """cases.csv and summary.json in `folder`, each there whole or not at all."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {'cases.csv': cases.to_csv(index=False),
             'summary.json': json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + '\n'}
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


def number(value: float | None, metric: str) -> str:
    """Shares to four digits, distances to two."""
    return '-' if value is None else f'{value:.{2 if metric in DISTANCES else 4}f}'


def aligned(rows: list[tuple[str, ...]], words: int) -> str:
    """Rows in columns; the first `words` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(cell.ljust(width) if k < words else cell.rjust(width)
                               for k, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in rows)


def remarks(entry: dict) -> list[str]:
    """What must be said beside the numbers of a row."""
    said = {'undefined': '{} undefined, left out', 'infinite': '{} infinite, so the mean is'}
    return [words.format(entry[key]) for key, words in said.items() if entry.get(key)]


def left_out(summary: dict) -> str:
    """What is to be said of cases that could not be read: the first five, and where the others stand; '' of none."""
    skipped = summary.get('skipped')
    if not skipped:
        return ''
    first = ''.join(f'  {case}: {why}\n' for case, why in list(skipped.items())[:5])
    return f'{len(skipped)} more could not be read and count in no number (all are in summary.json):\n{first}'


def text(summary: dict) -> str:
    """The summary as an aligned table that names convention, units, number of cases and intervals."""
    convention, units = summary['convention'], summary['units']
    penalty = f'{PENALTY} mm' if units == 'mm' else "the image's own diagonal in px"
    rows = [('region', 'metric', 'mean', '95 % interval', 'median', 'n')]
    notes = []
    for region, entries in summary['regions'].items():
        for name, entry in entries.items():
            if name == 'pooled_dice':
                rows.append((region, 'pooled dice', number(entry, name), '', '', ''))
                continue
            label = name.replace('_', ' ')
            label += f' ({entry["tolerance"]:g} {units})' if 'tolerance' in entry else ''
            label += f' ({entry["challenge"]})' if entry.get('challenge') else ''
            label += f' ({units})' if name in DISTANCES else ''
            rows.append((region, label, number(entry['mean'], name),
                         f'{number(entry["low"], name)} .. {number(entry["high"], name)}',
                         number(entry['median'], name), str(entry['n'])))
            notes += [f'{region} {label}: {remark}' for remark in remarks(entry)]
    return (f'{summary["cases"]} cases, convention {convention}, distances in {units}\n' + left_out(summary) +
            f'{EMPTY[convention].format(penalty=penalty)}\n'
            'Mean over cases, its 95 % bootstrap interval over groups (patients), median, number of cases;\n'
            'pooled dice is that of all cases taken as one image.\n\n'
            + '\n'.join([aligned(rows, 2), *notes]) + '\n')


def compare(cases_a: pd.DataFrame, cases_b: pd.DataFrame, *, seed: int = 0) -> dict:
    """Two runs, case by case, on the cases and metrics that both have: `statistics.paired` per region and metric.

    Returns {'cases': number in common, 'only_a', 'only_b': what only one run has, by name, 'regions': {region:
    {metric: {n, difference (b - a), low, high, p, wins, ties, losses (of b)}}}}, NaN as None. Intervals are over the
    groups of `cases_a`. Raises InputError for an unusable table and where nothing is in common.
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
    shared = [name for name in metrics(cases_a) if name in metrics(cases_b)]
    regions = {}
    for region in (name for name in cases_a['region'].unique() if name in set(both['region'])):
        rows = both[both['region'] == region]
        results = {name: paired(rows[f'{name}_a'], rows[f'{name}_b'], groups=rows['group_a'],
                                lower_is_better=name in LESS_IS_BETTER, seed=seed) for name in shared}
        regions[region] = {name: {key: value if isinstance(value, int) else json_safe(value)
                                  for key, value in result.items()} for name, result in results.items()}
    return dict(cases=int(both['case'].nunique()), **only, regions=regions)


def comparison_text(comparison: dict) -> str:
    """The comparison as an aligned table; cases that only one run has are named below it."""
    rows = [('region', 'metric', 'b - a', '95 % interval', 'p', 'wins', 'ties', 'losses')]
    for region, entries in comparison['regions'].items():
        for name, entry in entries.items():
            interval = f'{number(entry["low"], name)} .. {number(entry["high"], name)}'
            rows.append((region, name.replace('_', ' '), number(entry['difference'], name), interval,
                         number(entry['p'], 'p'), *(str(entry[key]) for key in ('wins', 'ties', 'losses'))))
    lines = [f'{comparison["cases"]} cases in common. Mean difference, its 95 % bootstrap interval over groups,',
             'p of the Wilcoxon signed rank test, number of cases in which b is better, equal and worse.', '',
             aligned(rows, 2)]
    lines += [f'Only in {run}: {", ".join(names)}' for run in 'ab' if (names := comparison[f'only_{run}'])]
    return '\n'.join(lines) + '\n'
