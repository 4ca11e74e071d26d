"""Evaluations over HTTP: a network that was really trained, on real pictures, by the worker's own job."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, func, select, update

from api.app import create_app
from store import blobs, datasets, evaluations, keys, searches
from store.ids import new_id
from store.keys import Role
from store.states import JobState, SearchState
from store.tables import AuditEntry, Blob, BlobChunk, Dataset, DatasetVersion, Evaluation, Job, Model
from tests.support.trained import trained_model
from tests.support.versions import DIGITS, digits_version
from tests.worker.conftest import WORKER
from worker import jobs, sweep
from worker.context import Context


@pytest.fixture
def client(context: Context) -> Iterator[TestClient]:
    """The API, in front of the data set `digits` and the model `reader` that was trained on it."""
    with context.sessions.begin() as session:
        _, secret = keys.create_key(session, "test", Role.ADMIN)
        model = trained_model(session, session.scalars(select(Dataset)).one(), "reader")
        searches.move(session, searches.get(session, "reader", lock=True), SearchState.CANCELLED)
        assert model.number == 1
    with TestClient(create_app(context.settings), headers={"Authorization": f"Bearer {secret}"}) as client:
        yield client


def other(context: Context, scratch: Path, **how: Any) -> None:
    """A second data set, `other`, of the first ten digits of each class."""
    with context.sessions.begin() as session:
        digits_version(session, context.objects, scratch / "other", per_class=10, name="other", **how)


def evaluated(client: TestClient, context: Context, **body: Any) -> Any:
    """The ended job of an evaluation that was asked for."""
    answer = client.post("/v1/models/reader/evaluations", json={"dataset": "digits"} | body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.json()["links"]["self"]
    jobs.run(context, answer.json()["id"], WORKER)
    return client.get(answer.json()["links"]["self"]).json()


def found(client: TestClient, job: Any) -> Any:
    """The evaluation that a job has made."""
    assert job["state"] == "succeeded", job
    return client.get(job["links"]["evaluation"]).json()


def test_a_model_is_evaluated_on_its_own_test_pictures(client: TestClient, context: Context) -> None:
    evaluation = found(client, evaluated(client, context))
    assert (evaluation["dataset"], evaluation["dataset_version"], evaluation["split"]) == ("digits", 1, "test")
    assert (evaluation["examples"], evaluation["trained_on"], evaluation["own"]) == (50, 0, True)
    assert client.get("/v1/models/reader/evaluation").json() == evaluation
    metrics, intervals = evaluation["metrics"], evaluation["intervals"]
    assert set(metrics) == {
        "count", "accuracy", "balanced_accuracy", "top_5_accuracy", "macro_f1", "weighted_f1", "log_loss", "auc_pr",
        "auc_roc", "ece",
    }  # fmt: skip
    assert 0.3 < metrics["accuracy"] < 1
    assert metrics["top_5_accuracy"] > metrics["accuracy"]
    assert intervals["accuracy"]["low"] < metrics["accuracy"] < intervals["accuracy"]["high"]
    confusion = client.get(evaluation["links"]["confusion"]).json()
    assert confusion["labels"] == list(DIGITS)
    assert np.trace(confusion["matrix"]) / 50 == pytest.approx(metrics["accuracy"])
    assert [row["support"] for row in evaluation["per_label"]] == [5] * 10
    assert sum(each["count"] for each in evaluation["reliability"]) == 50
    slices = {(each["by"], each["value"]): each["count"] for each in evaluation["slices"]}
    expected = {("size", "0001-0032"), ("format", "PNG"), ("import", "version 1"), ("training", "new")}
    assert {key for key in slices if key[0] != "label"} == expected
    assert slices["label", "7"] == 5
    (listed,) = client.get("/v1/models/reader/evaluations").json()["items"]
    assert listed == {name: evaluation[name] for name in listed}


def test_the_curves_of_a_label_and_of_all(client: TestClient, context: Context) -> None:
    evaluation = found(client, evaluated(client, context))
    here = evaluation["links"]["curves"]
    of_all, of_one = client.get(here).json(), client.get(f"{here}?label=7").json()
    assert of_all["auc_pr"] == evaluation["metrics"]["auc_pr"]
    assert of_one["auc_roc"] == evaluation["per_label"][7]["auc_roc"]
    for curve in (of_all, of_one):
        assert [point["threshold"] for point in curve["thresholds"]] == sorted(
            {point["threshold"] for point in curve["thresholds"]}
        )
        assert curve["thresholds"][0]["recall"] == curve["thresholds"][0]["false_positive_rate"] == 1.0
    half = next(point for point in of_all["thresholds"] if point["threshold"] == 0.5)
    assert set(half) == {"threshold", "precision", "recall", "f1", "false_positive_rate"}
    refused = client.get(f"{here}?label=seven")
    assert refused.status_code == 422
    assert "reader@1 knows 0, 1, 2" in refused.json()["detail"]


def test_the_surest_mistakes_come_first_with_their_pictures_and_by_cells(client: TestClient, context: Context) -> None:
    evaluation = found(client, evaluated(client, context, split="all"))
    here, matrix = evaluation["links"]["errors"], client.get(evaluation["links"]["confusion"]).json()["matrix"]
    assert (evaluation["examples"], evaluation["trained_on"]) == (500, 400)
    mistakes, token = [], None
    while True:
        page = client.get(here, params={"page_size": 7} | ({"page_token": token} if token else {})).json()
        mistakes += page["items"]
        token = page["next_page_token"]
        if token is None:
            break
    assert len(mistakes) == page["total"] == 500 - np.trace(matrix) > 7
    assert len({mistake["example"] for mistake in mistakes}) == len(mistakes)
    assert [mistake["score"] for mistake in mistakes] == sorted((m["score"] for m in mistakes), reverse=True)
    surest = mistakes[0]
    assert surest["predicted"] != surest["true"]
    assert surest["score"] == surest["top"][0]["score"] > surest["true_score"]
    assert client.get(surest["links"]["self"]).json()["label"] == surest["true"]
    for picture in ("content", "thumbnail"):
        assert client.get(surest["links"][picture]).headers["content-type"] == "image/png"
    true, predicted = int(surest["true"]), int(surest["predicted"])
    for cell in ((true, predicted), (true, true), (predicted, true)):
        page = client.get(here, params={"true": cell[0], "predicted": cell[1], "page_size": 500}).json()
        assert page["total"] == len(page["items"]) == matrix[cell[0]][cell[1]]
        assert {(item["true"], item["predicted"]) for item in page["items"]} <= {(str(cell[0]), str(cell[1]))}
    for odd in (
        {"true": "seven"},
        {"page_token": "x"},
        {"page_token": "LTE="},
        {"page_token": "OTk5"},
        {"page_size": 0},
    ):
        assert client.get(here, params=odd).status_code == 422, odd


def test_pictures_packed_otherwise_are_seen_as_the_model_was_trained_to(
    client: TestClient, context: Context, tmp_path: Path
) -> None:
    other(context, tmp_path, side=32)
    own = found(client, evaluated(client, context, split="all"))
    elsewhere = found(client, evaluated(client, context, dataset="other", split="all"))
    assert (elsewhere["examples"], elsewhere["own"], elsewhere["trained_on"]) == (100, False, 100)
    theirs = client.get(elsewhere["links"]["errors"], params={"page_size": 500}).json()["items"]
    per_class = {"other": 10, "digits": 50}
    place = {name: lambda number, size=size: (number // size, number % size) for name, size in per_class.items()}
    ours = {
        place["digits"](item["example"]): item["score"]
        for item in client.get(own["links"]["errors"], params={"page_size": 500}).json()["items"]
    }
    assert theirs  # the first ten of each class are the same pictures in both
    for item in theirs:
        assert item["score"] == pytest.approx(ours[place["other"](item["example"])], abs=1e-5)
    assert client.get("/v1/models/reader/evaluation?split=all").json()["id"] == own["id"]


def test_labels_that_the_model_does_not_know_are_refused_or_left_out(
    client: TestClient, context: Context, tmp_path: Path
) -> None:
    other(context, tmp_path, names=("zero", *DIGITS[1:9], "nine"))
    body = {"dataset": "other", "split": "all"}
    refused = client.post("/v1/models/reader/evaluations", json=body)
    assert refused.status_code == 422
    assert "does not know 'nine', 'zero'; it knows '0', '1'" in refused.json()["detail"]
    assert client.get("/v1/jobs?kind=evaluation").json()["items"] == []
    evaluation = found(client, evaluated(client, context, **body, unknown_labels="ignore"))
    assert evaluation["examples"] == 80
    assert evaluation["skipped"] == {"unknown_labels": {"zero": 10, "nine": 10}, "unreadable": 0}
    assert [row["support"] for row in evaluation["per_label"]] == [0, *[10] * 8, 0]
    assert evaluation["per_label"][0]["recall"] is None


def test_what_cannot_be_evaluated_is_refused(client: TestClient, context: Context, tmp_path: Path) -> None:
    other(context, tmp_path, names=[f"letter {digit}" for digit in DIGITS])
    client.post("/v1/datasets", json={"name": "empty"})
    for body, status, said in [
        ({"dataset": "other", "unknown_labels": "ignore"}, 422, "'letter 0'"),
        ({"dataset": "empty"}, 409, "no examples yet"),
        ({"dataset": "none"}, 404, "'none'"),
        ({"dataset": "digits", "version": 2}, 404, "digits/2"),
        ({"dataset": "digits", "split": "tests"}, 422, "'test'"),
        ({"dataset": "digits", "unknown_labels": "skip"}, 422, "'ignore'"),
        ({"dataset": "digits", "threshold": 0.5}, 422, "accepted: dataset, version, split, unknown_labels"),
        ({}, 422, "required"),
    ]:
        answer = client.post("/v1/models/reader/evaluations", json=body)
        assert (answer.status_code, said in answer.json()["detail"]) == (status, True), (body, answer.text)
    assert client.post("/v1/models/none/evaluations", json={"dataset": "digits"}).status_code == 404
    nowhere = new_id("evaluation")
    for path in ("", "/curves", "/confusion", "/errors"):
        assert client.get(f"/v1/models/reader/evaluations/{nowhere}{path}").status_code == 404
    assert client.get("/v1/models/reader/evaluation").status_code == 404


def test_a_request_that_is_repeated_is_evaluated_once_and_audited(client: TestClient, context: Context) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = (
        client.post("/v1/models/reader/evaluations", json={"dataset": "digits"}, headers=headers) for _ in range(2)
    )
    assert first.json() == second.json()
    with context.sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1
        line = session.scalars(select(AuditEntry).where(AuditEntry.action == "model.evaluate")).one()
    assert line.details["dataset"] == "digits"


def test_damaged_or_missing_bytes_fail_the_job_and_are_named(
    client: TestClient, context: Context, tmp_path: Path
) -> None:
    other(context, tmp_path, side=32)
    with context.sessions() as session:
        versions = {v.dataset.name: v for v in session.scalars(select(DatasetVersion))}
    assert context.objects.local is not None
    shard = context.objects.local / versions["other"].shard_keys[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes(200) + whole[300:])
    evaluation = found(client, evaluated(client, context, dataset="other", split="all"))
    assert evaluation["examples"] + evaluation["skipped"]["unreadable"] == 100
    assert evaluation["skipped"]["unreadable"] >= 1
    with context.sessions.begin() as session:
        model = session.scalars(select(Model)).one()
        session.execute(update(BlobChunk).where(BlobChunk.sha256 == model.onnx_sha256).values(data=b"other bytes"))
    job = evaluated(client, context)
    assert (job["state"], job["error"]["kind"]) == ("failed", "refused")
    assert model.onnx_sha256.hex() in job["error"]["message"]
    with context.sessions.begin() as session:
        session.execute(delete(Model))
    assert client.get("/v1/models/reader/evaluations").status_code == 404


def test_an_evaluation_whose_worker_died_is_made_once(client: TestClient, context: Context) -> None:
    job = client.post("/v1/models/reader/evaluations", json={"dataset": "digits"}).json()
    with context.sessions.begin() as session:
        long_ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 1)
        died = {"state": JobState.RUNNING, "attempt": 1, "lease_until": long_ago, "worker": "gone"}
        session.execute(update(Job).values(**died))
    # After a start of Postgres a lease is let run once more, and that of this run may be seconds ago.
    sweep.run(context.sessions, context.objects, context.settings.model_copy(update={"lease_s": 0.1}))
    jobs.run(context, job["id"], WORKER)
    jobs.run(context, job["id"], WORKER)
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"
    assert len(client.get("/v1/models/reader/evaluations").json()["items"]) == 1


def test_figures_outlive_their_data_and_nothing_outlives_the_model(client: TestClient, context: Context) -> None:
    evaluation = found(client, evaluated(client, context))
    client.delete("/v1/datasets/digits")
    after = client.get("/v1/models/reader/evaluation").json()
    assert (after["dataset"], after["metrics"]) == (None, evaluation["metrics"])
    assert "errors" not in after["links"]
    assert client.get(evaluation["links"]["curves"]).status_code == 200
    gone = client.get(evaluation["links"]["errors"])
    assert (gone.status_code, "the data set was deleted" in gone.json()["detail"]) == (409, True)
    assert client.delete("/v1/models/reader").json()["freed_bytes"] > 0
    with context.sessions.begin() as session:
        blobs.collect(session, older_than_s=-1)
        assert session.scalars(select(Evaluation)).all() == session.scalars(select(Blob)).all() == []


def test_an_evaluation_is_deleted_by_itself_and_not_by_way_of_another_model(
    client: TestClient, context: Context
) -> None:
    first, second = (found(client, evaluated(client, context)) for _ in range(2))
    with context.sessions.begin() as session:
        trained_model(session, session.scalars(select(Dataset)).one(), "writer")
    own, other_model = first["links"]["self"], first["links"]["self"].replace("reader@1", "writer@1")
    for method in (client.get, client.delete):
        assert method(other_model).status_code == 404
    assert client.get("/v1/models/reader/evaluation").json()["id"] == second["id"]
    assert client.delete(second["links"]["self"]).json()["freed_bytes"] > 0
    assert client.get("/v1/models/reader/evaluation").json()["id"] == first["id"]
    assert [item["links"]["self"] for item in client.get("/v1/models/reader/evaluations").json()["items"]] == [own]


def test_a_model_that_was_deleted_meanwhile_is_not_evaluated(client: TestClient, context: Context) -> None:
    job = client.post("/v1/models/reader/evaluations", json={"dataset": "digits"}).json()
    client.delete("/v1/models/reader")
    jobs.run(context, job["id"], WORKER)
    assert "was deleted before it was evaluated" in client.get(f"/v1/jobs/{job['id']}").json()["error"]["message"]


def test_whether_a_model_saw_pictures_whose_data_set_is_gone_is_not_known(
    client: TestClient, context: Context, tmp_path: Path
) -> None:
    other(context, tmp_path)
    client.delete("/v1/datasets/digits")
    evaluation = found(client, evaluated(client, context, dataset="other", split="all"))
    assert (evaluation["examples"], evaluation["trained_on"], evaluation["own"]) == (100, None, False)
    assert "training" not in {each["by"] for each in evaluation["slices"]}


def test_a_search_whose_data_has_no_test_pictures_ends_with_an_evaluation_of_none(
    client: TestClient, context: Context
) -> None:
    with context.sessions.begin() as session:
        version = session.scalars(select(DatasetVersion)).one()
        divided = datasets.add_division(
            session, version, bytes([0] * 400 + [1] * 100), {}, version.index_key, 0, "hash"
        )
        model = session.scalars(select(Model)).one()
        search = searches.get(session, "reader")
        job = evaluations.request_last(session, model.id, divided.id, search.id)
    jobs.run(context, job.id, WORKER)
    evaluation = found(client, client.get(f"/v1/jobs/{job.id}").json())
    assert (evaluation["metrics"], evaluation["examples"], evaluation["slices"]) == ({"count": 0.0}, 0, [])
    assert client.get(evaluation["links"]["errors"]).json()["items"] == []
    assert client.get(evaluation["links"]["curves"]).json()["thresholds"][0]["recall"] is None
    refused = client.post("/v1/models/reader/evaluations", json={"dataset": "digits"})
    assert (refused.status_code, "the test part has no pictures" in refused.json()["detail"]) == (422, True)


def test_pictures_are_sliced_by_the_import_they_came_with(client: TestClient, context: Context) -> None:
    with context.sessions.begin() as session:
        version = session.scalars(select(DatasetVersion)).one()
        again = datasets.add_division(session, version, bytes([2] * 500), {"test": {}}, version.index_key, 0, "hash")
    evaluation = found(client, evaluated(client, context, version=again.number))
    assert (evaluation["dataset_version"], evaluation["own"], evaluation["trained_on"]) == (2, False, 400)
    slices = {(each["by"], each["value"]): each["count"] for each in evaluation["slices"]}
    assert slices["import", "version 1"] == 500
    assert (slices["training", "trained on"], slices["training", "new"]) == (400, 100)
