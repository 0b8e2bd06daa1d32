"""How sure a measured figure is: confidence intervals of shares and means."""

from __future__ import annotations

import math
from collections.abc import Sequence

_Z = 1.959964  # two-sided 95 %


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, from `right` hits in `count` independent trials.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference": unlike share +- 2 standard
    errors it stays in [0, 1] and doesn't shrink to nothing at 0 and 1. No trials give the whole of [0, 1].
    """
    if count == 0:
        return 0.0, 1.0
    share = right / count
    center = share + _Z**2 / (2 * count)
    spread = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean, by the normal approximation; one value gives an interval without width."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, mean
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    spread = _Z * math.sqrt(variance / count)
    return mean - spread, mean + spread
