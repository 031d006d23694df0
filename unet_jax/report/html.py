"""One page that holds a run: numbers, curves, pictures, data audit, and how to make it again.

The page needs nothing but itself: no scripts, no links outwards, pictures as data URIs, light and dark by the reader's
setting. Everything that comes from files is escaped. A section whose file does not exist yet says what to run.
"""
import base64
import json
import re
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from unet_jax.errors import InputError
from unet_jax.evaluation.surface import PENALTY
from unet_jax.evaluation.table import EMPTY, left_out
from unet_jax.report import overlays
from unet_jax.report.curves import curves, dice_distribution, svg
from unet_jax.workdir import read_lines, write_text

KINDS = {'worst': 'lowest Dice', 'median': 'around the median', 'best': 'highest Dice'}
METRICS = {'dice': 'Dice', 'iou': 'IoU', 'sensitivity': 'Sensitivity', 'specificity': 'Specificity',
           'hd95': 'HD95', 'surface_dice': 'Surface Dice', 'lesion_dice': 'Lesion-wise Dice',
           'lesion_hd95': 'Lesion-wise HD95', 'uncertainty_score': 'Uncertainty score',
           'uncertainty_dice': 'Dice by uncertainty, AUC', 'uncertainty_filtered_tp': 'Filtered TP, AUC',
           'uncertainty_filtered_tn': 'Filtered TN, AUC', 'pooled_dice': 'Pooled Dice'}


class Example(NamedTuple):
    """A case to show. Shapes as for `overlays.overlay`."""
    case: str
    kind: str  # 'worst', 'median' or 'best'
    scores: dict[str, float]  # Dice of each region
    image: np.ndarray
    reference: np.ndarray | None
    prediction: np.ndarray | None
    names: tuple[str, ...]
    spacing: tuple[float, ...] | None = None
    channel: int = 0
    orientation: str | None = None


def choose_examples(cases: pd.DataFrame, count: int) -> list[tuple[str, str]]:
    """Up to `count` worst, median and best cases as (case, kind), by the mean Dice over regions, NaN left out.

    cases: one row a case and region, columns `case` and `dice`. Ties are broken by name; no case comes twice; with
    fewer than 3 · count cases each kind gets its share. Worst first; the best begin with the very best.
    """
    means = cases.groupby('case', sort=True)['dice'].mean().dropna().sort_values(kind='stable')
    ranked = list(means.index)
    ends = min(count, (len(ranked) + 1) // 3)
    middle = min(count, len(ranked) - 2 * ends)
    first = (len(ranked) - middle) // 2
    return ([(case, 'worst') for case in ranked[:ends]] + [(case, 'median') for case in ranked[first:first + middle]]
            + [(case, 'best') for case in ranked[::-1][:ends]])


def write(workdir: Path, subset: str, examples: Sequence[Example]) -> Path:
    """Writes `workdir`/report.html and `workdir`/pictures/*.png; returns the page's path.

    Reads config.json, environment.json, audit.json, audit.txt, metrics.jsonl and evaluation/<subset>/{summary.json,
    cases.csv}, each where it exists. Raises InputError for one that cannot be read.
    """
    workdir = Path(workdir)
    pictures = workdir / 'pictures'
    summary = _json(workdir / 'evaluation' / subset / 'summary.json')
    rows = _cases(workdir / 'evaluation' / subset / 'cases.csv')
    run = f'python main.py --workdir={shlex.quote(str(workdir))}'
    evaluate = f'{run} --mode=evaluate --subset={shlex.quote(subset)}'
    todo = f'Not evaluated on the {escape(subset)} subset yet. Run <code>{escape(evaluate)}</code>'
    lines = read_lines(workdir / 'metrics.jsonl')
    sections = [
        ('Result', _headline(summary, subset) if summary else todo),
        ('Learning curves', _chart(curves(lines), pictures / 'curves.png', 'Loss, Dice and learning rate by step')
         if lines else f'Not trained yet. Run <code>{escape(run)} --mode=train</code>'),
        ('Metrics', _metrics(summary) if summary else todo),
        ('Dice of every case', _chart(dice_distribution(rows), pictures / 'dice.png', 'Dice of every case')
         if rows is not None else todo),
        ('Cases', _overlays(examples, pictures) if examples else todo.replace('evaluated', 'drawn')),
        ('Data', _audit(workdir) or f'No audit yet. Run <code>{escape(run)} --mode=annotate</code>'),
        ('Configuration', _config(workdir / 'config.json')),
        ('Environment', _environment(workdir / 'environment.json')),
        ('Make it again', _commands(evaluate, workdir)),
    ]
    body = ''.join(f'<section id="{title.split()[0].lower()}"><h2>{title}</h2>'
                   f'{content if content.startswith("<") else f"<p class=todo>{content}.</p>"}</section>\n'
                   for title, content in sections)
    name = escape(workdir.resolve().name)
    page = ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{name}: segmentation report</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" '
            'content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">'
            f'<style>{STYLE}</style></head>\n<body><header><h1>{name}</h1><p>Brain-tumour segmentation, '
            f'<b>{escape(subset)}</b> subset</p></header>\n<main>{body}</main></body></html>\n')
    path = workdir / 'report.html'
    write_text(path, page)
    return path


