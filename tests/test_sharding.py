"""The mesh, and what it holds of a state."""
import os
import types

import jax
import numpy as np
import pytest

from unet_jax.training import sharding


def test_the_memory_of_a_device_is_its_own_or_its_share_of_the_computers(monkeypatch):
    whole = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    assert sharding.device_memory() == pytest.approx(whole / jax.local_device_count())
    gpu = types.SimpleNamespace(memory_stats=lambda: {'bytes_limit': 7})
    monkeypatch.setattr(jax, 'local_devices', lambda: [gpu])
    assert sharding.device_memory() == 7


def test_large_arrays_are_cut_along_the_longest_axis_that_divides_and_small_ones_are_whole():
    mesh = sharding.create_mesh(jax.devices(), fsdp=4)
    shapes = {'kernel': (3, 3, 16, 64), 'odd': (33, 37), 'small': (8,), 'last': (64, 64)}
    tree = {name: np.zeros(shape) for name, shape in shapes.items()}
    found = {name: tuple(where.spec) for name, where in sharding.of_state(tree, mesh).items()}
    assert found == {'kernel': (None, None, None, 'fsdp'), 'odd': (), 'small': (), 'last': (None, 'fsdp')}
