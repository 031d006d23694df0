"""Data sets of made-up heads, written to disk as the three real formats have them."""
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import scipy  # its parts are loaded when first used: training begins without them
from PIL import Image

from unet_jax.annotations import schemas
from unet_jax.errors import InputError
from unet_jax.phantom_head import ED, ET, MODALITIES, NCR, VERSION, slice_, volume

# By release: the folder of cases, and a case's name from its number and time point.
NAMES = {'2018': ('HGG', 'Brats18_MADE_{0}_1'), '2019': ('HGG', 'BraTS19_MADE_{0}_1'),
         '2020': ('', 'BraTS20_Training_{0:03d}'), '2021': ('', 'BraTS2021_{0:05d}'),
         '2023': ('', 'BraTS-GLI-{0:05d}-{1:03d}'), '2024-GLI': ('', 'BraTS-GLI-{0:05d}-{1:03d}'),
         '2024-PED': ('', 'BraTS-PED-{0:05d}-{1:03d}'), 'MEN': ('', 'BraTS-MEN-{0:05d}-{1:03d}'),
         'SSA': ('', 'BraTS-SSA-{0:05d}-{1:03d}'), 'GoAT': ('', 'BraTS-GoAT-{0:05d}'),
         'MET': ('', 'BraTS-MET-{0:05d}-{1:03d}'), 'MEN-RT': ('', 'BraTS-MEN-RT-{0:04d}-1'),
         'MSD': ('', 'BRATS_{0:03d}')}


def _polygons(part: np.ndarray) -> list[list[float]]:
    """A 4-connected mask (H, W) as COCO polygons [x, y, ...], corner of the first pixel at (0, 0).

    A polygon has no holes: a part with one is cut in two through it, along pixel edges, where no gap shows.
    """
    holes = scipy.ndimage.binary_fill_holes(part) & ~part
    if not holes.any():
        from skimage.measure import find_contours  # takes 0.1 s, and phantoms are written once
        outline = max(find_contours(np.pad(part, 1).astype(float), 0.5), key=len)  # (n, 2) rows, columns of centres
        return [(outline[:-1, ::-1] - 0.5).ravel().tolist()]
    left = np.arange(part.shape[1]) <= np.argwhere(holes)[0, 1]
    return [polygon for half in (part & left, part & ~left) for piece in _parts(half) for polygon in _polygons(piece)]


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The 4-connected parts of a mask, each of the whole shape."""
    numbered, count = scipy.ndimage.label(mask)
    return [numbered == k for k in range(1, count + 1)]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _once(folder: str | Path, settings: dict, write: Callable[[Path], None]) -> Path:
    """`folder`, filled by `write` under a temporary name and renamed; kept where it already has these settings, and
    where a run has begun with it. Raises InputError where it holds anything else: runs elsewhere may need that."""
    folder, settings = Path(folder), json.loads(json.dumps({'version': VERSION, **settings}))
    note = folder / 'phantom.json'
    known = json.loads(note.read_text()) if note.is_file() else None
    if known == settings or known and (folder.parent / 'config.json').exists():
        return folder
    if known:
        raise InputError(f'{folder}: holds phantoms of other settings, {known}, not {settings}. Name another '
                         '--workdir, or delete that folder if nothing needs it')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'{folder}: exists and was not written by phantom.py; choose another folder')
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}')
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same number
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        (temporary / 'phantom.json').write_text(json.dumps(settings))
        try:
            temporary.rename(folder)
        except OSError:
            if not note.is_file() or json.loads(note.read_text()) != settings:
                raise  # else another process was first, with the same phantoms
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_coco(folder: str | Path, *, train: int = 160, valid: int = 40, test: int = 40, size: int = 128,
               seed: int = 0) -> Path:
    """FLAIR slices as a Roboflow export: `train|valid|test/_annotations.coco.json` beside grey PNGs. Returns `folder`.

    One category, 1 'tumour' (whole tumour), one annotation a connected part; about every seventh image has none.
    """
    counts = {'train': train, 'valid': valid, 'test': test}

    def write(root: Path) -> None:
        for number, (subset, count) in enumerate(counts.items()):
            (root / subset).mkdir()
            images, annotations = [], []
            for k in range(count):
                name = f'phantom_{k:04d}.png'
                mask = _write_png(root / subset / name, _seed(seed, number, k), size)
                images.append({'id': k, 'file_name': name, 'width': size, 'height': size})
                annotations += [{'id': len(annotations) + n, 'image_id': k, **annotation}
                                for n, annotation in enumerate(map(_annotation, _parts(mask)))]
            (root / subset / '_annotations.coco.json').write_text(json.dumps({
                'info': {'description': 'made-up brains, no patients'}, 'licenses': [], 'images': images,
                'categories': [{'id': 1, 'name': 'tumour', 'supercategory': 'none'}], 'annotations': annotations}))

    return _once(folder, {'format': 'coco', **counts, 'size': size, 'seed': seed}, write)


def _write_png(path: Path, seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image, label = slice_(seed, size, tumour=rng.random() > 1 / 7)
    white = rng.uniform(0.95, 1.35)  # every scanner has its own scale
    Image.fromarray(np.uint8(np.clip(image[..., 0] / white, 0, 1) * 255)).save(path)
    return label > 0


def _annotation(part: np.ndarray) -> dict:
    (top, bottom), (left, right) = ((int(i.min()), int(i.max()) + 1) for i in np.nonzero(part))
    return {'category_id': 1, 'segmentation': _polygons(part), 'area': int(part.sum()), 'iscrowd': 0,
            'bbox': [left, top, right - left, bottom - top]}


def _cases(count: int, shape: tuple[int, int, int], seed: int):
    """`count` heads without skull in the files' axes: (image (W, H, D, 4) int16, label (W, H, D) uint8)."""
    for k in range(count):
        image, label = volume(_seed(seed, k), shape)
        yield np.rint(600 * image).astype(np.int16).swapaxes(0, 2), label.swapaxes(0, 2)


