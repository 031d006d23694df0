"""What a data set is like, as far as a plan depends on it: sizes, spacing, tumours, intensities, odd cases.

`look` reads one image or volume, `fingerprint` puts many together, `prose` says it in words. What the frame knows is
counted over all images; what only files know over a sample of SAMPLES training images, the same at every call.
"""
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import scipy  # its parts are loaded when first used: training begins without them
from ml_collections import ConfigDict

from unet_jax import formats
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.experiment import data_folder
from unet_jax.pipeline import decode, prepared
from unet_jax.progress import bar

SAMPLES = {'image': 240, 'volume': 24}  # looked into; a volume of 240×240×155×4 takes about 2 s
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
VALUES = 400  # of the foreground, and of the body, that each image adds to the intensities
SIDE = 32  # pixels a side at which an image is compared with its mirror image
ALIKE = 0.75  # classes whose foregrounds differ by fewer standard deviations of the body look alike
ODD = 50  # cases named


def fingerprint(config: ConfigDict, frame: pd.DataFrame) -> dict[str, Any]:
    """The fingerprint of the data of a settled config, of values that JSON holds.

    Shares are of 1; lengths of tumours are the diameters of balls or discs of their volume or area: of volumes in mm,
    of images as a share of the longer side. Raises InputError where no file can be read.
    """
    form = formats.named(config.data.format)
    kind = 'volume' if form.volumetric else 'image'
    rows = prepared.rows(frame) if form.volumetric else frames.images(frame)
    own = rows[rows.subset == 'train'] if (rows.subset == 'train').any() else rows
    chosen = sample(own, SAMPLES[kind])
    seen, odd = [], []
    for row in bar(chosen.itertuples(), total=len(chosen), desc='fingerprint', unit=kind[:-1]):
        try:
            seen.append(look(config, row))
        except InputError as error:
            odd.append(f'{row.path}: {error}')
    if not seen:
        raise InputError(f'{config.data.root}: none of {len(chosen)} files can be read; the first: {odd[0]}')
    return plain({'kind': kind, 'format': config.data.format, 'images': len(rows), 'looked_into': len(seen),
                  **counts(config, rows), **shapes(rows, seen), **tumours(config, seen),
                  'intensities': intensities(seen), 'colour': float(np.mean([s['colour'] for s in seen])),
                  'mirror': np.median([s['mirror'] for s in seen], 0),
                  'missing': missing(config, rows) if form.volumetric else {},
                  'alike': alike(config, frame, seen), 'odd': [*odd, *odd_cases(seen)][:ODD]})


