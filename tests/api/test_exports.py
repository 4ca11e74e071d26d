"""Exports over HTTP: asked for once, listed, downloaded whole and in parts, refused with reasons."""

import base64
import hashlib
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from store import exports, jobs, leases, models
from store.states import JobState
from store.tables import Job
from tests.api.conftest import Address
from tests.api.world import World

CONTENT = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(290_000))  # two chunks of a blob


@pytest.fixture
def won(world: World) -> World:
    world.dataset()
    world.finished()
    return world


def make(world: World, job_id: str, content: bytes = CONTENT) -> str:
    """What the worker does with an export that succeeds; returns the export's id."""

    def work(session: Session) -> str:
        held = leases.claim(session, Job, job_id, "worker", 30)
        assert held is not None
        model = models.get(session, held.payload["model"])
        file = exports.File(content, "hunt-2.onnx", "application/octet-stream", {"max_difference": 1e-7})
        made = exports.keep(session, held, model, file)
        jobs.finish(session, job_id, held.attempt, JobState.SUCCEEDED, result={"export_id": made.id})
        return made.id

    found: str = world.run(work)
    return found


def ask(client: TestClient, format: str = "onnx", model: str = "hunt", **options: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{model}/exports", json={"format": format, "options": options})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == job["links"]["self"]
    return job


@pytest.fixture
def content(client: TestClient, won: World) -> str:
    """The path of a file of 9 MB."""
    make(won, ask(client)["id"])
    path: str = client.get("/v1/models/hunt/exports").json()["items"][0]["links"]["content"]
    return path


def test_the_same_export_is_made_once(client: TestClient, won: World) -> None:
    job = ask(client)
    assert (job["kind"], job["state"]) == ("export", "queued")
    assert ask(client)["id"] == job["id"] == ask(client, model="hunt@2")["id"]
    assert ask(client, "onnx-int8")["id"] != ask(client, "onnx-int8", max_accuracy_drop=0.5)["id"]
    assert ask(client, "onnx-int8")["id"] == ask(client, "onnx-int8", max_accuracy_drop=0.01)["id"]
    assert ask(client, model="hunt@1")["id"] != job["id"]
    made = make(won, job["id"])
    again = ask(client)
    assert (again["id"], again["state"], again["result"]) == (job["id"], "succeeded", {"export_id": made})
    assert client.delete(f"/v1/models/hunt/exports/{made}").json() == {"freed_bytes": len(CONTENT)}
    assert ask(client)["id"] != job["id"]
    audit = [line["action"] for line in client.get("/v1/audit").json()["items"]]
    assert (audit.count("export.create"), audit.count("export.delete")) == (5, 1)


def test_a_job_that_was_cancelled_is_no_reason_not_to_make_it(client: TestClient, won: World) -> None:
    job = ask(client)
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert ask(client)["id"] != job["id"]


def test_exports_are_listed_by_page_and_belong_to_their_version(client: TestClient, won: World) -> None:
    first, second = (make(won, ask(client, *asked)["id"]) for asked in (("onnx",), ("onnx-int8",)))
    page = client.get("/v1/models/hunt/exports?page_size=1").json()
    rest = client.get(f"/v1/models/hunt/exports?page_size=1&page_token={page['next_page_token']}").json()
    assert [item["id"] for item in page["items"] + rest["items"]] == [second, first]
    assert rest["next_page_token"] is None
    export = client.get(f"/v1/models/hunt@2/exports/{first}").json()
    assert export == rest["items"][0] == client.get(export["links"]["self"]).json()
    assert (export["version"], export["format"], export["size_bytes"]) == (2, "onnx", len(CONTENT))
    assert export["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert client.get("/v1/models/hunt@1/exports").json()["items"] == []
    for nowhere in (
        f"hunt@1/exports/{first}",
        f"none/exports/{first}",
        "hunt/exports/x",
        f"hunt/exports/ex_{'0' * 32}",
    ):
        assert client.get(f"/v1/models/{nowhere}").status_code == 404
        assert client.get(f"/v1/models/{nowhere}/content").status_code == 404
        assert client.delete(f"/v1/models/{nowhere}").status_code == 404


def test_a_download_says_what_it_is(client: TestClient, content: str) -> None:
    answer = client.get(content)
    digest = hashlib.sha256(CONTENT)
    assert (answer.status_code, answer.content == CONTENT) == (200, True)
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="hunt-2.onnx"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    for headers in ({}, {"Range": "bytes=0-5"}):
        known = client.get(content, headers={"If-None-Match": answer.headers["etag"], **headers})
        assert (known.status_code, known.content) == (304, b"")


def test_a_range_is_that_part_of_the_file(client: TestClient, content: str) -> None:
    end = len(CONTENT) - 1
    for asked, first, last in [
        ("bytes=0-0", 0, 0),
        ("bytes=5-", 5, end),
        ("Bytes=-5", end - 4, end),
        ("bytes=-99999999999", 0, end),
        ("bytes=8388600-8388615", 8388600, 8388615),  # over the border between two chunks
        ("bytes=1000000-99999999999", 1000000, end),
    ]:
        answer = client.get(content, headers={"Range": asked})
        assert (answer.status_code, asked) == (206, asked)
        assert answer.content == CONTENT[first : last + 1]
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
        assert answer.headers["content-length"] == str(last - first + 1)


def test_a_range_beyond_the_end_is_refused_with_the_size(client: TestClient, content: str) -> None:
    for asked in ("bytes=9280000-", "bytes=9280000-9280001", "bytes=-0"):
        answer = client.get(content, headers={"Range": asked})
        assert (answer.status_code, asked) == (416, asked)
        assert answer.headers["content-range"] == "bytes */9280000"
        assert "9280000 bytes" in answer.json()["detail"]


def test_what_is_no_single_range_gives_the_whole(client: TestClient, content: str) -> None:
    for asked in ("bytes=-", "bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,4-5", "bytes", "bytes=-1-2"):
        answer = client.get(content, headers={"Range": asked})
        assert (answer.status_code, len(answer.content), asked) == (200, len(CONTENT), asked)


def test_a_range_of_another_file_gives_the_whole_of_this_one(client: TestClient, content: str) -> None:
    etag = client.get(content, headers={"Range": "bytes=0-0"}).headers["etag"]
    same = client.get(content, headers={"Range": "bytes=1-4", "If-Range": etag})
    assert (same.status_code, same.content) == (206, CONTENT[1:5])
    for other in ('"0"', f"W/{etag}", "Tue, 24 Nov 2026 12:00:00 GMT"):
        assert client.get(content, headers={"Range": "bytes=1-4", "If-Range": other}).status_code == 200


def test_the_onnx_file_of_a_model_comes_in_parts_too(client: TestClient, won: World) -> None:
    whole = client.get("/v1/models/hunt/onnx")
    part = client.get("/v1/models/hunt/onnx", headers={"Range": "bytes=-4"})
    assert (part.status_code, part.content) == (206, whole.content[-4:])
    assert part.headers["etag"] == whole.headers["etag"]


def test_a_damaged_file_never_arrives_whole(server: Address, world: World, secrets: dict[str, str]) -> None:
    world.dataset()
    world.finished()
    headers = {"Authorization": f"Bearer {secrets['admin']}"}
    with httpx.Client(base_url=server.url, headers=headers) as http:
        make(world, http.post("/v1/models/hunt/exports", json={"format": "onnx"}).json()["id"])
        path = http.get("/v1/models/hunt/exports").json()["items"][0]["links"]["content"]
        assert len(http.get(path).content) == len(CONTENT)
        world.run(lambda session: session.execute(text("UPDATE blob_chunks SET data = set_byte(data, 9, 0)")))
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            http.get(path)


def test_what_cannot_be_made_is_refused_by_name(client: TestClient, won: World) -> None:
    drop = "options.max_accuracy_drop"
    refused: list[tuple[dict[str, Any], str, str]] = [
        ({"format": "coreml"}, "format", "choose one of onnx, onnx-int8"),
        ({"format": "onnx", "options": {"opset": 9}}, "options.opset", "no such option"),
        ({"format": "onnx-int8", "options": {"max_accuracy_drop": 2}}, drop, "between 0 and 1"),
        ({"format": "onnx-int8", "options": {"max_accuracy_drop": "1"}}, drop, "not a number"),
        ({"format": "onnx-int8", "options": {"max_accuracy_drop": None}}, drop, "not a number"),
        ({"format": "onnx", "options": []}, "options", "dictionary"),
        ({}, "format", "required"),
        ({"format": "onnx", "quick": True}, "quick", "unknown field"),
    ]
    for body, field, said in refused:
        answer = client.post("/v1/models/hunt/exports", json=body)
        assert answer.status_code == 422
        (fault,) = answer.json()["errors"]
        assert fault["field"] == field
        assert said in fault["message"]


def test_a_model_that_is_not_there_is_not_exported(client: TestClient, won: World) -> None:
    job = ask(client, model="hunt@1")
    assert client.delete("/v1/models/hunt/versions/1").status_code == 200
    for gone in ("hunt@1", "none"):
        answer = client.post(f"/v1/models/{gone}/exports", json={"format": "onnx"})
        assert (answer.status_code, gone in answer.json()["detail"]) == (404, True)
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_a_viewer_reads_exports_and_makes_none(client: TestClient, won: World, secrets: dict[str, str]) -> None:
    made = make(won, ask(client)["id"], b"small")
    viewer = {"Authorization": f"Bearer {secrets['viewer']}"}
    assert client.get(f"/v1/models/hunt/exports/{made}/content", headers=viewer).content == b"small"
    assert client.post("/v1/models/hunt/exports", json={"format": "onnx"}, headers=viewer).status_code == 403
    assert client.delete(f"/v1/models/hunt/exports/{made}", headers=viewer).status_code == 403


def test_the_exports_of_a_model_go_with_it(client: TestClient, won: World) -> None:
    make(won, ask(client, model="hunt@1")["id"])
    assert client.delete("/v1/models/hunt@1").json()["freed_bytes"] > len(CONTENT)
    assert won.run(lambda session: session.execute(text("SELECT count(*) FROM exports")).scalar()) == 0


def test_the_formats_are_told_with_their_options(client: TestClient) -> None:
    formats = {choice["name"]: choice for choice in client.get("/v1/limits").json()["exports"]}
    (drop,) = formats["onnx-int8"]["options"]
    assert (drop["name"], drop["default"], drop["maximum"]) == ("max_accuracy_drop", 0.01, 1)