def write_brats_h5(folder: str | Path, *, volumes: int = 6, shape: tuple[int, int, int] = (24, 64, 64), seed: int = 0
                   ) -> Path:
    """Volumes of `shape` (D, H, W) in the layout of the Kaggle BraTS2020 slices, at any size. Returns `folder`."""
    def write(root: Path) -> None:
        data = root / 'BraTS2020_training_data/content/data'
        data.mkdir(parents=True)
        rows = []
        for number, (image, label) in enumerate(_cases(volumes, shape, seed), start=1):
            for k in range(shape[0]):
                x, mask = image[:, :, k].astype(float), np.stack([label[:, :, k] == v for v in (NCR, ED, ET)], -1)
                std = x.std((0, 1))
                with h5py.File(data / f'volume_{number}_slice_{k}.h5', 'w') as f:
                    f['image'] = (x - x.mean((0, 1))) / np.where(std > 0, std, 1)
                    f['mask'] = mask.astype(np.uint8)
                count = mask.sum((0, 1))
                rows.append({'slice_path': f'/kaggle/volume_{number}_slice_{k}.h5', 'target': int(count.any()),
                             'volume': number, 'slice': k, **{f'label{c}_pxl_cnt': n for c, n in enumerate(count)},
                             'background_ratio': 1 - mask.any(-1).mean()})
        pd.DataFrame(rows).to_csv(root / 'BraTS20 Training Metadata.csv', index=False)
        pd.DataFrame({'Grade': 'HGG', 'BraTS_2020_subject_ID': [f'BraTS20_Training_{n:03d}'
                                                                for n in range(1, volumes + 1)]}
                     ).to_csv(data / 'name_mapping.csv', index=False)

    return _once(folder, {'format': 'brats_h5', 'volumes': volumes, 'shape': shape, 'seed': seed}, write)


def write_nifti(folder: str | Path, *, cases: int = 6, shape: tuple[int, int, int] = (32, 64, 64), seed: int = 0,
                year: str = '2020') -> Path:
    """Cases of `shape` (D, H, W) as a release of `schemas.SCHEMAS` names and labels them. Returns `folder`.

    Where names have time points, the last of three or more cases is a second visit of the patient before.
    """
    schema, (parent, pattern) = schemas.schema(year), NAMES[year]
    affine = np.array([[-1, 0, 0, 0], [0, -1, 0, shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # as in the releases

    def save(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), path)

    def write(root: Path) -> None:
        for k, (image, label) in enumerate(_cases(cases, shape, seed)):
            label, again = _relabel(label, schema), '{1' in pattern and cases > 2 and k == cases - 1
            name = pattern.format(k + 1 - again, int(again))
            if year == 'MSD':
                save(root / f'imagesTr/{name}.nii.gz', image)
                save(root / f'labelsTr/{name}.nii.gz', label)
                continue
            case = root / parent / name
            for modality, suffix in schema.suffixes.items():
                save(case / f'{name}{schema.separator}{suffix}.nii.gz', image[..., MODALITIES.index(modality)])
            save(case / f'{name}{schema.separator}{schema.label}.nii.gz', label)
        if year == 'MSD':
            (root / 'dataset.json').write_text(json.dumps({
                'name': 'BRATS', 'modality': {'0': 'FLAIR', '1': 'T1w', '2': 't1gd', '3': 'T2w'},
                'labels': {'0': 'background', '1': 'edema', '2': 'non-enhancing tumor', '3': 'enhancing tumour'}}))

    return _once(folder, {'format': 'nifti', 'year': year, 'cases': cases, 'shape': shape, 'seed': seed}, write)


def _relabel(label: np.ndarray, schema: schemas.Schema) -> np.ndarray:
    """Labels 1, 2, 4 as the release numbers them; of a fourth class, one half of the necrosis; one class is all."""
    if len(schema.names) == 1:
        return np.uint8(label > 0)
    value = {name: v for v, name in schema.names.items()}
    core = next(value[name] for name in ('NCR/NET', 'NCR', 'NETC', 'NET') if name in value)
    result = np.zeros_like(label)
    result[label == ED] = value.get('ED', value.get('SNFH'))
    result[label == ET] = value['ET']
    result[label == NCR] = core
    fourth = value.get('RC', value.get('CC'))
    if fourth is not None:
        where = np.argwhere(label == NCR)
        result[tuple(where[len(where) // 2:].T)] = fourth
    return result
