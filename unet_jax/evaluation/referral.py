"""Whether confidence predicts failure: Dice of the cases that are kept where the least sure are referred to a person.

The confidence of a case is the Dice that its own probabilities expect (`confidence`). If it is worth something, the
mean Dice of the cases that stay rises as more are referred (Geifman and El-Yaniv 2017, arXiv:1705.08500).
"""
import numpy as np
import pandas as pd
import scipy  # its parts are loaded when first used

from unet_jax.evaluation.table import aligned

POINTS = 101  # of a curve in summary.json, at most


def confidence(probability: np.ndarray, mask: np.ndarray) -> float:
    """2 Σ p·m / (Σ p + Σ m) of a region of a case, the soft Dice confidence (Borges et al. 2024, arXiv:2402.10665).

    Of an empty mask, whose Dice is 1 or 0, how sure it is that there is nothing: 1 - max p.
    """
    if not mask.any():
        return float(1 - probability.max(initial=0))
    return float(2 * probability[mask].sum(dtype=np.float64) / (probability.sum(dtype=np.float64) + mask.sum()))


def kept(order: np.ndarray, dice: np.ndarray) -> np.ndarray:
    """(N,) mean Dice of those that stay where the 0, 1, …, N - 1 with the smallest `order` are referred; of equals
    any is referred as likely."""
    _, member, count = np.unique(order, return_inverse=True, return_counts=True)
    expected = (np.bincount(member, dice) / count)[member][np.argsort(order, kind='stable')]
    return np.cumsum(expected[::-1])[::-1] / np.arange(len(dice), 0, -1)


def spearman(a: np.ndarray, b: np.ndarray, groups: np.ndarray, seed: int, resamples: int = 2000
             ) -> tuple[float, float, float]:
    """(rank correlation, 95 % bootstrap interval) over groups, whose ranks are those of all; NaN of fewer than three
    cases and where one side is always the same."""
    nothing = (float('nan'),) * 3
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return nothing
    x, y = (scipy.stats.rankdata(v) - (len(v) + 1) / 2 for v in (a, b))
    _, member = np.unique(groups.astype(str), return_inverse=True)
    sums = np.stack([np.bincount(member, v) for v in (np.ones(len(x)), x, y, x * x, y * y, x * y)], 1)

    def correlation(total: np.ndarray) -> np.ndarray:
        n, sx, sy, xx, yy, xy = total.T
        with np.errstate(divide='ignore', invalid='ignore'):
            return (n * xy - sx * sy) / np.sqrt((n * xx - sx ** 2) * (n * yy - sy ** 2))

    rng = np.random.default_rng(seed)
    drawn = correlation(np.stack([sums[rng.integers(len(sums), size=len(sums))].sum(0) for _ in range(resamples)]))
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(sums) > 2 and len(drawn) else nothing[:2]
    return float(correlation(sums.sum(0)[None])[0]), float(low), float(high)


def summarise(cases: pd.DataFrame, *, seed: int = 0) -> dict:
    """{region: {'n', 'area', 'area_random', 'area_best', 'spearman', 'low', 'high', 'curve': [[share referred, mean
    Dice of the others]], 'with_region': the same}} from a table of cases with confidence, Dice, tp, fn and group; {}
    without.

    The areas are means of the curve over all shares: by confidence; as many at random, which is the mean Dice; and in
    the order of Dice itself, the best there can be. Cases without a Dice (NaN) do not count. None for NaN.
    'with_region' is of the cases that have the region in the reference: those without, often easy, may make confidence
    look better than it is.
    """
    found = {}
    for region, rows in cases.groupby('region', sort=False) if 'confidence' in cases else ():
        rows = rows[rows.dice.notna() & rows.confidence.notna()]
        some = rows[rows.tp + rows.fn > 0]
        if len(some):
            found[region] = of_rows(rows, seed) | {'with_region': of_rows(some, seed)}
    return found


def of_rows(rows: pd.DataFrame, seed: int) -> dict:
    """The numbers of `summarise` of the rows of a region."""
    sure, dice = rows.confidence.to_numpy(float), rows.dice.to_numpy(float)
    line, n = kept(sure, dice), len(rows)
    related = spearman(sure, dice, rows.group.to_numpy(), seed)
    numbers = dict(zip(('spearman', 'low', 'high'), related, strict=True))
    places = np.unique(np.linspace(0, n - 1, min(n, POINTS)).astype(int))
    return {'n': n, 'area': float(line.mean()), 'area_random': float(dice.mean()),
            'area_best': float(kept(dice, dice).mean()),
            **{key: None if np.isnan(value) else value for key, value in numbers.items()},
            'curve': [[float(k / n), float(line[k])] for k in places]}


def lines(referral: dict) -> list[tuple[str, dict]]:
    """(what is said, its numbers): each region, and where it is another number the cases that have it."""
    return [(said, entry) for name, everyone in referral.items()
            for said, entry in ((name, everyone), (f'{name}, with region', everyone['with_region']))
            if entry is everyone or entry['n'] != everyone['n']]


def text(referral: dict) -> str:
    """The numbers as an aligned table; '' of {}."""
    if not referral:
        return ''

    def number(value: float | None) -> str:
        return '-' if value is None else f'{value:.4f}'

    rows = [('region', 'area', 'at random', 'best', 'Spearman', '95 % interval', 'n')]
    rows += [(name, *(number(e[key]) for key in ('area', 'area_random', 'area_best', 'spearman')),
              f'{number(e["low"])} .. {number(e["high"])}', str(e['n'])) for name, e in lines(referral)]
    return ('\nDoes confidence predict failure? Area under the mean Dice of the cases kept, against the share '
            f'referred, and\nrank correlation of confidence and Dice:\n{aligned(rows, 1)}\n')
