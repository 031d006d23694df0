"""The page of a comparison of runs: ranks, differences, the cases where runs differ most, and every case as a point.

It needs nothing but itself, runs no script, and is light or dark by the reader's setting. Every string from data is
escaped.
"""
import math
from collections.abc import Mapping
from html import escape

import pandas as pd

from unet_jax.evaluation.table import differs
from unet_jax.palette import colour
from unet_jax.report.scores import METRICS, number
from unet_jax.report.style import STYLE

SIDE, EDGE = 300, 34  # of a scatter plot and its margin, in its own units: about a pixel each
POINTS = 3000  # of a plot: with more a browser becomes slow, and the eye sees no more
PLOTTED = 6  # pairs of runs that have plots; of more, those with the last run
OWN_STYLE = '''
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1.2rem}
svg{display:block;width:100%;height:auto;max-width:26rem}svg text{fill:var(--soft);font:12px system-ui,sans-serif}
svg .axis{stroke:var(--line);fill:none}svg .even{stroke:var(--soft);stroke-dasharray:4 4}
svg .dot{fill:var(--ink);fill-opacity:.65;stroke:var(--text);stroke-opacity:.5;stroke-width:.6}
svg .span{stroke:var(--link);stroke-width:3}svg .mean{fill:var(--text)}svg .name{fill:var(--text)}
th[scope=col]{white-space:nowrap}.folders td:nth-child(2),.cases th[scope=row]{overflow-wrap:anywhere}
.cases th[scope=row]{min-width:8rem}details{margin-bottom:1rem}.wide{margin-top:.6rem}
'''


def html(comparison: dict, tables: Mapping[str, pd.DataFrame]) -> str:
    """The page of what `modes.compare` writes as compare.json, and the tables of cases by the letter of their run."""
    subset = escape(comparison['subset'])
    sections = [('Runs', runs(comparison)), ('Ranking', ranking(comparison)),
                ('Differences', ''.join(differences(pair, opened=pair is comparison['pairs'][0])
                                        for pair in comparison['pairs']) + EXPLAINED),
                ('Cases that differ most', furthest(comparison)), ('Every case', scatters(comparison, tables))]
    body = ''.join(f'<section><h2>{title}</h2>{content}</section>\n' for title, content in sections)
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{len(comparison["runs"])} runs compared</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" '
            f'content="default-src \'none\'; style-src \'unsafe-inline\'"><style>{STYLE}{OWN_STYLE}</style></head>\n'
            f'<body><header><h1>{len(comparison["runs"])} runs compared</h1><p><b>{subset}</b> subset, '
            f'{comparison["cases"]} cases, convention <b>{escape(comparison["convention"])}</b>, distances in '
            f'{escape(comparison["units"])}</p></header>\n<main>{body}</main></body></html>\n')


EXPLAINED = ('<p class="small">Mean difference over cases, in brackets its 95&nbsp;% bootstrap interval over groups '
             '(patients, where known). p of the Wilcoxon signed rank test and of the paired permutation test, both '
             'corrected for the number of pairs of runs (Holm); bold where the permutation test is below 0.05. Each '
             'metric is tested by itself: of twenty without any difference one falls below 0.05. Rows "with region" '
             'leave out the cases whose reference lacks the region.</p>')


def said(metric: str) -> str:
    return escape(METRICS.get(metric, metric.replace('_', ' ').capitalize()))


