"""What --mode=export adds to a model file for programs without jax: model.onnx, and run.py with run.json, which
segment files by it. The model is compared with ours before anything is written."""
import importlib.util
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels, schemas
from unet_jax.errors import InputError
from unet_jax.experiment import Experiment
from unet_jax.inference import engines, onnx_graph, runner, sliding_window
from unet_jax.modes import image_kind, kinds
from unet_jax.pipeline import stream

CASES = {True: 2, False: 32}  # compared, of volumes and of images
WINDOWS = 8  # of each volume, in and about its middle
NEEDED = ('onnx', 'onnxruntime')


def files(experiment: Experiment, params: Mapping[str, np.ndarray], tree: Any, folder: Path, limits: dict | None
          ) -> tuple[dict[str, bytes], str]:
    """({name: content} to put into the model file, one sentence about them). None where config.evaluation.engine is
    'jax' or the packages are not installed.

    params: by name, and as the `tree` that the network takes; limits: of post-processing. Compared on cases of the run
    in `folder` where they can be read, else on made-up ones. Raises InputError where more than one voxel in 10⁵ is in
    other masks than ours, naming it, and by name for what ONNX is not written of.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing or experiment.config.evaluation.engine == 'jax':
        why = f'without {" and ".join(missing)} (pip install \'.[export]\')' if missing else \
            'with config.evaluation.engine=jax'
        return {}, f'{why} there is no model.onnx in it'
    model = onnx_graph.build(experiment, [params])
    shown, what = samples(experiment, folder)
    agreed = compare(experiment, model, tree, shown, what)
    about = settings(experiment, limits)
    if about is None:
        return {'model.onnx': model}, f'{agreed}; run.py is left out, as it reads no HDF5, nor slices of a patient ' \
            'together'
    return {'model.onnx': model, 'run.py': inspect.getsource(runner).encode(),
            'run.json': (json.dumps(about, indent=1, ensure_ascii=False) + '\n').encode()}, \
        f'{agreed}; unzip it, and run.py in it segments files'


def compare(experiment: Experiment, model: bytes, tree: Any, shown: list[dict[str, np.ndarray]], what: str) -> str:
    """A sentence that says how well the model agrees with the network of the parameters `tree` on the batches `shown`,
    which are `what`. Raises InputError where it does not."""
    run, step = engines.load(model, engines.Way('onnxruntime', 'float32')), engines.reference(experiment)
    found = np.concatenate([run(engines.as_sent(batch)) for batch in shown])
    expected = np.concatenate([np.asarray(step(tree, engines.as_sent(batch))) for batch in shown])
    problem = engines.disagreement(expected, found, experiment.config.evaluation.threshold)
    if problem:
        raise InputError(f'model.onnx does not agree with the network on {what}: {problem}. Nothing was written; '
                         '--config.evaluation.engine=jax exports without it')
    worst = np.abs(found - expected).max()
    return f'model.onnx gives the masks of jax on {what} ({found[..., 0].size:,} voxels; probabilities differ by up ' \
        f'to {worst:.1g})'


def samples(experiment: Experiment, folder: Path) -> tuple[list[dict[str, np.ndarray]], str]:
    """(batches of what goes to the device, what they are): of test cases of the run, else of others, else made up."""
    together = experiment.config.evaluation.batch_size
    try:
        frame = frames.load(folder / 'annotations.parquet')
        subset = next(name for name in ('test', 'valid', 'train') if (frame.subset == name).any())
        kind, volumetric = kinds.kind_of(experiment), experiment.format.volumetric
        rows = kind.rows(experiment, frame[frame.subset == subset]).iloc[:CASES[volumetric]].reset_index(drop=True)
        opened = kind.open_samples(experiment, rows)
        if volumetric:
            size, keep = experiment.settings.size, np.ones(experiment.settings.channels, np.float16)
            found = [sliding_window.middle(opened[k].image, size, count=WINDOWS, keep=keep)
                     for k in range(len(opened.rows))]
            return [{'image': part} for whole in found for part in np.array_split(whole, -(-WINDOWS // together))], \
                f'windows of {len(found)} cases of {subset}'
        return list(stream.once(opened, batch_size=together)), f'{len(opened.rows)} images of {subset}'
    except (InputError, OSError, StopIteration):
        return [made_up(experiment)], 'made-up samples, as the data are not at hand'


def made_up(experiment: Experiment) -> dict[str, np.ndarray]:
    """Noise in a ball, and nothing around it."""
    settings, random = experiment.settings, np.random.default_rng(0)
    shape = 4, *settings.size, settings.inputs
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in settings.size), indexing='ij')
    ball = (sum(axis ** 2 for axis in places) < 0.8)[None, ..., None]
    values = ball * (random.normal(size=shape) * np.arange(1, 5).reshape(-1, *(1,) * (len(shape) - 1)))
    image = np.clip(ball * (120 + 30 * values), 0, 255) if experiment.format.dtype is np.uint8 else values
    scale = {'scale': np.full((4, 2, settings.channels), 0.4, np.float32)} if onnx_graph.patient(experiment) else {}
    return {'image': image.astype(experiment.format.dtype)} | scale


def settings(experiment: Experiment, limits: dict | None) -> dict | None:
    """run.json: all that run.py needs besides the model; None for inputs that it does not read."""
    config, form = experiment.config, experiment.format
    if not form.volumetric and (not form.unspaced or image_kind.of_patients(experiment)):
        return None
    written, inside = labels.values(experiment.classes), labels.containing(experiment.region_bits)
    left_out = ['post-processing'] * bool(config.evaluation.postprocess and limits)
    # at 1/2 a temperature changes no mask
    left_out += ['calibration'] * (config.evaluation.calibrate and config.evaluation.threshold != 0.5)
    regions = []
    for r, region in enumerate(experiment.regions):
        order = experiment.classes.index(region.paint)
        regions.append({'name': region.name, 'value': written[order], 'order': order,
                        'inside': [q for q in range(len(inside)) if r in inside[q]]})
    found = {'kind': 'volumes' if form.volumetric else 'images', 'size': list(experiment.settings.size),
             'channels': experiment.settings.channels, 'batch': config.evaluation.batch_size,
             'threshold': config.evaluation.threshold, 'regions': regions,
             'left_out': ' and '.join(left_out)}
    if form.volumetric:
        found |= {'overlap': config.evaluation.overlap, 'orientation': config.data.orientation,
                  'spacing': list(config.data.spacing), **named(config)}
    return found


def named(config: ConfigDict) -> dict:
    """How run.py knows the sequences: the ends of their files' names, or their places in a 4-D file."""
    data, sequences = config.data, tuple(config.data.modalities)
    ends = {name: list(dict.fromkeys([name, *schemas.SPELLINGS.get(name, ()), *(
        end for end, other in schemas.ALIASES.items() if other == name)])) for name in sequences}
    positions = {}
    known = schemas.SCHEMAS.get(data.schema)
    if known and not known.separator:
        positions = {name: int(place) for name, place in known.suffixes.items() if name in sequences}
    elif known:
        ends = {name: [known.suffixes[name], *ends[name]] if name in known.suffixes else ends[name] for name in ends}
    for k, (name, pattern) in enumerate((name, pattern) for name, pattern in data.files if name in sequences):
        end = pattern.removesuffix('.gz').removesuffix('.nii').rpartition('}')[2].lstrip('-_. ')
        ends[name] += [end, f'{k:04d}'] if end else []
    return {'sequences': list(sequences), 'endings': {name: list(dict.fromkeys(ends[name])) for name in sequences},
            'positions': positions}
