"""What computes the probabilities on a CPU: jax, which is the reference, or another engine that runs the ONNX model of
`onnx_graph`, the processing before and behind the network included.

An engine is admitted by comparison: on the first samples that it is to answer, its masks may differ from jax's in one
voxel in 10⁵. Without the packages (`pip install .[export]`), and on accelerators, jax it is.
"""
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from unet_jax.errors import InputError
from unet_jax.experiment import Experiment
from unet_jax.inference import model_file, onnx_graph
from unet_jax.model import unet
from unet_jax.training.step import make_predict_step

ENGINES = ('openvino', 'onnxruntime')  # besides jax; the fastest first, as measured (benchmarks/inference.py)
VOXELS = 100_000  # of so many, or of fewer, one may differ
log = logging.getLogger('unet_jax')
Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # batch -> probabilities (B, *S, R) float32


class Way(NamedTuple):
    """An engine and the type of its arithmetic."""
    engine: str
    dtype: str

    def __str__(self) -> str:
        return f'{self.engine} {importlib.import_module(self.engine).__version__.split("-")[0]}, {self.dtype}'


def installed(engine: str) -> bool:
    """Whether its package is there, and the one that writes ONNX."""
    return all(importlib.util.find_spec(name) is not None for name in ('onnx', engine))


def wanted(engine: str, devices: Sequence[jax.Device]) -> list[Way]:
    """The ways to try, fastest first, for config.evaluation.engine; [] for jax alone.

    'auto' is jax on accelerators, and on CPUs that were cut into several devices. Raises InputError for an engine that
    is named and not installed.
    """
    if engine == 'jax' or engine == 'auto' and (len(devices) > 1 or devices[0].platform != 'cpu'):
        return []
    if engine != 'auto' and not installed(engine):
        raise InputError(f'config.evaluation.engine is {engine!r}, which needs packages that are not installed: '
                         "pip install '.[export]', or take jax")
    names = [name for name in ENGINES if installed(name)] if engine == 'auto' else [engine]
    return [Way(name, dtype) for name in names for dtype in (('bfloat16', 'float32') if has_bfloat16(name) else
                                                             ('float32',))]


def has_bfloat16(engine: str) -> bool:
    """Whether the engine computes in bfloat16 and the processor has instructions for it."""
    if engine != 'openvino':
        return False
    import openvino
    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def load(model: bytes, way: Way) -> Run:
    """A function that runs an ONNX model; compiled at the first batch of each length."""
    if way.engine == 'onnxruntime':
        import onnxruntime
        session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
        return lambda batch: session.run(None, dict(batch))[0]
    import openvino
    core = openvino.Core()
    hints = {'INFERENCE_PRECISION_HINT': {'float32': 'f32', 'bfloat16': 'bf16'}[way.dtype],
             'PERFORMANCE_HINT': 'LATENCY'}

    @cache
    def compiled(count: int):
        graph = core.read_model(model)
        graph.reshape({port.any_name: [count, *port.partial_shape[1:]] for port in graph.inputs})
        return core.compile_model(graph, 'CPU', hints)

    return lambda batch: compiled(len(batch['image']))(dict(batch), share_inputs=True)[0]


def disagreement(expected: np.ndarray, found: np.ndarray, threshold: float) -> str:
    """Why masks of probabilities (B, *S, R) do not agree with those expected, naming the voxel where they differ most;
    '' where they do, in all but one voxel of every 10⁵ begun."""
    unlike = ((expected > threshold) != (found > threshold)) | ~np.isfinite(found)
    count, total = int(unlike.any(-1).sum()), math.prod(expected.shape[:-1])
    if count <= -(-total // VOXELS):
        return ''
    distance = np.where(unlike, np.nan_to_num(np.abs(expected - found), nan=np.inf), -1)
    place = np.unravel_index(distance.argmax(), distance.shape)
    sample, *voxel, region = map(int, place)
    return (f'{count} of {total} voxels are in other masks, where {-(-total // VOXELS)} may be; most of all voxel '
            f'{tuple(voxel)} of sample {sample}, region {region}, with probability {found[place]:.6f} in place of '
            f'{expected[place]:.6f}')


def reference(experiment: Experiment) -> Callable[[Any, Mapping], jax.Array]:
    """(params, batch) -> probabilities in jax, in float32 whatever type the network computes in, as ONNX has it."""
    module = experiment.module.clone(dtype='float32') if hasattr(experiment.module, 'dtype') else experiment.module
    return jax.jit(make_predict_step(experiment.config, module, experiment.region_bits))


def as_sent(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a model takes of a batch."""
    return {name: np.asarray(batch[name]) for name in ('image', 'scale') if name in batch}


def chooser(engine: str, devices: Sequence[jax.Device]) -> Callable | None:
    """A function (predictor, batch) -> the predictor whose `program` is of the engine that is admitted by this batch,
    or, at later calls, was by the first; None where that is jax anyway.

    The function raises InputError where an engine that is named does not agree with jax.
    """
    ways, known = wanted(engine, devices), []

    def choose(predictor, batch: Mapping[str, Any]):
        if not known:
            try:
                known.append(admitted(predictor, batch, ways))
            except InputError as error:
                if engine != 'auto':
                    raise
                log.warning('%s. So jax is used', error)
                known.append(predictor._replace(settle=None))
        return known[0]

    return choose if ways else None


def admitted(predictor, batch: Mapping[str, Any], ways: Sequence[Way]):
    """`predictor` with the first of the `ways` that agrees with jax on `batch`; its average over several checkpoints
    is then inside the model. Raises InputError where none does, with what the last one differed in."""
    experiment, sent, problem = predictor.experiment, as_sent(batch), ''
    model = onnx_graph.build(experiment, [model_file.flatten(params) for params in predictor.params])
    dtype = unet.type_on(experiment.config.model.dtype, list(predictor.mesh.devices.flat))
    step = predictor.program if dtype == 'float32' else reference(experiment)
    expected = np.mean([np.asarray(step(params, batch)) for params in predictor.params], 0)
    for way in ways:
        run = load(model, way)
        problem = disagreement(expected, run(sent), experiment.config.evaluation.threshold)
        if not problem:
            if not jax.process_index():
                print(f'Engine: {way}')
            return predictor._replace(params=(predictor.params,), program=partial(program, run), settle=None)
        log.info('%s is not used: %s', way, problem)
    raise InputError(f'config.evaluation.engine: {ways[-1]} does not agree with jax: {problem}')


def program(run: Run, _, batch: Mapping[str, Any]) -> np.ndarray:
    """`Predictor.program` of a model that holds its parameters."""
    return run(as_sent(batch))
