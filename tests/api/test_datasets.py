"""Data sets over HTTP: made, filled, looked at, deleted."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from store import datasets, jobs
from store.tables import AuditEntry, DoomedObject, Job
from tests.api.world import World, png


def test_an_upload_makes_the_data_set_and_begins_its_import(client: TestClient, world: World) -> None:
    answer = client.put(
        "/v1/datasets/flowers/data?create=true&split=70,20,10&seed=3&given_split=false", content=b"zip" * 1000
    )
    assert answer.status_code == 202
    job = answer.json()
    assert (job["kind"], job["state"]) == ("import", "queued")
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    dataset = client.get("/v1/datasets/flowers").json()
    assert (dataset["state"], dataset["id"], dataset["version"]) == ("importing", job["dataset_id"], None)
    row = world.run(lambda session: jobs.get(session, job["id"]))
    assert world.objects.read(row.payload["upload_key"], 0, 6) == b"zipzip"
    assert world.run(lambda session: session.scalars(select(DoomedObject)).all()) == []
    again = client.put("/v1/datasets/flowers/data", content=b"zip")
    assert again.status_code == 409
    assert "importing already" in again.json()["detail"]
    assert len(world.uploads()) == 1


def test_the_upload_of_a_cancelled_import_is_given_to_the_sweep(client: TestClient, world: World) -> None:
    job = client.put("/v1/datasets/flowers/data?create=true", content=b"zip").json()
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    doomed = world.run(lambda session: session.scalars(select(DoomedObject.key)).all())
    assert doomed == [world.run(lambda session: session.get(Job, job["id"])).payload["upload_key"]]
    assert client.get("/v1/datasets/flowers").json()["state"] == "failed"


def test_waiting_for_an_import_answers_at_its_end(client: TestClient, world: World) -> None:
    job = client.put("/v1/datasets/pets/data?create=true", content=b"zip").json()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, f"/v1/jobs/{job['id']}?wait=20")
        row = world.run(lambda session: jobs.get(session, job["id"]))
        world.finish_import(row, report=[("a.txt", "no picture", "left out")])
        ended = waiting.result(10).json()
    assert (ended["state"], ended["result"]["version"]) == ("succeeded", 1)
    report = client.get(f"/v1/jobs/{job['id']}/report").json()
    assert report["items"] == [{"path": "a.txt", "reason": "no picture", "action": "left out"}]


def test_a_ready_data_set_tells_what_is_in_it(client: TestClient, world: World) -> None:
    world.dataset()
    dataset = client.get("/v1/datasets/pets").json()
    assert dataset["state"] == "ready"
    assert dataset["version"]["examples"] == 10
    assert (dataset["version"]["side"], dataset["version"]["labels"]) == (8, ["cat", "dog"])
    stats = client.get("/v1/datasets/pets/stats").json()
    assert stats["splits"] == {"train": 8, "validation": 1, "test": 1}
    assert stats["labels"][0] == {"label": "cat", "train": 4, "validation": 1, "test": 0, "total": 5}
    assert (stats["width"], stats["formats"]) == ({"minimum": 20, "median": 20, "maximum": 20}, {"PNG": 10})
    labels = client.get("/v1/datasets/pets/labels").json()["items"]
    assert [(label["number"], label["name"], label["examples"]) for label in labels] == [(0, "cat", 5), (1, "dog", 5)]
    assert client.get("/v1/datasets/pets/findings").json()["items"][0]["kind"] == "tiny-class"
    assert [item["number"] for item in client.get("/v1/datasets/pets/versions").json()["items"]] == [1]


def test_examples_are_listed_filtered_and_shown(client: TestClient, world: World) -> None:
    world.dataset()
    dogs = client.get("/v1/datasets/pets/examples?label=dog&split=train&page_size=3").json()
    assert [item["number"] for item in dogs["items"]] == [1, 3, 5]
    rest = client.get(f"/v1/datasets/pets/examples?label=dog&split=train&page_token={dogs['next_page_token']}").json()
    assert ([item["number"] for item in rest["items"]], rest["next_page_token"]) == ([7], None)
    example = client.get("/v1/datasets/pets/examples/3").json()
    assert (example["path"], example["label"], example["phash"]) == ("dog/3.png", "dog", "fffffffffffffffd")
    content = client.get(example["links"]["content"])
    assert (content.content, content.headers["content-type"]) == (png(3), "image/png")
    assert "immutable" in content.headers["cache-control"]
    thumbnail = Image.open(io.BytesIO(client.get(example["links"]["thumbnail"]).content))
    assert (thumbnail.size, thumbnail.getpixel((0, 0))) == ((8, 8), (3, 3, 3))
    unknown = client.get("/v1/datasets/pets/examples?label=bird")
    assert unknown.status_code == 422
    assert "cat, dog" in unknown.json()["detail"]


def test_an_example_that_is_not_there_is_not_found(client: TestClient, world: World) -> None:
    world.dataset()
    for number in ("10", "-1", "x", "99999999999999999999"):
        for path in ("", "/content", "/thumbnail"):
            assert client.get(f"/v1/datasets/pets/examples/{number}{path}").status_code == 404


def test_an_empty_data_set_has_nothing_to_show_and_says_how_to_fill_it(client: TestClient) -> None:
    client.post("/v1/datasets", json={"name": "bare"})
    for path in ("stats", "labels", "findings", "examples", "examples/0"):
        answer = client.get(f"/v1/datasets/bare/{path}")
        assert answer.status_code == 409
        assert "PUT /v1/datasets/bare/data" in answer.json()["detail"]


def test_one_of_many_who_create_the_same_name_at_once_succeeds(client: TestClient, world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/datasets", json={"name": "flowers"}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    with ThreadPoolExecutor(4) as pool:
        path = "/v1/datasets/leaves/data?create=true"
        answers = list(pool.map(lambda _: client.put(path, content=b"zip"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 3
    doomed = world.run(lambda session: session.scalars(select(DoomedObject.key)).all())
    assert len(world.uploads()) == 1 + len(doomed)  # those that came too late wait for the sweep


def test_deleting_says_what_it_frees_and_leaves_nothing(client: TestClient, world: World) -> None:
    world.dataset()
    assert client.delete("/v1/datasets/pets").json() == {"freed_bytes": 1000}
    assert client.get("/v1/datasets/pets").status_code == 404
    doomed = world.run(lambda session: session.scalars(select(DoomedObject.key)).all())
    assert any(key.endswith("images.npy") for key in doomed)
    actions = world.run(lambda session: session.scalars(select(AuditEntry.action)).all())
    assert actions[-1] == "dataset.delete"


def test_a_data_set_in_use_is_not_deleted(client: TestClient, world: World) -> None:
    world.dataset()
    world.search()
    answer = client.delete("/v1/datasets/pets")
    assert answer.status_code == 409
    assert "'hunt'" in answer.json()["detail"]


def test_a_split_that_is_none_is_refused_before_the_upload(client: TestClient, world: World) -> None:
    for split in ("80,10", "0,50,50", "50,50,50", "a,b,c", "", "100,0,0", "-10,60,50", "nan,1,1"):
        answer = client.put("/v1/datasets/x/data", params={"create": "true", "split": split}, content=b"zip")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "split"
    assert world.uploads() == []


def test_an_upload_to_an_unknown_data_set_says_how_to_make_it(client: TestClient, world: World) -> None:
    answer = client.put("/v1/datasets/nowhere/data", content=b"zip")
    assert answer.status_code == 404
    assert "create=true" in answer.json()["detail"]
    assert world.uploads() == []


def test_an_empty_upload_is_refused(client: TestClient, world: World) -> None:
    for body in (b"", iter([b""])):
        answer = client.put("/v1/datasets/bare/data?create=true", content=body)
        assert answer.status_code == 422
        assert "empty" in answer.json()["detail"]
    assert world.uploads() == []
    assert client.get("/v1/datasets/bare").status_code == 404


def test_a_data_set_is_divided_anew_in_a_new_version(client: TestClient, world: World) -> None:
    world.dataset(examples=40)
    before = client.get("/v1/datasets/pets/stats").json()
    body = {"fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}, "seed": 7}
    answer = client.post("/v1/datasets/pets/split", json=body)
    assert answer.status_code == 201
    assert (answer.json()["number"], answer.json()["examples"]) == (2, 40)
    stats = client.get("/v1/datasets/pets/stats").json()
    assert (stats["version"], stats["splits"]) == (2, {"train": 20, "validation": 10, "test": 10})
    assert [label["test"] for label in stats["labels"]] == [5, 5]
    assert client.get("/v1/datasets/pets/stats?version=1").json() == before
    example = client.get("/v1/datasets/pets/examples/3").json()
    assert client.get(example["links"]["content"]).content == png(3)
    assert [item["kind"] for item in client.get("/v1/datasets/pets/findings").json()["items"]] == ["tiny-class"]
    version = world.run(lambda session: datasets.require_version(session, datasets.get(session, "pets")))
    assert version.stats["splits"]["test"] == {"cat": 5, "dog": 5}
    with np.load(world.objects.fetch(version.index_key, Path())) as index:
        assert np.bincount(index["splits"]).tolist() == [20, 10, 10]
    assert client.post("/v1/datasets/pets/split", json=body).json()["content_hash"] != answer.json()["content_hash"]
    doomed = world.run(lambda session: session.scalars(select(DoomedObject.key)).all())
    assert doomed == ["uploads/pets"]  # of the import that made it


def test_a_division_that_is_none_is_refused(client: TestClient, world: World) -> None:
    world.dataset()
    for parts, field in (
        ({"train": 0.5}, "fractions"),
        ({"train": 0, "validation": 0.5, "test": 0.5}, "fractions.train"),
        ({"train": 1e999, "validation": 0.5, "test": 0.5}, "fractions.train"),
        ({"training": 1}, "fractions.training"),
    ):
        answer = client.post(
            "/v1/datasets/pets/split",
            content=json.dumps({"fractions": parts}),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == field
    client.post("/v1/datasets", json={"name": "bare"})
    assert client.post("/v1/datasets/bare/split", json={}).status_code == 409
    client.put("/v1/datasets/pets/data", content=b"zip")
    assert client.post("/v1/datasets/pets/split", json={}).status_code == 409
