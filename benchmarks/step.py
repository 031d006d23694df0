"""The same U-Net here and in PyTorch: forward, training step, memory; and the ceiling, a large matrix product.

    python benchmarks/step.py --case=2d      # 240×240×4, batch 2, 5 levels from 32 channels, max pooling
    python benchmarks/step.py --case=3d      # 64³×4, batch 2, 4 levels from 16 channels, strided convolutions

Both start from the same weights and must agree on the output, the loss and the number of parameters. PyTorch is timed
eager and compiled, with channels first and last, float32 and, where the processor has instructions for it, bfloat16;
the fastest of each type, apart for forward and for training, takes turns with jax in one run. Ratios are medians over
the rounds' pairs.
"""
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

CASES = {
    '2d': {'size': (240, 240), 'features': (32, 64, 128, 256, 512), 'batch': 2, 'downsample': 'max'},
    '3d': {'size': (64, 64, 64), 'features': (16, 32, 64, 128), 'batch': 2, 'downsample': 'conv'},
    'tiny': {'size': (32, 32), 'features': (4, 8), 'batch': 2, 'downsample': 'conv'},
}
CHANNELS, BLOCKS, SIDE = 4, 2, 3072
TYPES = ('float32', 'bfloat16')


def jax_worker(case: dict) -> None:
    before_import = common.resident()
    import jax
    import networks_jax

    imported, sides = common.resident(), {}

    def side(dtype):
        if dtype not in sides:
            sides[dtype] = networks_jax.Side(networks_jax.create(
                case['size'], CHANNELS, case['features'], batch=case['batch'], blocks=BLOCKS,
                downsample=case['downsample'], dtype=dtype))
        return sides[dtype]

    def save(path):
        """The initial weights, the batch and what the network makes of it."""
        one = side('float32')
        start = time.perf_counter()
        output = np.asarray(one.forward())
        compiled = time.perf_counter() - start
        flat = networks_jax.flat(one.state.params)
        target = [(one.host['label'] & bits) > 0 for bits in one.experiment.region_bits]
        target = np.stack(target, -1).astype(np.float32)
        np.savez(path, output=output, image=one.host['image'].astype(np.float32), target=target,
                 **{f'weight/{k}': v for k, v in flat.items()})
        start = time.perf_counter()
        metrics = {k: float(v) for k, v in one.train().items()}
        return {'parameters': networks_jax.parameters(one.state.params), 'loss': metrics['loss'],
                'compile': [compiled, time.perf_counter() - start]}

    def measure(what, dtype):
        return common.seconds(getattr(side(dtype), what))

    def ceiling(side, dtype):
        x = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
        product = jax.jit(jax.numpy.matmul)
        return 2e-9 * side**3 / common.seconds(lambda: jax.block_until_ready(product(x, x)))

    def peak(what, dtype):
        run = getattr(side(dtype), what)
        run()
        return {'peak': common.peak_resident(lambda: [run() for _ in range(3)]), 'libraries': imported - before_import}

    common.serve({'save': save, 'measure': measure, 'ceiling': ceiling, 'peak': peak})


