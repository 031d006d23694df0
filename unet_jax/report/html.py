"""One page that holds a run: numbers, curves, pictures, data audit, and how to make it again.

The page needs nothing but itself: no links outwards, pictures as data URIs, light and dark by the reader's setting. It
runs two scripts of its own, the viewer's and page.js; without them, and in print, the pictures stay. Everything that
comes from files is escaped. A section whose file does not exist yet says what to run.
"""
import base64
import hashlib
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
from unet_jax.report import calibration, every_case, heading, overlays, viewer
from unet_jax.report.curves import curves, dice_distribution, svg
from unet_jax.report.scores import headline, metrics_table, number
from unet_jax.report.style import STYLE
from unet_jax.shipped import PROGRAM
from unet_jax.workdir import read_lines, write_text

SCRIPT = (Path(__file__).parent / 'page.js').read_text(encoding='utf-8')
POLICY = f"{viewer.POLICY} 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
KINDS = {'worst': 'lowest Dice', 'median': 'around the median', 'best': 'highest Dice'}


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
    channel: int | None = None  # the one shown; None is the first, or of a colour image all
    orientation: str | None = None
    letters: bool = True
    # of the viewer alone, as in `viewer.Case`
    sequences: tuple[str, ...] = ()
    uncertainty: np.ndarray | None = None
    affine: np.ndarray | None = None


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


def write(folder: Path, subset: str, examples: Sequence[Example], *, run: Path | None = None, again: str = '') -> Path:
    """Writes `folder`/report.html and `folder`/pictures/*.png; returns the page's path.

    Reads evaluation/<subset>/{summary.json, cases.csv} there, and config.json, environment.json, audit.json,
    audit.txt, metrics.jsonl of the work directory `run`, by default `folder` itself, each where it exists. An average
    of several checkpoints has a folder of its own. `again` is the command that evaluates the same. Raises InputError
    for a file that cannot be read.
    """
    folder = Path(folder)
    workdir, pictures = Path(run or folder), folder / 'pictures'
    summary = _json(folder / 'evaluation' / subset / 'summary.json')
    config = _json(workdir / 'config.json')
    rows = _cases(folder / 'evaluation' / subset / 'cases.csv')
    start = f'{PROGRAM} --workdir={shlex.quote(str(workdir))}'
    evaluate = again or f'{start} --mode=evaluate --subset={shlex.quote(subset)}'
    todo = f'Not evaluated on the {escape(subset)} subset yet. Run <code>{escape(evaluate)}</code>'
    unscored = f'Unscored: no case of the {escape(subset)} subset has an annotation' if summary and \
        summary.get('unscored') else ''
    sections = [
        ('Result', headline(summary, subset) if summary else todo),
        ('Learning curves', _learning(workdir, pictures, start, summary)),
        ('Metrics', unscored or (metrics_table(summary) if summary else todo)),
        *compared(folder / 'evaluation' / subset),
        *calibration.sections(summary),
        *every_case.modalities(folder / 'evaluation' / subset, (config or {}).get('seed', 0)),
        ('Dice of every case', unscored or (
            todo if rows is None else _chart(dice_distribution(rows), pictures / 'dice.png', _dice_in_words(rows)))),
        *_volumes(rows, summary, pictures),
        *_every_case(rows, summary, examples),
        ('Cases', unscored or (_overlays(examples, pictures) if examples else todo.replace('evaluated', 'drawn'))),
        ('Data', _named(summary) + _audit(workdir) or
         f'No audit yet. Run <code>{escape(start)} --mode=annotate</code>'),
        *_plan(workdir),
        ('Configuration', _config(workdir / 'config.json')),
        ('Environment', _environment(workdir / 'environment.json')),
        ('Make it again', _commands(evaluate, workdir)),
    ]
    body = ''.join(f'<section id="{heading.anchor(title)}"><h2>{title}</h2>'
                   f'{content if content.startswith("<") else f"<p class=todo>{content}.</p>"}</section>\n'
                   for title, content in sections)
    told = heading.stated(_json(workdir / 'environment.json'), _json(workdir / 'identity.json'), summary)
    name = escape(folder.resolve().name)
    page = ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{name}: segmentation report</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" '
            'content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'; '
            f'{POLICY}"><style>{STYLE}{viewer.STYLE}</style></head>\n'
            f'<body><header><h1>{name}</h1><p>{heading.subject(config, summary)}, <b>{escape(subset)}</b> subset</p>'
            f'<p class="small">{told}</p>'
            f'{heading.contents([title for title, _ in sections])}</header>\n'
            f'<main>{body}</main><script>{SCRIPT}</script></body></html>\n')
    path = folder / 'report.html'
    write_text(path, page)
    return path


# --- sections: each returns HTML ---

def _dice_in_words(rows: pd.DataFrame) -> str:
    """The chart of every case's Dice, for who does not see it."""
    return 'Dice of every case. ' + '; '.join(
        f'{region}: median {number(known.median())}, from {number(known.min())} to {number(known.max())}, '
        f'{len(known)} cases' for region, known in rows.groupby('region', sort=False).dice if len(known.dropna()))


def _volumes(rows: pd.DataFrame | None, summary: dict | None, pictures: Path) -> list[tuple[str, str]]:
    if rows is None or not summary or summary.get('unscored') or \
            not {'volume_reference', 'volume_prediction'} <= set(rows.columns):
        return []
    units = str(summary['units'])
    return [('Volumes', _chart(every_case.volumes(rows, units), pictures / 'volumes.png',
                               every_case.said_of_volumes(rows, units)) +
             '<p class="small">Left: each case\'s error against the mean of both volumes (Bland and Altman), the mean '
             'error as a line, dashed 1.96 standard deviations from it. Right: Dice against the reference volume.'
             '</p>')]


