"""Metrics, checked against scikit-learn's."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from search.evaluate import confusion_of, metrics_of, score_of


def answers(count: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    targets = random.choice(classes, count, p=[0.6, 0.3, 0.1, 0.0][:classes])
    logits = random.normal(size=(count, classes)) + 1.5 * np.eye(classes)[targets]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return targets, scores.astype(np.float32)


def test_the_metrics_are_those_of_scikit_learn_over_the_labels_that_occur() -> None:
    targets, scores = answers()
    guesses, seen = scores.argmax(1), np.unique(targets)
    ours = metrics_of(targets, scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns that a label is predicted and never true
        assert ours["accuracy"] == pytest.approx(reference.accuracy_score(targets, guesses))
        assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(targets, guesses))
        assert ours["macro_f1"] == pytest.approx(reference.f1_score(targets, guesses, labels=seen, average="macro"))
        assert ours["log_loss"] == pytest.approx(reference.log_loss(targets, scores, labels=range(4)), rel=1e-5)


def test_the_confusion_counts_true_labels_in_rows() -> None:
    assert confusion_of(np.array([0, 0, 1]), np.array([0, 1, 1]), 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_a_sure_and_wrong_answer_costs_a_finite_log_loss() -> None:
    assert np.isfinite(metrics_of(np.array([0]), np.array([[0.0, 1.0]], np.float32))["log_loss"])


def test_more_is_better_in_every_objective() -> None:
    metrics = {"accuracy": 0.5, "balanced_accuracy": 0.4, "macro_f1": 0.3, "log_loss": 0.2}
    assert [score_of(metrics, name) for name in metrics] == [0.5, 0.4, 0.3, -0.2]
    with pytest.raises(ValueError, match="'f1' is unknown; one of accuracy"):
        score_of(metrics, "f1")
