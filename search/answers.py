"""What an evaluation keeps beside its figures: counts at each threshold, and the answer to each picture.

Written by the worker, read by the API, so it loads no torch.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP = 5  # labels kept of each answer
_ROWS = 4096  # sorted at a time: bounds the copies where labels are many
# Every hundredth, and closer where the scores of a softmax crowd.
THRESHOLDS: NDArray[np.float64] = np.unique(
    np.round([*np.linspace(0, 1, 101), 0.0001, 0.001, 0.002, 0.005, 0.995, 0.998, 0.999, 0.9999], 6)
)


@dataclass(frozen=True, slots=True, eq=False)
class Threshold:
    """What comes of calling a label whenever its score reaches `threshold`; None where nothing defines a figure."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    false_positive_rate: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """thresholds: float64 (T,), rising. true_positives, false_positives: int64 (C, T), how many pictures with and without
    the label reach the threshold. positives: int64 (C,), pictures with the label. count: of all pictures."""

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    positives: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, targets: NDArray[np.int64], scores: NDArray[np.float32]) -> "Curves":
        """targets: (N,). scores: (N, C)."""
        classes = scores.shape[1]
        hits, errors = (np.empty((classes, len(THRESHOLDS)), np.int64) for _ in range(2))
        for label in range(classes):
            own = targets == label
            for counts, picked in ((hits, own), (errors, ~own)):
                ordered = np.sort(scores[picked, label].astype(np.float64))
                counts[label] = len(ordered) - np.searchsorted(ordered, THRESHOLDS, side="left")
        return cls(THRESHOLDS, hits, errors, np.bincount(targets, minlength=classes), len(targets))

    def table(self, label: int | None) -> list[Threshold]:
        """Of one label against all others or, for None, of all such decisions together (micro-averaged)."""
        if label is None:
            hits, errors = self.true_positives.sum(0), self.false_positives.sum(0)
            positives, decisions = int(self.positives.sum()), self.count * len(self.positives)
        else:
            hits, errors = self.true_positives[label], self.false_positives[label]
            positives, decisions = int(self.positives[label]), self.count
        return [
            Threshold(
                threshold,
                _share(hit, hit + error),
                _share(hit, positives),
                _share(2 * hit, hit + error + positives) if positives else None,
                _share(error, decisions - positives),
            )
            for threshold, hit, error in zip(self.thresholds.tolist(), hits.tolist(), errors.tolist(), strict=True)
        ]

    def to_bytes(self) -> bytes:
        return _npz(
            thresholds=self.thresholds,
            true_positives=self.true_positives.astype(np.int32),
            false_positives=self.false_positives.astype(np.int32),
            positives=self.positives,
            count=np.array(self.count),
        )

    @classmethod
    def from_bytes(cls, document: bytes) -> "Curves":
        with np.load(io.BytesIO(document), allow_pickle=False) as arrays:
            hits, errors = arrays["true_positives"].astype(np.int64), arrays["false_positives"].astype(np.int64)
            return cls(arrays["thresholds"], hits, errors, arrays["positives"], int(arrays["count"]))


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The answer to each picture, the surest first.

    numbers: int64 (N,), of the examples. targets: int64 (N,). labels: int64 (N, K), the K labels with the highest scores,
    the best first. scores: float32 (N, K), theirs. target_scores: float32 (N,), of the true labels.
    """

    numbers: NDArray[np.int64]
    targets: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    target_scores: NDArray[np.float32]

    @classmethod
    def of(cls, numbers: NDArray[np.int64], targets: NDArray[np.int64], scores: NDArray[np.float32]) -> "Answers":
        """numbers, targets: (N,). scores: (N, C)."""
        labels = np.empty((len(scores), min(TOP, scores.shape[1])), np.int64)
        for start in range(0, len(scores), _ROWS):
            rows = slice(start, start + _ROWS)
            labels[rows] = np.argsort(-scores[rows], axis=1, kind="stable")[:, :TOP]
        best = np.take_along_axis(scores, labels, 1)
        surest = np.lexsort((numbers, -best[:, 0]))
        return cls(
            numbers[surest],
            targets[surest],
            labels[surest],
            best[surest],
            scores[np.arange(len(targets)), targets][surest],
        )

    def chosen(self, true: int | None, predicted: int | None) -> NDArray[np.int64]:
        """Positions of mistakes, the surest first: of pictures with the label `true`, taken for `predicted`, where given.

        One label as both chooses the right answers for it.
        """
        answered = self.labels[:, 0]
        keep = answered == self.targets if true is not None and true == predicted else answered != self.targets
        if true is not None:
            keep &= self.targets == true
        if predicted is not None:
            keep &= answered == predicted
        return np.flatnonzero(keep)

    def to_bytes(self) -> bytes:
        return _npz(
            numbers=self.numbers.astype(np.int32),
            targets=self.targets.astype(np.int32),
            labels=self.labels.astype(np.int32),
            scores=self.scores,
            target_scores=self.target_scores,
        )

    @classmethod
    def from_bytes(cls, document: bytes) -> "Answers":
        with np.load(io.BytesIO(document), allow_pickle=False) as arrays:
            numbers, targets, labels = (arrays[name].astype(np.int64) for name in ("numbers", "targets", "labels"))
            return cls(numbers, targets, labels, arrays["scores"], arrays["target_scores"])


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    document = io.BytesIO()
    np.savez_compressed(document, allow_pickle=False, **arrays)
    return document.getvalue()
