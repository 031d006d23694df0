"""The operations that a network spends its time in, in the form that is fast on the devices it is for.

Accelerators take XLA's own. XLA's CPU backend is slow at some of them, so there they are made of others, the same up
to rounding (`convolution_cpu`).
"""
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax import lax

from unet_jax.model import convolution_cpu, expand, norm, norm_accelerator


class Form(NamedTuple):
    """How a network computes."""
    convolve: Callable  # as flax's Conv calls `lax.conv_general_dilated`
    expand: Callable  # as `expand.dense`
    normalise: Callable  # as `norm.and_activate`
    scanned: bool = False  # equal blocks in a row as a loop around one of them


XLA = Form(lax.conv_general_dilated, expand.dense, norm_accelerator.normalise)
TPU = XLA._replace(expand=expand.dilated, scanned=True)  # whose compiler takes minutes for dozens of blocks
CPUS = Form(partial(convolution_cpu.convolve, images=convolution_cpu.plain), convolution_cpu.dense, norm.and_activate)
ONE_CPU = CPUS._replace(convolve=partial(convolution_cpu.convolve, images=convolution_cpu.on_one))


def form(devices: Sequence[jax.Device]) -> Form:
    """The form for a program that runs, or will run, on `devices` together; they need not be this process's."""
    if devices[0].platform != 'cpu':
        return TPU if devices[0].platform == 'tpu' else XLA
    return CPUS if len(devices) > 1 else ONE_CPU
