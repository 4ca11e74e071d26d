"""All figures of an evaluation, by scikit-learn and torchmetrics, with bootstrap intervals.

Loads both, which takes seconds: trainings use the quick metrics of `search/evaluate.py`, that tests hold to be the same.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)
from torchmetrics.functional.classification import multiclass_calibration_error

from search.evaluate import CALIBRATION_BINS, bins_of, calibration_error, metrics_of
from search.space import Json

_TINY = 1e-7  # scores are not taken as surer than this in the log loss
_TOP = 5
LEVEL, RESAMPLES, SEED = 0.95, 1_000, 0  # of the bootstrap
_AREA_RESAMPLES_MIN = 100  # areas have no interval where fewer can be afforded
_AREA_WORK = 100_000_000  # pictures × labels × resamples, about a second
_CHUNK = 2_000_000  # numbers of a bootstrap in memory at once, in each of a few arrays


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """One label against all others; None where nothing defines a figure. support: pictures that carry the label."""

    label: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None
    auc_roc: float | None


@dataclass(frozen=True, slots=True)
class Interval:
    """Between these lie 95 of 100 resamples of the pictures."""

    low: float
    high: float
    resamples: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers about as sure as each other. sureness: their mean score; accuracy: the share that is right; None without
    answers."""

    low: float
    high: float
    count: int
    sureness: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Slice:
    """The pictures that are alike in one respect."""

    by: str
    value: str
    count: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """confusion: int64 (true, predicted). Without pictures there are no metrics but `count`, no intervals, no bins."""

    metrics: dict[str, float | None]
    intervals: dict[str, Interval]
    labels: tuple[LabelFigures, ...]
    confusion: NDArray[np.int64]
    reliability: tuple[Bin, ...]

    def to_json(self) -> dict[str, Json]:
        return {
            "metrics": self.metrics,
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "per_label": [asdict(label) for label in self.labels],
            "confusion": self.confusion.tolist(),
            "reliability": [asdict(each) for each in self.reliability],
        }


def figures_of(targets: NDArray[np.int64], scores: NDArray[np.float32], labels: Sequence[str]) -> Figures:
    """targets: (N,), indices of `labels`. scores: (N, labels), rows sum to one.

    Means over labels are over those that occur. Areas are of one label against the rest.
    """
    places = range(len(labels))
    guesses = scores.argmax(1)
    confusion = confusion_matrix(targets, guesses, labels=places) if len(targets) else np.zeros((len(labels),) * 2, int)
    parts = _areas(targets, scores)
    per_label = _per_label(targets, guesses, labels, parts)
    if not len(targets):
        return Figures({"count": 0.0}, {}, per_label, confusion, ())
    seen = np.unique(targets)
    over = {"labels": seen, "zero_division": 0.0}
    surest = np.clip(scores.astype(np.float64), _TINY, 1.0)
    calibration = multiclass_calibration_error(
        torch.from_numpy(scores), torch.from_numpy(targets), len(labels), CALIBRATION_BINS, norm="l1"
    )
    metrics = {
        "count": float(len(targets)),
        "accuracy": float(accuracy_score(targets, guesses)),
        "balanced_accuracy": float(recall_score(targets, guesses, average="macro", **over)),
        "top_5_accuracy": float(top_k_accuracy_score(targets, scores, k=_TOP, labels=places))
        if len(labels) > _TOP
        else None,
        "macro_f1": float(f1_score(targets, guesses, average="macro", **over)),
        "weighted_f1": float(f1_score(targets, guesses, average="weighted", **over)),
        "log_loss": float(log_loss(targets, surest / surest.sum(1, keepdims=True), labels=places)),
        "auc_pr": _mean([part[0] for part in parts]),
        "auc_roc": _mean([part[1] for part in parts]),
        "ece": float(calibration),
    }
    return Figures(metrics, _intervals(targets, scores, metrics), per_label, confusion, _reliability(targets, scores))


def slices_of(
    targets: NDArray[np.int64], scores: NDArray[np.float32], groups: Mapping[str, NDArray[np.str_]]
) -> tuple[Slice, ...]:
    """Figures of the pictures that have each value of each of `groups`: by what → value of each picture, (N,)."""
    slices = []
    for by, values in groups.items():
        for value in sorted(set(values.tolist())):
            chosen = values == value
            own, answers = targets[chosen], scores[chosen]
            metrics = metrics_of(own, answers) | {"ece": calibration_error(own, answers)}
            slices.append(Slice(by, value, len(own), metrics))
    return tuple(slices)


