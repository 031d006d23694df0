"""Whether tumours are as bright in each sequence as they should be, and where not, what labels or channels would fit.

A release read by the labels of another, or channels out of order, train without an error and to no use.
"""
import itertools
import logging

import numpy as np

from unet_jax.annotations import schemas

log = logging.getLogger('unet_jax')

# What must hold where labels and channels are in order: (what, modality, part, above which part, in which modality).
EXPECTED = (
    ('enhancing tumour above healthy brain in T1ce', 't1ce', 'ET', 'brain', 't1ce'),
    ('enhancing tumour above oedema in T1ce', 't1ce', 'ET', 'ED', 't1ce'),
    ('enhancing tumour in T1ce above itself in T1', 't1ce', 'ET', 'ET', 't1'),
    ('oedema above healthy brain in FLAIR', 'flair', 'ED', 'brain', 'flair'),
    ('oedema in FLAIR above itself in T1', 'flair', 'ED', 'ED', 't1'),
    ('oedema in T2 above itself in T1', 't2', 'ED', 'ED', 't1'),
)
MOST = 3  # orders of channels that are suggested
Means = dict[int, np.ndarray]  # {label value: (C,)}


def means(image: np.ndarray, label: np.ndarray) -> Means:
    """The mean (C,) of every label value that occurs, 0 being the healthy brain.

    image (…, C), each channel with mean 0 and standard deviation 1 inside the brain and all zeros outside; label (…)
    label values of a release.
    """
    parts = {v: label == v for v in np.unique(label).tolist() if v} | {0: (image != 0).any(-1) & (label == 0)}
    return {v: image[part].mean(0) for v, part in parts.items() if part.any()}


def measure(measured: list[Means], schema: str, modalities: tuple[str, ...]) -> dict[str, float]:
    """How far each expectation holds in several images: the median, in standard deviations; > 0 is as expected.

    Expectations whose parts or modalities are absent are left out.
    """
    value = {'ET': schemas.value(schema, 'ET'), 'ED': schemas.value(schema, 'ED'), 'brain': 0}
    channel, found = {m: c for c, m in enumerate(modalities)}, {}
    for what, modality, part, other, second in EXPECTED:
        numbers = [m[value[part]][channel[modality]] - m[value[other]][channel[second]] for m in measured
                   if {modality, second} <= channel.keys() and {value[part], value[other]} <= m.keys()]
        if numbers:
            found[what] = float(np.median(numbers))
    return found


def check_contrasts(measured: list[Means], schema: str, modalities: tuple[str, ...], where: str, *, fixed: bool = False
          ) -> dict[str, float]:
    """`measure`; where an expectation does not hold, a warning tells what schema or order of channels would fit.

    `fixed`: the labels cannot be those of another release.
    """
    found = measure(measured, schema, modalities)
    wrong = [f'{what} ({-median:.2f} standard deviations below)' for what, median in found.items() if not median > 0]
    if wrong:
        fits = [] if fixed else [f'config.data.schema = {name}' for name in _schemas(measured, schema, modalities)]
        fits += [f'channels in the order {order}' for order in _orders(measured, schema, modalities)[:MOST]]
        log.warning('%s: expected %s in the median of %d images. The labels were taken for those of release %s, the '
                    'channels for %s; probably one of them is not. %s', where, '; '.join(wrong), len(measured), schema,
                    ', '.join(modalities), f'All would be as expected with {" or with ".join(fits)}' if fits else
                    'No other release or order of channels would fit all')
    return found


def _schemas(measured: list[Means], schema: str, modalities: tuple[str, ...]) -> list[str]:
    """The other releases by whose labels all expectations would hold, one of those that give labels one meaning."""
    values = {v for m in measured for v in m} - {0}
    needed, fits = len(measure(measured, schema, modalities)), {}
    for name, other in schemas.SCHEMAS.items():
        key = schemas.value(name, 'ET'), schemas.value(name, 'ED')
        found = measure(measured, name, modalities) if values <= other.names.keys() else {}
        if len(found) >= needed and min(found.values(), default=-1) > 0:
            fits.setdefault(key, name)
    return list(fits.values())


def _orders(measured: list[Means], schema: str, modalities: tuple[str, ...]) -> list[str]:
    """The orders of channels by which all expectations would hold, those nearest to `modalities` first.

    Often two: nothing here tells FLAIR from T2.
    """
    fits = {}
    for order in itertools.permutations(modalities):
        found = measure(measured, schema, order)
        if min(found.values(), default=-1) > 0:
            fits[', '.join(order)] = sum(a == b for a, b in zip(order, modalities, strict=True)), min(found.values())
    return sorted(fits, key=fits.get, reverse=True)