def torch_worker(case: dict) -> None:
    before_import = common.resident()
    import networks_torch
    import torch

    imported, held, sides = common.resident(), {}, {}

    def network():
        return networks_torch.UNet(len(case['size']), CHANNELS, tuple(case['features']), 3, BLOCKS, case['downsample'])

    def load(path):
        """Takes over weights and batch; the output's distance from jax's, parameters, loss and FLOPs."""
        with np.load(path) as file:
            held.update({k: file[k] for k in file.files})
        module = network()
        weights = {k.removeprefix('weight/'): v for k, v in held.items() if k.startswith('weight/')}
        networks_torch.load(module, weights)
        held['state'] = module.state_dict()
        image, target = (torch.from_numpy(np.moveaxis(held[k], -1, 1).copy()) for k in ('image', 'target'))
        with torch.no_grad():
            output = module(image)
            difference = np.abs(np.moveaxis(output.numpy(), 1, -1) - held['output']).max()
            loss = networks_torch.loss(output, target)
        return {'difference': float(difference), 'parameters': networks_torch.parameters(module), 'loss': float(loss),
                'flops': networks_torch.flops(module, image, target)}

    def side(way):
        if way not in sides:
            module = network()
            module.load_state_dict(held['state'])
            sides[way] = networks_torch.Side(module, held['image'], held['target'], compiled='compiled' in way,
                                             channels_last='last' in way, bfloat16='bfloat16' in way)
        return sides[way]

    def measure(what, way):
        return common.seconds(getattr(side(way), what))

    def ceiling(side, dtype):
        x = torch.randn(side, side, dtype=getattr(torch, dtype))
        return 2e-9 * side**3 / common.seconds(lambda: x @ x)

    def peak(what, way):
        run = getattr(side(way), what)
        run()
        return {'peak': common.peak_resident(lambda: [run() for _ in range(3)]), 'libraries': imported - before_import}

    common.serve({'load': load, 'measure': measure, 'ceiling': ceiling, 'peak': peak})


def ways(dtype: str, compiled: bool) -> list[str]:
    return [f'{how}, channels {layout}, {dtype}' for how in ('eager', *(['compiled'] if compiled else []))
            for layout in ('first', 'last')]


def choose(torch, types: list[str], compiled: bool) -> tuple[dict, list]:
    """{(what, type): the fastest way}, and a line (way, forward, train) of each that was tried, once over."""
    lines = []
    for way in [way for dtype in types for way in ways(dtype, compiled)]:
        try:
            lines.append((way, *(torch.ask('measure', what=what, way=way) for what in ('forward', 'train'))))
        except RuntimeError as error:  # a compiler that is missing ends the worker: nothing to be measured then
            sys.exit(f'{way}: {error}; --no-compiled leaves torch.compile out')
        print(f'{way}: forward {lines[-1][1]:.4g} s, train {lines[-1][2]:.4g} s', file=sys.stderr, flush=True)
    best = {(what, dtype): min((line for line in lines if line[0].endswith(f', {dtype}')), key=lambda line: line[k])[0]
            for k, what in ((1, 'forward'), (2, 'train')) for dtype in types}
    return best, lines


def check(saved: dict, loaded: dict) -> str:
    """Raises AssertionError unless both sides are the same network."""
    assert saved['parameters'] == loaded['parameters'], (saved['parameters'], loaded['parameters'])
    assert loaded['difference'] < 1e-3, f'outputs differ by {loaded["difference"]}'
    assert abs(saved['loss'] - loaded['loss']) < 1e-4, (saved['loss'], loaded['loss'])
    return (f'{saved["parameters"]:,} parameters on both sides; outputs differ by at most {loaded["difference"]:.1e}, '
            f'losses by {abs(saved["loss"] - loaded["loss"]):.1e}. Convolutions, without padding: '
            f'{loaded["flops"][0] / 1e9:.1f} GFLOP forward, {loaded["flops"][1] / 1e9:.1f} a training step.')


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--case', choices=tuple(CASES), default='2d')
    parser.add_argument('--settings', default='{}', help='JSON that changes the case, {"batch": 1}')
    parser.add_argument('--side', type=int, default=SIDE, help='of the matrices whose product is the ceiling')
    parser.add_argument('--types', default=','.join(TYPES[:1 + common.bfloat16()]), help='float32 first; bfloat16 by '
                        'itself only where the processor has instructions for it')
    parser.add_argument('--no-compiled', dest='compiled', action='store_false', help='PyTorch eager only')
    arguments = parser.parse_args()
    types = arguments.types.split(',')
    case = CASES[arguments.case] | json.loads(arguments.settings)
    if arguments.worker:
        return {'jax': jax_worker, 'torch': torch_worker}[arguments.worker](case)
    os.environ['JAX_PLATFORMS'] = 'cpu'  # PyTorch is timed there too
    rest = (f'--case={arguments.case}', f'--settings={arguments.settings}')
    with common.Worker(__file__, 'jax', *rest) as jax, common.Worker(__file__, 'torch', *rest) as torch, \
            tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / 'weights.npz')
        saved = jax.ask('save', path=path)
        loaded = torch.ask('load', path=path)
        same = check(saved, loaded)
        print(same, file=sys.stderr)
        best, tried = choose(torch, types, arguments.compiled)
        entries = {('jax', what, dtype): lambda w=what, t=dtype: jax.ask('measure', what=w, dtype=t)
                   for what in ('forward', 'train') for dtype in types}
        entries |= {('torch', *key): lambda k=key, way=way: torch.ask('measure', what=k[0], way=way)
                    for key, way in best.items()}
        for name, side, dtype in [('jax', jax, 'float32'), *(('torch', torch, dtype) for dtype in types)]:
            entries[name, 'ceiling', dtype] = lambda s=side, t=dtype: s.ask('ceiling', side=arguments.side, dtype=t)
        found = common.in_turn(entries, arguments.rounds)
        peaks = {}
    for name, kind in (('jax', 'float32'), ('torch', best['train', 'float32'])):
        with common.Worker(__file__, name, *rest) as fresh, tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / 'weights.npz')
            if name == 'torch':
                with common.Worker(__file__, 'jax', *rest) as jax:
                    jax.ask('save', path=path)
                fresh.ask('load', path=path)
            peaks[name] = fresh.ask('peak', what='train', **{'dtype' if name == 'jax' else 'way': kind})
    write(arguments, case, same, found, best, tried, peaks, saved, loaded['flops'])


