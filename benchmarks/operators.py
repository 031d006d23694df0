"""Where the time of a training step goes: a trace of the compiled program, summed per operator.

    python benchmarks/operators.py --case=2d          # the cases of step.py
    python benchmarks/operators.py --case=3d --top=20

Times are of the wall clock, shared among the operators that run at a moment. (Not profile.py: that name would hide a
module of the standard library that PyTorch needs.)
"""
import collections
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import common
from step import BLOCKS, CASES, CHANNELS

STEPS = 3


class Kind(NamedTuple):
    back: str  # 'forward', 'gradient' or 'other'
    place: str  # where in the network, and the operation as it was written
    shape: str  # of the result
    operation: str  # of the compiled program


def kinds(text: str) -> dict[str, Kind]:
    """What every instruction of a compiled program's text is."""
    found = {}
    for line in text.splitlines():
        match = re.match(r'\s*(?:ROOT )?%?([\w.\-]+) = (\S+?)(?:\{[\d,]*\})? ([\w\-]+)\(', line)
        if not match:
            continue
        name, shape, operation = match.groups()
        where = re.search(r'op_name="([^"]*)"', line)
        path = where.group(1) if where else ''
        back = 'gradient' if 'transpose(' in path else 'forward' if 'UNet' in path else 'other'
        place = path[path.index('UNet') + 4:].lstrip(')/') if 'UNet' in path else path.split('/')[-1]
        found[name] = Kind(back, place, shape, operation)
    return found


def group(name: str, kind: Kind) -> str:
    """The kind of an operator, such as 'convolution, gradient'; where the compiler says nothing about its place, the
    stem of its name."""
    if 'conv_general_dilated' in kind.place or kind.operation == 'convolution':
        return f'convolution, {kind.back}'
    for word, called in (('dense', 'up-sampling'), ('up_', 'up-sampling'), ('head', 'head'), ('/conv/', 'convolution'),
                         ('norm', 'norm'), ('concatenate', 'concatenation'), ('leaky_relu', 'activation'),
                         ('reduce_max', 'pooling')):
        if word in kind.place:
            return f'{called}, {kind.back}'
    return re.sub(r'[.\d]+$', '', name) if kind.back == 'other' else f'other, {kind.back}'


def share_out(events: list[tuple[float, float, str]], alone: set[str]) -> dict[str, float]:
    """{name: seconds of wall clock} of events (start, end, name): a moment is shared by those that run in it, and one
    in which none runs belongs to the last that began and is in `alone`: those hand their work to threads that leave
    no trace."""
    moments = sorted([(start, 1, name) for start, _, name in events] + [(end, 0, name) for _, end, name in events])
    found, running, last = collections.Counter(), collections.Counter(), None
    for (now, begins, name), (after, _, _) in zip(moments, moments[1:]):
        running[name] += 1 if begins else -1
        last = name if begins and name in alone else last
        active = [n for n, count in running.items() if count > 0] or ([last] if last else [])
        for n in active:
            found[n] += (after - now) / len(active)
        if running[name] <= 0:
            del running[name]
    return found


def trace(run, known: dict[str, Kind]) -> dict[str, float]:
    """{instruction: seconds a step}."""
    import jax
    found = collections.Counter()
    for _ in range(STEPS):
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                run()
            data = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob('*.xplane.pb'))))
        events = [(e.start_ns * 1e-9, (e.start_ns + e.duration_ns) * 1e-9, e.name) for plane in data.planes
                  for line in plane.lines for e in line.events
                  if e.name in known and known[e.name].operation not in ('while', 'call', 'conditional')]
        alone = {name for name, kind in known.items() if kind.operation in ('convolution', 'dot', 'custom-call')}
        for name, value in share_out(events, alone).items():
            found[name] += value / STEPS
    return found


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--case', choices=tuple(CASES), default='2d')
    parser.add_argument('--top', type=int, default=25)
    options = parser.parse_args()
    import networks_jax
    case = CASES[options.case]
    one = networks_jax.Side(networks_jax.create(case['size'], CHANNELS, case['features'], batch=case['batch'],
                                                blocks=BLOCKS, downsample=case['downsample']))
    known = kinds(one.programs.train.lower(one.state, one.batch).compile().as_text())
    step = common.seconds(one.train)
    times = trace(one.train, known)
    total, groups = sum(times.values()), collections.Counter()
    for name, value in times.items():
        groups[group(name, known[name])] += value
    rows = [[f'{value * 1e3:.1f}', f'{value / total:.1%}', name] for name, value in groups.most_common(options.top)]
    single = [[f'{value * 1e3:.1f}', f'{value / total:.1%}', name, known[name].back, known[name].place,
               known[name].shape] for name, value in times.most_common(options.top)]
    common.report('operators', f'Where the training step goes: {options.case}', [
        f'Step {step:.4g} s; {total:.4g} s while it is traced, shared out below.',
        common.table(['ms', 'share', 'kind'], rows),
        common.table(['ms', 'share', 'instruction', 'direction', 'where', 'result'], single)],
        results=options.results, variant=options.case)


if __name__ == '__main__':
    from unet_jax import huge_pages
    huge_pages.restart(__file__)  # as main.py
    main()
