"""How far probabilities can be trusted, which cases to look at first, and what post-processing gained: sections of the
report, from summary.json. HTML; everything from files is escaped."""
import base64
from html import escape

from matplotlib.figure import Figure

from unet_jax.evaluation.calibration import MARGIN, SHOWN
from unet_jax.evaluation.referral import lines
from unet_jax.evaluation.tuning import FEWEST, SAID
from unet_jax.report import plainly
from unet_jax.report.curves import TRAIN, WIDTH, svg
from unet_jax.report.overlays import colour

ERRORS = {'ece': 'Expected calibration error', 'mce': 'Maximum', 'ace': 'Adaptive', 'brier': 'Brier score',
          'nll': 'Log-likelihood (negative)'}
STAGES = {'before': 'as the network gives them', 'after': 'calibrated'}


def sections(summary: dict | None) -> list[tuple[str, str]]:
    """(title, HTML) of what a summary tells; nothing of one that tells nothing."""
    summary = summary or {}
    made = [('Calibration', summary.get('calibration'), calibration),
            ('Confidence', summary.get('referral'), referral), ('Post-processing', summary.get('postprocess'), gains)]
    return [(title, page(found)) for title, found, page in made if found]


def calibration(found: dict) -> str:
    """The reliability diagrams, and a table of the errors."""
    rows = []
    for name, entry in found.items():
        for stage, said in STAGES.items():
            if stage in entry:
                heat = f'T = {entry["temperature"]:.3f}' if stage == 'after' else ''
                rows.append([name, said, *(f'{entry[stage][key]:.4f}' for key in ERRORS), heat])
    more = (' The temperature of each region was fitted on the validation subset; it moves no mask at the threshold '
            '1/2.' if any('after' in entry for entry in found.values()) else '')
    return (f'{picture(diagrams(found), "Probability against the share of voxels that belong to each region")}'
            f'{table(["Region", "Probabilities", *ERRORS.values(), "Temperature"], rows)}'
            f'<p class="small">Over all voxels of the box around the reference of a case, {MARGIN} mm (pixels of '
            f'images) wider on every side; {SHOWN} bins. On the diagonal a probability is as often right as it says; '
            f'below it the region is there less often than it says.{more}</p>')


def referral(found: dict) -> str:
    """The curves of Dice against the share referred, and a table of their areas."""
    rows = [[name, *(number(entry[key]) for key in ('area', 'area_random', 'area_best', 'spearman')),
             f'{number(entry["low"])} to {number(entry["high"])}', str(entry['n'])] for name, entry in lines(found)]
    head = ['Region', 'Area under it', 'At random', 'Best there can be', 'Spearman', '95 % interval', 'Cases']
    return (f'{picture(curves(found), "Mean Dice of the cases kept against the share that is referred")}'
            f'{table(head, rows)}<p class="small">The cases that the network is least sure of are referred to a '
            'person; the line is the mean Dice of the others. Confidence is the Dice that the probabilities of a case '
            'expect; Spearman is its rank correlation with the Dice that was reached.</p>')


def gains(found: dict) -> str:
    """What each step of post-processing gained."""
    if not found['gains']:
        return f'Nothing was done: {found["patients"]} patients to tune on, of which {FEWEST} are needed'
    rows = []
    for name, steps in found['gains'].items():
        for step, e in steps.items():
            limit = found['limits'].get(step, {}).get(name) or ''
            rows.append([name, SAID.get(step, step), str(limit), number(e['difference'], '+'),
                         f'{number(e["low"], "+")} to {number(e["high"], "+")}', str(e['n'])])
    return (table(['Region', 'Step', 'Taken with', 'Gain in Dice', '95 % interval', 'Cases'], rows) +
            '<p class="small">On validation cases, each with limits that were chosen on other patients. A step '
            'without a limit was not taken. Sizes in mm³, of images in pixels.</p>')


def number(value: float | None, sign: str = '') -> str:
    return '–' if value is None else f'{value:{sign}.3f}'


def table(head: list[str], rows: list[list[str]]) -> str:
    top = ''.join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = ''
    for name, *cells in rows:
        body += f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
    return f'<div class="wide"><table class="plain"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(figure: Figure, alt: str) -> str:
    uri = base64.b64encode(svg(figure).encode()).decode()
    return f'<img class="chart" src="data:image/svg+xml;base64,{uri}" alt="{escape(alt)}">'


@plainly
def diagrams(found: dict) -> Figure:
    """A reliability diagram a region: share of voxels in it against probability, before (grey) and after."""
    across = min(len(found), 3)
    down = -(-len(found) // across)
    figure = Figure(figsize=(WIDTH, 2.4 * down + 0.3), layout='constrained')
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[len(found):]:
        axes.set_visible(False)
    for r, (axes, (name, entry)) in enumerate(zip(grid, found.items(), strict=False)):
        axes.plot([0, 1], [0, 1], color=TRAIN, lw=0.8, ls=':')
        for stage, ink in (('before', TRAIN if 'after' in entry else colour(r)), ('after', colour(r))):
            if stage in entry:
                points = entry[stage]['reliability']
                axes.plot([p[0] for p in points], [p[1] for p in points], color=ink, marker='o', ms=3, lw=1.4)
        axes.set_title(name, loc='left', size=10.5).set_parse_math(False)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect='equal', xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.spines[['top', 'right']].set_visible(False)
    figure.supxlabel('probability', size=10)
    figure.supylabel('share of voxels in the region', size=10)
    return figure


@plainly
def curves(found: dict) -> Figure:
    """Mean Dice of the cases kept against the share referred, a line a region; dotted the mean Dice of all."""
    figure = Figure(figsize=(WIDTH, 3.0), layout='constrained')
    axes = figure.subplots()
    for r, (name, entry) in enumerate(found.items()):
        axes.plot([p[0] for p in entry['curve']], [p[1] for p in entry['curve']], color=colour(r), lw=1.6, label=name,
                  marker='o' if len(entry['curve']) <= 40 else None, ms=3)
        axes.axhline(entry['area_random'], color=colour(r), lw=0.8, ls=':')
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel='share of cases referred', ylabel='mean Dice of the others')
    axes.spines[['top', 'right']].set_visible(False)
    for text in axes.legend(frameon=False, fontsize=9.5, loc='lower right').get_texts():
        text.set_parse_math(False)
    return figure
