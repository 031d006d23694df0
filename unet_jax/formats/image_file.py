"""One image file as an array."""
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from unet_jax.annotations.coco import IMAGE_FORMATS, MAX_PIXELS
from unet_jax.errors import InputError


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
                values = np.asarray(image, np.float32)
                if not np.isfinite(values).all():
                    raise InputError(f'{path}: holds values that are not finite')
                values = values - min(0.0, float(values.min()))
                image = Image.fromarray(np.uint8(np.rint(values * (255 / max(float(values.max()), 1e-9)))))
            array = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file; the annotations name it') from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path}: cannot be read as an image ({error})') from error
    return array.reshape(*array.shape[:2], channels)
