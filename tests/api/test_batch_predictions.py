"""Batch predictions over HTTP: asked for, listed, read, cancelled, deleted; the work itself is the worker's tests'."""

import csv
import gzip
import io
import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.app import create_app
from api.batch_predictions.results import takes_gzip
from store import batches, leases
from store.batches import NewPart
from store.settings import Settings
from store.states import JobState
from store.tables import AuditEntry, DoomedObject, Job
from tests.api.world import World

ASKED = {"model": "hunt", "source": {"dataset": "pets", "split": "test"}, "top_k": 2}


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """Pictures may be fetched of one host."""
    return create_app(settings.model_copy(update={"batch_sources": "images.example.org"}))


@pytest.fixture
def won(world: World) -> World:
    world.dataset()
    world.finished()
    return world


def answered(world: World, batch_id: str, rows: list[dict[str, Any]], end: JobState = JobState.SUCCEEDED) -> None:
    """What a worker leaves: a part for each row, and the end."""
    with world.sessions.begin() as session:
        batch = batches.get(session, batch_id)
        held = leases.claim(session, Job, batch.job_id, "worker", 30)
        assert held is not None
        for number, row in enumerate(rows):
            body = gzip.compress(json.dumps(row).encode() + b"\n")
            key = f"batches/{batch_id}/{number}"
            world.objects.put(key, body)
            batches.add_part(session, batch, held.attempt, 30, number, NewPart(key, len(body), 1, 0, 1, {}, 0.1), {})
        result = {
            "rows": len(rows), "predicted": len(rows), "errors": 0, "labels": {"cat": len(rows), "dog": 0}, "accuracy": 1.0,
            "no_accuracy_because": None, "seconds": 0.1, "pictures_per_s": 10.0, "size_bytes": 100, "notes": [],
        }  # fmt: skip
        values: dict[str, Any] = {"result": result} if end is JobState.SUCCEEDED else {}
        leases.settle(session, Job, batch.job_id, held.attempt, end, **values)


def a_row(number: int, path: str = "cat/1.png", **values: Any) -> dict[str, Any]:
    top = [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}]
    return {"row": number, "example": number, "path": path, "true_label": "cat", "label": "cat", "score": 0.9} | {
        "top": top, **values
    }  # fmt: skip


