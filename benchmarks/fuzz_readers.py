"""Damaged and forged files for the readers: each must be read, or refused by name, within bounds.

    python benchmarks/fuzz_readers.py --mutants=3000          # of each of the five: 15,000 in all

A mutant is a good file with bytes changed, cut, repeated or exchanged, with a header or a JSON value replaced by
another (gzip streams are made valid again), or a structure made up by hypothesis. Readers run in processes of their
own. Anything but a good read or an InputError that names the file counts as a failure, and so do a process that dies,
more than 20 s for a mutant and more than 2 GB of memory; failures are printed with the number that makes them again.
Leaves with status 1 if there was one.
"""
import argparse
import collections
import gzip
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

import h5py
import hypothesis
import nibabel
import numpy as np
from hypothesis import strategies as st
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from unet_jax.annotations import audit, brats_h5, coco, image_file, nifti_file  # noqa: E402  (after the path)
from unet_jax.annotations import frame as frames  # noqa: E402
from unet_jax.errors import InputError  # noqa: E402
from unet_jax.pipeline import decode  # noqa: E402

SECONDS, BYTES = 20, 2 * 2 ** 30
ABSURD = (0, 1, -1, 2 ** 15 - 1, 2 ** 31 - 1, -2 ** 31, 2 ** 53, 10 ** 30, 1e308, float('nan'), float('inf'), '', 'x',
          '../../etc/passwd', '/etc/passwd', None, True, [], {}, [[]], [None], [1e9] * 6, 'PPYo0', {'size': [2, 2]},
          {'size': [20, 24], 'counts': [2 ** 62, 5]}, {'size': [2 ** 31, 2 ** 31], 'counts': 'PPYo0'},
          [[float('inf')] * 6], [[0, 0, 1e300, 1, 5, 5]], '\ud800', '\0')


def damage(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, set, cut, repeated, left out or exchanged; near the beginning, where headers are, more often."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        end = len(data) if chance.random() < 0.5 else min(len(data), 400)
        place, kind = chance.randrange(max(end, 1)), chance.randrange(7)
        length = chance.choice((1, 2, 4, 8, 64))
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place:place + length] = bytes(chance.randrange(256) for _ in range(length))
        elif kind == 2:
            data[place:place + length] = chance.choice((b'\0', b'\xff', b'\x7f')) * length
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            data[place:place] = data[place:place + length]
        elif kind == 5:
            del data[place:place + length]
        else:
            number = chance.choice((0, 1, 2 ** 15, 2 ** 31 - 1, 2 ** 32 - 1))
            data[place:place + 4] = struct.pack(chance.choice('<>') + 'I', number)
    return bytes(data)


# --- images ---

def images() -> list[tuple[str, bytes]]:
    rng, files, turned = np.random.default_rng(0), [], Image.Exif()
    turned[image_file.ORIENTATION] = 3
    grey, colour = rng.integers(0, 255, (20, 24), np.uint8), rng.integers(0, 255, (20, 24, 3), np.uint8)
    for suffix, array, options in (
            ('png', grey, {}), ('png', colour, {}), ('png', grey.astype(np.uint16) * 200, {}), ('jpg', grey, {}),
            ('jpg', colour, {}), ('tif', colour, {}), ('tif', grey, {'compression': 'tiff_lzw'}), ('bmp', colour, {}),
            ('tif', grey.astype(np.float32), {}), ('gif', grey, {}), ('webp', colour, {}),
            *((suffix, grey, {'exif': turned}) for suffix in ('jpg', 'png', 'webp'))):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, {'jpg': 'JPEG', 'tif': 'TIFF'}.get(suffix, suffix), **options)
        files.append((f'image.{suffix}', buffer.getvalue()))
    return files


def write_image(folder: Path, chance: random.Random) -> str:
    name, data = chance.choice(images())
    (folder / name).write_bytes(damage(data, chance))
    return name


def read_image(folder: Path, name: str) -> None:
    image_file.warn_of_turned(folder, [name])  # refuses nothing, so whatever it raises is a failure
    for channels in (1, 3):
        assert image_file.read(folder / name, channels).shape[2] == channels


# --- NIfTI ---

