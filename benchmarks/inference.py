"""A whole volume by sliding window here and in MONAI, with the same network, weights and windows; and 2-D images.

    python benchmarks/inference.py                   # 240×240×155×4, windows of 64³, overlap ½, Gaussian weights
    python benchmarks/inference.py --volume=48,48,40 --window=16 --features=4,8 --images=2

Both start from a volume in memory, float16 as the cache has it, and end with the masks of three regions on the host.
Windows: as many on both sides (asserted), though placed differently: here they are spread evenly, MONAI's last one is
pushed back. The masks may differ where a probability is near ½; the share of voxels that do is printed. PyTorch runs
in the fastest of eager and compiled, channels first and last, tried on one batch of windows; here run jax and the
engines that are installed (unet_jax/inference/engines.py). Both also in bfloat16 where the processor has instructions
for it.
"""
import functools
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
    from unet_jax.inference import engines, model_file, onnx_graph, sliding_window
    from unet_jax.inference import predictor as inference
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

    def segment(path='', way='jax, float32'):
        predictor = with_way(*side('volume'), 'volume', way)
        masks = labels.region_masks(sliding_window.segment(predictor, volume), predictor.experiment.region_bits)
        if path:
            np.save(path, np.packbits(masks))

    def with_way(predictor, params, what, way):
        """`predictor` by an engine, which need not agree with jax here: the weights are untrained."""
        if way == 'jax, float32':
            return predictor
        if (what, way) not in held:
            engine, dtype = way.split(', ')
            run = engines.load(onnx_graph.build(predictor.experiment, [model_file.flatten(params)]),
                               engines.Way(engine, dtype))
            held[what, way] = predictor._replace(program=functools.partial(engines.program, run))
        return held[what, way]

    def images(way):
        predictor = with_way(*side('images'), 'images', way)
        batch = {'image': jax.device_put(np.zeros((options.images, 240, 240, CHANNELS), np.float16))}
        return options.images / common.seconds(
            lambda: jax.block_until_ready(predictor.program(predictor.params[0], batch)))

    def measure(way):
        return once(lambda: segment(way=way))

    def ways():
        there = [name for name in engines.ENGINES if engines.installed(name)]
        return ['jax, float32', *(f'{name}, {dtype}' for name in there for dtype in (
            ('float32', 'bfloat16') if engines.has_bfloat16(name) else ('float32',)))]

    common.serve({'save': save, 'segment': segment, 'measure': measure, 'images': images, 'ways': ways})


