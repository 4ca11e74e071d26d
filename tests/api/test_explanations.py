"""Explanations over HTTP, with a model that was really trained and the worker's own code for the job."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from store.database import Sessions
from store.settings import Settings
from tests.api.world import World
from tests.support.pictures import png, some_digits
from tests.support.trained import trained_model
from tests.support.versions import digits_version
from worker import jobs
from worker.context import Context

URL = "/v1/models/digits-net/explanations"
SEVEN = png(some_digits(1, first=45)[0][7])


@pytest.fixture
def context(settings: Settings, world: World, sessions: Sessions, tmp_path: Path) -> Iterator[Context]:
    """A worker's; there is the model digits-net, and the data set pets, which has other labels and another size."""
    context = Context.of(settings)
    with sessions.begin() as session:
        trained_model(session, digits_version(session, context.objects, tmp_path / "made", per_class=50))
    world.dataset()
    yield context
    context.sessions.kw["bind"].dispose()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def explained(client: TestClient, context: Context, **wish: Any) -> dict[str, Any]:
    """The ended job of a request."""
    answer = client.post(URL, json=wish)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert (answer.json()["kind"], answer.json()["state"]) == ("explanation", "queued")
    jobs.run(context, answer.json()["id"], "worker")
    ended: dict[str, Any] = client.get(answer.headers["location"]).json()
    return ended


def fault(answer: httpx.Response) -> tuple[str, str]:
    """Field and message of the one thing that is wrong."""
    assert answer.status_code == 422, answer.text
    (only,) = answer.json()["errors"]
    return only["field"], only["message"]


def test_a_picture_of_ones_own_is_explained_looked_at_and_deleted(client: TestClient, context: Context) -> None:
    job = explained(client, context, picture=b64(SEVEN), method="integrated_gradients", label="7")
    assert job["state"] == "succeeded", job
    result = client.get(job["links"]["explanation"]).json()
    assert result["id"] == job["result"]["explanation_id"]
    assert (result["model"], result["version"], result["label"]) == ("digits-net", 1, "7")
    assert (result["dataset"], result["example"]) == (None, None)
    grid = np.array(result["grid"])
    assert grid.shape == (28, 28)
    expected = result["score"] - result["details"]["baseline_score"] + result["delta"]
    assert grid.sum() == pytest.approx(expected, abs=1e-3)
    overlay = client.get(result["links"]["overlay"])
    assert overlay.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(overlay.content)).size == (252, 252)
    tag = {"If-None-Match": overlay.headers["etag"]}
    assert client.get(result["links"]["overlay"], headers=tag).status_code == 304
    assert client.delete(result["links"]["self"]).json()["freed_bytes"] == len(overlay.content)
    for link in ("self", "overlay"):
        assert client.get(result["links"][link]).status_code == 404
    assert client.delete(result["links"]["self"]).status_code == 404
    actions = {line["action"] for line in client.get("/v1/audit").json()["items"]}
    assert {"explanation.create", "explanation.delete"} <= actions


def test_an_example_of_any_data_set_is_explained_and_the_explanation_outlives_it(
    client: TestClient, context: Context
) -> None:
    job = explained(client, context, dataset="pets", example=3, method="grad_cam")
    assert job["state"] == "succeeded", job
    one = client.get(job["links"]["explanation"]).json()
    assert (one["dataset"], one["dataset_version"], one["example"]) == ("pets", 1, 3)
    assert client.get(one["links"]["example"]).status_code == 200
    assert one["details"]["layer_size"][0] > 1
    assert client.delete("/v1/datasets/pets").status_code == 200
    later = client.get(one["links"]["self"]).json()
    assert (later["dataset"], later["dataset_version"]) == (None, None)
    assert later["grid"] == one["grid"]


def test_explanations_are_listed_in_pages_newest_first_without_their_grids(
    client: TestClient, context: Context
) -> None:
    made = [
        explained(client, context, picture=b64(SEVEN), method="occlusion", patch=patch)["result"]["explanation_id"]
        for patch in (7, 14, 28)
    ]
    first = client.get(URL, params={"page_size": 2}).json()
    rest = client.get(URL, params={"page_size": 2, "page_token": first["next_page_token"]}).json()
    listed = first["items"] + rest["items"]
    assert [item["id"] for item in listed] == made[::-1]
    assert [item["details"]["patch"] for item in listed] == [28, 14, 7]
    assert rest["next_page_token"] is None
    assert all("grid" not in item for item in listed)
    jobs_listed = client.get("/v1/jobs", params={"kind": "explanation"}).json()["items"]
    assert len(jobs_listed) == 3
    assert client.get(client.get("/v1/models/digits-net").json()["links"]["explanations"]).json()["items"] == listed


