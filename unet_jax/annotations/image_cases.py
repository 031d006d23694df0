"""The annotation frame of images whose masks are known: of nnU-Net's 2-D sets, and of tables of paths."""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import mask_values
from unet_jax.annotations.left_out import LeftOut
from unet_jax.annotations.split import subsets
from unet_jax.errors import InputError
from unet_jax.progress import bar


class Image(NamedTuple):
    """Paths are relative to the root."""
    name: str  # of the case
    patient: str
    path: str
    mask: str
    subset: str = ''  # '' where it is to be made


def build(root: Path, images: list[Image], reader: LeftOut, classes_of: Callable[[list[dict]], mask_values.Classes], *,
          split: tuple[float, float, float], seed: int, folds: int = 0, fold: int = 0) -> pd.DataFrame:
    """The frame, its masks as run-length encodings; `classes_of` says what the values of all masks mean.

    Subsets are those given, or made by patient. Raises InputError for files that cannot be read and masks of another
    size than their image, unless the reader leaves such images out.
    """
    found = [reader.attempt('unreadable', mask_values.read, root, image.path, (image.mask,))
             for image in bar(images, desc='reading masks', unit='mask')]
    images, found = ([one for one, content in zip(those, found, strict=True) if content] for those in (images, found))
    if not images:
        raise InputError(f'{root}: no image can be read. {"; ".join(reader.items["unreadable"][:3])}')
    classes = classes_of([content.values for content in found])
    strata = [float(bool(content.values)) for content in found]
    subset = subsets_of(images, strata, split=split, seed=seed, folds=folds, fold=fold)
    rows = []
    for image, content, where in zip(images, found, subset, strict=True):
        row = {'file_name': image.path, 'path': image.path, 'width': content.width, 'height': content.height,
               'subset': where, 'image_id': image.name, 'group': image.patient, 'case': image.name}
        unknown = sorted(set(content.values) - set(classes.ids)) if classes.ids else []
        if unknown:
            held = ', '.join(map(mask_values.text, unknown))
            raise InputError(f'{Path(root) / image.mask}: holds the values {held}; {classes.names} are known. Name '
                             'them where the labels are named, or mend the file')
        rows += [row | {'category_id': c, 'category': classes.names[c], 'segmentation': rle}
                 for c, rle in mask_values.segmentations(content, classes)] or [row]
    frame = frames.build(rows)
    frame.attrs['annotation_files'] = sorted(image.mask for image in images)
    frame.attrs['classes'] = [[number, name] for number, name in sorted(classes.names.items())]
    reader.note(frame, str(root))
    return frame


def subsets_of(cases: list, strata: list[float], *, split: tuple[float, float, float], seed: int, folds: int = 0,
               fold: int = 0) -> list[str]:
    """The subset of each of `cases`, which have `patient` and `subset`: as given, where all have one; where only some
    are named, as test, the others are split by the shares of train and valid."""
    given = [case.subset for case in cases]
    if all(given) and set(given) != {'train'}:
        return given
    rest = pd.Series({k: case.patient for k, case in enumerate(cases) if case.subset in ('', 'train')})
    shares = (split[0], split[1], 0.0) if 'test' in given else split
    shares = tuple(share / (sum(shares) or 1) for share in shares)
    made = subsets(rest, shares, seed, pd.Series(strata)[rest.index], folds=folds, fold=fold)
    return [made.get(k, where) for k, where in enumerate(given)]
