"""Slices of patients: which lie beside which, one scale for all of a patient's, and both as the network sees them."""
import numpy as np
import pandas as pd


def near(rows: pd.DataFrame, reach: int) -> np.ndarray:
    """(N, 1 + 2 · reach) int32: positions in `rows` of the slices from `reach` before to `reach` behind each row.

    Slices of a case are in the order of their numbers, whatever is missing between them. At the ends the last one is
    repeated; an image that is no slice stands for all of its own.
    """
    found = np.repeat(np.arange(len(rows), dtype=np.int32)[:, None], 1 + 2 * reach, axis=1)
    numbered = np.flatnonzero(rows.slice.notna())
    order = rows.iloc[numbered].assign(position=numbered).sort_values(['case', 'slice'], kind='stable')
    for _, part in order.groupby('case', sort=False):
        places = part.position.to_numpy()
        for offset in range(-reach, reach + 1):
            found[places, reach + offset] = places[np.clip(np.arange(len(places)) + offset, 0, len(places) - 1)]
    return found


def scale(image: np.ndarray, groups: pd.Series) -> np.ndarray:
    """(N, 2, C) float32, mean and standard deviation of each channel over all images of a row's group, black being 0
    and white 1.

    image: (N, H, W, C) uint8. Black margins that all images of the group share are left out. The sums are of whole
    numbers, so their order does not matter.
    """
    found = np.zeros((len(image), 2, image.shape[-1]), np.float32)
    for places in groups.reset_index(drop=True).groupby(groups.to_numpy(), sort=False).indices.values():
        mine = image[places]
        lit = (mine != 0).any((0, 3))
        inside = [np.flatnonzero(lit.any(axis)) for axis in (1, 0)]
        box = tuple(slice(x[0], x[-1] + 1) if len(x) else slice(None) for x in inside)
        pixels = mine[:, box[0], box[1]].reshape(-1, image.shape[-1])
        total = pixels.sum(0, dtype=np.int64)
        squares = np.square(pixels, dtype=np.uint16).sum(0, dtype=np.int64)
        mean = total / len(pixels)
        variance = (len(pixels) * squares - total * total) / len(pixels) ** 2
        found[places] = np.stack([mean, np.sqrt(np.maximum(variance, 0))]) / 255
    return found


def join(image):
    """(…, n, H, W, C), n neighbouring slices -> (…, H, W, n · C); of numpy or of jax."""
    array = image.swapaxes(-4, -3).swapaxes(-3, -2)
    return array.reshape(*array.shape[:-2], -1)


def take(image, label, places):
    """(images (…, H, W, n · C), labels (…, H, W)) of `places` (…, n) in all slices; the label is the middle one's."""
    return join(image[places]), label[places[..., places.shape[-1] // 2]]
