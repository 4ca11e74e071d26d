"""Pictures unlike those of the training show as drift, and like ones do not."""

import numpy as np
import pytest

from search import drift
from store import requests
from tests.monitoring.conftest import URL, Watched, blurred, files, fresh_digits
from tests.support.versions import DIGITS


def test_pictures_like_those_of_the_training_are_no_drift(watched: Watched) -> None:
    watched.measure()
    watched.ask(files(fresh_digits(99)))
    watched.logged(99)
    few = watched.get("/drift")
    assert (few["logged"], few["verdict"], few["models"][0]["verdict"]) == (99, None, None)
    assert few["models"][0]["reason"] == "99 pictures are logged of the window; 100 are needed"
    assert few["thresholds"] == {"pictures": 100, "moderate": 0.1, "major": 0.25, "p_value": 0.001}
    watched.ask(files(fresh_digits(150)[99:]))
    watched.logged(150)
    found = watched.get("/drift")
    (model,) = found["models"]
    assert (found["verdict"], model["verdict"], model["reason"], model["pictures"]) == ("none", "none", None, 150)
    assert set(model["inputs"]) == {"gray_mean", "gray_deviation", "sharpness", "aspect_ratio", "megapixels"}
    assert sum(model["answers"].values()) == 150
    assert sum(model["validation"]["counts"].values()) == 50
    assert model["training"]["counts"] == dict.fromkeys(DIGITS, 40)
    assert model["confidence"]["live_mean"] == pytest.approx(model["confidence"]["reference_mean"], abs=0.1)
    gray = model["inputs"]["gray_mean"]
    assert gray["live_mean"] == pytest.approx(gray["reference_mean"], rel=0.1)


@pytest.mark.parametrize("change", ["inverted", "blurred", "one digit"])
def test_pictures_unlike_those_of_the_training_are_drift_and_the_numbers_say_in_what(
    watched: Watched, change: str
) -> None:
    watched.measure()
    pixels = fresh_digits(110)
    if change == "inverted":
        pictures = files(255 - pixels)
    elif change == "blurred":
        pictures = [blurred(picture) for picture in files(pixels)]
    else:
        pictures = files(pixels[:1]) * 110
    watched.ask(pictures)
    watched.logged(110)
    (model,) = watched.get("/drift", window="1h")["models"]
    assert model["verdict"] == "major"
    inputs = {name for name, found in model["inputs"].items() if found["verdict"] != "none"}
    assert (
        inputs
        >= {
            "inverted": {"gray_mean"},
            "blurred": {"sharpness"},
            "one digit": {"gray_mean", "gray_deviation", "sharpness"},
        }[change]
    )
    assert inputs.isdisjoint({"aspect_ratio", "megapixels"})
    if change == "one digit":
        assert model["validation"]["verdict"] == model["training"]["verdict"] == "major"


def test_of_a_long_log_an_even_sample_is_compared(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "COMPARED_MOST", 40)
    watched.measure()
    watched.ask(files(fresh_digits(120)))
    watched.logged(120)
    found = watched.get("/drift")
    assert found["logged"] == 120
    assert 15 <= found["models"][0]["pictures"] <= 70
    assert found["verdict"] is None


def test_each_version_of_a_split_is_compared_for_itself_and_says_why_it_cannot_be(watched: Watched) -> None:
    watched.measure()
    watched.model()
    targets = [{"model": "digits@1", "weight": 50}, {"model": "digits@2", "weight": 50}]
    assert watched.client.patch(URL, json={"targets": targets}).status_code == 200
    reasons = {one["model"]: one["reason"] for one in watched.get("/drift")["models"]}
    assert "0 pictures are logged" in reasons["digits@1"]
    assert "nobody has measured yet" in reasons["digits@2"]
    watched.sweep()
    queued = {one["model"]: one["reason"] for one in watched.get("/drift")["models"]}["digits@2"]
    assert "which measures what the model learnt on, is queued" in queued
    assert watched.client.delete("/v1/datasets/digits").status_code == 200
    watched.measure()
    failed = {one["model"]: one["reason"] for one in watched.get("/drift")["models"]}["digits@2"]
    assert "is failed: the data set that model digits@2 was trained on was deleted" in failed


def test_chance_is_no_drift_and_a_shift_is(rng: np.random.Generator) -> None:
    reference = rng.normal(size=1000).tolist()
    for _ in range(50):
        found = drift.compare_values(reference, rng.normal(size=100).tolist())
        assert found is not None
        assert found.verdict == "none"
    verdicts = []
    for shift in (0.0, 0.6, 1.5):
        found = drift.compare_values(reference, rng.normal(shift, size=500).tolist())
        assert found is not None
        assert found.live_mean - found.reference_mean == pytest.approx(shift, abs=0.2)
        verdicts.append(found.verdict)
    assert verdicts == ["none", "major", "major"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_labels_are_compared_as_distributions_not_as_counts() -> None:
    reference = dict.fromkeys(DIGITS, 50)
    same = drift.compare_labels(reference, dict.fromkeys(DIGITS, 500))
    assert same is not None
    assert (same.verdict, same.jensen_shannon, same.p_value) == ("none", 0.0, 1.0)
    other = drift.compare_labels(reference, {"0": 400, "unheard of": 100})
    assert other is not None
    assert other.verdict == "major"
    assert 0.5 < other.jensen_shannon <= 1
    assert other.p_value < 1e-6
    rare = drift.compare_labels({"a": 1000, "b": 1, "c": 1}, {"a": 100})
    assert rare is not None
    assert rare.verdict == "none"
    one = drift.compare_labels({"a": 10}, {"a": 10})
    assert one is not None
    assert one.verdict == "none"
    assert drift.compare_labels({}, {"a": 1}) is None
    assert drift.compare_labels({"a": 0}, {"a": 1}) is None


def test_a_number_that_never_varied_is_compared_too() -> None:
    same = drift.compare_values([1.0] * 500, [1.0] * 200)
    wider = drift.compare_values([1.0] * 500, [1.5] * 200)
    narrower = drift.compare_values([1.0] * 500, [0.5] * 200)
    assert same is not None
    assert wider is not None
    assert narrower is not None
    assert (same.verdict, wider.verdict, narrower.verdict) == ("none", "major", "major")
    assert (same.ks, wider.ks, narrower.ks) == (0.0, 1.0, 1.0)
    assert drift.compare_values([], [1.0]) is None