# --- sections: each returns HTML ---

def _headline(summary: dict, subset: str) -> str:
    cards = ''
    for r, (name, metrics) in enumerate(summary['regions'].items()):
        dice = metrics.get('dice', {})
        n = f', n = {dice["n"]}' if dice.get('n', summary['cases']) != summary['cases'] else ''
        cards += (f'<div class="card" style="--ink:{overlays.colour(r)}"><h3>{escape(name)}</h3>'
                  f'<p class="big">{_number(dice.get("mean"))}</p>'
                  f'<p><span>{_number(dice.get("low"))} – {_number(dice.get("high"))}</span>{n}</p></div>')
    convention = str(summary['convention'])
    penalty = f'{PENALTY} mm' if summary['units'] == 'mm' else "the image's own diagonal"
    rule = EMPTY.get(convention, '').format(penalty=penalty)
    step = f' of checkpoint {summary["checkpoint"]}' if 'checkpoint' in summary else ''
    lost = f'<pre class="wrap">{escape(left_out(summary))}</pre>' if 'skipped' in summary else ''
    return (f'<div class="cards">{cards}</div><p>Mean Dice{step} over {summary["cases"]} {escape(subset)} cases, '
            'with its 95&nbsp;% bootstrap interval over groups (patients, where known). '
            f'Convention <b>{escape(convention)}</b>. {escape(rule)}</p>{lost}')


def _metrics(summary: dict) -> str:
    regions = summary['regions']
    keys = list(dict.fromkeys(key for metrics in regions.values() for key in metrics))
    keys.sort(key=lambda key: list(METRICS).index(key) if key in METRICS else len(METRICS))
    head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in regions)
    body = ''
    for key in keys:
        entries = [metrics.get(key) for metrics in regions.values()]
        cells = ''.join(f'<td>{_cell(entry, key, summary["cases"])}</td>' for entry in entries)
        body += f'<tr><th scope="row">{escape(_label(key, entries, summary["units"]))}</th>{cells}</tr>'
    return (f'<div class="wide"><table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            f'<p class="small">Mean over cases, in brackets its 95&nbsp;% bootstrap interval, then the median. '
            f'{summary["cases"]} cases; n is given where a metric is defined for fewer. Convention '
            f'<b>{escape(str(summary["convention"]))}</b>; distances in {escape(summary["units"])}.</p>')


def _cell(entry: dict | float | None, key: str, cases: int) -> str:
    if not isinstance(entry, dict):
        return f'<b>{_number(entry, key)}</b>'
    n = f', n = {entry["n"]}' if entry.get('n', cases) != cases else ''
    infinite = f', {entry["infinite"]} infinite' if entry.get('infinite') else ''
    return (f'<b>{_number(entry.get("mean"), key)}</b> <span>[{_number(entry.get("low"), key)}, '
            f'{_number(entry.get("high"), key)}]</span> '
            f'<span>median {_number(entry.get("median"), key)}{n}{infinite}</span>')


