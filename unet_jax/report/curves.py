"""Training over time, and the scores of every case."""
import io
import math

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unet_jax.palette import colour
from unet_jax.report import plainly

TRAIN, VALID = '#8a8f98', '#4477AA'  # readable on white and on black
WIDTH = 6.2  # inches: text stays legible when a phone shows it at 360 px


@plainly
def curves(lines: list[dict]) -> Figure:
    """Loss, Dice of each region on the validation set, and learning rate, against the step.

    lines: the objects of metrics.jsonl: `step`, `split` ('train' or 'valid') and any of `loss`, `learning_rate`,
    `dice/<region>`. A panel whose numbers are absent or not finite is left out. A step that was repeated after a
    resume counts once, with its later value.
    """
    panels = [('loss', 3.0, {('train', 'loss'): ('training', TRAIN), ('valid', 'loss'): ('validation', VALID)})]
    regions = list(dict.fromkeys(key for line in lines for key in line if key.startswith('dice/')))
    panels += [('Dice, validation', 3.0, {('valid', key): (key.removeprefix('dice/'), colour(r))
                                          for r, key in enumerate(regions)})]
    panels += [('learning rate', 1.1, {('train', 'learning_rate'): ('', TRAIN)})]
    drawn = [(name, height, points) for name, height, keys in panels
             if (points := {look: series(lines, split=split, key=key) for (split, key), look in keys.items()
                        if series(lines, split=split, key=key)[0].size})]
    figure = Figure(figsize=(WIDTH, sum(height for _, height, _ in drawn) + 0.6), layout='constrained')
    if not drawn:
        figure.text(0.5, 0.5, 'no finite numbers logged yet', ha='center', va='center')
        return figure
    grid = figure.subplots(len(drawn), sharex=True, squeeze=False, height_ratios=[height for _, height, _ in drawn])
    for axes, (name, _, points) in zip(grid[:, 0], drawn, strict=True):
        for (label, ink), (steps, values) in points.items():
            few = len(steps) <= 40
            axes.plot(steps, values, color=ink, lw=1.6, marker='o' if few else None, ms=3.5, label=label)
        _dress(axes, name)
        if name != 'learning rate':
            _legend(axes)
        if name.startswith('Dice'):
            axes.set_ylim(0, 1.02)
        values = np.concatenate([values for _, values in points.values()])
        if name == 'loss' and 0 < 20 * values.min() < values.max():
            axes.set_yscale('log')
    grid[-1, 0].set_xlabel('step')
    return figure


def series(lines: list[dict], *, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `key`, ascending, finite ones only; of a repeated step the last."""
    points = {line['step']: float(line[key]) for line in lines
              if line.get('split') == split and isinstance(line.get(key), int | float) and 'step' in line}
    kept = sorted((step, value) for step, value in points.items() if math.isfinite(value))
    return np.array([step for step, _ in kept]), np.array([value for _, value in kept])


@plainly
def dice_distribution(cases: pd.DataFrame) -> Figure:
    """Dice of every case as a dot, with the quartiles as a box, one row a region.

    cases: one row a case and region, columns `region` and `dice`; NaN (both masks empty, in some conventions) is
    counted in the label.
    """
    regions = list(dict.fromkeys(cases['region']))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.95 * max(len(regions), 1)), layout='constrained')
    axes = figure.subplots()
    labels = []
    for r, region in enumerate(regions):
        values = cases.loc[cases['region'] == region, 'dice'].to_numpy(float)
        finite = np.sort(values[np.isfinite(values)])
        missing = f', {len(values) - len(finite)} undefined' if len(finite) < len(values) else ''
        labels.append(f'{region}\nn = {len(finite)}{missing}')
        if not len(finite):
            continue
        # Golden-ratio jitter: even, and the same every time.
        jitter = (np.arange(len(finite)) * 0.618034 % 1 - 0.5) * 0.36
        axes.scatter(finite, r + 0.16 + jitter, s=14, color=colour(r), alpha=0.75, linewidths=0,
                     rasterized=len(finite) > 500)
        axes.boxplot(finite, orientation='horizontal', positions=[r - 0.24], widths=0.2, showfliers=False,
                     medianprops={'color': colour(r), 'lw': 2.4})
    axes.set_yticks(range(len(regions)), labels)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set(xlim=(-0.02, 1.02), ylim=(max(len(regions), 1) - 0.45, -0.55), xlabel='Dice')
    _dress(axes, '')
    axes.grid(False, axis='y')
    return figure


@plainly
def svg(figure: Figure) -> str:
    """The figure as an <svg> element whose text and axes are dark or light by the reader's setting."""
    buffer = io.StringIO()
    with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'unet_jax'}):  # a fixed salt: the same bytes every time
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None}, dpi=200)
    drawing = buffer.getvalue()
    opening, rest = drawing[drawing.index('<svg'):].replace('#000000', 'currentColor').split('>', 1)
    return (f'{opening}><style>svg{{color:#1b1e23}}text{{fill:currentColor}}'
            f'@media(prefers-color-scheme:dark){{svg{{color:#e4e6ea}}}}</style>{rest}')


def _dress(axes: Axes, name: str) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color=TRAIN, alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title(name, loc='left', size=10.5)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    for text in axes.legend(handles, labels, frameon=False, fontsize=9.5, ncols=min(len(labels), 4), loc='lower right',
                            bbox_to_anchor=(1, 1), borderaxespad=0.1, handlelength=1.4).get_texts():
        text.set_parse_math(False)