def _areas(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> list[tuple[float | None, float | None]]:
    """Average precision and area under the ROC curve of each label; None where all pictures, or none, carry it."""
    areas = []
    for label in range(scores.shape[1]):
        own = targets == label
        precision = float(average_precision_score(own, scores[:, label])) if own.any() else None
        area = float(roc_auc_score(own, scores[:, label])) if own.any() and not own.all() else None
        areas.append((precision, area))
    return areas


def _per_label(
    targets: NDArray[np.int64],
    guesses: NDArray[np.int64],
    labels: Sequence[str],
    areas: Sequence[tuple[float | None, float | None]],
) -> tuple[LabelFigures, ...]:
    if not len(targets):
        return tuple(LabelFigures(label, 0, None, None, None, None, None) for label in labels)
    rows = precision_recall_fscore_support(targets, guesses, labels=range(len(labels)), zero_division=np.nan)
    return tuple(
        LabelFigures(
            label,
            int(support),
            None if np.isnan(precision) else float(precision),
            float(recall) if support else None,
            float(f1) if support else None,
            *area,
        )
        for label, precision, recall, f1, support, area in zip(labels, *rows, areas, strict=True)
    )


def _reliability(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[Bin, ...]:
    sureness = scores.max(1).astype(np.float64)
    place = np.minimum(bins_of(sureness), CALIBRATION_BINS - 1)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1).round(6).tolist()
    bins = []
    for number in range(CALIBRATION_BINS):
        own = place == number
        count = int(own.sum())
        mean = float(sureness[own].mean()) if count else None
        share = float((scores.argmax(1) == targets)[own].mean()) if count else None
        bins.append(Bin(edges[number], edges[number + 1], count, mean, share))
    return tuple(bins)


# ------------------------------------------------------------------------------------------ bootstrap


def _intervals(
    targets: NDArray[np.int64], scores: NDArray[np.float32], metrics: Mapping[str, float | None]
) -> dict[str, Interval]:
    """Percentile intervals (Efron 1979) of each metric that is defined: the pictures are drawn anew, with replacement."""
    resampled = _resampled(targets, scores)
    affordable = min(RESAMPLES, _AREA_WORK // scores.size)
    if affordable >= _AREA_RESAMPLES_MIN:
        resampled |= _resampled_areas(targets, scores, affordable)
    edges = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    intervals = {}
    for name, values in resampled.items():
        defined = values[np.isfinite(values)]
        if metrics[name] is not None and len(defined):
            low, high = np.percentile(defined, edges)
            intervals[name] = Interval(float(low), float(high), len(defined))
    return intervals


def _draws(count: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Positions of the pictures of each resample, (some, count), as many as fit; the same at every call."""
    random = np.random.default_rng(SEED)
    some = max(1, _CHUNK // count)
    for start in range(0, resamples, some):
        yield random.integers(0, count, (min(some, resamples - start), count))


def _counted(
    drawn: NDArray[np.int64],
    places: NDArray[np.int64],
    size: int,
    weights: NDArray[np.bool_] | NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """How many pictures of each resample lie at each of `size` places, or what they weigh: float64 (resamples, size).

    drawn: int64 (resamples, N), positions. places, weights: (N,) of the pictures.
    """
    row = np.arange(len(drawn))[:, None]
    flat = np.bincount(
        (places[drawn] + size * row).ravel(), None if weights is None else weights[drawn].ravel(), len(drawn) * size
    )
    return flat.astype(np.float64).reshape(len(drawn), size)


def _resampled(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """The metrics that follow from each answer by itself, of RESAMPLES resamples: float64 (RESAMPLES,) each."""
    count, classes = scores.shape
    guesses = scores.argmax(1)
    hits = guesses == targets
    own = scores[np.arange(count), targets].astype(np.float64)
    losses = -np.log(np.clip(own, _TINY, 1.0))
    ranks = (scores > own[:, None].astype(np.float32)).sum(1)
    sureness = scores.max(1).astype(np.float64)
    bins, surplus = bins_of(sureness), sureness - hits
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for drawn in _draws(count, RESAMPLES):
        truths, taken = _counted(drawn, targets, classes), _counted(drawn, guesses, classes)
        right = _counted(drawn, targets, classes, hits)
        seen = truths > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.where(seen, right / truths, np.nan)
            f1 = np.where(seen, 2 * right / (truths + taken), np.nan)
        values = {
            "accuracy": hits[drawn].mean(1),
            "balanced_accuracy": np.nanmean(recall, 1),
            "top_5_accuracy": (ranks < _TOP)[drawn].mean(1),
            "macro_f1": np.nanmean(f1, 1),
            "weighted_f1": np.nansum(f1 * truths, 1) / count,
            "log_loss": losses[drawn].mean(1),
            "ece": np.abs(_counted(drawn, bins, CALIBRATION_BINS + 1, surplus)).sum(1) / count,
        }
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    return {name: np.concatenate(value) for name, value in parts.items()}


def _resampled_areas(
    targets: NDArray[np.int64], scores: NDArray[np.float32], resamples: int
) -> dict[str, NDArray[np.float64]]:
    """Areas under the curves, means over the labels of each resample: float64 (resamples,) each.

    A picture that is drawn twice weighs twice: each label's pictures are put in order once for all resamples.
    """
    count, classes = scores.shape
    precisions, areas = [], []
    for drawn in _draws(count, resamples):
        row = np.arange(len(drawn))[:, None]
        weights = np.bincount((drawn + count * row).ravel(), minlength=drawn.size).reshape(drawn.shape)
        each = [_weighted_areas(targets == label, scores[:, label], weights) for label in range(classes)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a resample in which no label is defined has no mean
            precisions.append(np.nanmean([precision for precision, _ in each], axis=0))
            areas.append(np.nanmean([area for _, area in each], axis=0))
    return {"auc_pr": np.concatenate(precisions), "auc_roc": np.concatenate(areas)}


def _weighted_areas(
    own: NDArray[np.bool_], scores: NDArray[np.float32], weights: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and ROC area of one label, (R,) each, NaN where undefined. weights: (R, N), of each picture."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # pictures with one score are one step
    drawn = weights[:, order]
    reached = np.cumsum(drawn, 1)[:, ends]
    hits = np.cumsum(drawn * own[order], 1)[:, ends]
    errors = reached - hits
    positives, negatives = hits[:, -1], errors[:, -1]
    gained, lost = np.diff(hits, axis=1, prepend=0), np.diff(errors, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(reached > 0, hits / reached, 0.0)
        average = (gained * precision).sum(1) / positives
        area = (lost * (hits - gained / 2)).sum(1) / (positives * negatives)
    return average, area


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
