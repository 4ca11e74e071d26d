"""Ranks of scores, where only their order counts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mean_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """(n,) from 1 to n; equal values share the mean of their ranks."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (below + up_to + 1) / 2


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's. None when either is constant or shorter than two."""
    ranks = np.array([mean_ranks(one), mean_ranks(other)])
    if ranks.shape[1] < 2 or np.ptp(ranks, axis=1).min() == 0:
        return None
    return float(np.corrcoef(ranks)[0, 1])


def kendall(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b, which reckons with equal values. None when either is constant or shorter than two."""
    signs = [np.sign(np.subtract.outer(values, values)) for values in (one, other)]
    sizes = [float(np.abs(each).sum()) for each in signs]  # pairs that differ, each counted twice
    if min(sizes) == 0:
        return None
    return float((signs[0] * signs[1]).sum() / np.sqrt(sizes[0] * sizes[1]))
