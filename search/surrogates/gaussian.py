"""A Gaussian process over features of architectures, for some hundreds of observations.

Rasmussen & Williams 2006, chapters 2 and 5; expected improvement after Jones et al. 1998. Scores are replaced by normal
quantiles of their ranks: only the order counts, and failures of a percent of accuracy weigh as little as they should.
One length scale for all standardised features (isotropic Matérn 5/2), since a few dozen observations cannot tell a
hundred scales apart; it and the noise are those of a grid with the largest marginal likelihood.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from search.surrogates.ranks import mean_ranks

Array = NDArray[np.float64]

_LENGTHS = tuple(0.35 * 1.4**step for step in range(10))  # of distances whose mean square is about 2
_NOISES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # variance as a multiple of the signal's
_JITTER = 1e-8
_NORMAL = NormalDist()


def rank_normal(scores: Sequence[float]) -> Array:
    """(n,) normal quantiles of the ranks; equal scores share the mean of theirs."""
    return np.array([_NORMAL.inv_cdf((rank - 0.5) / len(scores)) for rank in mean_ranks(scores)])


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """How much more than `best` is to be expected, counting less as nothing. All on one scale."""
    z = (mean - best) / np.maximum(deviation, 1e-12)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = 0.5 * np.array([math.erfc(-each / math.sqrt(2)) for each in z.tolist()])
    gain: Array = deviation * (z * below + density)
    return gain


def _matern(distances: Array, length: float) -> Array:
    """5/2. distances: squared, divided by the number of features."""
    r = np.sqrt(5.0 * np.maximum(distances, 0.0)) / length
    value: Array = (1.0 + r + r**2 / 3.0) * np.exp(-r)
    return value


def _squared(one: Array, other: Array) -> Array:
    """(n, m) squared distances per feature."""
    inner = one @ other.T
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None, :] - 2.0 * inner
    distances: Array = np.maximum(squares, 0.0) / one.shape[1]
    return distances


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """Fitted by `fitted`. length, noise: chosen by marginal likelihood. best: the largest target observed."""

    length: float
    noise: float
    best: float
    _rows: Array  # (n, F), standardised
    _centre: Array
    _scale: Array
    _factor: Array  # lower Cholesky factor of kernel + noise
    _weights: Array  # (kernel + noise)^-1 targets
    _variance: float  # of the signal
    _scores: Array  # sorted, with their targets: the way back from ranks
    _targets: Array

    @classmethod
    def fitted(cls, features: NDArray[np.float32], scores: Sequence[float]) -> "GaussianProcess":
        """features: (n, F), n >= 2. scores: n of them, higher is better. Some milliseconds up to n = 100."""
        raw = features.astype(np.float64)
        centre, scale = raw.mean(0), raw.std(0)
        scale[scale < 1e-6] = 1.0
        rows, targets = (raw - centre) / scale, rank_normal(scores)
        distances, count = _squared(rows, rows), len(rows)
        chosen, likelihood = (_LENGTHS[0], _NOISES[0], 1.0), -math.inf
        for length in _LENGTHS:
            eigenvalues, vectors = np.linalg.eigh(_matern(distances, length))
            squares = (vectors.T @ targets) ** 2
            for noise in _NOISES:
                spread = np.maximum(eigenvalues, 0.0) + noise
                variance = max(float((squares / spread).mean()), 1e-6)
                value = -0.5 * (count * math.log(variance) + float(np.log(spread).sum()))
                if value > likelihood:
                    chosen, likelihood = (length, noise, variance), value
        length, noise, variance = chosen
        factor: Array = np.linalg.cholesky(_matern(distances, length) + (noise + _JITTER) * np.eye(count)).astype(
            np.float64
        )
        weights: Array = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
        order = np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
        ordered = np.asarray(scores, dtype=np.float64)[order]
        best = float(targets.max())
        return cls(length, noise, best, rows, centre, scale, factor, weights, variance, ordered, targets[order])

    def posterior(self, features: NDArray[np.float32]) -> "Posterior":
        """Of the rows of `features` (m, F)."""
        rows = (features.astype(np.float64) - self._centre) / self._scale
        across = _matern(_squared(self._rows, rows), self.length)  # (n, m)
        whitened: Array = np.linalg.solve(self._factor, across).astype(np.float64)
        return Posterior(
            mean=across.T @ self._weights,
            spread=np.maximum(1.0 - (whitened**2).sum(0), 0.0),
            whitened=whitened,
            rows=rows,
            process=self,
        )

    def kernel(self, row: Array, rows: Array) -> Array:
        """(m,) between one standardised row and m of them."""
        between: Array = _matern(_squared(row[None, :], rows), self.length)[0]
        return between

    @property
    def variance(self) -> float:
        return self._variance

    def as_scores(self, targets: Array) -> Array:
        """Targets back on the scale of the scores observed, which bound them."""
        scores: Array = np.interp(targets, self._targets, self._scores)
        return scores


@dataclass(slots=True)
class Posterior:
    """What a process believes of some rows. mean: (m,), of targets. spread: variance as a multiple of the signal's."""

    mean: Array
    spread: Array
    whitened: Array
    rows: Array
    process: GaussianProcess

    @property
    def deviation(self) -> Array:
        value: Array = np.sqrt(self.spread * self.process.variance)
        return value

    def improvement(self) -> Array:
        return expected_improvement(self.mean, self.deviation, self.process.best)

    def imagine(self, index: int) -> None:
        """As if that row had been observed and found as expected (Ginsbourger's believer): means stay, doubt shrinks,
        so that work under way is not proposed again in another dress."""
        between = self.process.kernel(self.rows[index], self.rows) - self.whitened[:, index] @ self.whitened
        gained = between / math.sqrt(float(self.spread[index]) + self.process.noise)
        self.whitened = np.vstack([self.whitened, gained])
        self.spread = np.maximum(self.spread - gained**2, 0.0)