ODD: list[tuple[dict[str, Any], str, str]] = [
    ({"picture": b64(SEVEN), "method": "occlusion", "label": "cat"}, "label", "it knows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
    ({"picture": b64(SEVEN), "method": "occlusion", "patch": 29}, "patch", "28×28 pixels; a patch may have 1 to 28"),
    ({"picture": b64(SEVEN), "method": "occlusion", "patch": 4, "stride": 5}, "stride", "may be 1 to 4"),
    ({"picture": b64(SEVEN), "method": "grad_cam", "patch": 4}, "", "of the method occlusion alone"),
    ({"picture": b64(SEVEN), "method": "lime"}, "method", "'integrated_gradients', 'grad_cam' or 'occlusion'"),
    ({"picture": b64(SEVEN)}, "method", "required"),
    ({"method": "occlusion"}, "", "dataset and example, or picture"),
    ({"picture": b64(SEVEN), "dataset": "pets", "example": 1, "method": "occlusion"}, "", "give one picture"),
    ({"dataset": "pets", "method": "occlusion"}, "", "give one picture"),
    ({"example": 1, "method": "occlusion"}, "", "belong together"),
    ({"picture": "***", "method": "occlusion"}, "picture", "is not base64"),
    ({"picture": "", "method": "occlusion"}, "picture", "is empty"),
    ({"picture": b64(b"hello, world"), "method": "occlusion"}, "picture", "is not a picture"),
]


def test_what_cannot_be_explained_is_refused_before_a_job_begins(client: TestClient, context: Context) -> None:
    for wish, field, said in ODD:
        found, message = fault(client.post(URL, json=wish))
        assert found == field, wish
        assert said in message, wish
    huge = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(huge, "PNG")
    assert (
        "100,010,000 pixels, the limit is 100,000,000"
        in fault(client.post(URL, json={"picture": b64(huge.getvalue()), "method": "occlusion"}))[1]
    )
    large = client.post(URL, json={"picture": b64(bytes(17 << 20)), "method": "occlusion"})
    assert (large.status_code, large.json()["type"]) == (413, "urn:netwright:problem:content-too-large")
    for place, wish in (
        ("/v1/models/none/explanations", {"picture": b64(SEVEN), "method": "occlusion"}),
        (URL, {"dataset": "none", "example": 1, "method": "occlusion"}),
        (URL, {"dataset": "pets", "example": 10, "method": "occlusion"}),
        (URL, {"dataset": "pets", "version": 2, "example": 1, "method": "occlusion"}),
    ):
        assert client.post(place, json=wish).status_code == 404, wish
    assert client.get("/v1/jobs", params={"kind": "explanation"}).json()["items"] == []
    assert client.get(f"{URL}/xp_{0:032x}").status_code == 404


def test_what_is_deleted_before_its_turn_is_named(client: TestClient, context: Context) -> None:
    of_pets = client.post(URL, json={"dataset": "pets", "example": 1, "method": "occlusion"}).json()["id"]
    client.delete("/v1/datasets/pets")
    jobs.run(context, of_pets, "worker")
    gone = client.get(f"/v1/jobs/{of_pets}").json()
    assert (gone["state"], gone["error"]["kind"]) == ("failed", "refused")
    assert "the data set of example 1 was deleted" in gone["error"]["message"]


def test_who_may_look_may_not_ask_and_the_same_request_is_carried_out_once(
    client: TestClient, context: Context, secrets: dict[str, str]
) -> None:
    wish = {"picture": b64(SEVEN), "method": "occlusion"}
    as_viewer = {"Authorization": f"Bearer {secrets['viewer']}"}
    assert client.post(URL, json=wish, headers=as_viewer).status_code == 403
    assert client.get(URL, headers=as_viewer).status_code == 200
    once = [client.post(URL, json=wish, headers={"Idempotency-Key": "one"}).json()["id"] for _ in range(2)]
    assert once[0] == once[1]
