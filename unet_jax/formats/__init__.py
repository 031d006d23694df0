"""The formats that data come in. To add one: a file here that makes a `Format`, and a line in FORMATS."""
from unet_jax.errors import InputError
from unet_jax.formats import brats_h5, coco, nifti, nnunet, pairs, phantom, table, volumes
from unet_jax.formats.seam import Format

FORMATS: dict[str, Format] = {
    'coco': coco.FORMAT,
    'brats_h5': brats_h5.FORMAT,
    'nifti': nifti.FORMAT,
    'pairs': pairs.FORMAT,
    'nnunet_raw': nnunet.FORMAT,
    'nnunet_images': nnunet.IMAGES,
    'table': table.FORMAT,
    'table_images': table.IMAGES,
    'volumes': volumes.FORMAT,
    'phantom': phantom.FORMAT,
}


def named(name: str) -> Format:
    """The format that config.data.format calls `name`. Raises InputError for a name that is none."""
    if name not in FORMATS:
        raise InputError(f'config.data.format is {name!r}; choose one of {", ".join(map(repr, FORMATS))}')
    return FORMATS[name]
