"""The temperature of a network: what it makes of answers that are too sure, and what it never changes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from search.calibration import fitted_temperature
from search.evaluate import calibration_error


def answers(sharpness: float, count: int = 4000, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are calibrated where `sharpness` is 1: targets are drawn from their own softmax."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=random)
    targets = torch.multinomial(torch.softmax(logits, 1), 1, generator=random)[:, 0]
    return logits * sharpness, targets


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_answers_that_are_too_sure_or_not_sure_enough_are_brought_back(sharpness: float) -> None:
    logits, targets = answers(sharpness)
    temperature = fitted_temperature(logits, targets)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    before, after = (torch.softmax(each, 1).numpy() for each in (logits, logits / temperature))
    assert calibration_error(targets.numpy(), after) <= calibration_error(targets.numpy(), before) + 0.005
    assert calibration_error(targets.numpy(), after) < 0.03
    assert F.cross_entropy(logits / temperature, targets) <= F.cross_entropy(logits, targets)
    assert (before.argmax(1) == after.argmax(1)).all()


def test_no_other_temperature_has_a_lower_log_loss() -> None:
    logits, targets = answers(2.5)
    best = F.cross_entropy(logits / fitted_temperature(logits, targets), targets)
    assert best <= min(F.cross_entropy(logits / t, targets) for t in np.linspace(0.5, 5, 91)) + 1e-4


def test_a_few_pictures_without_a_mistake_do_not_ask_for_infinite_sureness() -> None:
    targets = torch.arange(8) % 2
    logits = F.one_hot(targets, 2).float()
    scores = torch.softmax(logits / fitted_temperature(logits, targets), 1).max(1).values
    assert 0.8 < float(scores.min()) < 0.999


def test_where_there_is_nothing_to_learn_the_answers_stay_as_they_are() -> None:
    assert fitted_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1])) == 1.0
    assert fitted_temperature(torch.full((4, 3), torch.nan), torch.tensor([0, 1, 2, 0])) == 1.0
    assert fitted_temperature(torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)) == 1.0