def grid(head: list[str], rows: list[str], kind: str = '') -> str:
    """A table of cells that are HTML already."""
    top = ''.join(f'<th scope="col">{cell}</th>' for cell in head)
    return (f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table></div>')


def line(first: str, *cells: str) -> str:
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def runs(comparison: dict) -> str:
    """Which letter is which run."""
    rows = [line(escape(one['name']), escape(one['run']), '–' if one['checkpoint'] is None else
                 escape(str(one['checkpoint']))) for one in comparison['runs']]
    noted = {one['data'] for one in comparison['runs']}
    data = '' if None in noted else f'<p class="small">All of the data of digest {escape(noted.pop())}.</p>'
    data = data or '<p class="small">Not every run has noted its data, so that they are the same is not known.</p>'
    return grid(['', 'Folder', 'Checkpoint'], rows, 'folders') + data


def ranking(comparison: dict) -> str:
    """The mean rank of every run: a picture, and a table that says of which region and metric it comes."""
    found = comparison['ranking']
    columns = [(region, metric) for region, entries in found[0]['regions'].items() for metric in entries]
    rows = [line(f'{escape(one["run"])}', str(one['place']), f'<b>{one["rank"]:.2f}</b><span>[{number(one["low"])}, '
                 f'{number(one["high"])}]</span>', *(f'{one["regions"][r][m]:.2f}' for r, m in columns))
            for one in found]
    head = ['', 'Place', 'Mean rank', *(f'{escape(region)} {said(metric)}' for region, metric in columns)]
    by = ', '.join(said(name) for name in comparison['ranked_by'])
    return (f'{rank_plot(found)}{grid(head, rows)}<p class="small">For every case and region the runs are ranked by '
            f'{by}; equal runs share the better rank, a number that is not defined (neither mask has anything) is the '
            'best; ranks are averaged over all. 1 is the best. Bars: 95&nbsp;% bootstrap interval over groups.</p>')


def rank_plot(found: list[dict]) -> str:
    """Mean ranks with their intervals, a row a run, from 1 to the number of runs."""
    width, step, left, most = 340, 26, 34, len(found)

    def x(rank: float) -> float:
        return left + (rank - 1) / (most - 1) * (width - left - 16)
    marks = ''
    for k, one in enumerate(found):
        y = step * k + 16
        if one['low'] is not None:
            marks += f'<line class="span" x1="{x(one["low"]):.1f}" x2="{x(one["high"]):.1f}" y1="{y}" y2="{y}"/>'
        marks += (f'<circle class="mean" cx="{x(one["rank"]):.1f}" cy="{y}" r="5"/>'
                  f'<text class="name" x="8" y="{y + 4}">{escape(one["run"])}</text>')
    bottom = step * most + 8
    ticks = ''.join(f'<text x="{x(rank):.1f}" y="{bottom + 16}" text-anchor="middle">{rank}</text>'
                    for rank in range(1, most + 1, max(1, most // 10)))
    return (f'<svg viewBox="0 0 {width} {bottom + 22}" role="img" aria-label="Mean rank of each run">'
            f'<line class="axis" x1="{left}" x2="{width - 16}" y1="{bottom}" y2="{bottom}"/>{marks}{ticks}</svg>')


def differences(pair: dict, *, opened: bool) -> str:
    """The table of two runs, which the reader may open and close."""
    rows = []
    for region, entries in pair['regions'].items():
        for name, entry in entries.items():
            kinds = [('', entry), (', with region', entry['with_region'])] if differs(entry) else [('', entry)]
            for more, one in kinds:
                sure = one['p_permutation_holm'] is not None and one['p_permutation_holm'] < 0.05
                mean, low, high = (signed(one[key], name) for key in ('difference', 'low', 'high'))
                ends = f'<span>[{low}, {high}]</span>'
                rows.append(line(f'{escape(region)} {said(name)}{more}', f'{f"<b>{mean}</b>" if sure else mean}{ends}',
                                 p(one['p_holm']), p(one['p_permutation_holm']),
                                 f'{one["wins"]} / {one["ties"]} / {one["losses"]}', str(one['n'])))
    head = ['', f'{escape(pair["b"])} − {escape(pair["a"])}', 'p, Wilcoxon', 'p, permutation',
            'Better / equal / worse', 'n']
    rank = pair['rank']
    return (f'<details{" open" if opened else ""}><summary>{escape(pair["b"])} against {escape(pair["a"])}</summary>'
            f'<p>Mean rank of {escape(pair["b"])} less that of {escape(pair["a"])}: '
            f'{signed(rank["difference"], "hd95")}; p {p(rank["p_permutation_holm"])}</p>'
            f'{grid(head, rows)}</details>')


def signed(value: float | None, metric: str) -> str:
    return '–' if value is None else ('+' if value > 0 else '') + number(value, metric).replace('-', '−')


def p(value: float | None) -> str:
    return '–' if value is None else '&lt; 0.001' if value < 0.001 else f'{value:.3f}'


def furthest(comparison: dict) -> str:
    """The cases and regions in which the runs lie furthest apart."""
    found, names = comparison['differ_most'], [one['name'] for one in comparison['runs']]
    if not found:
        return '<p>The runs are equal in every case.</p>'
    rows = [line(escape(str(one['case'])), escape(one['region']), *(number(one['values'][name]) for name in names),
                 f'<b>{number(one["spread"])}</b>') for one in found]
    head = ['Case', 'Region', *map(escape, names), 'Apart']
    return f'<p class="small">By {said(found[0]["metric"])}; {len(found)} shown.</p>{grid(head, rows, "cases")}'


def scatters(comparison: dict, tables: Mapping[str, pd.DataFrame]) -> str:
    """A plot for every two runs and region: a point a case, its Dice in one run against that in the other."""
    pairs, last = comparison['pairs'], comparison['runs'][-1]['name']
    shown = pairs if len(pairs) <= PLOTTED else [pair for pair in pairs if last in (pair['a'], pair['b'])]
    metric = comparison['differ_most'][0]['metric'] if comparison['differ_most'] else 'dice'
    if not all(metric in table for table in tables.values()):
        return ''
    plots = ''
    for pair in shown:
        a, b = (tables[pair[side]] for side in 'ab')
        both = a[['case', 'region', metric]].merge(b[['case', 'region', metric]], on=['case', 'region'])
        plots += ''.join(scatter(rows, pair['a'], pair['b'], str(region), metric, colour(r))
                         for r, (region, rows) in enumerate(both.groupby('region', sort=False)))
    why = '' if shown is pairs else f' Of {len(pairs)} pairs of runs, those with {escape(last)}.'
    return (f'<p class="small">{said(metric)} of each case; above the line the run named up the side is higher. Point '
            f'at a dot to read its case.{why}</p><div class="plots">{plots}</div>')


def scatter(rows: pd.DataFrame, a: str, b: str, region: str, metric: str, ink: str) -> str:
    """One plot; numbers that are not finite have no point."""
    points = [(str(row[0]), float(row[1]), float(row[2])) for row in
              zip(rows['case'], rows[f'{metric}_x'], rows[f'{metric}_y'], strict=True)]
    known = [point for point in points if math.isfinite(point[1]) and math.isfinite(point[2])]
    most = max([1.0, *(max(point[1:]) for point in known)])
    inner = SIDE - 2 * EDGE

    def at(value: float) -> float:
        return EDGE + value / most * inner
    dots = ''.join(f'<circle class="dot" cx="{at(x):.1f}" cy="{SIDE - at(y):.1f}" r="4"><title>'
                   f'{escape(case)}: {escape(a)} {number(x)}, {escape(b)} {number(y)}</title></circle>'
                   for case, x, y in known[:POINTS])
    end, lost = SIDE - EDGE, len(points) - len(known[:POINTS])
    ticks = ''.join(f'<text x="{at(v):.0f}" y="{end + 15}" text-anchor="middle">{v:g}</text>'
                    f'<text x="{EDGE - 5}" y="{SIDE - at(v) + 4:.0f}" text-anchor="end">{v:g}</text>'
                    for v in (0, most / 2, most))
    label = f'{region}: {metric.replace("_", " ")} of {len(known)} cases, {a} across and {b} up'
    return (f'<figure style="--ink:{ink}"><svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(label)}">'
            f'<rect class="axis" x="{EDGE}" y="{EDGE}" width="{inner}" height="{inner}"/>'
            f'<line class="even" x1="{EDGE}" y1="{end}" x2="{end}" y2="{EDGE}"/>{ticks}{dots}'
            f'<text class="name" x="{SIDE / 2}" y="{SIDE - 4}" text-anchor="middle">{escape(a)}</text>'
            f'<text class="name" x="10" y="{EDGE + inner // 4}">{escape(b)}</text></svg>'
            f'<figcaption><b>{escape(region)}</b>, {escape(b)} against {escape(a)}, {len(known)} cases'
            f'{f"; {lost} not drawn" if lost else ""}</figcaption></figure>')
