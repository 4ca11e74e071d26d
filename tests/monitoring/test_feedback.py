"""What pictures really showed is told later, and says how often the answers were right."""

from typing import Any

import pytest
from scipy.stats import binomtest

from store import keys
from store.keys import Role
from tests.monitoring.conftest import URL, Watched, files, fresh_digits
from tests.support.pictures import some_digits
from tests.support.versions import DIGITS


def give(watched: Watched, feedback: Any) -> Any:
    answer = watched.client.post(f"{URL}/feedback", json=feedback)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_feedback_counts_once_the_request_is_logged_and_may_be_mended(watched: Watched) -> None:
    (picture,) = files(fresh_digits(1))
    early = give(watched, {"request_id": "r-1", "label": "3"})
    assert early == {"matched": 0, "pending": [{"request_id": "r-1", "item": 0}]}
    assert watched.get("/accuracy") == {"window": "7d", "accuracy": None, "pending": 1, "models": []}
    (reply,) = watched.ask([picture], **{"X-Request-ID": "r-1"})
    (entry,) = watched.logged(1)
    answered = reply["predictions"][0]["label"]
    assert (entry["feedback"], entry["true_label"]) == ("right" if answered == "3" else "wrong", "3")
    assert watched.get("/accuracy")["accuracy"]["count"] == 1
    assert give(watched, [{"request_id": "r-1", "label": answered, "item": 0}]) == {"matched": 1, "pending": []}
    assert watched.get("/requests")["items"][0]["feedback"] == "right"
    assert watched.get("/accuracy")["accuracy"]["right"] == 1
    give(watched, {"request_id": "r-1", "label": None})
    entry = watched.get("/requests")["items"][0]
    assert (entry["feedback"], entry["true_label"]) == ("wrong", None)
    labels = watched.get("/accuracy")["models"][0]["labels"]
    assert [(one["label"], one["answered"]) for one in labels] == [(answered, 1), (None, 0)]
    actions = [line["action"] for line in watched.client.get("/v1/audit").json()["items"]]
    assert actions.count("deployment.feedback") == 3


def test_accuracy_is_that_of_the_answers_with_its_interval_labels_and_confusion(watched: Watched) -> None:
    pixels, truths = some_digits(6, first=200)
    replies = watched.ask(files(pixels))
    watched.logged(60)
    answers = [reply["predictions"][0]["label"] for reply in replies]
    told = [str(truth) for truth in truths]
    feedback = [{"request_id": reply["request_id"], "label": truth} for reply, truth in zip(replies, told, strict=True)]
    assert give(watched, feedback)["matched"] == 60
    right = sum(answer == truth for answer, truth in zip(answers, told, strict=True))
    assert right > 40
    found = watched.get("/accuracy", window="1h")
    (model,) = found["models"]
    interval = binomtest(right, 60).proportion_ci(method="wilson")
    for accuracy in (found["accuracy"], model["accuracy"]):
        assert (accuracy["count"], accuracy["right"]) == (60, right)
        assert accuracy["value"] == pytest.approx(right / 60)
        assert (accuracy["low"], accuracy["high"]) == pytest.approx((interval.low, interval.high))
    assert [one["label"] for one in model["labels"]] == list(DIGITS)
    for row, label in enumerate(DIGITS):
        assert model["labels"][row]["answered"] == answers.count(label)
        assert model["labels"][row]["right"]["count"] == 6
        for column, answer in enumerate(DIGITS):
            pairs = [pair for pair in zip(told, answers, strict=True) if pair == (label, answer)]
            assert model["confusion"][row][column] == len(pairs)


def test_a_key_that_may_only_predict_gives_feedback_and_a_repeated_post_is_carried_out_once(watched: Watched) -> None:
    with watched.context.sessions.begin() as session:
        secret = keys.create_key(session, "shop", Role.PREDICTOR)[1]
    headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": "once"}
    body = {"request_id": "r-1", "label": "3"}
    answers = [watched.client.post(f"{URL}/feedback", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["idempotent-replayed"] == "true"


ODD: list[tuple[Any, int, str]] = [
    ({"request_id": "r", "label": "cat"}, 422, "'cat' is none that the deployment's models know: '0', '1'"),
    ([{"request_id": "r", "label": "1"}, {"request_id": "s", "label": "cat"}], 422, "null says"),
    ({"request_id": "r"}, 422, "required"),
    ({"label": "1"}, 422, "required"),
    ({"request_id": "r", "label": 1}, 422, "valid string"),
    ({"request_id": "not an id", "label": "1"}, 422, "pattern"),
    ({"request_id": "r", "label": "1", "item": -1}, 422, "greater than or equal to 0"),
    ({"request_id": "r", "label": "1", "true": "1"}, 422, "accepted: request_id, label, item"),
    ({"request_id": "r", "label": "a\0"}, 422, "text that can be stored"),
    ([], 422, "at least 1"),
    ([{"request_id": "r", "label": "1"}] * 1001, 422, "at most 1000"),
    ("r", 422, "valid list"),
    (None, 422, "the body is missing"),
]


def test_odd_feedback_is_refused_and_nothing_of_it_kept(watched: Watched) -> None:
    for body, status, said in ODD:
        answer = watched.client.post(f"{URL}/feedback", json=body)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"], answer.text
    assert watched.client.post("/v1/deployments/none/feedback", json=ODD[0][0]).status_code == 404
    assert watched.get("/accuracy")["pending"] == 0
