"""The cache is never stale, never half-written, and two writers do no harm."""
import errno
import functools
import json
import os
import threading

import numpy as np
import pytest
from PIL import Image

from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.pipeline import cache, decode

SETTINGS = dict(size=(8, 8), channels=1, classes=(1,))


@pytest.fixture
def rows(tmp_path):
    """Three images of 8×8 pixels with a square each."""
    lines = []
    for k in range(3):
        name = f'{k}.png'
        Image.fromarray(np.full((8, 8), 10 * k, np.uint8)).save(tmp_path / name)
        lines.append({'file_name': name, 'width': 8, 'height': 8, 'category_id': 1, 'category': 'tumour',
                      'segmentation': [[0, 0, 4, 0, 4, 4, 0, 4]], 'subset': 'train', 'image_id': str(k), 'path': name,
                      'group': name, 'case': name, 'slice': None})
    return frames.images(frames.build(lines))


@pytest.fixture
def settings(tmp_path):
    return decode.Settings(root=str(tmp_path), **SETTINGS)


def folders(folder):
    return sorted(p.name for p in folder.iterdir())


def test_samples_are_the_decoded_rows(rows, settings, tmp_path):
    samples = cache.open_samples(rows, settings, tmp_path / 'cache')
    assert samples.image.shape == (3, 8, 8, 1) and samples.image.dtype == np.uint8
    assert samples.image[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert samples.label[1].sum() == 16


def test_a_second_opening_decodes_nothing(rows, settings, tmp_path, monkeypatch):
    first = cache.open_samples(rows, settings, tmp_path / 'cache')
    monkeypatch.setattr(decode, 'decode', lambda *_: pytest.fail('decoded again'))
    second = cache.open_samples(rows, settings, tmp_path / 'cache')
    assert np.array_equal(first.image, second.image)


def test_a_changed_image_is_decoded_again_even_with_its_old_size_and_time(rows, settings, tmp_path):
    cache.open_samples(rows, settings, tmp_path / 'cache')
    path, before = tmp_path / '1.png', (tmp_path / '1.png').stat()
    changed = tmp_path / 'other.png'
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(changed)
    path.write_bytes(changed.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert cache.open_samples(rows, settings, tmp_path / 'cache').image[1, 0, 0, 0] == 99


def test_a_changed_annotation_or_setting_is_another_cache(rows, settings, tmp_path):
    keys = {cache.key(rows, settings), cache.key(rows, settings._replace(size=(16, 16))),
            cache.key(rows, settings._replace(classes=(1, 2))), cache.key(rows.iloc[:2], settings)}
    moved = rows.copy()
    moved.at[0, 'annotations'] = ((1, [[0, 0, 5, 0, 5, 5]]),)
    assert len(keys | {cache.key(moved, settings)}) == 5


def test_a_cut_off_cache_is_moved_aside_and_made_again(rows, settings, tmp_path):
    folder = tmp_path / 'cache'
    cache.open_samples(rows, settings, folder)
    (target,) = folder.iterdir()
    (target / 'image.npy').write_bytes((target / 'image.npy').read_bytes()[:-5])
    assert cache.open_samples(rows, settings, folder).image[2, 0, 0, 0] == 20
    assert [name.partition('.')[2].partition('-')[0] for name in folders(folder)] == ['', 'damaged']


def test_a_failed_writing_leaves_nothing_that_could_be_read(rows, settings, tmp_path):
    (tmp_path / '2.png').write_bytes(b'not an image')
    with pytest.raises(InputError, match='2.png'):
        cache.open_samples(rows, settings, tmp_path / 'cache')
    assert folders(tmp_path / 'cache') == []


def test_two_writers_at_once_agree_on_one_cache(rows, settings, tmp_path):
    target = tmp_path / 'cache' / cache.key(rows, settings)
    both, found = threading.Barrier(2), []

    def write():
        both.wait()
        cache._write(rows, settings, target)
        found.append(np.load(target / 'image.npy'))

    threads = [threading.Thread(target=write) for _ in range(2)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len(found) == 2 and np.array_equal(*found)
    assert folders(tmp_path / 'cache') == [target.name]


def test_a_missing_image_and_a_full_disk_are_named(rows, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 10}))
    with pytest.raises(InputError, match='config.data.cache'):
        cache.open_samples(rows, settings, tmp_path / 'cache')
    (tmp_path / '0.png').unlink()
    with pytest.raises(InputError, match='0.png: no such file'):
        cache.open_samples(rows, settings, tmp_path / 'cache')


def test_the_room_of_an_array_is_taken_before_it_is_written(tmp_path, monkeypatch):
    array = cache.create_array(tmp_path / 'a.npy', np.uint8, (3, 100_000))
    assert array.shape == (3, 100_000) and (tmp_path / 'a.npy').stat().st_blocks * 512 >= 300_000

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(cache.os, 'posix_fallocate', full)
    with pytest.raises(InputError, match=rf'{tmp_path} needs 300,000 bytes for b.npy.*config.data.cache.*No space'):
        cache.create_array(tmp_path / 'b.npy', np.uint8, (3, 100_000))


def test_an_image_that_hangs_is_named(rows, settings, tmp_path, monkeypatch):
    released, read = threading.Event(), decode.decode
    monkeypatch.setattr(decode, 'decode', lambda row, s: released.wait() if row.path == '0.png' else read(row, s))
    monkeypatch.setattr(cache.threads, 'in_order', functools.partial(cache.threads.in_order, timeout=0.2))
    with pytest.raises(InputError, match='0.png: the decoded image is not there after 0.2 s.*hangs'):
        cache.open_samples(rows, settings, tmp_path / 'cache')
    released.set()
    assert folders(tmp_path / 'cache') == []


def test_the_sizes_file_records_what_lies_there(rows, settings, tmp_path):
    cache.open_samples(rows, settings, tmp_path / 'cache')
    (target,) = (tmp_path / 'cache').iterdir()
    sizes = json.loads((target / 'sizes.json').read_text())
    assert sizes == {name: (target / name).stat().st_size for name in ('image.npy', 'label.npy')}


def test_what_cannot_be_read_is_skipped_where_asked_and_said_also_when_opened_again(rows, settings, tmp_path):
    (tmp_path / '0.png').write_bytes(b'not an image')
    for _ in range(2):
        samples = cache.open_samples(rows, settings, tmp_path / 'cache', on_error='skip')
        assert samples.rows.path.tolist() == ['1.png', '2.png'] and samples.image[:, 0, 0, 0].tolist() == [10, 20]
        assert len(samples.label) == 2 and '0.png: cannot be read as an image' in samples.skipped['0.png']
    with pytest.raises(InputError, match='0.png: cannot be read as an image'):
        cache.open_samples(rows, settings, tmp_path / 'cache')
    (tmp_path / '1.png').unlink()
    samples = cache.open_samples(rows, settings, tmp_path / 'cache', on_error='skip')
    assert samples.rows.path.tolist() == ['2.png'] and samples.image[:, 0, 0, 0].tolist() == [20]
    assert samples.skipped.keys() == {'0.png', '1.png'} and 'no such file' in samples.skipped['1.png']
    for damage in (lambda path: path.write_bytes(b'x'), lambda path: path.unlink()):
        damage(tmp_path / '2.png')
        with pytest.raises(InputError, match='none of the 3 samples of a subset can be read; the first: 1.png'):
            cache.open_samples(rows, settings, tmp_path / 'cache', on_error='skip')


def test_good_files_are_the_same_samples_whatever_the_policy(rows, settings, tmp_path):
    samples = cache.open_samples(rows, settings, tmp_path / 'cache', on_error='skip')
    assert samples.skipped == {} and len(samples.rows) == 3
    assert np.array_equal(samples.image, cache.open_samples(rows, settings, tmp_path / 'cache').image)
    assert len(folders(tmp_path / 'cache')) == 1