def write_nifti(folder: Path, chance: random.Random) -> str:
    rng = np.random.default_rng(chance.randrange(4))
    voxels = rng.integers(0, 4, (9, 8, 7)).astype(chance.choice(('u1', 'i2', 'f4', 'f8')))
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    data = bytearray(image.to_bytes())
    if chance.random() < 0.6:  # a field of the header: dim, intent, type, bits, pixdim, offset, slope, affine ...
        place, form = chance.choice([(40 + 2 * k, 'h') for k in range(8)] + [(70, 'h'), (72, 'h'), (252, 'h')]
                                    + [(k, 'f') for k in (76, 80, 84, 108, 112, 116, 280, 292, 308)])
        value = chance.choice((0, 1, -1, 3, 255, 32767, -32768, *((1e30, float('nan'), float('inf'))
                                                                  if form == 'f' else ())))
        data[place:place + struct.calcsize(form)] = struct.pack('<' + form, value)
    packed, form = chance.random() < 0.6, chance.random()
    if form < 0.5:
        data = damage(data, chance)
    data = gzip.compress(data, 1) if packed else bytes(data)
    if form > 0.8 and packed:
        data = damage(data, chance)
    name = 'volume.nii' + '.gz' * packed
    (folder / name).write_bytes(data)
    return name


def read_nifti(folder: Path, name: str) -> None:
    image, header = nifti_file.read_image(folder / name)
    assert image.shape == header.shape and np.isfinite(image).all()
    label, _ = nifti_file.read_label(folder / name)
    assert label.shape == header.shape


# --- HDF5 ---

def write_h5(folder: Path, chance: random.Random) -> str:
    name, rng = 'volume_1_slice_0.h5', np.random.default_rng(chance.randrange(4))
    image, mask = rng.normal(size=(12, 10, 4)), np.eye(4, dtype=np.uint8)[rng.integers(0, 4, (12, 10))][..., :3]
    forged = chance.random()
    with h5py.File(folder / name, 'w') as f:
        if forged < 0.5:
            options = chance.choice(({}, {'compression': 'gzip'}, {'chunks': (4, 4, 2), 'fletcher32': True},
                                     {'chunks': True, 'shuffle': True}))
            f.create_dataset('image', data=image, **options)
            f.create_dataset('mask', data=mask, **options)
        else:
            for dataset in ('image', 'mask'):
                forge(f, dataset, chance)
    if forged < 0.6:
        path = folder / name
        path.write_bytes(damage(path.read_bytes(), chance))
    return name


def forge(f: h5py.File, name: str, chance: random.Random) -> None:
    """A dataset of any shape and type, or something else in its place."""
    kind, channels = chance.randrange(9), 4 if name == 'image' else 3
    shape = tuple(chance.choice((1, 3, 4, 12, 4096, 2 ** 20, 2 ** 40)) for _ in range(chance.randrange(5)))
    if kind == 0 and shape:
        f.create_dataset(name, shape, 'f8', chunks=tuple(min(n, 64) for n in shape))
    elif kind == 1:
        f.create_dataset(name, (4096, 4096, channels), 'f8', chunks=(64, 64, channels), compression='gzip')
    elif kind == 2:
        f[name] = h5py.SoftLink(chance.choice(('/nothing', f'/{name}', '/')))
    elif kind == 3:
        f[name] = h5py.ExternalLink(chance.choice(('/etc/passwd', 'other.h5', '.')), '/image')
    elif kind == 4:
        f.create_dataset(name, (12, 10, channels), 'u1', external=[('/etc/passwd', 0, 12 * 10 * channels)])
    elif kind == 5:
        f.create_group(name)
    elif kind == 6:
        f.create_dataset(name, data=np.full((12, 10, channels), chance.choice((np.nan, np.inf, 1e308, -1, 7))))
    elif kind == 7:
        f.create_dataset(name, data=np.full((12, 10, channels), b'text'))
    else:
        types = ('i8', '>f4', 'c8', 'f2', h5py.special_dtype(vlen=str), np.dtype([('a', 'i4'), ('b', 'f4')]), 'bool')
        f.create_dataset(name, (12, 10, channels), chance.choice(types))


def read_h5(folder: Path, name: str) -> None:
    image, mask = brats_h5.read_slice(folder / name)
    assert np.isfinite(image).all() and (mask is None or mask.shape[:2] == image.shape[:2])
    frame = brats_h5.read_frame(folder)
    assert len(frames.images(frame)) == 1


# --- the CSVs beside the slices ---

MAPPING = 'Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n' + ''.join(
    f'HGG,BraTS19_M\u00fc{k},BraTS20_Training_00{k}\n' for k in (1, 2))