def test_a_batch_is_asked_for_and_answered(client: TestClient, won: World) -> None:
    made = client.post("/v1/batch_predictions", json=ASKED)
    assert made.status_code == 202
    batch = made.json()
    here = f"/v1/batch_predictions/{batch['id']}"
    assert made.headers["location"] == here == batch["links"]["self"]
    assert (batch["state"], batch["model"], batch["model_version"], batch["rows"]) == ("queued", "hunt", 2, 0)
    assert batch["source"] == {
        "kind": "dataset", "dataset": "pets", "version": 1, "split": "test", "size_bytes": None, "count": None
    }  # fmt: skip
    job = client.get(batch["links"]["job"]).json()
    assert (job["kind"], job["links"]["batch_prediction"]) == ("batch_prediction", here)
    early = client.get(f"{here}/results")
    assert early.status_code == 409
    assert "is queued" in early.json()["detail"]
    answered(won, batch["id"], [a_row(0), a_row(1)])
    ended = client.get(f"{here}?wait=5").json()
    assert (ended["state"], ended["rows"], ended["result"]["accuracy"]) == ("succeeded", 2, 1.0)
    lines = client.get(batch["links"]["jsonl"])
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert lines.headers["content-encoding"] == "gzip"
    assert [json.loads(line) for line in lines.text.splitlines()] == [a_row(0), a_row(1)]
    plain = client.get(batch["links"]["jsonl"], headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == lines.text
    actions = won.run(lambda session: session.scalars(select(AuditEntry.action)).all())
    assert actions[-1] == "batch_prediction.create"


def test_a_deployment_stands_for_its_model(client: TestClient, won: World) -> None:
    one, two = {"model": "hunt@1", "weight": 50}, {"model": "hunt@2", "weight": 50}
    client.post("/v1/deployments", json={"name": "pets", "targets": [{"model": "hunt@1"}]})
    asked = {"deployment": "pets", "source": {"dataset": "pets"}}
    batch = client.post("/v1/batch_predictions", json=asked).json()
    assert (batch["deployment"], batch["model"], batch["model_version"]) == ("pets", "hunt", 1)
    client.patch("/v1/deployments/pets", json={"targets": [one, two]})
    split = client.post("/v1/batch_predictions", json=asked)
    assert split.status_code == 409
    assert "hunt@1, hunt@2" in split.json()["detail"]
    client.patch("/v1/deployments/pets", json={"state": "undeployed"})
    undeployed = client.post("/v1/batch_predictions", json=asked)
    assert undeployed.status_code == 409
    assert "undeployed" in undeployed.json()["detail"]


def test_a_table_is_safe_from_formulas(client: TestClient, won: World) -> None:
    batch = client.post("/v1/batch_predictions", json=ASKED).json()
    evil = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", 'a"b,c', "plain.png"]
    rows = [a_row(number, path) for number, path in enumerate(evil)]
    failed = {"row": 7, "example": 7, "path": "x.png", "true_label": "=dog", "error": "-is damaged"}
    answered(won, batch["id"], [*rows, failed])
    answer = client.get(batch["links"]["csv"])
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{batch["id"]}.csv"'
    table = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert table[0] == ["row", "example", "path", "true_label", "label", "score", "label_2", "score_2", "error"]
    assert [row[2] for row in table[1:]] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", 'a"b,c', "plain.png", "x.png"]
    assert table[1][4:] == ["cat", "0.9", "dog", "0.1", ""]
    assert table[8] == ["7", "7", "x.png", "'=dog", "", "", "", "", "'-is damaged"]


def test_batches_are_paged_and_filtered_by_state(client: TestClient, won: World) -> None:
    made = [client.post("/v1/batch_predictions", json=ASKED).json()["id"] for _ in range(3)]
    answered(won, made[1], [])
    page = client.get("/v1/batch_predictions?page_size=2").json()
    rest = client.get(f"/v1/batch_predictions?page_size=2&page_token={page['next_page_token']}").json()
    assert [item["id"] for item in page["items"] + rest["items"]] == made[::-1]
    assert [item["id"] for item in client.get("/v1/batch_predictions?state=succeeded").json()["items"]] == [made[1]]
    assert len(client.get("/v1/jobs?kind=batch_prediction").json()["items"]) == 3


def test_a_batch_is_cancelled_and_deleted(client: TestClient, won: World) -> None:
    batch = client.post("/v1/batch_predictions", json=ASKED).json()
    here = batch["links"]["self"]
    assert client.delete(here).status_code == 409
    assert client.post(f"{here}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{here}/cancel").status_code == 409
    assert client.get(f"{here}/results").text == ""
    assert client.delete(here).json() == {"freed_bytes": 0}
    other = client.post("/v1/batch_predictions", json=ASKED).json()
    answered(won, other["id"], [a_row(0)], JobState.CANCELLED)
    assert json.loads(client.get(other["links"]["jsonl"]).text) == a_row(0)
    assert client.delete(other["links"]["self"]).json()["freed_bytes"] > 0
    doomed = won.run(lambda session: session.scalars(select(DoomedObject.key)).all())
    assert f"batches/{other['id']}/0" in doomed
    for gone in (here, other["links"]["self"], other["links"]["job"], f"{here}/results"):
        assert client.get(gone).status_code == 404


def test_an_archive_is_sent_and_becomes_the_batchs_own(client: TestClient, won: World) -> None:
    sent = client.put("/v1/batch_predictions/data?model=hunt@1&top_k=1", content=b"zip" * 1000)
    assert sent.status_code == 202
    batch = sent.json()
    assert (batch["source"]["kind"], batch["source"]["size_bytes"], batch["model_version"]) == ("upload", 3000, 1)
    assert len(won.uploads()) == 1
    assert won.run(lambda session: session.scalars(select(DoomedObject.key)).all()) == ["uploads/pets"]
    client.post(f"{batch['links']['self']}/cancel")
    doomed = won.run(lambda session: session.scalars(select(DoomedObject.key)).all())
    assert len(doomed) == 2


def test_an_archive_for_nobody_is_refused_before_it_is_taken(client: TestClient, won: World) -> None:
    for query, status, said in (
        ("", 422, "give one of model and deployment"),
        ("?model=hunt&deployment=pets", 422, "has both"),
        ("?model=none", 404, "'none'"),
        ("?deployment=none", 404, "'none'"),
        ("?model=hunt&top_k=0", 422, "greater than or equal to 1"),
        ("?model=hunt&tok_k=3", 422, "unknown query parameter"),
    ):
        answer = client.put(f"/v1/batch_predictions/data{query}", content=b"zip")
        assert answer.status_code == status, query
        assert said in answer.json()["detail"], query
    empty = client.put("/v1/batch_predictions/data?model=hunt", content=b"")
    assert empty.status_code == 422
    assert won.uploads() == []


ODD: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "none", "source": {"dataset": "pets"}}, 404, "'none'"),
    ({"deployment": "none", "source": {"dataset": "pets"}}, 404, "'none'"),
    ({"model": "hunt", "source": {"dataset": "none"}}, 404, "'none'"),
    ({"model": "hunt", "source": {"dataset": "pets", "version": 7}}, 404, "pets/7"),
    ({"model": "hunt", "source": {"dataset": "bare"}}, 409, "has no examples yet"),
    ({"model": "hunt", "source": {"dataset": "pets", "split": "all"}}, 422, "'train', 'validation' or 'test'"),
    ({"model": "hunt", "source": {}}, 422, "give one of dataset and uris"),
    ({"model": "hunt", "source": {"dataset": "pets", "uris": ["https://images.example.org/"]}}, 422, "give one of"),
    ({"model": "hunt", "source": {"uris": ["https://images.example.org/"], "split": "test"}}, 422, "belong to dataset"),
    ({"model": "hunt", "source": {"uris": []}}, 422, "at least 1"),
    (
        {"model": "hunt", "source": {"uris": ["http://169.254.169.254/latest/meta-data"]}},
        422,
        "NETWRIGHT_BATCH_SOURCES",
    ),
    ({"model": "hunt", "source": {"uris": ["file:///etc/passwd"]}}, 422, "NETWRIGHT_BATCH_SOURCES"),
    ({"model": "hunt", "source": {"uris": ["s3://bucket/a.png"]}}, 422, "NETWRIGHT_BATCH_SOURCES"),
    ({"model": "hunt", "source": {"upload": "x"}}, 422, "accepted: dataset"),
    ({"model": "hunt", "deployment": "pets", "source": {"dataset": "pets"}}, 422, "give one of model and deployment"),
    ({"source": {"dataset": "pets"}}, 422, "give one of model and deployment"),
    ({"model": "hunt", "source": {"dataset": "pets"}, "top_k": 101}, 422, "less than or equal to 100"),
    ({"model": "hunt", "source": {"dataset": "pets"}, "top_k": "5"}, 422, "valid integer"),
    ({"model": "hunt"}, 422, "required"),
]


