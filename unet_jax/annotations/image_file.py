"""An image file before it is decoded: the formats and endings that are read, its size, which way up it is stored."""
import logging
import struct
from collections.abc import Iterable
from pathlib import Path

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


def hidden_turn(width: int, height: int, turned: int) -> bool:
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