COUNTS = 'slice_path,target,volume,slice,label0_pxl_cnt,label1_pxl_cnt,label2_pxl_cnt,background_ratio\n' + ''.join(
    f'/data/volume_{v}_slice_{s}.h5,1,{v},{s},1,2,0,0.97\n' for v in (1, 2) for s in (0, 1))


def write_csv(folder: Path, chance: random.Random) -> str:
    mask = np.zeros((12, 10, 3), np.uint8)
    mask[0, 0, 0] = mask[1, :2, 1] = 1
    for volume, index in ((1, 0), (1, 1), (2, 0), (2, 1)):
        with h5py.File(folder / f'volume_{volume}_slice_{index}.h5', 'w') as f:
            f['image'], f['mask'] = np.random.default_rng(0).normal(size=(12, 10, 4)), mask
    files = {'BraTS20 Training Metadata.csv': COUNTS, 'name_mapping.csv': MAPPING}
    spoilt, encoding = chance.choice(list(files)), chance.choice(('utf-8', 'utf-8', 'latin-1', 'utf-16'))
    for name, text in files.items():
        if name == spoilt and chance.random() < 0.5:  # a field replaced
            cells = [line.split(',') for line in text.splitlines()]
            line = chance.choice(cells)
            line[chance.randrange(len(line))] = str(chance.choice(ABSURD)).encode('utf-8', 'replace').decode()
            text = '\n'.join(map(','.join, cells))
        data = text.encode(encoding if name == spoilt else 'utf-8', 'replace')
        (folder / name).write_bytes(damage(data, chance) if name == spoilt and chance.random() < 0.6 else data)
    return spoilt


def read_csv(folder: Path, name: str) -> None:
    frame = brats_h5.read_frame(folder)
    assert len(frames.images(frame)) == 4


# --- COCO ---

def good_coco() -> dict:
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    masks = [[square], square, {'size': [20, 24], 'counts': [5, 7, 468]}, [], None, [square, [0, 0, 3, 0, 3, 3]]]
    return {'images': [{'id': k, 'file_name': f'{k}.png', 'width': 24, 'height': 20} for k in range(2)],
            'annotations': [{'id': k, 'image_id': k % 2, 'category_id': 1, 'bbox': [2, 2, 10, 10], 'area': 100,
                             'iscrowd': 0, 'segmentation': mask} for k, mask in enumerate(masks)],
            'categories': [{'id': 1, 'name': 'tumour'}]}


def nodes(value, path=()):
    yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(part, (*path, key))


def replace(value, path: tuple, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replace(value[path[0]], path[1:], new)
    return copy


NUMBER = st.one_of(st.integers(-5, 40), st.floats(-5, 40), st.sampled_from((1e9, -1e9, 2 ** 40)), st.floats())
JSON = st.recursive(st.one_of(st.none(), st.booleans(), NUMBER, st.text(max_size=8)), lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)), max_leaves=8)
RLE = st.fixed_dictionaries({'size': st.one_of(st.just([20, 24]), st.lists(NUMBER, max_size=3)), 'counts': st.one_of(
    st.lists(NUMBER, max_size=6), st.text(max_size=12), st.just([0, 480]))})
ANNOTATION = st.fixed_dictionaries(
    {'image_id': st.one_of(st.integers(0, 1), JSON), 'category_id': st.one_of(st.just(1), JSON)},
    optional={'id': JSON, 'bbox': st.one_of(st.lists(NUMBER, min_size=4, max_size=4), JSON), 'iscrowd': JSON,
              'segmentation': st.one_of(JSON, RLE, st.lists(st.lists(NUMBER, max_size=12), max_size=3))})


