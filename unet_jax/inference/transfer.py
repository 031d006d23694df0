"""Parameters of one network as the beginning of another: by name and shape, channels by what they stand for."""
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import formats
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment
from unet_jax.inference.model_file import flatten
from unet_jax.model import networks, unet

LEAST = 0.5  # share of the parameters that must come from the source
INPUTS, OUTPUTS = 'sequences', 'regions'


class Source(NamedTuple):
    """A network with its parameters, by name, and what its channels stand for."""
    params: dict[str, np.ndarray]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def sequences(config: ConfigDict) -> tuple[str, ...]:
    """The names of what the network looks at, channel by channel: of neighbouring slices with how far they are."""
    data = config.data
    if formats.named(data.format).sequences:
        names = tuple(data.modalities)
    else:
        names = {1: ('grey',), 3: ('red', 'green', 'blue')}.get(data.channels) or tuple(
            f'channel {k}' for k in range(1, data.channels + 1))
    return names if not data.neighbours else tuple(
        f'{name} of slice {offset:+d}' if offset else name
        for offset in range(-data.neighbours, data.neighbours + 1) for name in names)


def outputs(config: ConfigDict) -> tuple[str, ...]:
    """What each logit of a pixel stands for: a region, or with softmax first the background."""
    return ('background',) * (config.loss.activation == 'softmax') + tuple(name for name, *_ in config.data.regions)


def channel_axes(experiment: Experiment) -> dict[str, tuple[str, int]]:
    """{parameter: (INPUTS or OUTPUTS, axis)} of those whose shape has channels of images or logits in it, found by
    trying one more of them, so for any network."""
    config, size = experiment.config, experiment.settings.size
    one = experiment.settings.channels, len(outputs(config))

    def shapes(channels: int, logits: int) -> dict[str, tuple[int, ...]]:
        module = networks.build(config.model, logits)
        tree = jax.eval_shape(lambda: unet.init(module, jax.random.key(0), size, channels))
        return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
                for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}

    plain, found = shapes(*one), {}
    for kind, more in ((INPUTS, (one[0] + 1, one[1])), (OUTPUTS, (one[0], one[1] + 1))):
        for name, shape in shapes(*more).items():
            if name in plain and shape != plain[name]:
                found[name] = kind, next(k for k, (a, b) in enumerate(zip(shape, plain[name], strict=True)) if a != b)
    return found


def regroup(source: np.ndarray, fresh: np.ndarray, axis: int, had: tuple[str, ...], wanted: tuple[str, ...], *,
            mean: bool) -> np.ndarray | None:
    """`source` with its channels `had` along `axis` put into the order of `wanted`; those that it has not are the mean
    of all, or else as in `fresh`. None where the rest of the shape is another.

    Along the axis lie positions in a block of pixels (model/expand.py, `space_to_depth`), in each all channels.
    """
    if source.ndim != fresh.ndim or source.shape[axis] % len(had):
        return None
    old, new = (np.moveaxis(x, axis, -1) for x in (source, fresh))
    old, new = (x.reshape(*x.shape[:-1], -1, len(names)) for x, names in ((old, had), (new, wanted)))
    if old.shape[:-1] != new.shape[:-1]:
        return None
    columns = [old[..., had.index(name)] if name in had else old.mean(-1) if mean else new[..., k]
               for k, name in enumerate(wanted)]
    whole = np.stack(columns, -1).astype(fresh.dtype)
    return np.ascontiguousarray(np.moveaxis(whole.reshape(*whole.shape[:-2], -1), -1, axis))


def adapt(source: Source, experiment: Experiment, fresh: Any) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """(parameters by name for the network of `experiment`, a row a parameter: parameter, shape, numbers, from_source,
    what, how). `fresh`: its parameters before training, which stay where the source has none that fit.

    Raises InputError where less than the share LEAST of all numbers comes from the source.
    """
    axes, config = channel_axes(experiment), experiment.config
    wanted = {INPUTS: sequences(config), OUTPUTS: outputs(config)}
    had = {INPUTS: source.inputs, OUTPUTS: source.outputs}
    found, rows = {}, []
    for name, start in flatten(fresh).items():
        kind, axis = axes.get(name, (None, 0))
        theirs, taken, how = source.params.get(name), None, ''
        if theirs is None:
            how = 'no such parameter there'
        elif kind is None or wanted[kind] == had[kind]:
            taken, how = (theirs, '') if theirs.shape == start.shape else (None, f'has shape {shape_of(theirs)} there')
            known = 1.0
        else:
            taken = regroup(theirs, start, axis, had[kind], wanted[kind], mean=kind == INPUTS)
            share = sum(region in had[kind] for region in wanted[kind]) / len(wanted[kind])
            known = 1.0 if kind == INPUTS else share
            how = told(kind, had[kind], wanted[kind]) if taken is not None else f'has shape {shape_of(theirs)} there'
            taken = taken if known else None
        from_source = 0 if taken is None else round(known * start.size)
        what = 'fresh' if taken is None else 'adapted' if how else 'taken'
        found[name] = start if taken is None else taken
        rows.append({'parameter': name, 'shape': shape_of(start), 'numbers': start.size, 'from_source': from_source,
                     'what': what, 'how': how})
    table = pd.DataFrame(rows)
    check_share(table)
    return found, table


def shape_of(array: np.ndarray) -> str:
    return '×'.join(map(str, array.shape))


def told(kind: str, had: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """How channels were found."""
    kept, new = ([name for name in wanted if (name in had) == there] for there in (True, False))
    other = f'the mean of {", ".join(had)}' if kind == INPUTS else 'fresh'
    parts = [f'{", ".join(kept)} as there'] * bool(kept) + [f'{", ".join(new)} {other}'] * bool(new)
    return f'{kind}: {"; ".join(parts)}'


def check_share(table: pd.DataFrame) -> None:
    """Raises InputError unless at least LEAST of the numbers in a table of `adapt` come from the source."""
    share = table.from_source.sum() / table.numbers.sum()
    if share < LEAST:
        odd = table[table.what == 'fresh'].nlargest(3, 'numbers')
        reasons = '; '.join(f'{row.parameter} ({row.shape}): {row.how}' for row in odd.itertuples())
        raise InputError(f'config.train.init_from: only {share:.0%} of the parameters could be taken, less than '
                         f'{LEAST:.0%}, so this is another network. The largest that could not: {reasons}. Give '
                         'config.model as the source has it, or leave out config.train.init_from')


def text(table: pd.DataFrame) -> str:
    """A table of `adapt` as it is printed."""
    numbers = table.groupby('what').numbers.sum().to_dict()
    columns = table[['parameter', 'shape', 'what', 'how']]
    width = [max(map(len, [name, *columns[name]])) for name in columns]
    lines = ['  '.join(cell.ljust(n) for cell, n in zip(row, width, strict=True)).rstrip()
             for row in [list(columns), *columns.itertuples(index=False)]]
    share = table.from_source.sum() / table.numbers.sum()
    return ('\n'.join(lines) + f'\n{share:.1%} of {table.numbers.sum():,} numbers come from the source '
            f'({", ".join(f"{what} {number:,}" for what, number in numbers.items())})')
