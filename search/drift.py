"""How far what a model is asked now lies from what it learnt on, and how sure a share of right answers is.

Loads SciPy's statistics, half a second and some 60 MB: imported where a comparison is made, not at a process's start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import binomtest, chi2_contingency, ks_2samp

Verdict = Literal["none", "moderate", "major"]
VERDICTS: tuple[Verdict, ...] = ("none", "moderate", "major")

LEAST = 100  # pictures; with fewer nothing is said
PSI_MODERATE, PSI_MAJOR = 0.1, 0.25  # the usual bounds (Siddiqi 2006, Credit Risk Scorecards)
P_VALUE = 0.001  # a difference that chance makes more often than this is none, whatever its size
_BINS = 10  # by deciles of the reference
_EXPECTED_LEAST = 5  # pictures of a label, in both samples; rarer labels are counted together
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class LabelDrift:
    """psi: population stability index. jensen_shannon: distance, 0 to 1. p_value: chi-square test of both samples."""

    psi: float
    jensen_shannon: float
    p_value: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ValueDrift:
    """psi over deciles of the reference. ks: the largest difference of the distributions, 0 to 1 (Kolmogorov, Smirnov),
    and its two-sample p_value."""

    psi: float
    ks: float
    p_value: float
    reference_mean: float
    live_mean: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Share:
    """value: right / count, with its Wilson interval at 95 % (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""

    count: int
    right: int
    value: float
    low: float
    high: float


def verdict_of(psi: float, p_value: float) -> Verdict:
    if p_value >= P_VALUE or psi < PSI_MODERATE:
        return "none"
    return "moderate" if psi < PSI_MAJOR else "major"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    return max(verdicts, key=VERDICTS.index, default="none")


def compare_labels(reference: Mapping[str, int], live: Mapping[str, int]) -> LabelDrift | None:
    """Counts by label. None when a side has no picture."""
    labels = sorted(reference.keys() | live.keys())
    counts = np.array([[side.get(label, 0) for label in labels] for side in (reference, live)], np.float64)
    if not len(labels) or not counts.sum(1).all():
        return None
    shares = counts / counts.sum(1, keepdims=True)
    expected = counts.sum(0) / counts.sum() * counts.sum(1).min()
    rare = expected < _EXPECTED_LEAST
    if rare.sum() > 1:
        counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1)])
    # one bin is one distribution; a bin that both sides leave empty says nothing, and the test refuses it
    counts = counts[:, counts.sum(0) > 0]
    p_value = float(chi2_contingency(counts, correction=False).pvalue) if counts.shape[1] > 1 else 1.0
    psi = _stability(counts[0], counts[1])
    distance = float(np.nan_to_num(jensenshannon(shares[0], shares[1], base=2)))  # NaN for equal ones, by rounding
    return LabelDrift(psi, distance, p_value, verdict_of(psi, p_value))


def compare_values(reference: Sequence[float], live: Sequence[float]) -> ValueDrift | None:
    """Two samples of one number. None when a side has none."""
    if not len(reference) or not len(live):
        return None
    past, now = np.asarray(reference, np.float64), np.asarray(live, np.float64)
    # beyond the deciles two more bins: what is smaller or larger than anything in the reference
    inner = np.unique(np.quantile(past, np.arange(1, _BINS) / _BINS))
    edges = np.unique([np.nextafter(past.min(), -np.inf), *inner, past.max()])
    counts = [np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (past, now)]
    psi = _stability(counts[0], counts[1])
    test = ks_2samp(past, now, method="asymp")
    p_value = float(test.pvalue)
    return ValueDrift(
        psi, float(test.statistic), p_value, float(past.mean()), float(now.mean()), verdict_of(psi, p_value)
    )


def share_right(right: int, count: int) -> Share | None:
    """None when nothing was counted."""
    if not count:
        return None
    interval = binomtest(right, count).proportion_ci(_CONFIDENCE, method="wilson")
    return Share(count, right, right / count, float(interval.low), float(interval.high))


def _stability(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Population stability index of two arrays of counts; half a picture in each bin keeps empty ones finite."""
    before, after = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (expected, actual))
    return float(((after - before) * np.log(after / before)).sum())