def write(arguments, case, same, found, best, tried, peaks, saved, flops) -> None:
    ceiling = {key[::2]: common.median(v) for key, v in found.items() if key[1] == 'ceiling'}
    rows = []
    for (what, dtype), way in best.items():
        ours, theirs = found['jax', what, dtype], found['torch', what, dtype]
        middle, low, high = common.ratio(ours, found['torch', what, 'float32'])
        work = flops[0 if what == 'forward' else 1] / 1e9
        share = [work / common.median(times) / ceiling['jax', 'float32'] for times in (ours, theirs)]
        rows.append([what, dtype, common.median(ours), common.median(theirs), way,
                     *(f'{x:.0%}' for x in share), f'{middle:.2f} ({low:.2f}-{high:.2f})'])
    if not common.bfloat16() and ('train', 'bfloat16') not in best:
        rows += [[what, 'bfloat16', None, None, 'emulated: not run', '', '', ''] for what in ('forward', 'train')]
    shape = '×'.join(map(str, (*case['size'], CHANNELS)))
    parts = [
        f'Input {shape}, batch {case["batch"]}, features {tuple(case["features"])}, {BLOCKS} plain blocks a level, '
        f'downsampling {case["downsample"]!r}, instance norm, Dice + cross-entropy, AdamW, no augmentation. {same}',
        common.table(['what', 'type', 'jax (s)', 'PyTorch (s)', "PyTorch's fastest way", 'jax of ceiling',
                      'PyTorch of ceiling', 'PyTorch float32 / jax'], rows),
        f'Medians of {arguments.rounds} rounds in which all take turns; ratios are by pairs (lowest and highest), '
        'against the fastest float32 of PyTorch, above 1 where jax is faster. The ceiling is that of jax float32.',
        common.table(['library', 'type', f'product of {arguments.side}² matrices (GFLOP/s)'],
                     [[*key, value] for key, value in ceiling.items()]),
        common.table(['library', 'peak memory of training, float32 (MiB)', 'of it the imported libraries (MiB)'],
                     [[name, p['peak'], p['libraries']] for name, p in peaks.items()]),
        f'jax compiled its forward in {saved["compile"][0]:.1f} s and its step in {saved["compile"][1]:.1f} s '
        '(less where the cache of compiled programs had them).',
        "How PyTorch's way was chosen, each timed once:\n\n" + common.table(
            ['way', 'forward (s)', 'train (s)'], tried)]
    common.report('step', f'One U-Net, here and in PyTorch: {arguments.case}', parts, results=arguments.results,
                  variant=arguments.case)


if __name__ == '__main__':
    main()
