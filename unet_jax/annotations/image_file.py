"""An image file: the formats and endings that are read, its size, which way up it is stored, its pixels."""
import logging
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from unet_jax.errors import InputError

IMAGE_FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')  # Pillow runs programs for EPS
ENDINGS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.jp2', '.j2k',
           '.jpc', '.jpf', '.jpx', '.j2c', '.ppm', '.pgm', '.pbm', '.pnm', '.pfm')  # all that Pillow knows of these
MAX_PIXELS = 64 * 2 ** 20
Image.MAX_IMAGE_PIXELS = None  # Pillow's own check only warns up to 179 megapixels; ours refuses earlier
ORIENTATION = 0x0112  # the EXIF tag
SHOWN = {2: 'mirrored', 3: 'turned by 180 degrees', 4: 'upside down and mirrored', 5: 'turned by 90 degrees, mirrored',
         6: 'turned by 90 degrees', 7: 'turned by 90 degrees, mirrored', 8: 'turned by 90 degrees'}
UPRIGHT = ('if they were annotated as a viewer shows them, store them upright (mogrify -auto-orient FILES, or '
           'exiftran -ai FILES) and export the annotations again')

log = logging.getLogger('unet_jax')


def look(path: Path) -> tuple[int, int, int]:
    """(width, height, EXIF orientation) from the header alone: the pixels as stored, 1 where nothing says otherwise.

    The orientation is not applied, here or in decoding, except to TIFF, which Pillow turns by itself.
    Raises InputError for what is no image, or is larger than 64 megapixels.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            turned = _orientation(image)
    except (TypeError, OverflowError, ValueError, OSError, SyntaxError) as error:
        raise InputError(f'cannot be opened ({error})') from error
    if width * height > MAX_PIXELS:
        raise InputError(f'is {width} × {height} pixels; at most 64 megapixels are read, so scale it down first')
    return width, height, turned


def hidden_turn(turned: int, *, width: int, height: int) -> bool:
    """Whether an orientation changes where things are, but not the size, which then tells nobody."""
    return turned in (2, 3, 4) or turned in SHOWN and width == height


def warn_of_turned(root: Path, paths: Iterable[str]) -> None:
    """A warning that names the images among `paths` that are shown otherwise than they are stored."""
    turned = []
    for path in paths:
        try:
            turned += [path] if look(root / path)[2] != 1 else []
        except InputError:
            continue  # another format, or reported where it is read
    if turned:
        log.warning('%s: %d images have an EXIF orientation, first %s. They are segmented, and their masks written, '
                    'as their pixels are stored, not as viewers show them; mogrify -auto-orient FILES turns them',
                    root, len(turned), ', '.join(turned[:3]))


def _orientation(image: Image.Image) -> int:
    if image.format == 'PNG' and 'exif' not in image.info:  # Pillow would decode all of it to look behind the pixels
        return 1
    try:
        turned = image.getexif().get(ORIENTATION, 1)
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1  # EXIF that is damaged turns nothing
    return turned if turned in SHOWN else 1


def read(path: Path, channels: int) -> np.ndarray:
    """An image file as (H, W, channels) uint8; EXIF orientation is not applied, as annotations do not expect it.

    Grey, RGB, RGBA (alpha is dropped), palette and CMYK are converted by Pillow; 16-bit and float images are scaled
    so that their own maximum becomes 255. Raises InputError for what is not an image, is cut short, or is larger
    than 64 megapixels.
    """
    if channels not in (1, 3):
        raise InputError(f'config.data.channels is {channels}; image files give 1 (grey) or 3 (RGB)')
    try:
        with warnings.catch_warnings(), Image.open(path, formats=IMAGE_FORMATS) as image:
            warnings.simplefilter('ignore')
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f'{path}: {image.width}×{image.height} is over 64 megapixels; scale it down first')
            if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
                image = Image.fromarray(to_uint8(np.asarray(image, np.float32), path))
            array = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file; the annotations name it') from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path}: cannot be read as an image ({error})') from error
    return array.reshape(*array.shape[:2], channels)


def to_uint8(values: np.ndarray, where: object) -> np.ndarray:
    """Numbers of any size, scaled so that their maximum becomes 255. Raises InputError where one is not finite."""
    if not np.isfinite(values).all():
        raise InputError(f'{where}: holds values that are not finite')
    values = np.asarray(values, np.float32)
    values = values - min(0.0, float(values.min()))
    return np.uint8(np.rint(values * (255 / max(float(values.max()), 1e-9))))


def from_array(array: np.ndarray, channels: int) -> np.ndarray:
    """An image in memory, (H, W), (H, W, 1) or (H, W, 3), as `read` gives it from a file with these pixels: uint8 as
    it is, other numbers scaled to their own maximum. Raises InputError for other shapes and what is not finite."""
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[-1] not in (1, 3) or not array.size:
        raise InputError(f'the image is an array of shape {array.shape}; expected (height, width), or (height, width, '
                         '1 or 3)')
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f'the image is {array.shape[1]}×{array.shape[0]}, over 64 megapixels; scale it down first')
    pixels = array if array.dtype == np.uint8 else to_uint8(array, 'the image')
    image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
    return np.asarray(image.convert('L' if channels == 1 else 'RGB')).reshape(*array.shape[:2], channels)