def made_up(count: int) -> list[dict]:
    """Data sets whose annotations hypothesis made up, the same at every call."""
    found = []

    @hypothesis.settings(max_examples=count, derandomize=True, database=None, deadline=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(st.lists(ANNOTATION, max_size=4))
    def collect(annotations):
        found.append({**good_coco(), 'annotations': annotations})

    collect()
    return found


def write_coco(folder: Path, chance: random.Random, structures: tuple = ()) -> str:
    for k in range(2):
        Image.fromarray(np.full((20, 24), 9 * k, np.uint8)).save(folder / f'{k}.png')
    data, kind = good_coco(), chance.random()
    if kind < 0.25 and structures:
        data = chance.choice(structures)
    elif kind < 0.8:
        for _ in range(chance.choice((1, 1, 2))):
            data = replace(data, chance.choice(list(nodes(data))), chance.choice(ABSURD))
    text = json.dumps(data).encode()
    (folder / 'data.json').write_bytes(damage(text, chance) if kind >= 0.8 else text)
    return 'data.json'


def read_coco(folder: Path, name: str) -> None:
    for policies in ({}, dict(box_only='skip', broken='skip'), dict(audit=True)):
        try:
            frame = coco.read(folder, **policies)
        except InputError:
            if policies:
                raise
            continue
        classes = frames.classes(frame)
        for row in frames.images(frame).itertuples():
            decode.decode(row, decode.Settings(str(folder), (16, 16), 1, classes))
        frames.save(frame, folder)
        frames.load(folder / 'annotations.parquet')
        audit.table(json.loads(json.dumps(audit.audit(frame, folder, on_error='skip'))))


READERS = {'coco': (write_coco, read_coco), 'image': (write_image, read_image), 'h5': (write_h5, read_h5),
           'csv': (write_csv, read_csv), 'nifti': (write_nifti, read_nifti)}


def attempt(reader: str, number: int, structures: tuple = ()) -> str:
    """'read', 'refused', or what went wrong, for mutant `number` of a reader."""
    write, read = READERS[reader]
    chance = random.Random(f'{reader} {number}')
    with tempfile.TemporaryDirectory() as folder:
        name = write(Path(folder), chance, *([structures] if reader == 'coco' else []))
        try:
            read(Path(folder), name)
            return 'read'
        except InputError as error:
            named = any(part in str(error) for part in (name, folder, '0.png', '1.png'))
            return 'refused' if named else f'does not name the file: {str(error)[:200]}'
        except Exception as error:  # what is being looked for
            return f'{type(error).__name__}: {str(error)[:200]}'


def peak_memory() -> int:
    """Bytes that this program has held at once; getrusage would count those of the one that started it, too."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM'))
    return int(line.split()[1]) * 1024


def work(reader: str, numbers: range, structures: tuple, pipe) -> None:
    """Sends (number, outcome) of each mutant; memory is that of the whole process, so 2 GB are an upper bound."""
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars, and what C libraries say
    resource.setrlimit(resource.RLIMIT_AS, (4 * BYTES, 4 * BYTES))  # a larger request is refused, not granted
    for number in numbers:
        outcome = attempt(reader, number, structures)
        memory = peak_memory()
        pipe.send((number, f'{memory / 1e9:.1f} GB of memory' if memory > BYTES else outcome))
    pipe.send(None)


def fuzz(reader: str, count: int, first: int = 0) -> tuple[collections.Counter, dict[int, str]]:
    """(how many were read, refused and failed, {number: what went wrong}) for `count` mutants of a reader."""
    outcomes, failures, context = collections.Counter(), {}, multiprocessing.get_context('spawn')
    structures = tuple(made_up(max(1, count // 4))) if reader == 'coco' else ()
    number, end = first, first + count
    while number < end:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(reader, range(number, end), structures, there), daemon=True)
        process.start()
        there.close()
        try:
            while here.poll(SECONDS if number > first else SECONDS + 60):  # it has much to import
                answer = here.recv()
                if answer is None:
                    number = end
                    break
                number, outcome = answer[0] + 1, answer[1]
                if outcome not in ('read', 'refused'):
                    failures[answer[0]] = outcome
                outcomes[outcome if outcome in ('read', 'refused') else 'failed'] += 1
                if 'of memory' in outcome:
                    break  # a new process, whose peak starts anew
            else:
                failures[number], number = f'no answer within {SECONDS} s', number + 1
                outcomes['failed'] += 1
        except EOFError:
            process.join()
            failures[number], number = f'the process ended with status {process.exitcode}', number + 1
            outcomes['failed'] += 1
        process.kill()
        process.join()
    return outcomes, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mutants', type=int, default=3000, help='of each reader')
    parser.add_argument('--first', type=int, default=0, help='number of the first, to make failures again')
    parser.add_argument('--readers', default=','.join(READERS))
    arguments = parser.parse_args()
    failed = 0
    for reader in arguments.readers.split(','):
        begun = time.monotonic()
        outcomes, failures = fuzz(reader, arguments.mutants, arguments.first)
        failed += len(failures)
        print(f'{reader}: {outcomes.total()} mutants, {outcomes["read"]} read, {outcomes["refused"]} refused by name, '
              f'{len(failures)} failed; {time.monotonic() - begun:.0f} s')
        for number, what in list(failures.items())[:20]:
            print(f'  --readers={reader} --first={number} --mutants=1: {what}')
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
