"""Predicted masks as files: PNGs of category ids and one COCO JSON with run-length encoded masks, or NIfTI."""
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import nibabel
import numpy as np
import pandas as pd
from faster_coco_eval import mask as coco_mask
from PIL import Image

from unet_jax.annotations import labels
from unet_jax.annotations.nifti_file import read_header
from unet_jax.errors import InputError
from unet_jax.workdir import write_text


def mask_names(paths: Iterable[str]) -> list[str]:
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


def check_output(folder: Path, root: Path, rows: pd.DataFrame) -> None:
    """Raises InputError if the mask of one of `rows` (paths under `root`) would be written over one of them."""
    inputs = {(root / path).resolve() for path in rows.path}
    hit = [row.path for row in rows.itertuples() if (folder / row.png).resolve() in inputs]
    if hit:
        raise InputError(f'--output={folder}: the mask of {hit[0]} would overwrite an input; name another folder')


def write_mask(path: Path, bits: np.ndarray, classes: tuple[int, ...]) -> None:
    """Bit sets (H, W) as a PNG whose pixel values are those of `labels.values`: category ids, 0 for background."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.to_ids(bits, classes)).save(path)


def write_nifti(path: Path, ids: np.ndarray, *, like: Path) -> None:
    """Label numbers (X, Y, Z) as uint8 NIfTI with the affine and header of the file `like`; no scaling is kept."""
    _, affine, _, header = read_header(like)
    image = nibabel.Nifti1Image(ids, affine, header)
    image.header['cal_min'] = image.header['cal_max'] = 0  # the window that the input is best shown with
    image.header.set_slope_inter(1, 0)
    image.set_data_dtype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.part-{path.name}')
    nibabel.save(image, part)
    part.replace(path)


def coco_annotations(image_id: int, bits: np.ndarray, classes: tuple[int, ...], first_id: int) -> list[dict]:
    """One annotation with a compressed RLE a class that is present; overlapping classes each keep all their pixels."""
    annotations = []
    for k, category in enumerate(classes):
        mask = (bits >> k) & 1
        if mask.any():
            rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            annotations.append({'id': first_id + len(annotations), 'image_id': image_id, 'category_id': category,
                                'segmentation': {'size': list(rle['size']), 'counts': rle['counts'].decode()},
                                'area': int(mask.sum()), 'bbox': [float(v) for v in coco_mask.toBbox(rle)],
                                'iscrowd': 0})
    return annotations


class CocoWriter:
    """Collects the predictions of many images into one COCO data set.

    A category has its `pixel_value` beside its id where the PNGs hold another number, as for the id 0.
    """

    def __init__(self, categories: dict[int, str]):
        self.classes = tuple(categories)
        self.data = {'info': {'description': 'predictions of unet_jax'}, 'images': [], 'annotations': [],
                     'categories': [{'id': c, 'name': name} | ({'pixel_value': value} if value != c else {})
                                    for (c, name), value in zip(categories.items(), labels.values(self.classes),
                                                                strict=True)]}

    def add(self, row: pd.Series, bits: np.ndarray) -> None:
        image_id = len(self.data['images']) + 1
        self.data['images'].append({'id': image_id, 'file_name': row.path, 'width': int(row.width),
                                    'height': int(row.height)})
        self.data['annotations'] += coco_annotations(image_id, bits, self.classes, len(self.data['annotations']) + 1)

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.data))