def _every_case(rows: pd.DataFrame | None, summary: dict | None, examples: Sequence[Example]) -> list[tuple[str, str]]:
    if rows is None or not summary or summary.get('unscored'):
        return []
    drawn = {example.case: k for k, example in enumerate(examples, 1)}
    return [('Every case', every_case.failures(rows) + every_case.table(rows, drawn))]


def _learning(workdir: Path, pictures: Path, start: str, summary: dict | None) -> str:
    if len({member['run'] for member in (summary or {}).get('members', ())}) > 1:
        return 'An average of several runs: the report of each has its own'
    if workdir.is_file():
        return 'The network comes from a model file, whose card tells of its training'
    lines = read_lines(workdir / 'metrics.jsonl')
    if not lines:
        return f'Not trained yet. Run <code>{escape(start)} --mode=train</code>'
    return _chart(curves(lines), pictures / 'curves.png', 'Loss, Dice and learning rate by step')


def compared(scores: Path) -> list[tuple[str, str]]:
    """The section on what these scores were compared with since they were made, if anything."""
    cases = scores / 'cases.csv'
    texts = [path.read_text(encoding='utf-8') for path in sorted(scores.glob('compared_with_*/compare.txt'))
             if path.stat().st_mtime_ns >= cases.stat().st_mtime_ns] if cases.exists() else []
    return [('Comparison', ''.join(f'<pre>{escape(text.rstrip())}</pre>' for text in texts))] * bool(texts)


def _overlays(examples: Sequence[Example], pictures: Path) -> str:
    for old in pictures.glob('*.png'):  # of cases that an earlier report chose
        if re.match(r'(worst|median|best)-\d+-', old.name):
            old.unlink()
    single = len(examples[0].names) == 1
    how = 'Solid line: reference. Dashed line: prediction.' if single else 'Smaller regions lie over larger ones.'
    figures = ''
    for k, example in enumerate(examples, 1):
        figure = overlays.overlay(example.image, example.reference, example.prediction, example.names,
                                  title=example.case, spacing=example.spacing, channel=example.channel,
                                  orientation=example.orientation, letters=example.letters)
        stem = re.sub(r'\.(png|jpe?g|bmp|tiff?|webp|gif)$', '', example.case, flags=re.IGNORECASE)
        safe = re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:80]
        path = overlays.save(figure, pictures / f'{example.kind}-{k}-{safe}.png')
        scores = ', '.join(f'{escape(name)} {number(score)}' for name, score in example.scores.items())
        if example.prediction is not None and not example.prediction.any():
            scores += '; nothing predicted'
        case = escape(example.case)
        figures += (f'<figure id="case-{k}"><a href="#case-{k}"><img src="{overlays.data_uri(path)}" '
                    f'alt="{escape(_in_words(example))}"></a>'
                    f'<figcaption><b>{case}</b><br>Dice {scores} <i>{KINDS[example.kind]}</i>'
                    '</figcaption></figure>')
    volumes = ' volumes' if examples[0].image.ndim == 4 else ''
    walk = viewer.html([viewer.Case(e.case, KINDS[e.kind], e.image if e.image.ndim > 2 else e.image[..., None],
                                    e.sequences, e.reference, e.prediction, e.names, e.scores, e.uncertainty,
                                    e.spacing, e.orientation, e.affine, e.channel) for e in examples])
    return f'{walk}<p>{how} Choose a picture to enlarge it.</p><div class="films{volumes}">{figures}</div>'


def _in_words(example: Example) -> str:
    """What a picture shows."""
    planes = 'Axial, coronal and sagittal slices' if example.image.ndim == 4 else 'The image'
    given = [what for what in ('reference', 'prediction') if getattr(example, what) is not None]
    outlined = f', plain and with {" and ".join(given)} of {", ".join(example.names)} outlined' if given else ''
    scores = ', '.join(f'{name} {number(score)}' for name, score in example.scores.items())
    return f'{planes} of {example.case}{outlined}. Dice {scores}'


def _named(summary: dict | None) -> str:
    """Which data were scored."""
    data = (summary or {}).get('data')
    return (f'<p>Data {escape(str(data["digest"]))}: {escape(str(data["files"]))} files, named in identity.json.</p>'
            if data else '')


def _plan(workdir: Path) -> list[tuple[str, str]]:
    """The fingerprint in words and the decisions with their reasons, of a run that was planned."""
    plan = _json(workdir / 'plan.json')
    if plan is None:
        return []
    rows = ''.join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td>'
                   f'<td>{escape(decision["reason"])}</td></tr>'
                   for decision in plan['decisions'] for name, value in decision['changes'].items())
    hints = ''.join(f'<li>{escape(hint)}</li>' for hint in plan['hints'])
    used = plan['memory']
    return [('Fingerprint', f'<p>{escape(plan["prose"])}</p><ul>{hints}</ul>'),
            ('Plan', f'<p>{used["used"] / 1e9:.2f} of {used["limit"] / 1e9:.1f} GB a device by the compiled step.</p>'
             f'<div class="wide"><table class="plain"><tbody>{rows}</tbody></table></div>')]


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
    return f'<img class="chart" src="data:image/svg+xml;base64,{uri}" alt="{escape(alt)}">'


# --- files ---

def _json(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise InputError(f'{path}: is not JSON ({error}); delete it and run the mode that writes it again') from error


def _cases(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, converters=dict.fromkeys(('case', 'group', 'region'), str)) if path.exists() else None
