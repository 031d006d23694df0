"""Which steps of post-processing help, and with which limits: chosen on the validation subset, by nested folds.

The limits of a step are those with the highest Dice (over the cases that have the region, and of equals over all
cases, so that what is gained where a region is not there is never paid for where it is). A step is taken only if
limits that were chosen on other patients raise the Dice of those left out (`helps`). The gain that is told comes from
a second, outer circle of folds, around all these choices (Varma and Simon 2006, BMC Bioinformatics 7:91): no case has
a part in choosing what is done to it.
"""
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from unet_jax.annotations import labels
from unet_jax.evaluation import overlap
from unet_jax.evaluation.statistics import paired
from unet_jax.evaluation.table import aligned
from unet_jax.inference.postprocess import STEPS, Limits, Step, apply, surroundings

FOLDS = 5
FEWEST = 3  # patients, of which two choose and the third tells
LEAST = 5e-4  # the gain in mean Dice for which a step is taken
SAID = {'all': 'all steps', 'all_cases': 'all steps, all cases'}  # of gains


class Tuned(NamedTuple):
    """What a case is tuned on, cut to where anything is true or could be predicted."""
    group: str  # the patient
    reference: np.ndarray  # (…, R) bool
    masks: np.ndarray  # (…, R) bool, before
    probability: np.ndarray  # (…, R) float32
    voxel: float  # mm³; 1 of a pixel


class Scores(NamedTuple):
    """Dice of cases after limits, each taken once."""
    cases: list[Tuned]
    there: np.ndarray  # (cases, R) bool, which case has which region
    region_bits: tuple[int, ...]
    convention: str
    known: dict  # {(case, limits): Dice (R,)}

    def dice(self, k: int, limits: Limits) -> np.ndarray:
        key = k, tuple(sorted(limits.items()))
        if key not in self.known:
            case = self.cases[k]
            masks = apply(case.masks, case.probability, limits, region_bits=self.region_bits, voxel=case.voxel)
            self.known[key] = np.array([overlap.dice(overlap.counts(case.reference[..., r], masks[..., r]),
                                                     convention=self.convention) for r in range(masks.shape[-1])])
        return self.known[key]

    def means(self, which: Sequence[int], limits: Sequence[Limits]) -> tuple[float, float]:
        """Mean over regions of the mean Dice over the cases `which` that have the region, and over all; -1 of none.
        A case has limits of its own."""
        table = np.array([self.dice(k, own) for k, own in zip(which, limits, strict=True)])
        return over(np.where(self.there[list(which)], table, np.nan)), over(table)


def over(table: np.ndarray) -> float:
    """Of (cases, R) Dice the mean over regions of the mean over cases, NaN left out."""
    columns = [column[~np.isnan(column)] for column in table.T]
    known = [column.mean() for column in columns if len(column)]
    return round(float(np.mean(known)), 9) if known else -1.0


def crop(group: str, reference: np.ndarray, masks: np.ndarray, probability: np.ndarray, voxel: float) -> Tuned:
    """A `Tuned` of arrays (…, R)."""
    box = surroundings(reference | masks, probability, {'threshold': STEPS[0].values})
    return Tuned(group, *(array[box].copy() for array in (reference, masks, probability)), voxel)


def split(scores: Scores, which: Sequence[int]) -> list[list[int]]:
    """`which` cases in up to FOLDS parts, a patient's in one."""
    groups = sorted({scores.cases[k].group for k in which})
    fold = {group: i % FOLDS for i, group in enumerate(groups)}
    return [[k for k in which if fold[scores.cases[k].group] == f] for f in range(min(FOLDS, len(groups)))]


def best(scores: Scores, which: Sequence[int], limits: Limits, step: Step) -> Limits:
    """`limits` with the values of `step` that score highest on `which`, region after region; of equals the first."""
    count, chosen = len(scores.region_bits), dict(limits)
    for r in labels.outer_first(scores.region_bits):
        tries = []
        for value in (0, *step.values):
            values = list(chosen.get(step.name, (0,) * count))
            values[r] = value
            tries.append({**chosen, step.name: tuple(values)})
        chosen = max(tries, key=lambda tried: scores.means(which, [tried] * len(which)))
    return chosen if any(chosen[step.name]) else dict(limits)


