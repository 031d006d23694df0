"""A whole volume by sliding window here and in MONAI, with the same network, weights and windows; and 2-D images.

    python benchmarks/inference.py                   # 240×240×155×4, windows of 64³, overlap ½, Gaussian weights
    python benchmarks/inference.py --volume=48,48,40 --window=16 --features=4,8 --images=2

Both start from a volume in memory, float16 as the cache has it, and end with the masks of three regions on the host.
Windows: as many on both sides (asserted), though placed differently: here they are spread evenly, MONAI's last one is
pushed back. The masks may differ where a probability is near ½; the share of voxels that do is printed. PyTorch runs
float32, in the fastest of eager and compiled, channels first and last, tried on one batch of windows.
"""
import os
import tempfile
import time
from pathlib import Path

import common
import numpy as np

CHANNELS, OVERLAP = 4, 0.5


def make_volume(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((*shape, CHANNELS)).astype(np.float16)


def jax_worker(options) -> None:
    import jax
    import networks_jax

    from unet_jax.annotations import labels
    from unet_jax.inference import predictor as inference
    from unet_jax.inference import sliding_window
    from unet_jax.pipeline.prepared import Grid, Volume
    sides, held = {}, {}
    window = (options.window,) * 3

    def side(what):
        if what not in sides:
            size, batch = (window, options.batch) if what == 'volume' else ((240, 240), options.images)
            sides[what] = networks_jax.create(size, CHANNELS, options.features, batch=batch, blocks=1)
            params = networks_jax.experiments.init_params(sides[what])
            held[what] = inference.create(sides[what], params), params
        return held[what]

    def save(path, what):
        predictor, params = side(what)
        np.savez(path, **networks_jax.flat(params))
        count = 0
        if what == 'volume':
            layout = sliding_window.arrange(options.volume, size=window, overlap=OVERLAP)
            count = int(np.prod([len(axis) for axis in layout.starts]))
        return {'parameters': networks_jax.parameters(params), 'windows': count}

    image = make_volume(options.volume)
    shape = options.volume
    volume = Volume(image, np.zeros(shape, np.uint8), np.zeros((0, 3), np.uint16), (0, 0, 0),
                    Grid(shape, 'LPS', 'LPS', (0, 0, 0), shape))

    def segment(path=''):
        predictor = side('volume')[0]
        masks = labels.region_masks(sliding_window.segment(predictor, volume), predictor.experiment.region_bits)
        if path:
            np.save(path, np.packbits(masks))

    def images():
        predictor, params = side('images')
        batch = {'image': jax.device_put(np.zeros((options.images, 240, 240, CHANNELS), np.float16))}
        return options.images / common.seconds(
            lambda: jax.block_until_ready(predictor.program(params, batch)))

    def measure():
        return once(segment)

    common.serve({'save': save, 'segment': segment, 'measure': measure, 'images': images})


def torch_worker(options) -> None:
    import networks_torch
    import torch
    from monai.inferers import sliding_window_inference
    from monai.inferers.utils import dense_patch_slices
    held = {}
    image = make_volume(options.volume)
    window = (options.window,) * 3

    def load(path, what):
        d = 3 if what == 'volume' else 2
        module = networks_torch.UNet(d, CHANNELS, options.features, 3, 1, 'conv').eval()
        with np.load(path) as file:
            networks_torch.load(module, dict(file))
        shape = (options.batch, CHANNELS, *window) if d == 3 else (options.images, CHANNELS, 240, 240)
        tried = {}
        for compiled in (False, True) if options.compiled else (False,):
            for last in (False, True):
                layout = (torch.channels_last, torch.channels_last_3d)[d - 2] if last else torch.contiguous_format
                x = torch.zeros(shape).contiguous(memory_format=layout)
                one = module.to(memory_format=layout)
                one = networks_torch.compile_(one) if compiled else one
                with torch.inference_mode():
                    tried[f'{"compiled" if compiled else "eager"}, channels {"last" if last else "first"}'] = (
                        common.seconds(lambda one=one, x=x: one(x)), compiled, layout)
        way = min(tried, key=lambda name: tried[name][0])
        _, compiled, layout = tried[way]
        module = module.to(memory_format=layout)
        held[what] = networks_torch.compile_(module) if compiled else module, layout, shape
        slices = dense_patch_slices(options.volume, window, [int(s * (1 - OVERLAP)) for s in window])
        return {'way': way, 'parameters': networks_torch.parameters(module), 'windows': len(slices),
                'tried': {name: value[0] for name, value in tried.items()}}

    def segment(path=''):
        module, layout, _ = held['volume']

        def network(x):
            return torch.sigmoid(module(x.contiguous(memory_format=layout)))

        with torch.inference_mode():
            x = torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float32))
            found = sliding_window_inference(x, window, options.batch, network, overlap=OVERLAP, mode='gaussian')
            masks = (found[0] > 0.5).numpy()
        if path:
            np.save(path, np.packbits(np.moveaxis(masks, 0, -1)))

    def images():
        module, layout, shape = held['images']
        x = torch.zeros(shape).contiguous(memory_format=layout)
        with torch.inference_mode():
            return options.images / common.seconds(lambda: torch.sigmoid(module(x)))

    def measure():
        return once(segment)

    common.serve({'load': load, 'segment': segment, 'measure': measure, 'images': images})


