"""The colours of regions and classes, in pictures, masks and pages, and the grey window that images are shown in."""
import numpy as np

# Distinct on grey, black and white, and under protanopia, deuteranopia and tritanopia: any two of them are 31 or more
# apart in CIELAB, of the first three 34 (simulated after Machado et al. 2009, full severity).
COLOURS = ('#E69F00', '#56B4E9', '#DC267F', '#B2DF8A', '#785EF0', '#7A3300')


def colour(r: int) -> str:
    return COLOURS[r % len(COLOURS)]


def rgb(r: int) -> tuple[int, int, int]:
    """`colour` as bytes."""
    return tuple(bytes.fromhex(colour(r)[1:]))


def of_values() -> list[int]:
    """The palette of a label map: 256 × (red, green, blue). 0 is black; values above it take the colours in turn."""
    return [0, 0, 0, *(byte for value in range(255) for byte in rgb(value))]


def window(image: np.ndarray) -> np.ndarray:
    """Grey values 0..1 between the 0.5th and 99.5th percentile of the head; a constant background is black."""
    values = image.astype(np.float32)
    finite = np.isfinite(values)
    background = values == values.flat[0]
    # Standardised images have their background at 0, amid the tissue; an image file may be bright all over.
    constant = np.issubdtype(image.dtype, np.floating) and 0.1 < background.mean() < 1
    head = values[finite & ~background] if constant else values[finite]
    low, high = np.percentile(head, (0.5, 99.5)) if head.size else (0, 1)
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return np.where(finite & ~(background & constant), grey, 0)
