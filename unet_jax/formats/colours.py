"""Whether the images of a data set are grey or in colour."""
from pathlib import Path

import numpy as np
from PIL import Image

from unet_jax.annotations.image_file import IMAGE_FORMATS

LOOKED_AT = 8  # images


def is_colour(path: Path) -> bool:
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.mode in ('L', 'I', 'F', '1', 'LA') or image.mode.startswith('I;16'):
                return False
            image.draft('RGB', (256, 256))  # of JPEG, a small one
            pixels = np.asarray(image.convert('RGB'), np.int16)
    except (OSError, SyntaxError, ValueError):
        return False
    return bool((np.ptp(pixels, -1) > 24).mean() > 0.01)  # JPEG makes greys a little coloured


def channels(images: list[Path] | None) -> dict[str, int]:
    return {'channels': 3 if any(map(is_colour, (images or [])[:LOOKED_AT])) else 1}


def colours(images: list[Path] | None) -> tuple[str, ...]:
    return ('in colour, so 3 channels',) if channels(images)['channels'] == 3 else ('grey, so 1 channel',)