def once(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = common.parser(__doc__)

    def numbers(text):
        return tuple(map(int, text.split(',')))

    parser.add_argument('--volume', type=numbers, default=(240, 240, 155))
    parser.add_argument('--window', type=int, default=64)
    parser.add_argument('--features', type=numbers, default=(8, 16, 32, 64))
    parser.add_argument('--batch', type=int, default=2, help='windows at once')
    parser.add_argument('--images', type=int, default=8, help='2-D images of 240×240 at once')
    parser.add_argument('--no-compiled', dest='compiled', action='store_false', help='PyTorch eager only')
    parser.set_defaults(rounds=5)
    options = parser.parse_args()
    if options.worker:
        return {'jax': jax_worker, 'torch': torch_worker}[options.worker](options)
    os.environ['JAX_PLATFORMS'] = 'cpu'  # PyTorch is timed there too
    rest = [f'--volume={",".join(map(str, options.volume))}', f'--window={options.window}', f'--batch={options.batch}',
            f'--features={",".join(map(str, options.features))}', f'--images={options.images}']
    rest += [] if options.compiled else ['--no-compiled']
    with common.Worker(__file__, 'jax', *rest) as jax, common.Worker(__file__, 'torch', *rest) as torch, \
            tempfile.TemporaryDirectory() as folder:
        path, ways, sizes = str(Path(folder) / 'weights.npz'), {}, {}
        for what in ('volume', 'images'):
            ours, theirs = jax.ask('save', path=path, what=what), torch.ask('load', path=path, what=what)
            assert ours['parameters'] == theirs['parameters'], (ours, theirs)
            assert what == 'images' or ours['windows'] == theirs['windows'], (ours, theirs)
            ways[what], sizes[what] = theirs['way'], ours
        masks = []
        for worker in (jax, torch):  # also compiles
            worker.ask('segment', path=str(Path(folder) / f'{worker.kind}.npy'))
            masks.append(np.unpackbits(np.load(Path(folder) / f'{worker.kind}.npy')))
        unlike = float(np.mean(masks[0] != masks[1]))
        found = common.in_turn({(worker.kind, what): lambda w=worker, a=ask: w.ask(a) for worker in (jax, torch)
                                for what, ask in (('volume', 'measure'), ('images', 'images'))}, options.rounds)
    volume, images = (common.ratio(found['jax', what], found['torch', what]) for what in ('volume', 'images'))
    images = 1 / images[0], 1 / images[2], 1 / images[1]  # speeds, not times
    shape = '×'.join(map(str, (*options.volume, CHANNELS)))
    rows = [[f'{shape}, {sizes["volume"]["windows"]} windows of {options.window}³ (s)',
             *(common.median(found[name, 'volume']) for name in ('jax', 'torch')), ways['volume'], span(volume)],
            [f'240×240×{CHANNELS} images, {options.images} at once (images/s)',
             *(common.median(found[name, 'images']) for name in ('jax', 'torch')), ways['images'], span(images)]]
    parts = [f'Features {options.features}, one plain block a level: {sizes["volume"]["parameters"]:,} parameters in '
             f'3-D and {sizes["images"]["parameters"]:,} in 2-D, on both sides, with the same weights. '
             f'{unlike:.2%} of the mask voxels differ (untrained weights and noise, so that most probabilities are '
             'near ½, and windows that are placed differently).',
             common.table(['what', 'jax', 'MONAI, PyTorch', "PyTorch's fastest way", 'jax is faster by'], rows),
             f'Float32. Medians of {options.rounds} rounds in turn; ratios by pairs (lowest and highest).']
    common.report('inference', 'Inference of volumes and images', parts, results=options.results)


def span(ratio: tuple[float, float, float]) -> str:
    return f'{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})'


if __name__ == '__main__':
    main()
