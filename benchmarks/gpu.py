"""The shapes that NVIDIA publishes for its nnU-Net, on one GPU: here, and the same network in PyTorch.

    python benchmarks/gpu.py                          # on a GPU; PyTorch takes part where it sees one
    python benchmarks/gpu.py --small --no-torch       # on a processor, to see that it works: measures nothing of worth

2-D 192×160×4, batch 32, 64, 128; 3-D 128³×4, batch 1, 2, 4; bfloat16; widths 32, 64, 128, 256, 320, 320 (2-D: one
level more), two plain blocks a level, strided convolutions, instance norm, as NVIDIA's (its published figures are with
deep supervision off, on an A100-80); Dice + cross-entropy, AdamW; as many parameters in PyTorch's network (asserted).
Work is counted by XLA's cost analysis of the program as compiled; the ceilings, a bfloat16 matrix product and a copy
in memory, are measured in the same run. 'with augmentation' augments in the step.
"""
import sys

import common
import numpy as np

SHAPES = {'2d': ((192, 160), (32, 64, 128, 256, 320, 320, 320), (32, 64, 128)),
          '3d': ((128, 128, 128), (32, 64, 128, 256, 320, 320), (1, 2, 4))}
SMALL = {'2d': ((32, 32), (4, 8, 16), (2,)), '3d': ((16, 16, 16), (4, 8), (1,))}
PUBLISHED = {('2d', 'train', 128): 1345, ('2d', 'forward', 128): 3850,
             ('3d', 'train', 4): 30.0, ('3d', 'forward', 4): 76.4}
BLOCKS, CHANNELS = 2, 4


def shapes(options) -> dict:
    return SMALL if options.small else SHAPES


def jax_worker(options) -> None:
    import jax
    import networks_jax

    sides = {}

    def side(shape, batch, augment):
        key = shape, batch, augment
        if key not in sides:
            sides.clear()  # one network at a time lies in the device's memory
            size, features, _ = shapes(options)[shape]
            sides[key] = networks_jax.Side(networks_jax.create(
                size, CHANNELS, features, batch=batch, blocks=BLOCKS, dtype=options.dtype, augment=augment))
        return sides[key]

    def measure(shape, batch, what, augment=False):
        return common.seconds(getattr(side(shape, batch, augment), what), least=options.seconds)

    def cost(shape, batch, what, augment=False):
        """FLOPs, bytes moved as XLA estimates them, and the memory that the compiled program takes."""
        one = side(shape, batch, augment)
        lowered = (one.apply.lower(one.state.params, one.image) if what == 'forward'
                   else one.programs.train.lower(one.state, one.batch))
        compiled = lowered.compile()
        found, sizes = compiled.cost_analysis() or {}, compiled.memory_analysis()
        flops = (lowered.cost_analysis() or {}).get('flops')  # before fusion and library calls, which count nothing
        return {'flops': flops or found.get('flops'), 'bytes': found.get('bytes accessed'),
                'memory': (sizes.argument_size_in_bytes + sizes.temp_size_in_bytes) / 2**30,
                'parameters': networks_jax.parameters(one.state.params)}

    def peak():
        """GiB, the highest so far in this process; None where the device does not count."""
        stats = jax.devices()[0].memory_stats() or {}
        return stats['peak_bytes_in_use'] / 2**30 if 'peak_bytes_in_use' in stats else None

    def ceilings(side):
        x = jax.random.normal(jax.random.key(0), (side, side)).astype(options.dtype)
        product, copy = jax.jit(jax.numpy.matmul), jax.jit(lambda x: x + 1)
        big = jax.numpy.zeros((side * side * 4,), np.float32)
        return {'TFLOP/s': 2e-12 * side**3 / common.seconds(lambda: jax.block_until_ready(product(x, x))),
                'GB/s': 2e-9 * big.nbytes / common.seconds(lambda: jax.block_until_ready(copy(big)))}

    def about():
        return {'kind': jax.devices()[0].device_kind, 'platform': jax.default_backend()}

    common.serve({'measure': measure, 'cost': cost, 'peak': peak, 'ceilings': ceilings, 'about': about})


def torch_worker(options) -> None:
    import networks_torch
    import torch
    device, sides = ('cuda' if torch.cuda.is_available() else 'cpu'), {}

    def side(shape, batch, compiled):
        if (shape, batch, compiled) not in sides:
            sides.clear()
            torch._dynamo.reset()
            size, features, _ = shapes(options)[shape]
            module = networks_torch.UNet(len(size), CHANNELS, features, 3, BLOCKS, 'conv')
            rng = np.random.default_rng(0)
            image = rng.standard_normal((batch, *size, CHANNELS), np.float32)
            sides[shape, batch, compiled] = networks_torch.Side(
                module, image, np.zeros((batch, *size, 3), np.float32), compiled=compiled, channels_last=True,
                bfloat16=options.dtype == 'bfloat16', device=device)
        return sides[shape, batch, compiled]

    def measure(shape, batch, what, compiled):
        return common.seconds(getattr(side(shape, batch, compiled), what), least=options.seconds)

    def parameters(shape, batch):
        return networks_torch.parameters(side(shape, batch, False).module)

    def peak(shape, batch, compiled):
        run = side(shape, batch, compiled).train
        run()
        if device == 'cpu':
            return None
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**30

    def about():
        return {'device': device}

    common.serve({'measure': measure, 'parameters': parameters, 'peak': peak, 'about': about})


