"""How sure a mean over cases is, and whether two runs on the same cases differ."""
import numpy as np
import scipy  # its parts are loaded when first used: scipy.stats takes half a second

from unet_jax.errors import InputError

CHUNK = 2 ** 22  # random numbers held at once: 32 MB


def by_group(values: np.ndarray, groups) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values (N,) of every group (N,) -> two arrays (G,). Each value its own group if None."""
    if groups is None:
        return values, np.ones(len(values))
    if len(groups) != len(values):
        raise InputError(f'{len(values)} values with {len(groups)} groups; give every value its group')
    _, member = np.unique(np.asarray(groups, str), return_inverse=True)
    return np.bincount(member, values), np.bincount(member).astype(float)


def bootstrap_interval(values, *, confidence: float = 0.95, resamples: int = 10000, seed: int = 0,
                       groups=None) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (N,) (Efron and Tibshirani 1993, chapter 13).

    NaN is left out. With `groups` (N,), say the patients, whole groups are drawn. (NaN, NaN) where fewer than two
    groups have a value, for one says nothing about others, and where a value is infinite.
    """
    values = np.asarray(values, float)
    keep = ~np.isnan(values)
    sums, sizes = by_group(values[keep], None if groups is None else np.asarray(groups, str)[keep])
    if len(sums) < 2 or not np.isfinite(sums).all():
        return float('nan'), float('nan')
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, rows := max(CHUNK // len(sums), 1)):
        drawn = rng.integers(len(sums), size=(min(rows, resamples - start), len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p of the Wilcoxon signed rank test (1945) of differences (N,); zeros are left out.

    NaN of nothing, 1 if all are zero. Infinite differences have the highest rank.
    """
    if len(differences) == 0:
        return float('nan')
    finite = np.abs(differences[np.isfinite(differences)])
    limit = finite.max(initial=0.0) + 1
    ranked = np.clip(differences[differences != 0], -limit, limit)
    return float(scipy.stats.wilcoxon(ranked).pvalue) if len(ranked) else 1.0


def permutation(differences: np.ndarray, *, resamples: int = 10000, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test of the mean of differences (N,), by changing their signs.

    All 2^N signs where those are not more than `resamples`, else as many at random, with (k + 1) / (n + 1) (Phipson
    and Smyth 2010). NaN of nothing and of infinite differences, which have no mean.
    """
    if len(differences) == 0 or not np.isfinite(differences).all():
        return float('nan')
    least = abs(differences.sum()) * (1 - 1e-9)  # sums of equal numbers in another order round otherwise
    if 2 ** min(len(differences), 63) <= resamples:
        codes = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences))
        return float((np.abs((1 - 2 * (codes & 1)) @ differences) >= least).mean())
    rng, beyond = np.random.default_rng(seed), 0
    for start in range(0, resamples, rows := max(CHUNK // len(differences), 1)):
        signs = rng.integers(2, size=(min(rows, resamples - start), len(differences)), dtype=np.int8)
        beyond += int((np.abs((1 - 2 * signs) @ differences) >= least).sum())
    return (beyond + 1) / (resamples + 1)


def holm(ps: list[float]) -> list[float]:
    """The p of several tests, corrected as Holm (1979) does: that any is wrong has this probability at most.

    NaN stays, and is no test.
    """
    known = [k for k in np.argsort(ps) if not np.isnan(ps[k])]
    corrected, highest = [float('nan')] * len(ps), 0.0
    for place, k in enumerate(known):
        highest = max(highest, min((len(known) - place) * ps[k], 1.0))
        corrected[k] = float(highest)
    return corrected


def paired(a, b, *, groups=None, lower_is_better: bool = False, seed: int = 0) -> dict[str, float]:
    """Two runs on the same cases: `a` and `b` (N,), pair by pair. A pair with a NaN is left out.

    Returns n, the number of pairs; difference, the mean of b - a, and its 95 % bootstrap interval low, high; p of the
    Wilcoxon signed rank test; p_permutation, that of `permutation`; wins, ties and losses, the pairs in which b is
    better, equal and worse than a. With `groups` (N,), say the patients, the interval draws groups, the first test
    ranks their mean differences and the second changes the signs of their sums. Two infinities are a tie. Never warns;
    what too few pairs cannot tell is NaN.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f'paired values have shapes {a.shape} and {b.shape}; expected the same cases, in one order')
    keep = ~(np.isnan(a) | np.isnan(b))
    a, b = a[keep], b[keep]
    groups = None if groups is None else np.asarray(groups, str)[keep]
    differences = np.subtract(b, a, out=np.zeros(len(a)), where=a != b)  # not inf - inf
    sums, sizes = by_group(differences, groups)
    low, high = bootstrap_interval(differences, groups=groups, seed=seed)
    known = len(a) and np.isfinite(differences).all()
    better, worse = (differences < 0, differences > 0) if lower_is_better else (differences > 0, differences < 0)
    return dict(
        n=len(a), difference=float(differences.mean()) if known else float('nan'), low=low, high=high,
        p=signed_rank(sums / sizes), p_permutation=permutation(sums, seed=seed),
        wins=int(better.sum()), ties=int((differences == 0).sum()), losses=int(worse.sum()))
