"""Summaries and comparisons as text: aligned tables that name convention, units, number of cases and intervals."""
from unet_jax.evaluation.surface import PENALTY

EMPTY = {
    'brats': 'Both masks empty: Dice 1, HD95 0. One empty: Dice 0, HD95 {penalty}.',
    'brats2025': 'Both masks empty: left out. One empty: Dice and NSD 0, HD95 infinite. Lesion Dice, NSD and HD95 are '
                 'means over\nthe matched pairs alone and rise when hard lesions are missed: read F1 beside them.',
    'nnunet': 'Both masks empty: left out. One empty: Dice 0.',
    'monai': 'Both masks empty: left out. One empty: Dice 0, HD95 infinite.',
    'deepmind': 'Both masks empty: left out. One empty: Dice 0, HD95 infinite.',
}
WITH_REGION = 'Rows "with region" leave out the cases whose reference lacks the region, which can hide failure.\n'


def number(value: float | None, metric: str) -> str:
    """Shares to four digits, distances to two."""
    return '-' if value is None else f'{value:.{2 if is_distance(metric) else 4}f}'


def is_distance(metric: str) -> bool:
    return metric.endswith('hd95')


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


def label(name: str, entry: dict, units: str) -> str:
    """A metric with its tolerance, challenge or unit: 'surface dice (1 mm)'."""
    said = name.replace('_', ' ')
    said += f' ({entry["tolerance"]:g} {units})' if 'tolerance' in entry else ''
    said += f' ({entry["challenge"]})' if entry.get('challenge') else ''
    said += f' ({entry["rule"]})' if 'rule' in entry else ''
    return said + (f' ({units})' if is_distance(name) else '')


def row(region: str, said: str, name: str, entry: dict) -> tuple[str, ...]:
    """The numbers of a metric of a region."""
    interval = f'{number(entry["low"], name)} .. {number(entry["high"], name)}'
    return region, said, number(entry['mean'], name), interval, number(entry['median'], name), str(entry['n'])


def text(summary: dict) -> str:
    """The summary as an aligned table that names convention, units, number of cases and intervals.

    Below a metric that some cases without the region take part in stands its mean over those that have it.
    """
    convention, units, regions = summary['convention'], summary['units'], summary['regions']
    if summary.get('unscored'):
        rows = [('region', 'metric', 'mean'), *((region, 'dice', 'unscored') for region in regions)]
        return (f'{summary["cases"]} cases, unscored: none of them has an annotation of {", ".join(regions)}, so '
                f'there is nothing to compare the masks with\n{left_out(summary)}\n{aligned(rows, 2)}\n')
    rows = [('region', 'metric', 'mean', '95 % interval', 'median', 'n')]
    notes = []
    for region, entries in regions.items():
        for name, entry in entries.items():
            if name == 'pooled_dice':
                rows.append((region, 'pooled dice', number(entry, name), '', '', ''))
                continue
            said = label(name, entry, units)
            rows.append(row(region, said, name, entry))
            if differs(entry):
                rows.append(row(region, f'{said}, with region', name, entry['with_region']))
            notes += [f'{region} {said}: {remark}' for remark in remarks(entry)]
    which = WITH_REGION if any(cells[1].endswith(', with region') for cells in rows) else ''
    return (f'{summary["cases"]} cases, convention {convention}, distances in {units}\n' + left_out(summary) +
            f'{EMPTY[convention].format(penalty=penalty(summary))}\n{said_of_spacing(summary)}'
            'Mean over cases, its 95 % bootstrap interval over groups (patients), median, number of cases;\n'
            f'pooled dice is that of all cases taken as one image.\n{which}\n'
            + '\n'.join([aligned(rows, 2), *notes]) + '\n' + images_text(summary))


def penalty(summary: dict) -> str:
    """What HD95 is where one mask is empty."""
    own = summary.get('flat') or summary['units'] != 'mm' and not summary.get('images')
    return f"the image's own diagonal in {summary['units']}" if own else f'{PENALTY} {summary["units"]}'


def said_of_spacing(summary: dict) -> str:
    """A line on stacked slices whose spacing nobody has told, '' of others."""
    if not summary.get('images') or summary['units'] == 'mm':
        return ''
    return ('How far apart slices lie is not known, so they count as one pixel apart: Dice is right, distances in the '
            'volume are rough;\n--config.evaluation.spacing=HEIGHT,WIDTH,BETWEEN_SLICES (mm) mends that.\n')


def images_text(summary: dict) -> str:
    """The same slices scored one by one, '' where there are none."""
    images = summary.get('images')
    if not images or images.get('unscored'):
        return ''
    rows = [('region', 'metric', 'mean', '95 % interval', 'median', 'n')]
    for region, entries in images['regions'].items():
        for name in ('dice', 'iou'):
            said, entry = label(name, entries[name], summary['units']), entries[name]
            rows.append(row(region, said, name, entry))
            if differs(entry):
                rows.append(row(region, f'{said}, with region', name, entry['with_region']))
    return f'\nImage by image, {images["cases"]} slices of these cases:\n{aligned(rows, 2)}\n'


def differs(entry: dict | float | None) -> bool:
    """Whether the mean over cases that have the region is another than that over all cases."""
    return isinstance(entry, dict) and 'with_region' in entry and entry['with_region']['n'] != entry['n']


def comparison_text(comparison: dict) -> str:
    """The ranking, and every two runs, as aligned tables."""
    ranked = ', '.join(name.replace('_', ' ') for name in comparison['ranked_by'])
    rows = [('run', 'place', 'mean rank', '95 % interval'),
            *((one['run'], str(one['place']), number(one['rank'], 'rank'),
               f'{number(one["low"], "rank")} .. {number(one["high"], "rank")}') for one in comparison['ranking'])]
    parts = [f'{comparison["cases"]} cases. Ranks for each case and region by {ranked}; 1 is the best.\n',
             aligned(rows, 1), *(pair_text(pair) for pair in comparison['pairs']),
             'Mean difference, its 95 % bootstrap interval over groups, p of the Wilcoxon signed rank test and of\n'
             'the paired permutation test, both corrected for the number of pairs of runs (Holm), number of cases\n'
             'in which the run named first is better, equal and worse.']
    if any(' with region' in part for part in parts):
        parts.append(WITH_REGION.strip())
    return '\n'.join(parts) + '\n'


def pair_text(pair: dict) -> str:
    """Two runs as an aligned table, their names in its head."""
    rows = [('region', 'metric', f'{pair["b"]} - {pair["a"]}', '95 % interval', 'Wilcoxon', 'permutation', 'wins',
             'ties', 'losses')]
    for region, entries in pair['regions'].items():
        for name, entry in entries.items():
            said = name.replace('_', ' ')
            shown = [(said, entry)] + ([(f'{said}, with region', entry['with_region'])] if differs(entry) else [])
            rows += [(region, what, number(e['difference'], name),
                      f'{number(e["low"], name)} .. {number(e["high"], name)}', number(e['p_holm'], 'p'),
                      number(e['p_permutation_holm'], 'p'),
                      *(str(e[key]) for key in ('wins', 'ties', 'losses'))) for what, e in shown]
    rank = pair['rank']
    return (f'\n{aligned(rows, 2)}\nmean rank: {number(rank["difference"], "rank")} ({number(rank["low"], "rank")} .. '
            f'{number(rank["high"], "rank")}), permutation {number(rank["p_permutation_holm"], "p")}\n')
