"""Segments images and volumes with model.onnx, without jax and without unet_jax.

    pip install numpy onnxruntime nibabel Pillow
    unzip model.zip -d model
    python model/run.py INPUT OUTPUT

INPUT is an image, a folder of images, or, where the model segments volumes, a NIfTI file or a folder of them, of one
case or of many; a case's sequences are told by the ends of their names (run.json, "endings"). OUTPUT is a folder: a
PNG of label numbers for each image, a NIfTI for each volume. Research only: this is no medical device.

model.onnx takes what images are here just before it and gives probabilities: standardising, padding, the network,
mirrored views and the average of members are inside. Here are reading, windows, the threshold and writing.
"""
import argparse
import itertools
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.jp2', '.ppm', '.pgm')
FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
MOST = 64 * 2 ** 20  # pixels or voxels of a file


class Unusable(Exception):
    """An input that cannot be segmented, and why."""


def make_network(folder, threads):
    """A function: samples (n, *size, C) -> probabilities (n, *size, R)."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / 'model.onnx'), options, providers=['CPUExecutionProvider'])
    return lambda image: session.run(None, {'image': image})[0]


def label_numbers(probability, about):
    """Probabilities (…, R) -> label numbers (…): a region's own where no region inside it is."""
    masks = probability > about['threshold']
    found = np.zeros(masks.shape[:-1], np.uint8 if max(r['value'] for r in about['regions']) < 256 else np.uint16)
    for k, region in sorted(enumerate(about['regions']), key=lambda pair: pair[1]['order']):
        own = masks[..., k]
        for inner in region['inside']:
            own = own & ~masks[..., inner]
        found[own] = region['value']
    return found


# Images: scaled to fit, padded with black, and back.

def read_image(path, channels):
    """(H, W, channels) uint8."""
    from PIL import Image
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST:
                raise Unusable(f'{path}: is over 64 megapixels; scale it down first')
            if image.mode in ('I', 'F') or image.mode.startswith('I;16'):  # its own maximum becomes 255
                values = np.asarray(image, np.float32)
                values = values - min(0.0, float(values.min()))
                image = Image.fromarray(np.uint8(np.rint(values * (255 / max(float(values.max()), 1e-9)))))
            array = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    except (OSError, SyntaxError, ValueError) as error:
        raise Unusable(f'{path}: cannot be read as an image ({error})') from error
    return array.reshape(*array.shape[:2], channels)


def resize(array, height, width):
    from PIL import Image
    if array.shape[:2] == (height, width):
        return array
    planes = [Image.fromarray(np.ascontiguousarray(array[..., c])) for c in range(array.shape[-1])]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes], -1)