def choose(scores: Scores, which: Sequence[int]) -> Limits:
    """The limits of the steps that help patients on whom they were not chosen, one step after the other."""
    limits, parts = {}, split(scores, which)
    for step in STEPS if len(parts) > 1 else ():
        own = {}
        for part in parts:
            found = best(scores, [k for k in which if k not in part], limits, step)
            own |= dict.fromkeys(part, found)
        if helps(scores.means(which, [limits] * len(which)), scores.means(which, [own[k] for k in which])):
            limits = best(scores, which, limits, step)
    return limits


def helps(before: tuple[float, float], after: tuple[float, float]) -> bool:
    """Whether Dice rises by LEAST over the cases that have the region, or over all, and those that have it lose
    nothing."""
    there, everyone = (b - a for a, b in zip(before, after, strict=True))
    return there >= LEAST or there >= 0 and everyone >= LEAST


def tune(cases: Iterable[Tuned], *, names: tuple[str, ...], region_bits: tuple[int, ...], convention: str,
         seed: int = 0) -> dict:
    """Of validation cases {'limits', 'patients', 'gains': {region: {step or 'all': `paired`, without and with}}}.

    The gains are in Dice of the cases that have the region and of 'all' also over all cases ('all_cases'), each case
    with the limits that were chosen without its fold. With fewer than FEWEST patients nothing is done.
    """
    cases = list(cases)
    there = np.array([case.reference.any(tuple(range(case.reference.ndim - 1))) for case in cases])
    scores = Scores(cases, there, region_bits, convention, {})
    every = range(len(scores.cases))
    groups = np.array([case.group for case in scores.cases])
    if len(set(groups)) < FEWEST:
        return {'limits': {}, 'patients': len(set(groups)), 'gains': {}}
    own = {}
    for part in split(scores, every):
        own |= dict.fromkeys(part, choose(scores, [k for k in every if k not in part]))
    # (steps + 1, cases, R): Dice after no step, after the first, …
    stages = np.array([[scores.dice(k, {s.name: own[k][s.name] for s in STEPS[:n] if s.name in own[k]}) for k in every]
                       for n in range(len(STEPS) + 1)])
    gains: dict = {}
    for r, name in enumerate(names):
        there = scores.there[:, r]
        gains[name] = {step.name: gain(stages[n, there, r], stages[n + 1, there, r], groups[there], seed)
                       for n, step in enumerate(STEPS) if any(step.name in limits for limits in own.values())}
        gains[name] |= {'all': gain(stages[0, there, r], stages[-1, there, r], groups[there], seed),
                        'all_cases': gain(stages[0, :, r], stages[-1, :, r], groups, seed)}
    return {'limits': choose(scores, every), 'patients': len(set(groups)), 'gains': gains}


def gain(before: np.ndarray, after: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, float | None]:
    """Mean difference of the Dice (N,) of the same cases with its interval; None for NaN."""
    found = paired(before, after, groups=groups, seed=seed)
    return {key: None if found[key] != found[key] else found[key]
            for key in ('n', 'difference', 'low', 'high', 'wins', 'losses')}


def text(found: dict | None) -> str:
    """The gains of `tune` as an aligned table; '' of None."""
    if not found:
        return ''
    if not found['gains']:
        return (f'\nPost-processing does nothing: {found["patients"]} patients to tune on, of which {FEWEST} are '
                'needed\n')

    def number(value: float | None) -> str:
        return '-' if value is None else f'{value:+.4f}'

    rows = [('region', 'step', 'taken with', 'gain in Dice', '95 % interval', 'n')]
    for region, gains in found['gains'].items():
        rows += [(region, SAID.get(step, step), f'{found["limits"].get(step, {}).get(region) or ""}',
                  number(e['difference']), f'{number(e["low"])} .. {number(e["high"])}', str(e['n']))
                 for step, e in gains.items()]
    return ('\nPost-processing, on validation cases that had no part in choosing what was done to them:\n'
            f'{aligned(rows, 3)}\n')
