"""All figures of an evaluation: against scikit-learn and torchmetrics, computed another way, and where they are undefined."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_calibration_error

from search.evaluate import calibration_error, metrics_of
from search.figures import (
    _TOP,
    RESAMPLES,
    _draws,
    _resampled,
    _resampled_areas,
    _weighted_areas,
    figures_of,
    slices_of,
)

LABELS = [f"label {number}" for number in range(7)]


def answers(count: int = 300, classes: int = 7, sharpness: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Of the last label there is no picture."""
    random = np.random.default_rng(0)
    targets = random.choice(classes - 1, count)
    logits = random.normal(size=(count, classes)) + sharpness * np.eye(classes)[targets]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return targets, scores.astype(np.float32)


def test_the_figures_agree_with_the_metrics_that_searches_go_by() -> None:
    targets, scores = answers()
    figures = figures_of(targets, scores, LABELS)
    for name, value in metrics_of(targets, scores).items():
        assert figures.metrics[name] == pytest.approx(value, rel=1e-5), name
    assert figures.metrics["ece"] == pytest.approx(calibration_error(targets, scores), abs=1e-6)
    assert figures.confusion.sum() == figures.metrics["count"] == 300
    assert figures.metrics["weighted_f1"] == pytest.approx(
        reference.f1_score(targets, scores.argmax(1), average="weighted", zero_division=0)
    )


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 40.0])
def test_the_quick_calibration_error_is_that_of_torchmetrics(sharpness: float) -> None:
    targets, scores = answers(sharpness=sharpness)
    theirs = multiclass_calibration_error(torch.from_numpy(scores), torch.from_numpy(targets), 7, 15)
    assert calibration_error(targets, scores) == pytest.approx(float(theirs), abs=1e-6)


def test_a_label_without_pictures_has_no_figures_and_takes_no_part_in_means() -> None:
    targets, scores = answers()
    figures = figures_of(targets, scores, LABELS)
    absent = figures.labels[6]
    assert (absent.support, absent.recall, absent.f1, absent.average_precision, absent.auc_roc) == (0, *[None] * 4)
    areas = [reference.roc_auc_score(targets == label, scores[:, label]) for label in range(6)]
    assert figures.metrics["auc_roc"] == pytest.approx(np.mean(areas))


def test_pictures_of_one_label_have_no_roc_and_two_labels_no_top_five() -> None:
    scores = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
    figures = figures_of(np.array([0, 0]), scores, ["cat", "dog"])
    assert (figures.metrics["auc_roc"], figures.metrics["auc_pr"], figures.metrics["top_5_accuracy"]) == (None, 1, None)
    assert {"auc_roc", "top_5_accuracy"} & set(figures.intervals) == set()
    assert figures.labels[1].precision == 0.0


def test_no_pictures_have_no_figures() -> None:
    figures = figures_of(np.zeros(0, np.int64), np.zeros((0, 7), np.float32), LABELS)
    assert (figures.metrics, figures.intervals, figures.reliability) == ({"count": 0.0}, {}, ())
    assert figures.confusion.tolist() == [[0] * 7] * 7
    assert [label.support for label in figures.labels] == [0] * 7


def test_each_resample_has_the_figures_of_scikit_learn() -> None:
    targets, scores = answers(40)
    quick, areas = _resampled(targets, scores), _resampled_areas(targets, scores, RESAMPLES)
    drawn = next(_draws(40, RESAMPLES))
    for number in range(0, RESAMPLES, 250):
        own, answered = targets[drawn[number]], scores[drawn[number]]
        guesses, seen = answered.argmax(1), np.unique(own)
        expected = metrics_of(own, answered) | {
            "weighted_f1": reference.f1_score(own, guesses, labels=seen, average="weighted"),
            "top_5_accuracy": reference.top_k_accuracy_score(own, answered, k=_TOP, labels=range(7)),
            "ece": calibration_error(own, answered),
        }
        for name, value in expected.items():
            assert quick[name][number] == pytest.approx(value, abs=1e-6), name
        by_label = [(own == label, answered[:, label]) for label in seen]
        precision = np.mean([reference.average_precision_score(*each) for each in by_label])
        assert areas["auc_pr"][number] == pytest.approx(precision)
        assert areas["auc_roc"][number] == pytest.approx(np.mean([reference.roc_auc_score(*each) for each in by_label]))


def test_pictures_with_one_score_are_one_step_of_a_curve() -> None:
    own, scores = np.array([True, False, True, False, False]), np.array([0.9, 0.9, 0.5, 0.5, 0.1], np.float32)
    average, area = _weighted_areas(own, scores, np.array([[1, 1, 1, 1, 1], [2, 1, 0, 3, 1]]))
    for weights, precision, roc in zip(([1, 1, 1, 1, 1], [2, 1, 0, 3, 1]), average, area, strict=True):
        assert precision == pytest.approx(reference.average_precision_score(own, scores, sample_weight=weights))
        assert roc == pytest.approx(reference.roc_auc_score(own, scores, sample_weight=weights))


def test_intervals_hold_the_figure_shrink_with_pictures_and_repeat_themselves() -> None:
    few, many = (figures_of(*answers(count), LABELS) for count in (100, 1600))
    for figures in (few, many):
        assert set(figures.intervals) == set(figures.metrics) - {"count"}
        for name, interval in figures.intervals.items():
            assert interval.resamples == RESAMPLES
            if name != "ece":  # which a resample can only make look worse
                assert interval.low <= (figures.metrics[name] or 0) <= interval.high, name
    for name in ("accuracy", "log_loss", "auc_roc"):
        widths = [each.intervals[name].high - each.intervals[name].low for each in (few, many)]
        assert widths[1] == pytest.approx(widths[0] / 4, rel=0.5), name
    assert figures_of(*answers(100), LABELS).intervals == few.intervals


def test_the_bins_of_sureness_count_every_picture_once() -> None:
    targets, scores = answers(sharpness=40.0)
    bins = figures_of(targets, scores, LABELS).reliability
    assert (len(bins), bins[0].low, bins[-1].high) == (15, 0.0, 1.0)
    assert sum(each.count for each in bins) == 300
    assert bins[0].sureness is None
    assert bins[-1].accuracy == 1.0


def test_slices_have_the_figures_of_their_pictures() -> None:
    targets, scores = answers()
    sizes = np.where(np.arange(300) < 100, "small", "large")
    slices = slices_of(targets, scores, {"size": sizes, "label": np.array(LABELS)[targets]})
    assert [(each.by, each.value) for each in slices[:2]] == [("size", "large"), ("size", "small")]
    assert slices[1].count == 100
    assert slices[1].metrics["accuracy"] == (scores[:100].argmax(1) == targets[:100]).mean()
    assert len(slices) == 2 + 6
