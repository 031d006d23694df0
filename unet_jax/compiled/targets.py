"""Accelerators that are not there: their names, what their makers publish of them, and devices to compile for.

    devices = targets.devices(targets.read('v5e:4x4'))  # jax devices that hold nothing and run nothing
"""
import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from unet_jax.errors import InputError

GIB = 2**30


class Chip(NamedTuple):
    """One device, by its maker's data sheet; a peak is that of dense bfloat16 products."""
    kind: str
    peak: float  # FLOP a second
    bandwidth: float  # bytes a second, of its memory
    memory: float  # bytes that a program may use
    clock: float = 0.0  # cycles a second of a TPU: the peak over 2 · 128² products of each of its units a cycle
    cores: int = 0  # of a GPU: its multiprocessors
    capability: tuple[int, int] = (0, 0)  # of a GPU


# Of a TPU's memory the compiler keeps some for itself (its own figures); of a GPU's, jax takes three quarters unless
# XLA_PYTHON_CLIENT_MEM_FRACTION says another share.
CHIPS = {
    'v5e': Chip('TPU v5e', 197e12, 819e9, 15.75 * GIB, 1.5e9),
    'v5p': Chip('TPU v5p', 459e12, 2765e9, 95.74 * GIB, 1.75e9),
    'v6e': Chip('TPU v6e', 918e12, 1640e9, 31.25 * GIB, 1.75e9),
    'h100': Chip('NVIDIA H100 80GB HBM3', 989e12, 3.35e12, 0.75 * 84.98e9, cores=132, capability=(9, 0)),
    'h200': Chip('NVIDIA H200', 989e12, 4.8e12, 0.75 * 150.1e9, cores=132, capability=(9, 0)),
    'b200': Chip('NVIDIA B200', 2250e12, 8e12, 0.75 * 191.5e9, cores=148, capability=(10, 0)),
}
EXTRAS = {'tpu': ('libtpu', "pip install '.[tpu]', or pip install libtpu"),
          'cuda': ('jax_plugins.xla_cuda13', "pip install '.[cuda13]', or of jax's own version, and without NVIDIA's "
                   'libraries, pip install --no-deps jax-cuda13-plugin=={jax} jax-cuda13-pjrt=={jax}')}
# What XLA's compiler for GPUs asks of a device (a GpuTargetConfig); what is not filled in is alike in all of CHIPS.
DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  core_count: {chip.cores} memory_bandwidth: {chip.bandwidth:.0f} device_memory_size: {memory:.0f}
  cuda_compute_capability {{ major: {chip.capability[0]} minor: {chip.capability[1]} }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{chip.kind}"
"""


class Target(NamedTuple):
    """What a program is compiled for."""
    name: str  # as it was given: v5e:4x4, h100:8
    chip: Chip
    shape: tuple[int, ...]  # of a TPU slice; (number,) of GPUs

    @property
    def tpu(self) -> bool:
        return bool(self.chip.clock)


def read(name: str) -> Target:
    """The target of a name such as v5e:4x4, v5p:2x2x1 or h100:8. Raises InputError for what is none."""
    chip, _, layout = name.strip().lower().partition(':')
    sides = tuple(map(int, layout.split('x'))) if re.fullmatch(r'\d+(x\d+)*', layout) else ()
    axes = {'v5e': 2, 'v6e': 2, 'v5p': 3}.get(chip, 1)
    if chip not in CHIPS or len(sides) != axes or min(sides) < 1:
        raise InputError(f'--target={name}: give one or more of v5e:4x4, v6e:2x4 (chips along two axes), v5p:2x2x1 '
                         f'(three), h100:8, h200:1, b200:8 (GPUs), with commas between them')
    if axes == 1 and sides[0] > 8 and sides[0] % 8:
        raise InputError(f'--target={name}: hosts have 8 GPUs, so above 8 give a multiple of it')
    return Target(f'{chip}:{layout}', CHIPS[chip], sides)


def start_on_cpu() -> None:
    """Before jax starts: this process computes on the processor, whatever plug-ins are installed to compile with."""
    os.environ['JAX_PLATFORMS'] = 'cpu'
    jax.config.update('jax_platforms', 'cpu')


def missing(target: Target) -> str:
    """What has to be installed to compile for `target`; '' where all is there."""
    package, how = EXTRAS['tpu' if target.tpu else 'cuda']
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # not even what it lies in
        found = None
    return '' if found else f'{target.name} needs {package.partition(".")[2] or package}, which is not installed: ' \
        + how.format(jax=jax.__version__)


def devices(target: Target) -> list[jax.Device]:
    """Devices of `target`, in the order in which a run has them. Raises InputError where they cannot be had."""
    if why := missing(target):
        raise InputError(f'--target={why}')
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # libtpu asks a metadata server, which only a TPU's host has
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # a TPU is for one process at a time, compiling is not
    count = math.prod(target.shape)
    try:
        if target.tpu:
            # up to 8 chips are one host's, more are on hosts of 4
            host = {'chips_per_host_bounds': [*target.shape, 1, 1][:3]} if count <= 8 else {}
            found = topologies.get_topology_desc(target.name, 'tpu', **host).devices
        else:
            layout = f'1x{max(count // 8, 1)}x{min(count, 8)}'
            text = DESCRIPTION.format(chip=target.chip, memory=target.chip.memory / 0.75)
            found = topologies.get_topology_desc('', 'cuda', topology=layout, target_config=text).devices
    except (RuntimeError, ValueError) as error:  # of the compiler, for a layout that it does not know
        raise InputError(f'--target={target.name}: the compiler has no such devices ({str(error)[:300]})') from error
    return sorted(found, key=lambda device: (device.process_index, device.id))
