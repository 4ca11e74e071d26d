"""How good a network is on the way: quick metrics, by which trainings go and searches choose.

All figures of a finished model are made by `search/figures.py`.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.classifier import Classifier
from search.data import Images, Split
from search.device import Device
from search.space import Genotype, Space

_BATCH = 256
_TINY = 1e-7  # scores are not taken as surer than this in the log loss
CALIBRATION_BINS = 15
OBJECTIVES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """metrics: those of `metrics_of`. confusion: int64 (true, predicted). scores: float32 (N, classes), in the order of
    `rows`, int64 (N,), positions in the data set."""

    metrics: dict[str, float]
    confusion: NDArray[np.int64]
    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


def evaluate(
    space: Space,
    genotype: Genotype,
    weights: Mapping[str, Tensor],
    images: Images,
    split: Split,
    *,
    mirror_at_test: bool,
    device: Device,
) -> Evaluation:
    """Runs the module that is exported over one split. Raises ValueError when the split is empty."""
    rows = images.rows(split)
    if not len(rows):
        raise ValueError(f"the {split.name.lower()} split is empty; there is nothing to evaluate on")
    classifier = Classifier.load(space, genotype, weights)
    device.place(classifier)
    scores = torch.softmax(predicted(classifier, images, rows, mirror_at_test, device), dim=1).numpy()
    targets = images.targets[rows]
    return Evaluation(
        metrics_of(targets, scores), confusion_of(targets, scores.argmax(1), len(images.labels)), scores, rows
    )


@torch.inference_mode()
def predicted(classifier: Classifier, images: Images, rows: NDArray[np.int64], mirror: bool, device: Device) -> Tensor:
    """Logits of the pictures at `rows`: float32 (N, classes) on the CPU. Leaves the classifier in evaluation mode."""
    classifier.eval()
    with device.autocast():
        return torch.cat([classifier(batch, mirror).float().cpu() for batch in _batches(images, rows, device)])


@torch.inference_mode()
def predicted_both_ways(
    classifier: Classifier,
    images: Images,
    rows: NDArray[np.int64],
    mirror: bool,
    device: Device,
    until: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logits of the pictures as they are and, with `mirror`, averaged with those of their mirror images.

    Both float32 (n, classes): n is fewer than the rows when the moment `until` (of `time.perf_counter`) came first.
    """
    classifier.eval()
    plain, averaged = [], []
    with device.autocast():
        for batch in _batches(images, rows, device):
            plain.append(classifier(batch).float())
            if mirror:
                averaged.append((plain[-1] + classifier(batch.flip(2)).float()) / 2)
            if until is not None and time.perf_counter() > until:
                break
    return torch.cat(plain).cpu(), torch.cat(averaged).cpu() if mirror else None


def _batches(images: Images, rows: NDArray[np.int64], device: Device) -> Iterator[Tensor]:
    for start in range(0, len(rows), _BATCH):
        chunk = np.ascontiguousarray(images.pixels[rows[start : start + _BATCH]])
        yield torch.from_numpy(chunk).to(device.torch_device)


def metrics_of(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, float]:
    """targets: (N,). scores: (N, classes), rows sum to one. Labels that do not occur in `targets` take no part in the
    means over labels."""
    confusion = confusion_of(targets, scores.argmax(1), scores.shape[1])
    hits, truths, guesses = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    seen = truths > 0
    recall = hits[seen] / truths[seen]
    f1 = 2 * hits[seen] / (truths[seen] + guesses[seen])
    likelihood = np.clip(scores[np.arange(len(targets)), targets].astype(np.float64), _TINY, 1.0)
    return {
        "accuracy": float(hits.sum() / len(targets)),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "log_loss": float(-np.log(likelihood).mean()),
    }


def calibration_error(targets: NDArray[np.int64], scores: NDArray[np.float32]) -> float:
    """Expected calibration error, 0 to 1: how far sureness and share of right answers are apart, in bins of sureness.

    targets: (N,). scores: (N, classes). Of 15 equal bins, as torchmetrics computes it, without the second it takes to load.
    Guo et al. 2017, arXiv:1706.04599.
    """
    sureness = scores.max(1).astype(np.float64)
    surplus = sureness - (scores.argmax(1) == targets)
    return float(np.abs(np.bincount(bins_of(sureness), surplus)).sum() / len(targets))


def bins_of(sureness: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each score of an answer, 0 to CALIBRATION_BINS; the last holds the score 1 alone."""
    return np.digitize(sureness, np.linspace(0, 1, CALIBRATION_BINS + 1, dtype=np.float32)) - 1


def score_of(metrics: Mapping[str, float], objective: str) -> float:
    """The objective as a number of which more is better. Raises ValueError for an unknown objective."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown; one of {', '.join(OBJECTIVES)}")
    return -metrics[objective] if objective == "log_loss" else metrics[objective]


def confusion_of(targets: NDArray[np.int64], guesses: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """int64 (classes, classes): rows are true labels, columns what was predicted."""
    return np.bincount(targets * classes + guesses, minlength=classes**2).reshape(classes, classes)
