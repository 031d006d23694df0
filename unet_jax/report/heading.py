"""What stands at the head of a report: what was segmented, by which checkpoint, on which data. HTML, escaped."""
from collections.abc import Sequence
from html import escape

from unet_jax.formats import FORMATS


def anchor(title: str) -> str:
    """The id of a section."""
    return title.lower().replace(' ', '-')


def contents(titles: Sequence[str]) -> str:
    """A link to every section."""
    items = ''.join(f'<li><a href="#{anchor(title)}">{title}</a></li>' for title in titles)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def subject(config: dict | None, summary: dict | None) -> str:
    """What is segmented, and in what: 'Segmentation of WT, TC, ET in volumes (nifti)'."""
    data = (config or {}).get('data') or {}
    names = [str(region[0]) for region in data.get('regions') or ()] or list((summary or {}).get('regions', ()))
    what = ' of ' + ', '.join(names[:6]) + f' and {len(names) - 6} more' * (len(names) > 6) if names else ''
    form = str(data.get('format', ''))
    kind = ('volumes' if FORMATS[form].volumetric else 'images') if form in FORMATS else ''
    return escape(f'Segmentation{what}' + (f' in {kind} ({form})' if kind else ''))


def stated(environment: dict | None, identity: dict | None, summary: dict | None) -> str:
    """Checkpoint, data and versions in a line."""
    environment, data = environment or {}, (summary or {}).get('data') or identity or {}
    told = {'checkpoint': (summary or {}).get('checkpoint'), 'data': data.get('digest'),
            'jax': environment.get('jax'), 'python': environment.get('python'), 'commit': environment.get('commit')}
    return ' · '.join(f'{name} {escape(str(value))}' for name, value in told.items() if value is not None)