def torch_worker(options) -> None:
    import networks_torch
    import torch
    from monai.inferers import sliding_window_inference
    from monai.inferers.utils import dense_patch_slices
    held = {}
    image = make_volume(options.volume)
    window = (options.window,) * 3

    def load(path, what, dtype):
        d = 3 if what == 'volume' else 2
        module = networks_torch.UNet(d, CHANNELS, options.features, 3, 1, 'conv').eval()
        with np.load(path) as file:
            networks_torch.load(module, dict(file))
        module = module.to(getattr(torch, dtype))
        shape = (options.batch, CHANNELS, *window) if d == 3 else (options.images, CHANNELS, 240, 240)
        tried = {}
        for compiled in (False, True) if options.compiled else (False,):
            for last in (False, True):
                layout = (torch.channels_last, torch.channels_last_3d)[d - 2] if last else torch.contiguous_format
                x = torch.zeros(shape, dtype=getattr(torch, dtype)).contiguous(memory_format=layout)
                one = module.to(memory_format=layout)
                one = networks_torch.compile_(one) if compiled else one
                with torch.inference_mode():
                    tried[f'{"compiled" if compiled else "eager"}, channels {"last" if last else "first"}'] = (
                        common.seconds(lambda one=one, x=x: one(x)), compiled, layout)
        way = min(tried, key=lambda name: tried[name][0])
        _, compiled, layout = tried[way]
        module = module.to(memory_format=layout)
        held[what, dtype] = networks_torch.compile_(module) if compiled else module, layout, shape
        slices = dense_patch_slices(options.volume, window, [int(s * (1 - OVERLAP)) for s in window])
        return {'way': way, 'parameters': networks_torch.parameters(module), 'windows': len(slices),
                'tried': {name: value[0] for name, value in tried.items()}}

    def segment(path='', dtype='float32'):
        module, layout, _ = held['volume', dtype]

        def network(x):
            return torch.sigmoid(module(x.to(getattr(torch, dtype)).contiguous(memory_format=layout)).float())

        with torch.inference_mode():
            x = torch.from_numpy(np.moveaxis(image, -1, 0)[None].astype(np.float32))
            found = sliding_window_inference(x, window, options.batch, network, overlap=OVERLAP, mode='gaussian')
            masks = (found[0] > 0.5).numpy()
        if path:
            np.save(path, np.packbits(np.moveaxis(masks, 0, -1)))

    def images(dtype):
        module, layout, shape = held['images', dtype]
        x = torch.zeros(shape, dtype=getattr(torch, dtype)).contiguous(memory_format=layout)
        with torch.inference_mode():
            return options.images / common.seconds(lambda: torch.sigmoid(module(x).float()))

    def measure(dtype):
        return once(lambda: segment(dtype=dtype))

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
    dtypes = ('float32', 'bfloat16') if common.bfloat16() else ('float32',)
    with common.Worker(__file__, 'jax', *rest) as jax, common.Worker(__file__, 'torch', *rest) as torch, \
            tempfile.TemporaryDirectory() as folder:
        path, ways, sizes = str(Path(folder) / 'weights.npz'), {}, {}
        for what in ('volume', 'images'):
            ours = jax.ask('save', path=path, what=what)
            for dtype in dtypes:
                theirs = torch.ask('load', path=path, what=what, dtype=dtype)
                assert ours['parameters'] == theirs['parameters'], (ours, theirs)
                assert what == 'images' or ours['windows'] == theirs['windows'], (ours, theirs)
                ways[what, dtype] = theirs['way']
            sizes[what] = ours
        masks = []
        for worker in (jax, torch):  # also compiles
            worker.ask('segment', path=str(Path(folder) / f'{worker.kind}.npy'))
            masks.append(np.unpackbits(np.load(Path(folder) / f'{worker.kind}.npy')))
        unlike = float(np.mean(masks[0] != masks[1]))
        entries, engines = {}, jax.ask('ways')
        for what, asked in (('volume', 'measure'), ('images', 'images')):
            entries |= {(way, what): lambda a=asked, w=way: jax.ask(a, way=w) for way in engines}
            entries |= {(f'PyTorch, {dtype}', what): lambda a=asked, d=dtype: torch.ask(a, dtype=d)
                        for dtype in dtypes}
        for way in engines[1:]:
            jax.ask('segment', way=way)
        found = common.in_turn(entries, options.rounds)
    shape = '×'.join(map(str, (*options.volume, CHANNELS)))
    heads = ['way', *(f'{x}, against PyTorch {dtype}' for x in ('volume', 'images') for dtype in dtypes)]
    rows = [[way, common.median(found[way, 'volume']), common.median(found[way, 'images']),
             *(span(faster(found, way, dtype, what)) for what in ('volume', 'images') for dtype in dtypes)]
            for way in (*engines, *(f'PyTorch, {dtype}' for dtype in dtypes))]
    parts = [f'Features {options.features}, one plain block a level: {sizes["volume"]["parameters"]:,} parameters in '
             f'3-D and {sizes["images"]["parameters"]:,} in 2-D, on both sides, with the same weights. The volume is '
             f'{shape}, {sizes["volume"]["windows"]} windows of {options.window}³; the images are 240×240×{CHANNELS}, '
             f'{options.images} at once. {unlike:.2%} of the mask voxels differ (untrained weights and noise, so that '
             'most probabilities are near ½, and windows that are placed differently).',
             common.table([heads[0], 'volume (s)', 'images/s', *heads[1:]], rows),
             'PyTorch\'s fastest ways: ' + '; '.join(f'{what}, {dtype}: {way}' for (what, dtype), way in ways.items())
             + '. bfloat16 here is what the engine can do: --mode=predict takes it only where its masks agree with '
             'those of float32 in all but one voxel in 10⁵.',
             f'Medians of {options.rounds} rounds in turn; ratios, above 1 where we are faster, by pairs (lowest and '
             'highest).']
    common.report('inference', 'Inference of volumes and images', parts, results=options.results)


def faster(found: dict, way: str, dtype: str, what: str) -> tuple[float, float, float]:
    """How many times faster than PyTorch: of times for the volume, of speeds for images."""
    ours, theirs = found[way, what], found[f'PyTorch, {dtype}', what]
    return common.ratio(ours, theirs) if what == 'volume' else common.ratio(theirs, ours)


def span(ratio: tuple[float, float, float]) -> str:
    return f'{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})'


if __name__ == '__main__':
    main()