def test_a_batch_of_nothing_sensible_is_refused(client: TestClient, won: World) -> None:
    client.post("/v1/datasets", json={"name": "bare"})
    for body, status, said in ODD:
        answer = client.post("/v1/batch_predictions", json=body)
        assert answer.status_code == status, (body, answer.text)
        assert said in answer.json()["detail"], (body, answer.text)
    assert client.get("/v1/batch_predictions").json()["items"] == []


def test_addresses_that_may_not_be_fetched_are_named_one_by_one(client: TestClient, won: World) -> None:
    uris = ["https://images.example.org/1.png", "https://example.org/2.png", "http://me:pw@images.example.org/"]
    answer = client.post("/v1/batch_predictions", json={"model": "hunt", "source": {"uris": uris}})
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == ["source.uris[1]", "source.uris[2]"]
    taken = client.post("/v1/batch_predictions", json={"model": "hunt", "source": {"uris": uris[:1]}})
    assert (taken.status_code, taken.json()["source"]["count"]) == (202, 1)


def test_a_repeated_request_makes_one_batch(client: TestClient, won: World) -> None:
    once = {"Idempotency-Key": "nightly"}
    first, second = (client.post("/v1/batch_predictions", json=ASKED, headers=once).json() for _ in range(2))
    assert first == second
    assert len(client.get("/v1/batch_predictions").json()["items"]) == 1


def test_a_viewer_reads_and_asks_for_nothing(client: TestClient, won: World, secrets: dict[str, str]) -> None:
    batch = client.post("/v1/batch_predictions", json=ASKED).json()
    client.headers["Authorization"] = f"Bearer {secrets['viewer']}"
    assert client.get(batch["links"]["self"]).status_code == 200
    assert client.post("/v1/batch_predictions", json=ASKED).status_code == 403
    assert client.put("/v1/batch_predictions/data?model=hunt", content=b"zip").status_code == 403
    assert client.delete(batch["links"]["self"]).status_code == 403


@pytest.mark.parametrize(
    ("header", "takes"),
    [(None, False), ("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("*", True), ("identity", False)],
)
def test_an_answer_is_packed_for_those_who_take_it(header: str | None, takes: bool) -> None:
    assert takes_gzip(header) is takes
