"""Step time over 1, 2, 4 and 8 devices: weak (the same batch a device) and strong (the same batch in all).

    python benchmarks/scaling.py                     # virtual CPU devices where there is one real device
    python benchmarks/scaling.py --batch=16 --size=240,240

Virtual devices share the same cores, so their times show correctness and overhead only, no speed-up: weak scaling over
n devices does n times the work of one on the same cores, and strong scaling the same work. Losses are compared with
those of one device.
"""
import argparse
import os

import common
import numpy as np


def worker(options) -> None:
    if options.virtual:
        flag = f'--xla_force_host_platform_device_count={max(options.devices)}'
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()
    import jax
    import networks_jax

    from unet_jax.training import loop, sharding
    sides = {}

    def side(devices, batch):
        if (devices, batch) not in sides:
            one = networks_jax.create(options.size, 4, options.features, batch=batch, blocks=1)
            programs = loop.create_programs(one, devices=jax.devices()[:devices])
            sides[devices, batch] = [programs, programs.create(),
                                     sharding.put(networks_jax.host_batch(one), programs.mesh)]
        return sides[devices, batch]

    def step(devices, batch):
        found = side(devices, batch)
        found[1], metrics = found[0].train(found[1], found[2])
        return jax.block_until_ready(metrics)

    def losses(devices, batch):
        """Of the first five steps."""
        return [float(step(devices, batch)['loss']) for _ in range(5)]

    def measure(devices, batch):
        return common.seconds(lambda: step(devices, batch))

    def about():
        return {'devices': len(jax.devices()), 'kind': jax.devices()[0].device_kind}

    common.serve({'losses': losses, 'measure': measure, 'about': about})


def main() -> None:
    parser = common.parser(__doc__)

    def numbers(text):
        return tuple(map(int, text.split(',')))

    parser.add_argument('--devices', type=numbers, default=(1, 2, 4, 8))
    parser.add_argument('--batch', type=int, default=8, help='of strong scaling in all, and of weak scaling over all')
    parser.add_argument('--size', type=numbers, default=(128, 128))
    parser.add_argument('--features', type=numbers, default=(16, 32, 64, 128))
    parser.add_argument('--virtual', action=argparse.BooleanOptionalAction, default=not common.accelerator())
    options = parser.parse_args()
    if options.worker:
        return worker(options)
    rest = [f'--{name}={",".join(map(str, getattr(options, name)))}' for name in ('devices', 'size', 'features')]
    rest += [f'--batch={options.batch}', '--virtual' if options.virtual else '--no-virtual']
    each = max(1, options.batch // max(options.devices))
    plans = {('strong', n): options.batch for n in options.devices} | {('weak', n): each * n for n in options.devices}
    with common.Worker(__file__, 'jax', *rest) as jax:
        about = jax.ask('about')
        plans = {key: batch for key, batch in plans.items() if key[1] <= about['devices']}
        losses = {key: jax.ask('losses', devices=key[1], batch=batch) for key, batch in plans.items()}
        found = common.in_turn({key: lambda k=key, b=batch: jax.ask('measure', devices=k[1], batch=b)
                                for key, batch in plans.items()}, options.rounds)
    rows = []
    for (kind, n), batch in plans.items():
        middle, low, high = common.ratio(found[kind, n], found[kind, 1])
        apart = np.abs(np.subtract(losses[kind, n], losses[kind, 1])).max() if kind == 'strong' else None
        rows.append([kind, n, batch, common.median(found[kind, n]), f'{middle:.2f} ({low:.2f}-{high:.2f})',
                     '' if apart is None else f'{apart:.1e}'])
    what = (f'{about["devices"]} virtual devices on the same cores: correctness and overhead only, no speed-up can '
            'show. With as many real ones: not measured.') if options.virtual else f'{about["devices"]} devices.'
    parts = [f'{what} Device: {about["kind"]}. Images {"×".join(map(str, options.size))}×4, features '
             f'{options.features}, one plain block a level, float32, state replicated.',
             common.table(['scaling', 'devices', 'batch in all', 'step (s)', 'time of 1 device / this',
                           'largest difference of 5 losses'], rows),
             f'Medians of {options.rounds} rounds in turn; ratios by pairs (lowest and highest).' + (
                 ' Ideal on shared cores: strong 1.00, weak 1/n.' if options.virtual else
                 ' Ideal: strong n, weak 1.00.')]
    common.report('scaling', 'Step time over devices', parts, results=options.results,
                  variant='virtual' if options.virtual else '')



if __name__ == '__main__':
    main()
