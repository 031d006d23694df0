"""What to predict as rows of the kind that `frame.images` gives, without annotations."""
from pathlib import Path

import pandas as pd

from unet_jax.annotations import nifti
from unet_jax.errors import InputError
from unet_jax.inference.export import mask_names
from unet_jax.pipeline import decode

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.gif', '.webp')


def find(source: str | None, channels: int) -> tuple[Path, pd.DataFrame]:
    """(root, one row a file of `source`, itself a file or a folder searched through its subfolders).

    The column `png` says where each mask goes. Raises InputError where there is nothing to predict, and for a file
    that cannot be read.
    """
    if not source or not Path(source).exists():
        raise InputError(f'--input={source}: no such file or folder; name an image, an HDF5 slice, '
                         'or a folder of them')
    source = Path(source)
    paths = [source] if source.is_file() else sorted(p for p in source.rglob('*') if p.is_file() and known(p))
    if not paths or not known(paths[0]):
        raise InputError(f'--input={source}: no image or HDF5 file; known endings: {", ".join(IMAGES)}, .h5, .hdf5')
    root = source if source.is_dir() else source.parent
    found = pd.DataFrame([row(root, path, channels) for path in paths])
    return root, found.assign(png=mask_names(found.path))


def known(path: Path) -> bool:
    return not path.name.startswith('.') and (path.suffix.lower() in IMAGES or decode.is_hdf5(path))


def row(root: Path, path: Path, channels: int) -> dict:
    image, _ = decode.read(path, channels)
    name = path.relative_to(root).as_posix()
    return {'file_name': name, 'path': name, 'height': image.shape[0], 'width': image.shape[1], 'annotations': (),
            'case': name, 'group': name, 'slice': pd.NA, 'subset': 'test', 'image_id': name}


def find_volumes(source: str | None, schema: str, modalities: tuple[str, ...], missing_modalities: bool
                 ) -> tuple[Path, pd.DataFrame]:
    """(root, one row a case of the folder `source`: itself a case, or cases up to four folders below); no labels
    needed. `schema` is the release whose label numbers are written."""
    if not source or not Path(source).is_dir():
        raise InputError(f'--input={source}: no such folder; name that of a case, or one with folders of cases')
    return Path(source), nifti.find_cases(source, schema, modalities, missing_modalities)
