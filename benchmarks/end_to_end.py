"""Images a second of real training, from image files on disk, with augmentation: here, MONAI, smp and nnU-Net.

    python benchmarks/end_to_end.py                         # made-up brains
    python benchmarks/end_to_end.py --root=DIR              # a COCO folder with a subset `train`
    python benchmarks/end_to_end.py --root=DIR --peers=nnunet

Each trains what its users would, so the networks differ: here configs/coco.py through the real loop (timing.jsonl is
read); MONAI's residual strided UNet with its transforms, or with albumentations; smp's Unet on a ResNet-34 with
albumentations. The same files, size, batch and kinds of augmentation; everywhere Dice + cross-entropy and AdamW.
Everyone reads from a cache of decoded images, which favours the peers: as they are commonly used they decode again at
every visit. These peers run in the fastest of float32 and bfloat16 (where the processor has instructions for it),
channels first and last, 0 and 2 loader processes, eager (compiled: not measured). nnU-Net gets the same files at the
same size and decides everything else by itself (peers.NnUnet). All take turns of some seconds each.
"""
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

PEERS = {'monai': 'MONAI UNet + MONAI transforms', 'smp': 'smp Unet, ResNet-34 + albumentations',
         'mixed': 'MONAI UNet + albumentations', 'nnunet': 'nnU-Net, its 2-D plan'}
WAYS = tuple((bf16, last, workers) for bf16 in (False, True)[:1 + common.bfloat16()] for last in (False, True)
             for workers in (0, 2))


def jax_worker(root: str) -> None:
    from absl import logging as absl_logging

    from configs import coco
    from unet_jax import experiment as experiments
    from unet_jax import phantom
    from unet_jax.modes import image_kind, start
    from unet_jax.pipeline import decode
    from unet_jax.training import loop
    absl_logging.set_verbosity(absl_logging.WARNING)
    held = {}

    def prepare(folder: str):
        """Reads the annotations, fills the cache, and hands images and masks over to the peers."""
        config = coco.get_config()
        with config.unlocked():
            config.data.update({'root': root or f'{folder}/phantoms', 'cache': f'{folder}/cache'})
            config.data.on_error = 'skip'
        start.start(config, Path(folder))
        if not root:
            phantom.write_coco(Path(folder) / 'phantoms', train=400, valid=16, test=0)
        import networks_jax
        frame = experiments.read_frame(config)
        one = experiments.create(experiments.settle(config, frame))
        rows = image_kind.rows(one, frame)
        begun = time.perf_counter()
        samples = image_kind.training_samples(one, train=rows[rows.subset == 'train'].reset_index(drop=True),
                                              valid=rows[rows.subset == 'valid'].reset_index(drop=True)[:16])
        decoding = time.perf_counter() - begun
        paths = []
        for k, row in enumerate(samples['train'].rows.itertuples()):
            mask = decode.decode_label(row, one.settings) > 0
            np.save(f'{folder}/mask_{k}.npy', mask.astype(np.uint8))
            paths.append([str(Path(config.data.root) / row.path), f'{folder}/mask_{k}.npy'])
        Path(f'{folder}/files.json').write_text(json.dumps(paths))
        held.update(experiment=one, samples=samples, folder=Path(folder), runs=0, speed=60.0)
        return {'images': len(paths), 'decoding': decoding, 'batch': config.train.batch_size,
                'size': list(config.data.size),
                'parameters': networks_jax.parameters(experiments.init_params(one))}

    def train(seconds: float):
        """The loop for about so many seconds. The first window, in which the step is compiled, does not count."""
        one, window = held['experiment'], 10
        config = one.config.copy_and_resolve_references()
        steps = max(3, round(seconds * held['speed'] / config.train.batch_size / window)) * window
        with config.unlocked():
            config.train.update({'steps': steps, 'log_every': window, 'evaluate_every': steps,
                                 'checkpoint_every': steps})
        held['runs'] += 1
        folder = held['folder'] / f'run_{held["runs"]}'
        folder.mkdir()
        loop.train(one._replace(config=config), held['samples'], folder)
        lines = [json.loads(line) for line in (folder / 'timing.jsonl').read_text().splitlines()][1:]
        took = sum(1 / line['images_per_second'] for line in lines)
        held['speed'] = len(lines) / took
        return {'images_per_second': held['speed'],
                'waiting': sum(line['waiting'] / line['images_per_second'] for line in lines) / took}

    common.serve({'prepare': prepare, 'train': train})


def torch_worker(peer: str) -> None:
    import peers
    held = {}

    def prepare(folder: str, size: list[int], batch: int):
        files = json.loads(Path(f'{folder}/files.json').read_text())
        held.update(peers.prepare(peer, files, tuple(size)), batch=batch)
        return {'parameters': sum(p.numel() for p in held['network']().parameters()), 'batch': batch}

    def train(seconds: float, way: list):
        key = tuple(way)
        if key not in held:
            held[key] = peers.Training(held['network'](), held['dataset'], held['batch'], *way)
        return held[key].run(seconds)

    def stop(way: list):
        held.pop(tuple(way)).close()

    common.serve({'prepare': prepare, 'train': train, 'stop': stop})


