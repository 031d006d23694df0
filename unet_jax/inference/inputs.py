"""What to predict as rows of the kind that `frame.images` gives, without annotations."""
from pathlib import Path

import pandas as pd

from unet_jax.annotations import image_file, nifti, nifti_file
from unet_jax.errors import InputError
from unet_jax.inference.export import mask_names
from unet_jax.pipeline import decode, volumes

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
    image_file.warn_of_turned(root, found.path)
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
    """(root, one row a case of `source`): of a folder, itself a case or with cases up to four folders below, or of a
    file: the Decathlon's four sequences in one, or one of a case, whose others lie beside it. No labels are needed.

    `schema` is the release whose label numbers are written. Raises InputError where there is no case.
    """
    if not source or not Path(source).exists():
        raise InputError(f'--input={source}: no such file or folder; name a NIfTI file, the folder of a case, or one '
                         'with folders of cases')
    path = Path(source).absolute()  # the release shows in the names of folders too
    if path.is_dir():
        return path, nifti.find_cases(path, schema, modalities, missing_modalities)
    if not nifti.NIFTI.fullmatch(path.name):
        raise InputError(f'--input={source}: is no NIfTI file; expected NAME.nii or NAME.nii.gz')
    if len(nifti_file.read_header(path).shape) == 4:
        return path.parent, nifti.find_file(path, schema, modalities)
    found = nifti.find_cases(path.parent, schema, modalities, missing_modalities)
    mine = found[[path.name in {Path(name).name for name in volumes.paths(row)} for row in found.itertuples()]]
    if mine.empty:
        raise InputError(f'--input={source}: belongs to no case with {", ".join(modalities)} in its folder')
    return path.parent, mine.reset_index(drop=True)