def _label(key: str, entries: list, units: str) -> str:
    """Name of a metric with its unit, tolerance or challenge: 'HD95 (mm)', 'Surface Dice (1 mm)'."""
    told = next((entry for entry in entries if isinstance(entry, dict)), {})
    tolerance = f'{told["tolerance"]:g} {units}' if 'tolerance' in told else ''
    inside = ', '.join(filter(None, (tolerance, told.get('challenge'), _unit(key, units))))
    return METRICS.get(key, key.replace('_', ' ').capitalize()) + (f' ({inside})' if inside else '')


def _overlays(examples: Sequence[Example], pictures: Path) -> str:
    for old in pictures.glob('*.png'):  # of cases that an earlier report chose
        if re.match(r'(worst|median|best)-\d+-', old.name):
            old.unlink()
    single = len(examples[0].names) == 1
    how = 'Solid line: reference. Dashed line: prediction.' if single else 'Smaller regions lie over larger ones.'
    figures = ''
    for number, example in enumerate(examples, 1):
        figure = overlays.overlay(example.image, example.reference, example.prediction, example.names,
                                  title=example.case, spacing=example.spacing, channel=example.channel,
                                  orientation=example.orientation)
        stem = re.sub(r'\.(png|jpe?g|bmp|tiff?|webp|gif)$', '', example.case, flags=re.IGNORECASE)
        safe = re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:80]
        path = overlays.save(figure, pictures / f'{example.kind}-{number}-{safe}.png')
        scores = ', '.join(f'{escape(name)} {_number(score)}' for name, score in example.scores.items())
        if example.prediction is not None and not example.prediction.any():
            scores += '; nothing predicted'
        case = escape(example.case)
        figures += (f'<figure id="case-{number}"><a href="#case-{number}"><img src="{overlays.data_uri(path)}" '
                    f'alt="{case}"></a><figcaption><b>{case}</b><br>Dice {scores} <i>{KINDS[example.kind]}</i>'
                    '</figcaption></figure>')
    volumes = ' volumes' if examples[0].image.ndim == 4 else ''
    return f'<p>{how} Choose a picture to enlarge it.</p><div class="films{volumes}">{figures}</div>'


def _audit(workdir: Path) -> str:
    findings = _findings(_json(workdir / 'audit.json') or {}) + _skipped(_json(workdir / 'skipped.json') or {})
    notes = ''.join(f'<li>{escape(note)}</li>' for note in findings)
    text = workdir / 'audit.txt'
    table = f'<pre>{escape(text.read_text(encoding="utf-8").rstrip())}</pre>' if text.exists() else ''
    return (f'<ul class="notes">{notes}</ul>' if notes else '') + table


def _findings(audit: dict) -> list[str]:
    """What of the audit a reader of the scores must know."""
    twins = (audit.get('twins') or {}).get('subsets', ())
    found = [f'{pair["images"]} of {pair["of"]} {pair["subset"]} images have a near-duplicate in {pair["in"]}'
             for pair in twins if pair['images']]
    if leaking := audit.get('leaking_groups', {}).get('count'):
        found.append(f'{leaking} groups (patients or source images) lie in several subsets')
    return found + [str(note) for note in audit.get('notes', ())]


def _skipped(skipped: dict) -> list[str]:
    more = f' All {len(skipped)} are in skipped.json' if len(skipped) > 10 else ''
    return [f'Left out of training: {path} ({why})' for path, why in list(skipped.items())[:10]] + [more] * bool(more)


def _config(path: Path) -> str:
    config = _json(path)
    if config is None:
        return 'No config.json here: training writes it'
    return f'<details><summary>config.json</summary><pre>{escape(json.dumps(config, indent=2))}</pre></details>'


def _environment(path: Path) -> str:
    environment = _json(path)
    if environment is None:
        return 'No environment.json here: training writes it'
    texts = {key: ', '.join(map(str, value)) if isinstance(value, list) else str(value)
             for key, value in environment.items() if value is not None}
    rows = ''.join(f'<tr><th scope="row">{escape(key)}</th><td>{escape(text)}</td></tr>'
                   for key, text in texts.items())
    return f'<div class="wide"><table class="plain"><tbody>{rows}</tbody></table></div>'


