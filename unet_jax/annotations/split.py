"""Subsets and folds by whole groups: a patient, or the copies of one source image, never fall on two sides.

Groups are ordered by a hash of seed and name, so the result depends on nothing else: not on the order of rows, nor
on the version of a random generator.
"""
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Hashable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from unet_jax.annotations.frame import SUBSETS
from unet_jax.errors import InputError

BINS = 10  # quantile bins of a stratification, fewer where groups are few

log = logging.getLogger('unet_jax')

# Roboflow names a copy <stem>_<extension>.rf.<hash>.<extension>; the hash has 32 hex digits in COCO exports.
COPY = re.compile(r'(_(jpe?g|png|bmp|gif|tiff?|webp))?\.rf\.[0-9a-z]{16,}(\.\w+)?$', re.IGNORECASE)


def by_group(groups: pd.Series, shares: Sequence[float], seed: int, strata: pd.Series | None = None) -> pd.Series:
    """The subset of every row, 'train', 'valid' or 'test', on the index of `groups`.

    `shares` of the groups, adding up to 1; each share above 0 gets at least one group where there are enough.
    `strata`, a number per row, keeps its distribution over groups (of their means) alike in all subsets.
    Raises InputError for shares that are not three such numbers, and for a missing group or stratum.
    """
    shares = tuple(shares)
    if len(shares) != 3 or not all(s >= 0 for s in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise InputError(f'config.data.split is {shares}; it takes three shares (train, valid, test) that add up to 1')
    order = _order(groups, seed, strata, smallest=min(s for s in shares if s > 0))
    subsets = [SUBSETS[k] for k in _deal(len(order), shares)]
    wanted = sum(s > 0 for s in shares)
    if len(order) < wanted:
        log.warning('%d groups (%s) are too few for %d subsets', len(order), ', '.join(map(str, order)), wanted)
    return groups.map(dict(zip(order, subsets, strict=True))).astype('str').rename('subset')


def k_folds(groups: pd.Series, k: int, *, seed: int, strata: pd.Series | None = None) -> pd.Series:
    """The fold of every row, 0 … k - 1, on the index of `groups`; fold sizes differ by one group at most.

    Raises InputError when there are fewer groups than folds.
    """
    count = groups.nunique()
    if not 2 <= k <= count:
        raise InputError(f'{k} folds of {count} groups; the number of folds must lie between 2 and that of groups')
    order = _order(groups, seed, strata, smallest=1 / k)
    return groups.map({group: i % k for i, group in enumerate(order)}).astype('int64').rename('fold')


def subsets(groups: pd.Series, shares: Sequence[float], seed: int, strata: pd.Series | None = None, *, folds: int = 0,
            fold: int = 0, test: pd.Series | None = None) -> pd.Series:
    """The subset of every row: by `shares`, or with `folds` after the share of test was set aside by folds, of which
    number `fold` is valid and the others train. Rows that `test` (bool) says are test stay it in every fold, and no
    share is set aside. Raises InputError for a fold that is none."""
    if test is not None and test.any():
        subset, rest = pd.Series('test', groups.index), ~test
        subset[rest] = subsets(groups[rest], (1.0, 0.0, 0.0), seed, None if strata is None else strata[rest],
                               folds=folds, fold=fold)
        return subset
    if not folds:
        return by_group(groups, shares, seed, strata=strata)
    if not 0 <= fold < folds:
        raise InputError(f'config.data.fold is {fold} of config.data.folds = {folds}; the first is 0')
    subset = pd.Series('train', groups.index)
    if shares[2] > 0:
        subset = by_group(groups, (1 - shares[2], 0, shares[2]), seed, strata=strata)
    rest = subset == 'train'
    number = k_folds(groups[rest], folds, seed=seed, strata=None if strata is None else strata[rest])
    subset[rest] = ['valid' if k == fold else 'train' for k in number]
    return subset


def write_splits(frame: pd.DataFrame, path: str | Path) -> None:
    """The cases of each subset as JSON {'train': [names], 'valid': …, 'test': …}, to use the same split again."""
    cases = frame.drop_duplicates('case').sort_values('case').groupby('subset').case.agg(list)
    partial = Path(path).with_name(f'.{Path(path).name}.{os.getpid()}')
    partial.write_text(json.dumps({name: cases.get(name, []) for name in SUBSETS}, indent=1))
    os.replace(partial, path)


def read_splits(frame: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """`frame` with the subsets that `write_splits` wrote.

    Raises InputError where a case of the frame is in none or several subsets, or a patient's cases are in several.
    """
    try:
        subsets = json.loads(Path(path).read_text(encoding='utf-8'))
        named = [(case, subset) for subset in SUBSETS for case in subsets[subset]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: is no split, JSON with lists train, valid and test ({error!r})') from error
    subset_of = dict(named)
    lost = sorted(set(frame.case) - set(subset_of))
    if lost or len(subset_of) < len(named):
        raise InputError(f'{path}: {len(named) - len(subset_of)} cases are named twice, and {len(lost)} of the data '
                         f'are not named: {lost[:5]}')
    frame = frame.assign(subset=frame.case.map(subset_of).astype('str'))
    images = frame.drop_duplicates(['subset', 'image_id', 'path'])
    clash = images[images.duplicated(['subset', 'image_id'])]
    if len(clash):
        raise InputError(f'{path}: images of several subsets have one id, such as {clash.path.iloc[0]}: the data set '
                         "has subsets of its own; they are kept with config.data.split_file = ''")
    torn = frame.groupby('group').subset.nunique()
    if (torn > 1).any():
        raise InputError(f'{path}: patients in more than one subset: {torn.index[torn > 1].tolist()[:5]}')
    return frame


def source_stem(file_name: str) -> str:
    """The name that all copies of one source image share: without folder, extension and copy marks.

    '63_jpg.rf.13454b0a33fb53c0cc68d81c5f19b7d2.jpg' -> '63'; '12.png' -> '12'. A copy of a copy gives the first.
    """
    name = file_name.replace('\\', '/').rsplit('/', 1)[-1]
    if not COPY.search(name):
        return re.sub(r'(?<=.)\.\w+$', '', name)
    while COPY.search(name):
        name = COPY.sub('', name)
    return name


def _order(groups: pd.Series, seed: int, strata: pd.Series | None, smallest: float) -> list[Hashable]:
    """The groups in dealing order: by hash, and with strata bin by bin, so that every bin is dealt to every subset."""
    if groups.isna().any():
        raise InputError(f'{int(groups.isna().sum())} rows have no group; they cannot be split')
    hashes = {group: hashlib.sha256(f'{seed}/{group}'.encode()).digest() for group in groups.unique()}
    order = sorted(hashes, key=hashes.get)
    if strata is None:
        return order
    if len(strata) != len(groups) or not np.isfinite(strata.to_numpy(float)).all():
        raise InputError(f'{len(strata)} strata for {len(groups)} rows; each row needs a finite number')
    values = pd.Series(strata.to_numpy(float)).groupby(groups.to_numpy(), sort=False)
    means = values.agg(lambda v: math.fsum(v) / len(v))  # fsum: the same whatever the order of rows
    bins = max(1, min(BINS, round(len(order) * smallest)))
    ascending = sorted(order, key=lambda group: (means[group], hashes[group]))
    cuts = [len(order) * b // bins for b in range(bins + 1)]
    return [group for low, high in pairwise(cuts) for group in sorted(ascending[low:high], key=hashes.get)]


def _deal(count: int, shares: Sequence[float]) -> list[int]:
    """Which share each of `count` groups goes to: always the one that lags most, so every stretch is proportional."""
    dealt, counts = [], np.zeros(len(shares))
    for i in range(count):
        dealt.append(int(np.argmax(np.asarray(shares) * (i + 1) - counts)))
        counts[dealt[-1]] += 1
    wanted = [k for k, share in enumerate(shares) if share > 0]
    for k in wanted:
        if k not in dealt and count >= len(wanted):
            largest = max(wanted, key=dealt.count)
            dealt[len(dealt) - 1 - dealt[::-1].index(largest)] = k
    return dealt