def place(shape, size):
    """(top, left, height, width) of an image of `shape` in `size`."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    h, w = (max(1, round(n * scale)) for n in shape)
    return (size[0] - h) // 2, (size[1] - w) // 2, h, w


def segment_images(network, about, source, output):
    paths = [source] if source.is_file() else sorted(p for p in source.rglob('*') if p.suffix.lower() in IMAGES)
    root = source.parent if source.is_file() else source
    named = [path.relative_to(root).with_suffix('').as_posix() for path in paths]
    count = Counter(named)
    named = [name if count[name] == 1 else f'{name}_{path.suffix[1:]}'
             for path, name in zip(paths, named, strict=True)]
    for first in range(0, len(paths), about['batch']):
        part = []
        for path, name in list(zip(paths, named, strict=True))[first:first + about['batch']]:
            try:
                part.append((read_image(path, about['channels']), name))
            except Unusable as error:
                yield None, str(error)
        if not part:
            continue
        batch = np.zeros((len(part), *about['size'], about['channels']), np.uint8)
        where = [place(image.shape[:2], about['size']) for image, _ in part]
        for k, ((image, _), (top, left, h, w)) in enumerate(zip(part, where, strict=True)):
            batch[k, top:top + h, left:left + w] = resize(image, h, w)
        for (image, name), (top, left, h, w), found in zip(part, where, network(batch), strict=True):
            ids = label_numbers(resize(found[top:top + h, left:left + w], *image.shape[:2]), about)
            yield write_png(output / f'{name}.png', ids), ''


def write_png(path, ids):
    from PIL import Image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)
    return path


# Volumes: turned, cut to the brain, standardised inside it, windows blended, and back.

def find_cases(about, source):
    """{case: {sequence: file}}; a 4-D file stands for all sequences."""
    nifti = re.compile(r'(?!\._)(.+?)\.nii(\.gz)?', re.IGNORECASE)
    near = [source] if source.is_file() else sorted(source.rglob('*'))
    files = [path for path in near if path.is_file() and nifti.fullmatch(path.name)]
    found = defaultdict(dict)
    ends = [(end, name) for name, several in about['endings'].items() for end in several]
    for path in files:
        stem = nifti.fullmatch(path.name)[1]
        hits = [(end, name) for end, name in ends if re.search(rf'(^|[-_. ]){re.escape(end)}$', stem, re.IGNORECASE)]
        if hits:
            end, name = max(hits, key=lambda hit: len(hit[0]))
            case = stem[:len(stem) - len(end)].rstrip('-_. ') or path.absolute().parent.name
            found[case][name] = path
        elif source.is_file() or about['positions']:
            found[stem] = dict.fromkeys(about['sequences'], path)
    return dict(found)


def background(channel):
    """The number that most of the border of (X, Y, Z) is made of; None where none covers a quarter of it."""
    axes = [a for a, n in enumerate(channel.shape) if n > 2] or range(channel.ndim)
    border = np.concatenate([np.take(channel, k, axis).ravel() for axis in axes for k in (0, -1)])
    numbers, counts = np.unique(border, return_counts=True)
    return float(numbers[counts.argmax()]) if counts.max() >= border.size / 4 else None


def read_case(files, about):
    """(image (X, Y, Z, C) float32 with 0 outside the brain, brain (X, Y, Z), the nibabel image of the first file)."""
    import nibabel
    channels, first, loaded = [], None, {}
    for k, name in enumerate(about['sequences']):
        if name not in files:
            raise Unusable(f'has no {name}; its name would end with one of {", ".join(about["endings"][name])}')
        path = files[name]
        try:
            if path not in loaded:
                stored = nibabel.load(path)
                if np.prod(stored.shape[:3]) > MOST:
                    raise Unusable(f'{path}: {stored.shape} are too many voxels; cut the volume to the head')
                loaded[path] = stored, np.asanyarray(stored.dataobj)
        except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
            raise Unusable(f'{path}: cannot be read as NIfTI ({error})') from error
        stored, voxels = loaded[path]
        if voxels.ndim == 4 and voxels.shape[-1] > 1:
            voxels = voxels[..., about['positions'].get(name, k)]
        voxels = voxels.reshape(stored.shape[:3])
        image = voxels.astype(np.float32)
        image[voxels == -32768] = 0
        first = first or stored
        if image.shape != first.shape[:3] or not np.isfinite(image).all():
            raise Unusable(f'{path}: shape {image.shape} where {first.shape[:3]} is wanted, or not finite numbers')
        channels.append(image)
    outside = [background(image) for image in channels]
    brain = np.any([np.full(c.shape, True) if level is None else c != level
                    for c, level in zip(channels, outside, strict=True)], 0)
    if not brain.any():
        raise Unusable('no voxel is other than the background')
    image = np.stack(channels, -1)
    image[~brain] = 0
    return image, brain, first


def turn(array, codes, to):
    from nibabel import orientations
    if codes == to:
        return array
    given, wanted = (orientations.axcodes2ornt(text) for text in (codes, to))
    return orientations.apply_orientation(array, orientations.ornt_transform(given, wanted))


def standardise(image, brain):
    inside = image[brain].astype(np.float64)
    most, deviation = np.abs(inside).max(0), inside.std(0)
    inside = inside - inside.mean(0)
    found = np.zeros(image.shape, np.float32)
    found[brain] = inside / np.where(deviation <= 1e-9 * most, np.inf, deviation)
    return found


def resample(array, shape):
    """(X, Y, Z, C) -> (*shape, C), linear, the outer faces staying where they are."""
    for axis, m in enumerate(shape):
        n = array.shape[axis]
        if n == m:
            continue
        at = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), max(n - 2, 0))
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        array = np.take(array, low, axis) * (1 - share) + np.take(array, np.minimum(low + 1, n - 1), axis) * share
    return array.astype(np.float32)


def starts(length, side, overlap):
    if length <= side:
        return [-((side - length) // 2)]
    count = -(-(length - side) // max(1, int(side * (1 - overlap)))) + 1
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def blend(network, about, image):
    """(X, Y, Z, C) float16 -> probabilities (X, Y, Z, R): windows weighted towards their centres."""
    size, shape = about['size'], image.shape[:3]
    x, y, z = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2).astype(np.float32) for n in size)
    weight = (x[:, None, None] * y[:, None] * z)[..., None]
    places = [starts(n, side, about['overlap']) for n, side in zip(shape, size, strict=True)]
    margin = [max(-p[0], 0) for p in places]
    after = [max(m, side - n - m) for m, side, n in zip(margin, size, shape, strict=True)]
    padded = np.pad(image, [*zip(margin, after, strict=True), (0, 0)])
    total = np.zeros((*padded.shape[:3], len(about['regions'])), np.float32)
    sums = np.zeros((*padded.shape[:3], 1), np.float32)
    grid = [tuple(slice(s + m, s + m + side) for s, m, side in zip(start, margin, size, strict=True))
            for start in itertools.product(*places)]
    for first in range(0, len(grid), about['batch']):
        part = grid[first:first + about['batch']]
        for window, found in zip(part, network(np.stack([padded[window] for window in part])), strict=True):
            total[window] += weight * found
            sums[window] += weight
    inside = tuple(slice(m, m + n) for m, n in zip(margin, shape, strict=True))
    return (total / np.maximum(sums, np.finfo(np.float32).tiny))[inside]


def segment_volume(network, about, files, path):
    import nibabel
    image, brain, stored = read_case(files, about)
    codes = ''.join(nibabel.aff2axcodes(stored.affine))
    turned = about['orientation'] or codes
    image, brain = turn(image, codes, turned), turn(brain, codes, turned)
    lines = [brain.any(tuple(b for b in range(3) if b != a)).nonzero()[0] for a in range(3)]
    box = tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    whole = image.shape[:3]
    image = standardise(image[box], brain[box])
    cut = image.shape[:3]
    if about['spacing']:
        axes = nibabel.orientations.ornt_transform(*map(nibabel.orientations.axcodes2ornt, (codes, turned)))[:, 0]
        own = [float(stored.header.get_zooms()[list(axes.astype(int)).index(a)]) for a in range(3)]
        image = resample(image, [max(1, round(n * a / b))
                                 for n, a, b in zip(cut, own, about['spacing'], strict=True)])
    found = resample(blend(network, about, image.astype(np.float16)), cut)
    ids = np.zeros(whole, np.uint8)
    ids[box] = label_numbers(found, about)
    ids = turn(ids, turned, codes)
    result = nibabel.Nifti1Image(ids, stored.affine, stored.header)
    result.header['cal_min'] = result.header['cal_max'] = 0
    result.header.set_slope_inter(1, 0)
    result.set_data_dtype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(result, path)
    return path


def segment_volumes(network, about, source, output):
    for case, files in find_cases(about, source).items():
        try:
            yield segment_volume(network, about, files, output / f'{case}.nii.gz'), ''
        except Unusable as error:
            yield None, f'{case}: {error}'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('input', type=Path)
    parser.add_argument('output', type=Path)
    parser.add_argument('--threads', type=int, default=0, help='0: as many as there are cores')
    options = parser.parse_args()
    if not options.input.exists():
        sys.exit(f'{options.input}: no such file or folder')
    about = json.loads((HERE / 'run.json').read_text(encoding='utf-8'))
    if about['left_out']:
        print(f'Not done here, so masks are not those of unet_jax: {about["left_out"]}')
    segment = {'images': segment_images, 'volumes': segment_volumes}[about['kind']]
    done, problems = 0, []
    for path, problem in segment(make_network(HERE, options.threads), about, options.input, options.output):
        done += path is not None
        problems += [problem] * bool(problem)
    print(f'{done} masks in {options.output}')
    if problems or not done:
        sys.exit('\n'.join(problems) or f'{options.input}: nothing there that this model segments ({about["kind"]})')


if __name__ == '__main__':
    main()