def _commands(evaluate: str, workdir: Path) -> str:
    command = (_json(workdir / 'environment.json') or {}).get('command')
    trained = f'python {command.removeprefix("python ")}\n' if isinstance(command, str) else ''
    return f'<pre class="wrap">{escape(trained + evaluate)}</pre>'


# --- pictures ---

def _chart(figure: Figure, path: Path, alt: str) -> str:
    overlays.save(figure, path)
    uri = base64.b64encode(svg(figure).encode()).decode()
    return f'<img class="chart" src="data:image/svg+xml;base64,{uri}" alt="{alt}">'


# --- values ---

def _number(value: float | None, key: str = 'dice') -> str:
    """Three decimals for shares, two for distances, whole volumes; '–' for none."""
    if value is None or value != value:
        return '–'
    if _unit(key, 'x'):
        return f'{value:,.0f}' if 'volume' in key else f'{value:.2f}'
    return f'{value:.3f}'


def _unit(key: str, units: str) -> str:
    if 'volume' in key:
        return {'mm': 'mm³'}.get(units, units)
    return units if 'hd' in key.split('_')[-1] or 'distance' in key else ''


def _json(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise InputError(f'{path}: is not JSON ({error}); delete it and run the mode that writes it again') from error


def _cases(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, converters=dict.fromkeys(('case', 'group', 'region'), str)) if path.exists() else None


STYLE = '''
:root{--page:#fff;--text:#1b1e23;--soft:#5d6470;--line:#dfe2e7;--card:#f5f6f8;--link:#2f64a8}
@media(prefers-color-scheme:dark){:root{--page:#14161a;--text:#e4e6ea;--soft:#9aa1ad;--line:#31353d;--card:#1d2026;
--link:#8db8ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}
header,main{max-width:72rem;margin:auto;padding:0 1rem}
header{padding-top:2rem}h1{font-size:1.7rem;margin:0;overflow-wrap:anywhere}header p{margin:.2rem 0;color:var(--soft)}
@media(min-width:64rem){main{display:grid;grid-template-columns:1fr 1fr;column-gap:3rem}section{grid-column:1/-1}
#learning,#dice{grid-column:1}#metrics{grid-column:2;grid-row:2/4}}
section{min-width:0;border-top:1px solid var(--line);margin-top:2rem;padding-top:.4rem}
h2{font-size:1.2rem;margin:.8rem 0}h3{font-size:1rem;margin:1.2rem 0 .5rem}
.small,.todo,figcaption{color:var(--soft);font-size:.875rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.8rem;max-width:50rem}
.card{background:var(--card);border-left:5px solid var(--ink);border-radius:4px;padding:.7rem 1rem}
.card h3,.card p{margin:0}.card h3{font-weight:600;overflow-wrap:anywhere}
.card p{color:var(--soft);font-variant-numeric:tabular-nums}
.card span{white-space:nowrap}.card .big{font-size:2.2rem;line-height:1.25;font-weight:650;color:var(--text)}
.chart{display:block;width:100%;max-width:42rem;height:auto}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.925rem}
th,td{text-align:left;padding:.4rem 1.1rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th[scope=row]{font-weight:500}td b{display:block}td span{display:block;color:var(--soft);font-size:.82rem;
white-space:nowrap}
.plain td{overflow-wrap:anywhere}
.films{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1.2rem}
.volumes{grid-template-columns:repeat(auto-fill,minmax(min(100%,28rem),1fr))}
figure{margin:0;min-width:0}figure img{display:block;width:100%;height:auto;border-radius:4px;background:#000}
figure:target{grid-column:1/-1;max-width:56rem}figcaption{padding:.4rem 0;overflow-wrap:anywhere}
figcaption b{color:var(--text)}figcaption i{font-style:normal;white-space:nowrap;border:1px solid var(--line);
border-radius:1em;padding:0 .6em;margin-left:.3em}
pre{background:var(--card);border-radius:4px;padding:.8rem 1rem;overflow-x:auto;font-size:.82rem;line-height:1.45}
.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
code{background:var(--card);border-radius:3px;padding:.1em .35em;font-size:.9em}
.notes{padding-left:1.2rem}summary{cursor:pointer;color:var(--link)}
'''
