"""Where the brain is in a scan whose outside is one constant number, whatever that number is.

Releases hold 0 there, −32768 or another number; files that were standardised inside the brain hold 0 there, and half
of the brain lies below it. So the outside is told by being equal to what the border is made of, never by being dark.
"""
import numpy as np

SHARE = 0.25  # of the border that a number must cover to be the outside's; brains that are cut tightly leave more


def level(channel: np.ndarray) -> float | None:
    """The number outside the brain in one sequence (X, Y, Z) or (H, W): what most of the border holds; None where no
    number covers a quarter of it, as in scans whose air is noise."""
    axes = [a for a, n in enumerate(channel.shape) if n > 2]  # across one or two slices, all voxels would be border
    ends = [(axis, k) for axis in axes or range(channel.ndim) for k in (0, -1)]
    border = np.concatenate([np.take(channel, k, axis).ravel() for axis, k in ends])
    if (border == border[0]).mean() > 0.5:  # nearly always, and ten times as fast as counting
        return float(border[0])
    numbers, counts = np.unique(border, return_counts=True)
    return float(numbers[counts.argmax()]) if counts.max() >= SHARE * border.size else None
