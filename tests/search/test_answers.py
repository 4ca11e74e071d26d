"""What an evaluation keeps: the threshold table, and the answers to single pictures."""

import numpy as np
import pytest
from sklearn import metrics as reference

from search.answers import THRESHOLDS, Answers, Curves


def answers(count: int = 200, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    targets = random.choice(classes, count)
    logits = random.normal(size=(count, classes)) + np.eye(classes)[targets]
    return targets, (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("label", [0, 2, None])
def test_the_threshold_table_is_that_of_scikit_learn(label: int | None) -> None:
    targets, scores = answers()
    own = np.eye(3, dtype=int)[targets] if label is None else targets == label
    flat, score = own.ravel(), (scores if label is None else scores[:, label]).ravel()
    table = Curves.from_bytes(Curves.of(targets, scores).to_bytes()).table(label)
    assert [each.threshold for each in table] == THRESHOLDS.tolist()
    for each in table[::9]:
        called = score.astype(np.float64) >= each.threshold
        hit = {"y_true": flat, "y_pred": called}
        assert each.recall == pytest.approx(reference.recall_score(**hit), abs=1e-6)
        if called.any():
            assert each.precision == pytest.approx(reference.precision_score(**hit), abs=1e-6)
        assert each.f1 == pytest.approx(reference.f1_score(**hit), abs=1e-6)
        assert each.false_positive_rate == pytest.approx(called[flat == 0].mean(), abs=1e-6)
    assert (table[0].recall, table[0].false_positive_rate, table[-1].recall) == (1.0, 1.0, 0.0)
    assert table[-1].precision is None  # nothing is called: nothing defines it


def test_a_label_without_pictures_has_a_false_positive_rate_alone() -> None:
    table = Curves.of(np.array([0, 0]), np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)).table(1)
    assert (table[0].recall, table[0].f1, table[0].false_positive_rate) == (None, None, 1.0)


def test_mistakes_come_the_surest_first_and_by_cells_of_the_confusion() -> None:
    targets, scores = answers()
    kept = Answers.from_bytes(Answers.of(np.arange(200) + 1000, targets, scores).to_bytes())
    guesses = scores.argmax(1)
    wrong = kept.chosen(None, None)
    assert len(wrong) == (guesses != targets).sum()
    assert (np.diff(kept.scores[wrong, 0]) <= 0).all()
    for at in wrong[:5]:
        row = kept.numbers[at] - 1000
        assert (kept.targets[at], kept.labels[at, 0]) == (targets[row], guesses[row])
        assert kept.target_scores[at] == scores[row, targets[row]]
    confusion = reference.confusion_matrix(targets, guesses)
    for true, predicted in np.ndindex(3, 3):
        assert len(kept.chosen(true, predicted)) == confusion[true, predicted]
    assert len(kept.chosen(1, None)) == confusion[1].sum() - confusion[1, 1]
    assert len(kept.chosen(None, 2)) == confusion[:, 2].sum() - confusion[2, 2]


def test_nothing_answered_is_kept_as_nothing() -> None:
    nothing = np.zeros(0, np.int64), np.zeros((0, 3), np.float32)
    assert len(Answers.from_bytes(Answers.of(nothing[0], *nothing).to_bytes()).chosen(None, None)) == 0
    table = Curves.from_bytes(Curves.of(*nothing).to_bytes()).table(None)
    assert {(each.precision, each.recall, each.f1, each.false_positive_rate) for each in table} == {(None,) * 4}
