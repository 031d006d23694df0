"""A page of one predicted case: its numbers, and the viewer. Needs nothing but itself, as the report of a run."""
from collections.abc import Sequence
from html import escape
from pathlib import Path

from unet_jax.report import viewer
from unet_jax.report.style import STYLE
from unet_jax.text_file import write_text

NOTE = ('Predicted by a network and seen by nobody: no diagnosis and no treatment may rest on it. Diameters are the '
        'largest in any axial plane and the largest perpendicular to it, like those of RANO, of every region.')


def write(path: Path, case: viewer.Case, numbers: Sequence[dict], used: str) -> None:
    """Writes the page; `numbers` is a row a region (`evaluation.patients.measure`), `used` says by which network."""
    columns = [name for name in numbers[0] if name not in ('case', 'patient', 'time_point')]
    head = ''.join(f'<th scope="col">{escape(heading(name))}</th>' for name in columns)
    body = ''.join('<tr>' + ''.join(f'<td>{escape(cell(row[name]))}</td>' for name in columns) + '</tr>'
                   for row in numbers)
    name = escape(case.name)
    page = ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{name}: prediction</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" '
            'content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'; '
            f'{viewer.POLICY}"><style>{STYLE}{viewer.STYLE}</style></head>\n'
            f'<body><header><h1>{name}</h1><p>{escape(used)}</p></header>\n<main><section><h2>Numbers</h2>'
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            f'<p class="small">{NOTE}</p></section>\n<section><h2>Prediction</h2>{viewer.html([case])}</section>'
            '</main></body></html>\n')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def heading(name: str) -> str:
    """volume_ml -> Volume (ml)."""
    words, _, unit = name.rpartition('_')
    text, unit = (words, f' ({unit})') if unit in ('ml', 'mm', 'px', 'mm2') else (name, '')
    return text.replace('_', ' ').capitalize() + unit


def cell(value) -> str:
    return '–' if value is None or value != value else f'{value:.4g}' if isinstance(value, float) else str(value)
