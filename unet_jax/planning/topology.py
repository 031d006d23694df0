"""Patch, levels, strides and kernels of a network for voxels that may be longer along one axis than along others.

The rules are nnU-Net's (Isensee et al. 2021, supplementary note 2): an axis is halved while its voxels are at most
twice as long as the shortest, and looked along once they are; the deepest level keeps SMALLEST voxels an axis.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

SMALLEST = 4  # voxels along an axis at the deepest level


class Topology(NamedTuple):
    strides: tuple[tuple[int, ...], ...]  # config.model.strides, one entry a level; the first is the stem's
    kernels: tuple[tuple[int, ...], ...]  # config.model.kernels


def topology(size: Sequence[int], spacing: Sequence[float], levels: int, stem: int = 1) -> Topology:
    """Of an input of so many voxels of `spacing` mm: at most `levels` levels, after a stem that makes blocks of `stem`
    voxels along the axes whose voxels are short enough."""
    left, now = list(size), list(spacing)

    def halved(by: int) -> tuple[int, ...]:
        short = [mm <= 2 * min(now) for mm in now]
        step = tuple(by if good and n % by == 0 and n // by >= SMALLEST else 1
                     for good, n in zip(short, left, strict=True))
        left[:], now[:] = ([n // s for n, s in zip(left, step, strict=True)],
                           [mm * s for mm, s in zip(now, step, strict=True)])
        return step

    def kernel() -> tuple[int, ...]:
        return tuple(3 if mm < 2 * min(now) else 1 for mm in now)

    strides = [halved(stem)]
    kernels = [kernel()]
    while len(strides) < levels:
        step = halved(2)
        if max(step) == 1:
            break
        strides.append(step)
        kernels.append(kernel())
    return Topology(tuple(strides), tuple(kernels))


def written(found: Topology) -> tuple[dict, int]:
    """({'model.strides', 'model.kernels', 'model.stem'} of the config, levels): () where they are the defaults."""
    first, *others = found.strides
    alike = len(set(first)) == 1
    plain = alike and all(set(step) == {2} for step in others)
    rest = (tuple(1 for _ in first), *others) if alike else found.strides
    return {'model.stem': first[0] if alike else 1, 'model.strides': () if plain else rest,
            'model.kernels': () if all(set(k) == {3} for k in found.kernels) else found.kernels}, len(found.strides)


def patch(box: Sequence[float], spacing: Sequence[float], voxels: float, multiple: int = 16) -> tuple[int, ...]:
    """The sides of a patch of at most about `voxels` voxels: as long in mm along every axis as its voxels and the box
    allow, none longer than the box, in multiples that can be halved."""
    shortest = min(spacing)

    def sides(length: float) -> list[int]:
        found = []
        for n, mm in zip(box, spacing, strict=True):
            # an axis of long voxels is halved less often: by what is left of `multiple` after the others caught up
            unit = max(1, multiple // 2 ** max(0, round(math.log2(mm / shortest))))
            while unit > 8 and n < 4 * unit:  # a small box is better covered than halved often
                unit //= 2
            wanted = min(length / mm, n)
            whole = math.ceil(n / unit) * unit
            found.append(min(max(unit, round(wanted / unit) * unit), whole))
        return found

    low, high = shortest, max(n * mm for n, mm in zip(box, spacing, strict=True))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(sides(middle)) <= voxels else (low, middle)
    return tuple(sides(low))