def case(options, shape: str, batch: int, rest: tuple[str, ...]) -> tuple[list[list], dict, int]:
    """(rows, ceilings, parameters) of a shape and batch. Workers of its own, so that peaks are of this case alone."""
    rows, costs = [], {}
    with common.Worker(__file__, 'jax', *rest) as jax:
        ceilings = jax.ask('ceilings', side=options.side)
        with common.Worker(__file__, 'torch' if options.torch else 'none', *rest) as torch:
            kinds = [False, True] if options.compiled else [False]
            plans = [('forward', False), ('train', False), ('train', True)]
            speeds, theirs = {}, {}
            for what, augment in plans:
                ask = {'shape': shape, 'batch': batch, 'what': what}
                costs[what, augment] = jax.ask('cost', **ask, augment=augment)
                entries = {'jax': lambda a=ask, g=augment: jax.ask('measure', **a, augment=g)}
                if options.torch and not augment:
                    same = torch.ask('parameters', shape=shape, batch=batch), costs[what, augment]['parameters']
                    assert same[0] == same[1], same
                    trial = {k: torch.ask('measure', **ask, compiled=k) for k in kinds}
                    best = min(trial, key=trial.get)
                    entries['torch'] = lambda a=ask, k=best: torch.ask('measure', **a, compiled=k)
                found = common.in_turn(entries, options.rounds)
                speeds[what, augment] = found['jax']
                theirs[what, augment] = found.get('torch')
            theirs_peak = torch.ask('peak', shape=shape, batch=batch, compiled=best) if options.torch else None
            peaks = jax.ask('peak'), theirs_peak
    for what, augment in plans:
        seconds, cost = common.median(speeds[what, augment]), costs[what, augment]
        other = theirs[what, augment]
        rows.append([shape, batch, what + (' with augmentation' if augment else ''), batch / seconds,
                     cost['flops'] and cost['flops'] / seconds / 1e12,
                     share(cost['flops'], seconds, ceilings['TFLOP/s'] * 1e12),
                     share(cost['bytes'], seconds, ceilings['GB/s'] * 1e9),
                     cost['memory'], peaks[0], batch / common.median(other) if other else None,
                     peaks[1] if what == 'train' and not augment else '',
                     common.ratio(speeds[what, augment], other)[0] if other else None,
                     '' if augment else PUBLISHED.get((shape, what, batch), '')])
    return rows, ceilings, cost['parameters']


def share(work: float | None, seconds: float, ceiling: float) -> str:
    return f'{work / seconds / ceiling:.0%}' if work else 'not measured'


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--small', action='store_true', help='tiny shapes, to see that it works')
    parser.add_argument('--dtype', choices=('bfloat16', 'float32'), default='bfloat16')
    parser.add_argument('--no-torch', dest='torch', action='store_false')
    parser.add_argument('--no-compiled', dest='compiled', action='store_false', help='PyTorch eager only')
    parser.add_argument('--seconds', type=float, default=0.5, help='least of each measurement')
    parser.add_argument('--side', type=int, default=0, help='of the matrices of the ceiling; 8192, with --small 512')
    options = parser.parse_args()
    options.side = options.side or (512 if options.small else 8192)
    if options.worker == 'none':
        return common.serve({})
    if options.worker:
        return {'jax': jax_worker, 'torch': torch_worker}[options.worker](options)
    rest = (f'--dtype={options.dtype}', f'--seconds={options.seconds}', *(['--small'] if options.small else []))
    with common.Worker(__file__, 'jax', *rest) as jax:
        about = jax.ask('about')
    if about['platform'] == 'cpu' and not options.small:
        sys.exit('jax sees no GPU here: not measured. --small shows on a processor that the benchmark works')
    if options.torch:
        with common.Worker(__file__, 'torch', *rest) as torch:
            options.torch = options.small or torch.ask('about')['device'] == 'cuda'
    rows, notes = [], []
    for shape, (size, features, batches) in shapes(options).items():
        for batch in batches:
            more, ceilings, parameters = case(options, shape, batch, rest)
            rows += more
        notes.append(f'{shape}: {"×".join(map(str, size))}×{CHANNELS}, features {features}, {parameters:,} '
                     f'parameters; ceilings {ceilings["TFLOP/s"]:.4g} TFLOP/s ({options.dtype}, {options.side}²), '
                     f'{ceilings["GB/s"]:.4g} GB/s')
    warning = 'Tiny shapes on a processor: shows that it works, and no number here is a result.\n\n'
    common.report('gpu', 'Shapes of NVIDIA\'s nnU-Net' + (' (small)' if options.small else ''), [
        (warning if options.small else '') + '\n'.join(f'- {note}' for note in notes),
        common.table(['shape', 'batch', 'what', 'samples/s', 'TFLOP/s', 'of the matrix ceiling', 'of the bandwidth',
                      'memory by XLA (GiB)', 'peak (GiB)', 'PyTorch samples/s', "PyTorch's peak (GiB)",
                      'jax is faster by', 'published, A100'], rows),
        'Peak: the highest of the three programs of a shape and batch. PyTorch: channels last, the faster of eager '
        f'and compiled. Medians of {options.rounds} rounds in turn, ratios by pairs. Bandwidth: the bytes that XLA '
        'counts for the compiled program.'],
        results=options.results, variant='small' if options.small else '')


if __name__ == '__main__':
    main()