def sample(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most so many rows, evenly spread over all, so that every patient has its share."""
    if len(rows) <= count:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def look(config: ConfigDict, row) -> dict[str, Any]:
    """What one image or volume holds. Axes of volumes point to the left, to the back and up."""
    data, root = config.data, str(data_folder(config))
    form, classes = formats.named(data.format), tuple(data.categories)
    channels = max(form.channels, default=data.channels)
    content = form.read(root, row, channels)
    image, spacing = content.image, (1.0, 1.0)
    if form.volumetric:
        codes = ''.join(nibabel.aff2axcodes(content.affine))
        image, body = (prepared.turn(array, codes, to='LPS') for array in (image, content.brain))
        spacing = prepared.turned_spacing(row.spacing, codes, to='LPS')
        label = np.zeros(body.shape, int) if content.label is None else prepared.turn(content.label, codes, to='LPS')
        masks = np.stack([label == c for c in classes], -1)
    else:
        decode.check_size(row.path, image, row)
        masks = decode.label_masks(row, decode.Settings(root, tuple(data.size), channels, classes, data.format),
                                   content.label)
        body = image.max(-1) > 0.05 * image.max() if image.dtype == np.uint8 else (image != 0).any(-1)
    drawn = masks.any(-1)
    body = body if body.any() else np.ones_like(body)
    low, high = prepared.bounds(body)
    box = tuple(map(slice, low, high))
    inside, around = values(image, drawn), values(image, body)
    mean, deviation = around.mean(0), around.std(0)
    return {'path': row.path, 'group': row.group, 'shape': image.shape[:-1], 'spacing': spacing,
            'box': [h - n for n, h in zip(low, high, strict=True)], 'body': int(body.sum()),
            'sizes': masks.reshape(-1, len(classes)).sum(0), 'mean': mean, 'deviation': deviation,
            'inside': inside, 'around': around,
            'contrast': [(values(image, masks[..., k]).mean(0) - mean) / np.maximum(deviation, 1e-6)
                         if masks[..., k].any() else None for k in range(len(classes))],
            'mirror': mirrored(image[box].mean(-1)),
            'colour': image.shape[-1] == 3 and bool((np.ptp(image.astype(np.float32), -1) > 8).mean() > 0.01)}


def values(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, C) float32, n up to VALUES, of the pixels in a mask, evenly spread."""
    places = np.flatnonzero(mask)
    places = places[::max(1, -(-len(places) // VALUES))]
    return image.reshape(-1, image.shape[-1])[places].astype(np.float32)


def mirrored(image: np.ndarray) -> list[float]:
    """Along each axis the correlation of an image with its mirror image, at SIDE pixels a side."""
    small = scipy.ndimage.zoom(image.astype(np.float32), [min(1, SIDE / n) for n in image.shape], order=1)
    small = small - small.mean()
    power = max(float((small ** 2).sum()), 1e-12)
    return [float((small * np.flip(small, axis)).sum()) / power for axis in range(small.ndim)]


def counts(config: ConfigDict, rows: pd.DataFrame) -> dict[str, Any]:
    """Of the frame alone: subsets, patients, and how many images show a tumour."""
    classes = {*config.data.categories}
    shown = np.array([any(c in classes for c, _ in annotations) for annotations in rows.annotations])
    if formats.named(config.data.format).volumetric:
        shown |= rows.label.notna().to_numpy()
    stacked = bool(rows.slice.notna().any())
    return {'subsets': rows.subset.value_counts().to_dict(), 'patients': rows.group.nunique(),
            'cases': rows.case.nunique(), 'stacked': stacked,
            'images_per_patient': quantiles(rows.groupby('group').size()), 'positive': float(shown.mean())}


def shapes(rows: pd.DataFrame, seen: Sequence[dict]) -> dict[str, Any]:
    """Sizes, spacing (mm, 1 of images) and the box of the body, as quantiles along each axis."""
    sizes = np.array([s['shape'] for s in seen])
    return {'shape': quantiles(sizes), 'spacing': quantiles(np.array([s['spacing'] for s in seen])),
            'box': quantiles(np.array([s['box'] for s in seen])),
            'sizes': [[*map(int, size), int(n)] for size, n in
                      zip(*np.unique(sizes, axis=0, return_counts=True), strict=True)][:20]}


def tumours(config: ConfigDict, seen: Sequence[dict]) -> dict[str, Any]:
    """Of each class and region: in what share of images, what share of their bodies, and its diameter."""
    classes = tuple(config.data.categories)
    names = dict(zip(classes, config.data.names or map(str, classes), strict=True))
    sizes = np.array([s['sizes'] for s in seen])
    groups = {'classes': [(f'{names[c]}', (c,)) for c in classes],
              'regions': [(name, tuple(ids)) for name, ids, _ in config.data.regions]}
    bodies = np.array([s['body'] for s in seen])

    def one(name: str, ids: tuple[int, ...]) -> dict[str, Any]:
        pixels = sizes[:, [classes.index(c) for c in ids]].sum(1)
        have = pixels > 0
        across = [diameter(n, s) for n, s in zip(pixels, seen, strict=True) if n]
        return {'name': name, 'ids': ids, 'images': float(have.mean()),
                'share': float((pixels[have] / bodies[have]).mean()) if have.any() else 0.0,
                'pixels': float(pixels.sum() / bodies.sum()), 'diameter': quantiles(np.array(across))}

    return {key: [one(*group) for group in found] for key, found in groups.items()}


def diameter(pixels: int, one: dict) -> float:
    """Of the disc, as a share of the image's longer side, or of the ball, in mm, of so many pixels or voxels."""
    if len(one['shape']) == 2:
        return float(2 * np.sqrt(pixels / np.pi) / max(one['shape']))
    return float(2 * np.cbrt(pixels * np.prod(one['spacing']) * 3 / (4 * np.pi)))


def intensities(seen: Sequence[dict]) -> dict[str, Any]:
    """Of each channel: mean, standard deviation, 0.5 %, 50 % and 99.5 % quantile inside the foreground and the body;
    and how far the means of the images, and of the patients, lie apart, in standard deviations within an image."""
    found = {}
    for where in ('inside', 'around'):
        pixels = np.concatenate([s[where] for s in seen])
        found[{'inside': 'foreground', 'around': 'body'}[where]] = [
            {'mean': x.mean(), 'deviation': x.std(), 'quantiles': np.quantile(x, (0.005, 0.5, 0.995))}
            for x in pixels.T] if len(pixels) else []
    means, within = np.array([s['mean'] for s in seen]), np.array([s['deviation'] for s in seen])
    of_patients = pd.DataFrame(means).groupby([s['group'] for s in seen]).mean().to_numpy()
    usual = np.maximum(within.mean(0), 1e-6)
    return found | {'apart': means.std(0) / usual, 'patients_apart': of_patients.std(0) / usual}


def missing(config: ConfigDict, rows: pd.DataFrame) -> dict[str, int]:
    """How many cases lack each of the sequences."""
    return {name: n for name in config.data.modalities
            if (n := sum(name not in (m or {}) for m in rows.modalities))}


def alike(config: ConfigDict, frame: pd.DataFrame, seen: Sequence[dict]) -> list[dict[str, Any]]:
    """Pairs of classes that may be one: of names that are numbers or equal, or that no image shows together, and whose
    brightness, against the body, differs by less than ALIKE."""
    classes = tuple(config.data.categories)
    names = dict(zip(classes, config.data.names or map(str, classes), strict=True))
    together = {tuple(sorted(set(ids))) for ids in frame.dropna(subset='category_id').groupby(
        ['subset', 'image_id']).category_id.apply(lambda ids: [int(i) for i in ids])} if len(classes) > 1 else set()
    found = []
    for a, b in combinations(range(len(classes)), 2):
        ids = classes[a], classes[b]
        if any(set(ids) <= set(shown) for shown in together):
            continue
        contrasts = [[s['contrast'][k] for s in seen if s['contrast'][k] is not None] for k in (a, b)]
        if not all(contrasts):
            continue
        apart = float(np.abs(np.mean(contrasts[0], 0) - np.mean(contrasts[1], 0)).max())
        named = [names[c].strip().lower() for c in ids]
        why = [f'are called {names[ids[0]]!r} and {names[ids[1]]!r}'] if named[0] == named[1] or all(
            n.removeprefix('value').strip().isdigit() for n in named) else []
        if apart < ALIKE:
            found.append({'ids': ids, 'why': [*why, 'never occur in one image', f'are as bright ({apart:.2f} '
                                              'standard deviations apart)']})
    return found


def odd_cases(seen: Sequence[dict]) -> list[str]:
    """What stands out of the sample: sizes, bodies, brightness."""
    shape = np.median([s['shape'] for s in seen], 0)
    share = np.array([np.prod(s['box']) / np.prod(s['shape']) for s in seen])
    means = np.array([s['mean'].mean() for s in seen])
    spread = max(float(np.quantile(means, 0.75) - np.quantile(means, 0.25)), 1e-6)
    found = []
    for one, part, mean in zip(seen, share, means, strict=True):
        ratio = np.array(one['shape']) / shape
        why = []
        if ratio.max() > 2 or ratio.min() < 0.5:
            why.append(f'{"×".join(map(str, one["shape"]))}, the median is {"×".join(f"{n:g}" for n in shape)}')
        if one['deviation'].max() < 1e-6:
            why.append('the same value everywhere')
        elif abs(mean - np.median(means)) > 5 * spread:
            why.append(f'mean brightness {mean:.4g}, the median is {np.median(means):.4g}')
        if part < 0.3 * np.median(share):
            why.append(f'the body fills {100 * part:.0f} % of it')
        if one['sizes'].sum() > 0.6 * one['body']:
            why.append(f'{100 * one["sizes"].sum() / one["body"]:.0f} % of the body is annotated')
        found += [f'{one["path"]}: {"; ".join(why)}'] if why else []
    return found


def quantiles(array) -> list:
    """The quantiles QUANTILES along the first axis; [] of nothing."""
    array = np.asarray(array, float)
    return np.quantile(array, QUANTILES, axis=0).tolist() if len(array) else []


def median(values: list):
    return values[QUANTILES.index(0.5)]


def plain(value: Any) -> Any:
    """Values of numpy as Python's, numbers with six digits."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return float(f'{value:.6g}')
    return int(value) if isinstance(value, np.integer) else value


def prose(found: dict[str, Any]) -> str:
    """A paragraph."""
    volumetric, what = found['kind'] == 'volume', f'{found["kind"]}s'
    whole = len(found['subsets']) and found['looked_into'] < found['images']
    shape = '×'.join(f'{n:g}' for n in median(found['shape']))
    parts = [f'{found["images"]} {what} of {found["patients"]} patients or sources ('
             + ', '.join(f'{n} {s}' for s, n in found['subsets'].items()) + ')'
             + (f'; {found["looked_into"]} of the training images were looked into, evenly spread' if whole else '')]
    parts.append(f'The median size is {shape} {"voxels of " if volumetric else "pixels"}' + (
        '×'.join(f'{mm:.3g}' for mm in median(found['spacing'])) + ' mm' if volumetric else '')
        + f', of which the body takes {"×".join(f"{n:.0f}" for n in median(found["box"]))}')
    parts.append(f'{100 * found["positive"]:.0f} % of the {what} have a tumour drawn')
    for region in found['regions']:
        if region['diameter']:
            unit = ' mm' if volumetric else ' % of the longer side'
            across = median(region['diameter']) * (1 if volumetric else 100)
            parts.append(f'{region["name"]}: in {100 * region["images"]:.0f} % of them, {100 * region["share"]:.1f} % '
                         f'of the body there, median diameter {across:.0f}{unit}')
        else:
            parts.append(f'{region["name"]}: in none that was looked into')
    if found['stacked']:
        parts.append(f'They are slices, {median(found["images_per_patient"]):g} of a patient')
    if found['missing']:
        parts.append('Missing sequences: ' + ', '.join(f'{k} in {n}' for k, n in found['missing'].items()))
    parts.append(f'{len(found["odd"])} look odd' + (f', such as {found["odd"][0]}' if found['odd'] else ''))
    return '. '.join(parts) + '.'
