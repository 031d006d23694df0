"""The costs of a config on several targets, as one table and a list of where each one's goes."""
from collections.abc import Sequence

from unet_jax.compiled import cost, targets
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment
from unet_jax.progress import bar

GB = 1e9
COLUMNS = ('device', 'step', 'batch', 'type', 'GB', 'GFLOP', 'GB moved', 'collectives', 'ms', 'a second', 'of peak',
           'largest')
WORDS = """\
Nothing was run. GB, GFLOP, GB moved and ms are of one device; the batch, samples a second and the largest batch of all
together (it divides over them; about, on the line through two compiled batches).
TPU times (est.) are the compiler's own model of its program: no measurement. It leaves out gathers, which count by
their bytes here and may take many times as long; where there are any, their number is told. Of a GPU (bound) the time
is what the memory's bandwidth needs for the bytes that all kernels read and write, or the peak for the FLOPs, if that
is longer: no step is faster, and messages between devices come on top.
FLOPs are those of convolutions and products as written; the peak is that of bfloat16."""


def of_targets(experiment: Experiment, names: Sequence[str], *, memory: float | None = None) -> str:
    """The table of the training and the prediction step on the targets of these names. memory: bytes a device."""
    chosen = [targets.read(name) for name in names]
    if gone := [why for target in chosen if (why := targets.missing(target))]:
        raise InputError('--target=' + '; '.join(gone))  # before the first takes its minutes
    found = []
    with bar(total=len(chosen) * len(cost.STEPS), desc='compiling', unit='step') as progress:
        for target in chosen:
            for step in cost.STEPS:
                found.append(cost.of_step(experiment, target, step, memory=memory))
                progress.update()
    return '\n'.join([WORDS, '', *plain([COLUMNS, *map(row, found)]), '', *(places(one) for one in found)])


def row(one: cost.Cost) -> tuple[str, ...]:
    """A line of the table; of a program that does not fit there is no more to say."""
    most = '' if one.largest is None else f'{one.largest:,}'
    begin = one.target.name, one.step, str(one.batch), one.dtype, f'{one.memory / GB:.3f}'
    if not one.bytes:
        return *begin, *[''] * 3, 'does not fit', '', '', most
    how = 'est.' if one.target.tpu else 'bound'
    return (*begin, f'{one.flops / 1e9:,.1f}', f'{one.bytes / GB:.3f}', told(one.collectives),
            f'{one.seconds * 1e3:.3g} {how}', f'{one.samples:,.1f}', f'{one.share:.0%}', most)


def told(collectives: dict[str, tuple[int, int]]) -> str:
    """'4 all-reduce (120.00 MB)', '-' where there is none."""
    return ', '.join(f'{count} {kind} ({moved / 1e6:.2f} MB)' for kind, (count, moved) in collectives.items()) or '-'


def places(one: cost.Cost) -> str:
    """The places where most of it goes, with their shares."""
    of = 'the estimated time' if one.target.tpu else 'the bytes'
    shares = ', '.join(f'{name} {share:.1%}' for name, share in one.dearest)
    if one.gathers:
        shares += f'; {one.gathers} gathers have no estimate'
    return f'{one.target.name} {one.step}, most of {of}: {shares}' if shares else \
        f'{one.target.name} {one.step}: needs {one.memory / GB:.1f} GB a device; try a smaller batch or data.size, ' \
        'model.remat, model.stem, train.spatial, train.fsdp'


def plain(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text in columns as wide as they need."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ['  '.join(entry.ljust(n) for entry, n in zip(one, wide, strict=True)).rstrip() for one in rows]
