"""The numbers of a report: a card a region, and the table of all metrics. HTML; everything from files is escaped."""
from html import escape

from unet_jax.evaluation.summary import means_table
from unet_jax.evaluation.table import EMPTY, differs, left_out, penalty, said_of_spacing
from unet_jax.palette import colour

METRICS = {'dice': 'Dice', 'iou': 'IoU', 'sensitivity': 'Sensitivity', 'specificity': 'Specificity',
           'nsd': 'NSD', 'hd95': 'HD95', 'surface_dice': 'Surface Dice', 'lesion_dice': 'Lesion-wise Dice',
           'lesion_nsd': 'Lesion-wise NSD', 'lesion_hd95': 'Lesion-wise HD95',
           'lesion_f1': 'Lesion-wise F1', 'lesion_precision': 'Lesion-wise precision',
           'lesion_recall': 'Lesion-wise recall', 'lesion_pq': 'Lesion-wise PQ', 'large_f1': 'Large lesions, F1',
           'large_dice': 'Large lesions, Dice', 'large_nsd': 'Large lesions, NSD', 'large_hd95': 'Large lesions, HD95',
           'small_f1': 'Small lesions, F1', 'uncertainty_score': 'Uncertainty score',
           'uncertainty_dice': 'Dice by uncertainty, AUC', 'uncertainty_filtered_tp': 'Filtered TP, AUC',
           'uncertainty_filtered_tn': 'Filtered TN, AUC',
           'ece': 'Expected calibration error', 'brier': 'Brier score', 'confidence': 'Confidence',
           'pooled_dice': 'Pooled Dice',
           'component_f1': 'Connected parts found, F1'}


def headline(summary: dict, subset: str) -> str:
    cards = ''.join(_card(name, metrics.get('dice', {}), colour(r), summary)
                    for r, (name, metrics) in enumerate(summary['regions'].items()))
    convention = str(summary['convention'])
    rule = EMPTY.get(convention, '').format(penalty=penalty(summary)) + ' ' + said_of_spacing(summary)
    step = f' of checkpoint {escape(str(summary["checkpoint"]))}' if 'checkpoint' in summary else ''
    seen = f' <b>Not a result on new cases: {escape(summary["seen"])}.</b>' if 'seen' in summary else ''
    lost = f'<pre class="wrap">{escape(left_out(summary))}</pre>' if 'skipped' in summary else ''
    what = f'{summary["cases"]} {escape(subset)} cases'
    if summary.get('unscored'):
        return (f'<div class="cards">{cards}</div><p>Masks{step} of {what}, of which none has an annotation.{seen}</p>'
                f'{_members(summary)}{lost}')
    return (f'<div class="cards">{cards}</div><p>Mean Dice{step} over those of {what} that have the region, '
            'with its 95&nbsp;% bootstrap interval over groups (patients, where known).'
            f'{seen} Convention <b>{escape(convention)}</b>. {escape(rule)}</p>{_members(summary)}{lost}')


def _card(name: str, dice: dict, ink: str, summary: dict) -> str:
    """Dice of a region over the cases that have it; below, where it is another, that over all cases."""
    shown, cases = dice.get('with_region', dice), summary['cases']
    n = f', n = {shown["n"]}' if shown.get('n', cases) != cases else ''
    everyone = f'<p>all {dice["n"]} cases: {number(dice.get("mean"))}</p>' if differs(dice) else ''
    big, interval = number(shown.get('mean')), f'{number(shown.get("low"))} – {number(shown.get("high"))}'
    text = '<p class="big">unscored</p>' if summary.get('unscored') else \
        f'<p class="big">{big}</p><p><span>{interval}</span>{n}</p>{everyone}'
    return f'<div class="card" style="--ink:{ink}"><h3>{escape(name)}</h3>{text}</div>'


def _members(summary: dict) -> str:
    """What an average was made of."""
    listed = ''.join(f'<li>{escape(str(member["run"]))}, checkpoint {escape(str(member["checkpoint"]))}</li>'
                     for member in summary.get('members', ()))
    return f'<p>Probabilities averaged over:</p><ul class="notes">{listed}</ul>' if listed else ''


def metrics_table(summary: dict) -> str:
    """The numbers of cases, and below those of single slices where cases are stacks of them."""
    images = summary.get('images')
    if not images or images.get('unscored'):
        return _table(summary)
    return (f'{_table(summary)}<h3>Image by image</h3><p>The {images["cases"]} slices that these cases are made of, '
            f'each for itself.</p>{_table(images)}')


def _table(summary: dict) -> str:
    regions = summary['regions']
    keys = list(dict.fromkeys(key for metrics in regions.values() for key in metrics))
    keys.sort(key=lambda key: list(METRICS).index(key) if key in METRICS else len(METRICS))
    head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in regions)
    body = ''
    for key in keys:
        entries = [metrics.get(key) for metrics in regions.values()]
        cells = ''.join(f'<td>{_cell(entry, key, summary["cases"])}</td>' for entry in entries)
        body += f'<tr><th scope="row">{escape(_label(key, entries, summary["units"]))}</th>{cells}</tr>'
    csv = escape(means_table(summary).to_csv(index=False))
    return (f'<div class="wide"><table class="copied" data-csv="{csv}"><thead><tr><td></td>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>'
            f'<p class="small">Mean over cases, in brackets its 95&nbsp;% bootstrap interval, then the median. '
            f'{summary["cases"]} cases; n is given where a metric is defined for fewer; "with region" leaves out '
            f'the cases whose reference lacks the region. Convention '
            f'<b>{escape(str(summary["convention"]))}</b>; distances in {escape(summary["units"])}.</p>')


def _cell(entry: dict | float | None, key: str, cases: int) -> str:
    if not isinstance(entry, dict):
        return f'<b>{number(entry, key)}</b>'
    n = f', n = {entry["n"]}' if entry.get('n', cases) != cases else ''
    infinite = f', {entry["infinite"]} infinite' if entry.get('infinite') else ''
    return (f'<b>{number(entry.get("mean"), key)}</b> <span>[{number(entry.get("low"), key)}, '
            f'{number(entry.get("high"), key)}]</span> '
            f'<span>median {number(entry.get("median"), key)}{n}{infinite}</span>{_some(entry, key)}')


def _some(entry: dict, key: str) -> str:
    """The same of the cases that have the region, where that is another number."""
    if not differs(entry):
        return ''
    some = entry['with_region']
    return (f' <span>with region {number(some["mean"], key)} [{number(some["low"], key)}, '
            f'{number(some["high"], key)}], n = {some["n"]}</span>')


def _label(key: str, entries: list, units: str) -> str:
    """Name of a metric with its unit, tolerance or challenge: 'HD95 (mm)', 'Surface Dice (1 mm)'."""
    told = next((entry for entry in entries if isinstance(entry, dict)), {})
    tolerance = f'{told["tolerance"]:g} {units}' if 'tolerance' in told else ''
    inside = ', '.join(filter(None, (tolerance, told.get('challenge'), told.get('rule'), _unit(key, units))))
    return METRICS.get(key, key.replace('_', ' ').capitalize()) + (f' ({inside})' if inside else '')


def number(value: float | None, key: str = 'dice') -> str:
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
