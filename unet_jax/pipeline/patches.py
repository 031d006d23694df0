"""Patches of prepared volumes, with the interface of `cache.Samples`, so that one stream and one loop train on both.

`Patches` are random ones to train on, `Tiles` cover every volume to validate on. Validation is by tiles, and not by
the sliding window of evaluation, because they need one pass over each voxel instead of several, go through the loop's
own compiled program, and share out evenly over processes; at the borders of tiles they are a little pessimistic, for
every checkpoint alike. Every voxel counts once, as in evaluation, though neighbouring tiles overlap.
"""
import hashlib
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd

from unet_jax.pipeline.prepared import Volume, Volumes, voxel_size


class Patches(NamedTuple):
    """A random patch of a case at each of its visits, with what lies around it for turning and zooming."""
    volumes: Volumes
    rows: pd.DataFrame  # of `volumes.rows`, a row a case
    size: tuple[int, int, int]  # of the patch, the network's
    foreground: float  # share of the patches that are centred on a voxel of a class, each class present alike
    cut: tuple[int, int, int]  # what is cut out, with the patch in its middle: `space.wire_size`

    @property
    def skipped(self) -> dict[str, str]:
        return self.volumes.skipped

    def sample(self, index: int, *, seed: int, visit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(image (*cut, C) float16, label (*cut) bit sets, mm of a voxel along each axis (3,) float32): a pure
        function of the case, the seed and the visit."""
        volume = self.volumes[index]
        start = position(volume, self.size, uniform(seed=seed, visit=visit), foreground=self.foreground)
        start = tuple(s - (c - n) // 2 for s, c, n in zip(start, self.cut, self.size, strict=True))
        spacing = voxel_size(volume, self.rows.spacing.iloc[index])
        return *cut(volume, start=start, size=self.cut), np.array(spacing, np.float32)


class Tiles(NamedTuple):
    """Every case cut into the fewest patches that cover it; neighbours overlap where they do not fit evenly, and share
    out the voxels that both see, so that every voxel of a case is owned by one tile."""
    volumes: Volumes
    rows: pd.DataFrame  # a row a tile: that of its case, volume (position in `volumes`), start (x, y, z) and owned
    size: tuple[int, int, int]

    @property
    def skipped(self) -> dict[str, str]:
        return self.volumes.skipped

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(images (n, *size, C) float16, labels (n, *size) bit sets) of n rows."""
        first = self.volumes[0]
        image = np.zeros((len(index), *self.size, first.image.shape[-1]), first.image.dtype)
        label = np.zeros(image.shape[:-1], first.label.dtype)
        for k, row in enumerate(self.rows.iloc[index].itertuples()):
            image[k], label[k] = cut(self.volumes[row.volume], start=row.start, size=self.size)
        return image, label

    def owned(self, index: np.ndarray) -> np.ndarray:
        """(n, 3, 2) int32: along each axis the first voxel of the patch that the tile owns, and one past the last.
        What the tiles own is every voxel of the volume, once, and nothing beyond its borders."""
        return np.array([self.rows.owned.iloc[k] for k in index], np.int32).reshape(len(index), 3, 2)


def tiles(volumes: Volumes, size: tuple[int, int, int]) -> Tiles:
    """The tiles of all cases, case by case."""
    places, owned, volume_of = [], [], []
    for k in range(len(volumes.folders)):
        shape = volumes[k].label.shape
        axes = [starts(n, side=side, overlap=0.0) for n, side in zip(shape, size, strict=True)]
        shares = [share(begin, side=side, length=n) for begin, side, n in zip(axes, size, shape, strict=True)]
        places += itertools.product(*axes)
        owned += itertools.product(*shares)
        volume_of += [k] * (len(places) - len(volume_of))
    return Tiles(volumes, volumes.rows.iloc[volume_of].reset_index(drop=True).assign(
        volume=volume_of, start=pd.Series(places, dtype=object), owned=pd.Series(owned, dtype=object)), size)


def share(begin: list[int], *, side: int, length: int) -> list[tuple[int, int]]:
    """For windows of `side` that begin there, the voxels of each, as (first, last + 1) in the window, that it owns of
    `length`: neighbours part in the middle of what both see, where each sees as much around as the other."""
    cuts = [0, *((a + side + b) // 2 for a, b in itertools.pairwise(begin)), length]
    return [(low - start, high - start) for start, (low, high) in zip(begin, itertools.pairwise(cuts), strict=True)]


def starts(length: int, *, side: int, overlap: float) -> list[int]:
    """Where windows of `side` begin to cover `length` voxels, evenly spread, neighbours sharing `overlap` or more.

    One window for a length that fits into it; it then begins before 0, so that the volume lies in its middle.
    """
    if length <= side:
        return [-((side - length) // 2)]
    count = -(-(length - side) // max(1, int(side * (1 - overlap)))) + 1
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def uniform(*, seed: int, visit: int) -> np.ndarray:
    """(8,) numbers in [0, 1) that seed and visit alone determine: a hash, which no release of numpy changes."""
    return np.frombuffer(hashlib.sha256(f'{seed}/{visit}'.encode()).digest(), '<u4') / 2.0 ** 32


def position(volume: Volume, size: tuple[int, int, int], random: np.ndarray, *, foreground: float
             ) -> tuple[int, int, int]:
    """Where a patch begins: anywhere inside the volume, or, for the share `foreground`, about a voxel of a class."""
    chance, which, voxel, *place = random[:6]
    room = [n - side for n, side in zip(volume.label.shape, size, strict=True)]
    present = np.flatnonzero(volume.counts)
    if chance < foreground and len(present):
        k = present[int(which * len(present))]
        centre = volume.foreground[sum(volume.counts[:k]) + int(voxel * volume.counts[k])].tolist()
        wanted = [c - side // 2 for c, side in zip(centre, size, strict=True)]
    else:
        wanted = [int(u * (r + 1)) for u, r in zip(place, room, strict=True)]
    return tuple(min(max(w, 0), r) if r >= 0 else -(-r // 2) for w, r in zip(wanted, room, strict=True))


def cut(volume: Volume, *, start: tuple[int, int, int], size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(image (*size, C), label (*size)) from voxel `start` on."""
    return extract(volume.image, start=start, size=size), extract(volume.label, start=start, size=size)


def extract(array: np.ndarray, *, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """(X, Y, Z, …) -> (*size, …) from voxel `start` on, 0 (outside the brain) where it reaches beyond the array."""
    low = [max(s, 0) for s in start]
    high = [min(s + side, n) for s, side, n in zip(start, size, array.shape[:3], strict=True)]
    part = array[tuple(map(slice, low, high))]
    if part.shape[:3] == tuple(size):
        return np.array(part)
    result = np.zeros((*size, *array.shape[3:]), array.dtype)
    result[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))] = part
    return result
