"""Every case of an evaluation in a report: the failures, the table, volumes, and Dice with fewer modalities.

HTML; everything from files is escaped.
"""
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from unet_jax.evaluation.summary import describe
from unet_jax.palette import colour
from unet_jax.report import plainly
from unet_jax.report.curves import TRAIN, WIDTH, _dress
from unet_jax.report.scores import METRICS, number

SHOWN = ('dice', 'hd95', 'volume_reference', 'volume_prediction')  # columns of the table, where they were measured
NAMES = METRICS | {'volume_reference': 'reference', 'volume_prediction': 'predicted'}


def failures(rows: pd.DataFrame) -> str:
    """Which regions were missed altogether, and which were invented; a sentence where there are none."""
    if not {'volume_reference', 'volume_prediction'} <= set(rows.columns):
        return ''
    there, found = rows.volume_reference > 0, rows.volume_prediction > 0
    kinds = {'missed altogether': rows[there & ~found], 'touched nowhere': rows[there & found & (rows.dice == 0)],
             'predicted where the reference has none': rows[~there & found]}
    items = ''.join(f'<li><b>{escape(str(region))}</b> {what} in {len(part)} of {rows.case.nunique()} cases: '
                    f'{escape(", ".join(part.case.iloc[:8]))}{" …" if len(part) > 8 else ""}</li>'
                    for what, lines in kinds.items() for region, part in lines.groupby('region', sort=False))
    return f'<ul class="notes">{items}</ul>' if items else \
        '<p>Every region of every case was found, none invented.</p>'


def table(rows: pd.DataFrame, drawn: Mapping[str, int]) -> str:
    """A row a case, the lowest mean Dice first; `drawn` is the number of the picture of those that have one."""
    columns = [name for name in SHOWN if name in rows]
    regions = list(dict.fromkeys(rows.region))
    means = rows.groupby('case', sort=True).dice.mean().sort_values(kind='stable', na_position='last')
    cells = {(row.case, row.region): row for row in rows.itertuples()}
    top = ''.join(f'<th scope="col">{escape(str(region))} {escape(NAMES[name])}</th>'
                  for region in regions for name in columns)
    body = ''
    for case in means.index:
        told, values = escape(str(case)), ''
        for region in regions:
            row = cells.get((case, region))
            for name in columns:
                value = getattr(row, name, None)
                exact = '' if value is None or value != value else value
                values += f'<td data-csv="{exact}">{number(value, name)}</td>'
        links = f'<a href="#case-{drawn[case]}">picture</a> <a href="#case-{drawn[case]}" data-walk="' \
            f'{drawn[case] - 1}">viewer</a>' if case in drawn else ''
        body += f'<tr><th scope="row">{told}</th><td data-csv="">{links}</td>{values}</tr>'
    return (f'<div class="wide every" tabindex="0" role="region" aria-label="Every case"><table class="copied"><thead>'
            f'<tr><th scope="col">Case</th><th scope="col">Shown</th>{top}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>'
            f'<p class="small">The lowest mean Dice first; all numbers are in cases.csv.</p>')


@plainly
def volumes(rows: pd.DataFrame, units: str) -> Figure:
    """Left, predicted less reference volume against their mean, with its mean and 1.96 standard deviations on either
    side (Bland and Altman 1986, Lancet 327:307, figure 2); right, Dice against the reference volume."""
    names = list(dict.fromkeys(rows.region))
    scale, unit = (1000, 'ml') if units == 'mm' else (1, units)
    figure = Figure(figsize=(WIDTH, 2.5 * len(names) + 0.3), layout='constrained')
    for r, (pair, name) in enumerate(zip(figure.subplots(len(names), 2, squeeze=False), names, strict=True)):
        part = rows[rows.region == name]
        true, found = (part[column].to_numpy(float) / scale for column in ('volume_reference', 'volume_prediction'))
        error, dice = found - true, part.dice.to_numpy(float)
        look = {'s': 14, 'color': colour(r), 'alpha': 0.75, 'linewidths': 0, 'rasterized': len(part) > 500}
        pair[0].scatter((true + found) / 2, error, **look)
        for level in (0, -1.96, 1.96):
            pair[0].axhline(error.mean() + level * error.std(ddof=len(error) > 1), color=TRAIN, lw=1,
                            ls='--' if level else '-')
        kept = (true > 0) & np.isfinite(dice)
        pair[1].scatter(true[kept], dice[kept], **look)
        for axes, what in zip(pair, (f'predicted − reference ({unit})', 'Dice'), strict=True):
            _dress(axes, '')
            axes.set_title(f'{name}: {what}', loc='left', size=9, parse_math=False)
        pair[1].set_ylim(-0.02, 1.02)
        pair[0].set_xlabel(f'mean of both volumes ({unit})', size=9)
        pair[1].set_xlabel(f'reference volume ({unit})', size=9)
    return figure


def said_of_volumes(rows: pd.DataFrame, units: str) -> str:
    """The figure in words, for who does not see it."""
    scale, unit = (1000, 'ml') if units == 'mm' else (1, units)
    parts = []
    for name, part in rows.groupby('region', sort=False):
        error = (part.volume_prediction - part.volume_reference).to_numpy(float) / scale
        spread = 1.96 * error.std(ddof=len(error) > 1)
        parts.append(f'{name}: predicted less reference volume is {error.mean():.2f} {unit} on average, 95 % of cases '
                     f'between {error.mean() - spread:.2f} and {error.mean() + spread:.2f}')
    return '; '.join(parts)


def modalities(scores: Path, seed: int) -> list[tuple[str, str]]:
    """The section on Dice with fewer modalities, of modalities.csv where it is of these scores."""
    path, cases = scores / 'modalities.csv', scores / 'cases.csv'
    if not (path.exists() and cases.exists()) or path.stat().st_mtime_ns < cases.stat().st_mtime_ns:
        return []
    found = pd.read_csv(path, converters=dict.fromkeys(('case', 'group', 'region', 'modalities'), str))
    regions: Sequence[str] = list(dict.fromkeys(found.region))
    body = ''
    for name, lines in found.groupby('modalities', sort=False):
        means = [describe(part.dice, part.group, seed)
                 for part in (lines[(lines.region == region) & lines.present] for region in regions)]
        body += f'<tr><th scope="row">{escape(name)}</th>' + ''.join(
            f'<td data-csv="{"" if m["mean"] is None else m["mean"]}"><b>{number(m["mean"])}</b><span>'
            f'[{number(m["low"])}, {number(m["high"])}], n = {m["n"]}</span></td>' for m in means) + '</tr>'
    top = ''.join(f'<th scope="col">{escape(region)}</th>' for region in regions)
    return [('Fewer modalities', '<div class="wide"><table class="copied"><thead><tr><th scope="col">Seen</th>'
             f'{top}</tr></thead><tbody>{body}</tbody></table></div><p class="small">Mean Dice over the cases that '
             'have the region, with its 95&nbsp;% bootstrap interval over groups, of what is seen with these '
             'modalities alone.</p>')]
