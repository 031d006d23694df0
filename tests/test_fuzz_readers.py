"""Some hundred of the mutants of benchmarks/fuzz_readers.py, and bombs: small files that unpack to gigabytes."""
import gzip
import random
import resource
import struct
import zlib

import h5py
import nibabel
import numpy as np
import pytest

from benchmarks import fuzz_readers
from unet_jax.annotations import brats_h5, image_file, nifti_file
from unet_jax.annotations.segmentation import rasterise
from unet_jax.errors import InputError


@pytest.mark.parametrize('reader, mutants', [('coco', 60), ('image', 150), ('h5', 100), ('csv', 60), ('nifti', 150)])
def test_a_mutant_is_read_or_refused_by_name(reader, mutants):
    outcomes, failures = fuzz_readers.fuzz(reader, mutants, first=100_000)
    assert failures == {} and outcomes.total() == mutants
    assert outcomes['read'] > 0 and outcomes['refused'] > mutants // 5


def test_a_reader_that_dies_hangs_or_says_the_wrong_thing_is_noticed(monkeypatch, tmp_path):
    def reading(error):
        def read(folder, name):
            raise error
        return read

    for error, what in ((KeyError('x'), 'KeyError'), (InputError('something'), 'does not name the file')):
        monkeypatch.setitem(fuzz_readers.READERS, 'image', (fuzz_readers.write_image, reading(error)))
        assert fuzz_readers.attempt('image', 0).startswith(what)
    assert fuzz_readers.attempt('coco', 0) == fuzz_readers.attempt('coco', 0)


def test_the_damaged_chunk_index_that_ended_the_process_is_refused(tmp_path):
    """Found by fuzzing: libhdf5 crashes on it."""
    name = fuzz_readers.write_h5(tmp_path, random.Random('h5 2078'))
    with pytest.raises(InputError, match="index of '/mask' is damaged"):
        brats_h5.read_slice(tmp_path / name)


def png_bomb(width, height):
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    parts = chunk(b'IHDR', header), chunk(b'IDAT', zlib.compress(b'\0' * 1000)), chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def jpeg_bomb(width, height):
    return b'\xff\xd8\xff\xc0' + struct.pack('>HBHHB', 11, 8, height, width, 1) + b'\x01\x11\x00\xff\xd9'


def test_bombs_are_refused_by_name_and_take_no_memory(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in (('a.png', png_bomb(60_000, 60_000)), ('a.jpg', jpeg_bomb(65_000, 65_000))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            image_file.read(tmp_path / name, 3)
    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).to_bytes()[:352]
    for dims in ((1024, 1024, 700), (32767, 32767, 32767)):
        forged = header[:40] + struct.pack('<8h', 3, *dims, 1, 1, 1, 1) + header[56:]
        zeros = gzip.compress(bytes(2 ** 20)) * 700
        (tmp_path / 'a.nii.gz').write_bytes(gzip.compress(forged + bytes(2 ** 20)) + zeros)
        with pytest.raises(InputError, match=r'a.nii.gz: shape .* voxels; at most'):
            nifti_file.read(tmp_path / 'a.nii.gz')
    with h5py.File(tmp_path / 'a.h5', 'w') as f:
        f.create_dataset('image', (2 ** 30, 2 ** 30, 4), 'f8', chunks=(64, 64, 4))
    with pytest.raises(InputError, match='a.h5'):
        brats_h5.read_slice(tmp_path / 'a.h5')
    for rle in ({'size': [2 ** 31, 2 ** 31], 'counts': [2 ** 62]}, {'size': [8, 8], 'counts': [2 ** 62]},
                {'size': [8, 8], 'counts': 'o' * 10_000_000}):
        with pytest.raises(InputError, match='a.json'):
            rasterise(rle, height=8, width=8, where='a.json')
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6  # GB
    assert taken < 0.5