def nnunet_worker() -> None:
    import peers
    held = {}

    def prepare(folder: str, size: list[int], batch: int):
        files = json.loads(Path(f'{folder}/files.json').read_text())
        one = held['trainer'] = peers.NnUnet(files, tuple(size), Path(folder) / 'nnunet')
        note = (f'nnU-Net took {one.planning:.0f} s to plan and prepare its files, once; its loaders alone deliver '
                f'{one.supply:.0f} images/s, its turns are of at least {one.LEAST} steps.')
        return {'parameters': sum(p.numel() for p in one.trainer.network.parameters()), 'batch': one.batch,
                'way': one.way, 'note': note}

    def train(seconds: float, way: None):
        return held['trainer'].run(seconds)

    common.serve({'prepare': prepare, 'train': train})


def choose(worker, seconds: float) -> tuple[list, list]:
    """The fastest of a peer's WAYS, each tried for some seconds, and a line for each."""
    lines = []
    for way in WAYS:
        found = worker.ask('train', seconds=seconds, way=way)
        lines.append((describe(way), found['images_per_second'], f'{found["waiting"]:.1%}'))
        print(worker.kind, lines[-1], file=sys.stderr, flush=True)
        worker.ask('stop', way=way)
    return list(WAYS[max(range(len(WAYS)), key=lambda k: lines[k][1])]), lines


def describe(way) -> str:
    bf16, last, workers = way
    return f'{"bfloat16" if bf16 else "float32"}, channels {"last" if last else "first"}, {workers} loaders'


def main() -> None:
    parser = common.parser(__doc__)
    parser.set_defaults(rounds=5)
    parser.add_argument('--root', default='', help='a COCO folder; made-up brains without it')
    parser.add_argument('--peers', default=','.join(PEERS), help='those to compare with')
    parser.add_argument('--seconds', type=float, default=10.0, help='of each turn')
    parser.add_argument('--trial', type=float, default=2.5, help='seconds to try each way of a peer')
    arguments = parser.parse_args()
    if arguments.worker:
        return {'jax': lambda: jax_worker(arguments.root), 'nnunet': nnunet_worker}.get(
            arguments.worker, lambda: torch_worker(arguments.worker))()
    peers = [name for name in arguments.peers.split(',') if name]
    if set(peers) - set(PEERS):
        parser.error(f'--peers={arguments.peers}: those known are {", ".join(PEERS)}')
    os.environ['JAX_PLATFORMS'] = 'cpu'  # PyTorch is timed there too
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = {'here': stack.enter_context(common.Worker(__file__, 'jax', f'--root={arguments.root}'))}
        about = {'here': workers['here'].ask('prepare', folder=folder) | {'way': 'float32'}}
        ways, tried, missing = {}, {}, []
        for name in peers:
            worker = stack.enter_context(common.Worker(__file__, name))
            try:
                about[name] = worker.ask('prepare', folder=folder, size=about['here']['size'],
                                         batch=about['here']['batch'])
            except RuntimeError as error:  # its own words are above, on stderr
                print(error, file=sys.stderr)
                missing.append(name)
                continue
            workers[name] = worker
            if 'way' not in about[name]:
                ways[name], tried[name] = choose(worker, arguments.trial)
                about[name]['way'] = describe(ways[name])
        workers['here'].ask('train', seconds=arguments.seconds)  # compiles
        waiting = {name: [] for name in workers}

        def turn(name):
            ask = {'seconds': arguments.seconds} | ({} if name == 'here' else {'way': ways.get(name)})
            found = workers[name].ask('train', **ask)
            waiting[name].append(found['waiting'])
            return found['images_per_second']

        found = common.in_turn({name: lambda n=name: turn(n) for name in workers}, arguments.rounds)
    write(arguments, about, found, waiting, tried, missing)


def write(arguments, about, found, waiting, tried, missing) -> None:
    names, here = {'here': 'unet_jax, configs/coco.py', **PEERS}, about['here']
    rows = []
    for name, speeds in found.items():
        middle, low, high = common.ratio(speeds, found['here'])
        one, speed = about[name], common.median(speeds)
        rows.append([names[name], one['parameters'], one['batch'], speed, one['batch'] / speed,
                     f'{common.median(waiting[name]):.2%}', one['way'], f'{middle:.2f} ({low:.2f}-{high:.2f})'])
    rows += [[names[name], None, None, None, None, 'did not run', '', ''] for name in missing]
    fastest = max(set(found) - {'here'}, key=lambda name: common.median(found[name]), default='')
    parts = [f'{here["images"]} images of {arguments.root and Path(arguments.root).name or "made-up brains"} at '
             f'{"×".join(map(str, here["size"]))}. Decoding them all into the cache took unet_jax '
             f'{here["decoding"]:.1f} s, once. Fastest peer: {names.get(fastest, "none")}.',
             common.table(['', 'parameters', 'batch', 'images/s', 'step (s)', 'waiting for input', 'how',
                           'here / this'], rows),
             ' '.join([f'Medians of {arguments.rounds} turns of {arguments.seconds:g} s; ratios by pairs (lowest and '
                       'highest). The networks differ, as the table says: it compares what users get. Same network: '
                       'step.py.', *(one['note'] for one in about.values() if 'note' in one),
                       *([] if common.bfloat16() else ['bfloat16: emulated on this processor, not run.'])])]
    lines = [[name, *line] for name, some in tried.items() for line in some]
    if lines:
        parts.append('The ways that were tried:\n\n' + common.table(['peer', 'way', 'images/s', 'waiting'], lines))
    common.report('end_to_end', 'Training from files, with augmentation', parts, results=arguments.results,
                  variant=Path(arguments.root).name or 'phantom')


if __name__ == '__main__':
    main()
