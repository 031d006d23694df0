"""Calibrated probabilities: a temperature a region (Guo et al. 2017, arXiv:1706.04599), for what is already averaged.

Members and mirrored inputs are averaged as probabilities, so the temperature comes after that, on the logit of the
region's mean probability. Each region is mapped by a function of its own that rises and leaves 0, 1/2 and 1 where they
are. So at the threshold 1/2 no mask changes, whether the network ends in a sigmoid or in a softmax, whose regions are
sums of channels that are compared with the threshold one by one. At another threshold t a mask is where the calibrated
probability is above t; `uncalibrated` gives the number that the network's own probability is compared with. What is
not kept: that the probability of an inner region is at most that of an outer one, and that those of regions beside
each other add up to at most 1. Masks are nested all the same, as `labels.paint` writes them.
"""
import numpy as np


def calibrated(probability: np.ndarray, temperatures) -> np.ndarray:
    """sigmoid(logit(p) / T) of probabilities (…, R) with temperatures (R,), as p^a / (p^a + (1 - p)^a), a = 1 / T:
    exact at 0, 1/2 and 1. No temperatures: the probabilities themselves."""
    if len(temperatures) == 0:
        return probability
    found = np.empty_like(probability)
    for r, temperature in enumerate(temperatures):  # numpy is slow on a last axis of three
        p = np.clip(np.ascontiguousarray(probability[..., r]), 0, 1)  # a mean of ones may be 1.0000001
        there, rest = p ** p.dtype.type(1 / temperature), (1 - p) ** p.dtype.type(1 / temperature)
        found[..., r] = there / (there + rest)
    return found


def uncalibrated(threshold: np.ndarray, temperatures) -> np.ndarray:
    """Thresholds (R,) of calibrated probabilities -> those of the network's own, with the same masks."""
    return calibrated(threshold, [1 / temperature for temperature in temperatures])


def uncertainty(probability):
    """Probabilities -> uint8 from 0 (0 or 1: sure) to 100 (1/2): twice the smaller of p and 1 - p, in per cent."""
    return (100.5 - 100 * abs(2 * probability - 1)).astype('uint8')
