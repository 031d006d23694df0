"""The caches stay within their limit, lose what nobody uses, and never what somebody does or what is not ours."""
import json
import logging
import os
import time

import numpy as np
import pytest
from test_cache import SETTINGS, rows  # noqa: F401 (a fixture)

from unet_jax.errors import InputError
from unet_jax.pipeline import cache, cache_limit, decode

DAY = cache_limit.DAY
SIZE = 3 * 8 * 8 * 2 + 2 * 128  # bytes of three images and labels of 8×8, and the headers of two .npy files
LIMIT = 2.7 * SIZE / 1e9  # GB, for two of them (the JSON beside them has some bytes too)


def age(path, days):
    """As if the entry had been used last so many days ago."""
    for place in (*path.iterdir(), path):
        os.utime(place, times=(time.time() - days * DAY,) * 2)


@pytest.fixture
def opened(rows, tmp_path):  # noqa: F811
    """A function that opens the samples of a size, and gives their folder."""
    def open_samples(size, limit=LIMIT):
        settings = decode.Settings(**{**SETTINGS, 'root': str(tmp_path), 'size': size})
        cache.open_samples(rows, settings, tmp_path / 'cache', limit=limit)
        return tmp_path / 'cache' / cache.key(rows, settings)
    return open_samples


def test_the_least_recently_used_samples_make_room_for_new_ones(opened, caplog):
    first, second = opened((8, 8)), opened((4, 16))
    age(first, 3), age(second, 2)
    opened((8, 8))  # used again: now the second is the older one
    caplog.set_level(logging.INFO, 'unet_jax')
    third = opened((16, 4))
    assert first.exists() and third.exists() and not second.exists()
    assert f'samples go to {first.parent}' in caplog.text and '1 of earlier runs' in caplog.text


def test_what_was_used_within_a_day_stays_and_the_excess_is_said(opened, caplog):
    kept = [opened((8, 8)), opened((4, 16)), opened((16, 4))]
    assert all(path.exists() for path in kept) and 'grows beyond config.data.cache_limit' in caplog.text


def test_a_process_that_runs_for_days_keeps_what_it_uses(opened, monkeypatch):
    monkeypatch.setattr(cache_limit, 'AGAIN', 0.02)
    cache_limit._keep_touching.cache_clear()
    monkeypatch.setattr(cache_limit, 'in_use', set())
    first = opened((8, 8))
    age(first, 3)
    deadline = time.time() + 10
    while first.stat().st_mtime < time.time() - DAY and time.time() < deadline:
        time.sleep(0.02)
    opened((4, 16)), opened((16, 4))
    assert first.exists()
    cache_limit.in_use.clear()


def test_nothing_that_is_not_ours_is_ever_removed(opened, tmp_path):
    first = opened((8, 8))
    foreign = [tmp_path / 'cache' / name for name in ('0' * 32, 'thesis', '1' * 31, '.' + '2' * 32 + '.abc')]
    for path in foreign:
        path.mkdir()
        (path / 'results.xlsx').write_bytes(bytes(10_000))
    inside = first / 'notes.txt'  # somebody put a file into our own folder
    inside.touch()
    (tmp_path / 'elsewhere').mkdir()
    link = tmp_path / 'cache' / ('3' * 32)
    link.symlink_to(tmp_path / 'elsewhere')
    age(first, 9), [age(path, 9) for path in foreign]
    opened((4, 16), limit=0)
    assert all((path / 'results.xlsx').exists() for path in foreign) and inside.exists() and link.is_symlink()


def test_what_a_killed_process_left_unfinished_goes_after_a_day(opened, tmp_path):
    left = [tmp_path / 'cache' / f'.{"ab" * 16}.{k:012x}' for k in range(2)]
    for path in left:
        path.mkdir(parents=True)
        (path / 'image.npy').write_bytes(bytes(100))
    age(left[0], 2)
    opened((8, 8), limit=100)
    assert not left[0].exists() and left[1].exists()


def test_a_cache_that_only_others_may_write_is_read_but_not_filled(opened, monkeypatch, rows, tmp_path):  # noqa: F811
    first = opened((8, 8))

    def refuse(*_, **__):
        raise PermissionError(13, 'Permission denied')

    for module, name in ((cache_limit.os, 'utime'), (cache.Path, 'mkdir')):
        monkeypatch.setattr(module, name, refuse)
    assert opened((8, 8)) == first
    with pytest.raises(InputError, match=f'{tmp_path}/cache: .*Permission denied.*config.data.cache'):
        opened((4, 16))


def test_programs_that_were_read_last_stay(tmp_path):
    for k in range(4):
        (tmp_path / f'jit_{k}-cache').write_bytes(bytes(100))
        os.utime(tmp_path / f'jit_{k}-cache', times=(1000 + (k == 0) * 100, 10 + k))  # read, written
    (tmp_path / 'thesis').write_bytes(bytes(1000))
    cache_limit.trim_programs(tmp_path, limit=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['jit_0-cache', 'jit_3-cache', 'thesis']
    cache_limit.trim_programs(tmp_path / 'absent')


def test_the_need_of_samples_is_what_they_take(opened, rows):  # noqa: F811
    folder = opened((8, 8))
    layout = cache.layout(rows, decode.Settings(**{**SETTINGS, 'root': ''}))
    assert {name: np.load(folder / name).shape for name in layout} == {name: s for name, (s, _) in layout.items()}
    assert json.loads((folder / 'sizes.json').read_text()).keys() == layout.keys()
