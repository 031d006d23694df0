"""Predicted masks as files: PNGs of category ids and one COCO JSON with run-length encoded masks, or NIfTI."""
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import nibabel
import numpy as np
from faster_coco_eval import mask as coco_mask
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unet_jax import palette
from unet_jax.annotations import labels, mask_values
from unet_jax.annotations.nifti_file import read_header
from unet_jax.errors import InputError
from unet_jax.text_file import write_text


def names(paths: Iterable[str]) -> list[str]:
    """Where the masks of inputs (relative, as in the frame) go: the same folders, `.png` for the ending; x_jpg.png and
    x_png.png for x.jpg and x.png beside each other. Raises InputError where two would still go to one file."""
    paths = [PurePosixPath(path) for path in paths]
    without = [str(path)[:len(str(path)) - len(path.suffix)] for path in paths]
    count = Counter(without)
    names = [f'{stem}.png' if count[stem] == 1 else f'{stem}_{path.suffix[1:]}.png'
             for path, stem in zip(paths, without, strict=True)]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        same = [str(path) for path, name in zip(paths, names, strict=True) if name == twice[0]]
        raise InputError(f'the masks of {" and ".join(same)} would both be {twice[0]}; rename one of them')
    return names


def write_png(path: Path, ids: np.ndarray, *, like: Path | None = None) -> None:
    """Label numbers (H, W), those of `labels.values`, as the pixel values of a PNG: of 8 bits with a palette, so that
    viewers show the classes in colours, or where a number is above 255 grey, of 16 bits."""
    image, note = Image.fromarray(ids), PngInfo()
    if ids.dtype == np.uint8:
        image.putpalette(palette.of_values())  # the mode is P from here on; the pixels stay
        note.add_text(*mask_values.IDS)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.part-{path.name}')
    image.save(part, pnginfo=note)
    part.replace(path)


def write_nifti(path: Path, ids: np.ndarray, *, like: Path | np.ndarray) -> None:
    """Label numbers (X, Y, Z) as uint8 NIfTI with the affine and header of the file `like`, or with that affine; no
    scaling is kept."""
    save_nifti(path, ids, np.uint8, like=like)


def write_uncertainty(path: Path, values: np.ndarray, *, like: Path | None = None) -> None:
    """Shares from 0 (sure) to 1 as float32 NIfTI (X, Y, Z), or 0 to 65535 in a grey PNG of 16 bits (H, W)."""
    if values.ndim == 2:
        write_png(path, np.rint(values * 65535).astype(np.uint16))
    else:
        save_nifti(path, values, np.float32, like=like)


def save_nifti(path: Path, array: np.ndarray, dtype: type, *, like: Path | np.ndarray) -> None:
    affine, header = (like, None) if isinstance(like, np.ndarray) else read_header(like)[1::2]
    image = nibabel.Nifti1Image(array, affine, header)
    image.header['cal_min'] = image.header['cal_max'] = 0  # the window that the input is best shown with
    image.header.set_slope_inter(1, 0)
    image.set_data_dtype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.part-{path.name}')
    nibabel.save(image, part)
    part.replace(path)


def annotations(bits: np.ndarray, classes: tuple[int, ...]) -> list[dict]:
    """Bit sets (H, W) -> a COCO annotation with a compressed RLE a class that is present, without ids; overlapping
    classes each keep all their pixels."""
    found = []
    for k, category in enumerate(classes):
        mask = (bits >> k) & 1
        if mask.any():
            rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            found.append({'category_id': category,
                          'segmentation': {'size': list(rle['size']), 'counts': rle['counts'].decode()},
                          'area': int(mask.sum()), 'bbox': [float(v) for v in coco_mask.toBbox(rle)], 'iscrowd': 0})
    return found


class Drawn(NamedTuple):
    """An image with its predicted annotations."""
    file_name: str
    height: int
    width: int
    annotations: list[dict]  # of `annotations`


def write_coco(path: Path, categories: dict[int, str], images: Iterable[Drawn]) -> None:
    """Predictions as one COCO data set.

    A category has its `pixel_value` beside its id where the PNGs hold another number, as for the id 0.
    """
    written = labels.values(tuple(categories))
    data = {'info': {'description': 'predictions of unet_jax'}, 'images': [], 'annotations': [],
            'categories': [{'id': c, 'name': name} | ({'pixel_value': value} if value != c else {})
                           for (c, name), value in zip(categories.items(), written, strict=True)]}
    for image_id, image in enumerate(images, 1):
        data['images'].append({'id': image_id, 'file_name': image.file_name, 'width': image.width,
                               'height': image.height})
        for annotation in image.annotations:
            data['annotations'].append({'id': len(data['annotations']) + 1, 'image_id': image_id, **annotation})
    write_text(path, json.dumps(data))
