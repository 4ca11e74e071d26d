"""Aliases over HTTP: movable names of versions, and the deployments that follow them."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.world import World

CHAMPION = "/v1/models/hunt/aliases/champion"


@pytest.fixture
def won(world: World) -> World:
    """A model `hunt` in two versions."""
    world.dataset()
    world.finished()
    return world


def version_of(client: TestClient, reference: str) -> int:
    answer = client.get(f"/v1/models/{reference}")
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


def test_an_alias_names_a_version_and_is_a_reference_like_its_number(client: TestClient, won: World) -> None:
    made = client.put(CHAMPION, json={"version": 1})
    assert made.status_code == 200
    first = client.get("/v1/models/hunt@1").json()
    assert made.json() == client.get(CHAMPION).json()
    assert (made.json()["model"], made.json()["version"], made.json()["id"]) == ("hunt", 1, first["id"])
    assert client.get("/v1/models/hunt@champion").json() == first
    assert first["aliases"] == ["champion"]
    assert client.get("/v1/models/hunt@champion/onnx").content == client.get("/v1/models/hunt@1/onnx").content
    client.put(CHAMPION, json={"version": 2})
    client.put("/v1/models/hunt/aliases/a.b-c_1", json={"version": 2})
    assert version_of(client, "hunt@champion") == version_of(client, "hunt@a.b-c_1") == 2
    assert client.get("/v1/models/hunt@1").json()["aliases"] == []
    assert client.get("/v1/models/hunt").json()["aliases"] == ["a.b-c_1", "champion"]
    page = client.get("/v1/models/hunt/aliases?page_size=1").json()
    assert [item["alias"] for item in page["items"]] == ["a.b-c_1"]
    page = client.get("/v1/models/hunt/aliases", params={"page_token": page["next_page_token"]}).json()
    assert ([item["alias"] for item in page["items"]], page["next_page_token"]) == (["champion"], None)
    assert client.delete(CHAMPION).status_code == 204
    for gone in ("/v1/models/hunt@champion", CHAMPION):
        answer = client.get(gone)
        assert answer.status_code == 404
        assert "hunt@champion" in answer.json()["detail"]
    lines = [line for line in client.get("/v1/audit").json()["items"] if line["target"] == "hunt@champion"]
    assert [(line["action"], line["details"]) for line in reversed(lines)] == [
        ("model.alias.put", {"version": 1, "version_before": None}),
        ("model.alias.put", {"version": 2, "version_before": 1}),
        ("model.alias.delete", {"version": 2}),
    ]


def test_if_match_keeps_two_from_moving_an_alias_at_once(client: TestClient, won: World) -> None:
    seen = client.put(CHAMPION, json={"version": 1}).headers["etag"]
    assert client.put(CHAMPION, json={"version": 2}, headers={"If-Match": seen}).status_code == 200
    stale = client.put(CHAMPION, json={"version": 1}, headers={"If-Match": seen})
    assert stale.status_code == 412
    assert client.delete(CHAMPION, headers={"If-Match": seen}).status_code == 412
    assert version_of(client, "hunt@champion") == 2
    made = client.put("/v1/models/hunt/aliases/other", json={"version": 1}, headers={"If-Match": seen})
    assert made.status_code == 412


ODD_ALIASES: list[tuple[str, Any, int, str]] = [
    ("hunt/aliases/champion", {"version": 3}, 404, "hunt@3"),
    ("hunt/aliases/champion", {"version": 0}, 422, "greater than or equal to 1"),
    ("hunt/aliases/champion", {"version": "1"}, 422, "integer"),
    ("hunt/aliases/champion", {"version": 1, "weight": 3}, 422, "accepted: version"),
    ("hunt/aliases/champion", {}, 422, "required"),
    ("none/aliases/champion", {"version": 1}, 404, "'none'"),
    ("hunt/aliases/7", {"version": 1}, 404, "'7'"),
    ("hunt/aliases/-a", {"version": 1}, 404, "'-a'"),
    (f"hunt/aliases/{'a' * 64}", {"version": 1}, 404, "aaa"),
    ("hunt/aliases/b%00", {"version": 1}, 404, "alias"),
]


def test_what_is_no_alias_is_refused(client: TestClient, won: World, secrets: dict[str, str]) -> None:
    for path, body, status, said in ODD_ALIASES:
        answer = client.put(f"/v1/models/{path}", json=body)
        assert answer.status_code == status, (path, body, answer.text)
        assert said in answer.json()["detail"], (path, body, answer.text)
    assert client.get("/v1/models/hunt/aliases").json()["items"] == []
    assert client.delete(CHAMPION).status_code == 404
    weak = {"Authorization": f"Bearer {secrets['viewer']}"}
    assert client.put(CHAMPION, json={"version": 1}, headers=weak).status_code == 403


def test_a_deployment_follows_an_alias(client: TestClient, won: World) -> None:
    client.put(CHAMPION, json={"version": 1})
    client.put("/v1/models/hunt/aliases/challenger", json={"version": 2})
    targets = [{"model": "hunt@champion", "weight": 90}, {"model": "hunt@challenger", "weight": 10}]
    made = client.post("/v1/deployments", json={"name": "pets", "targets": targets})
    assert made.status_code == 201, made.text

    def told() -> list[tuple[str | None, int, int]]:
        shown = client.get("/v1/deployments/pets").json()
        assert client.get("/v1/deployments").json()["items"] == [shown]
        return [(target["alias"], target["version"], target["weight"]) for target in shown["targets"]]

    assert told() == [("champion", 1, 90), ("challenger", 2, 10)]
    client.put(CHAMPION, json={"version": 2})
    assert told() == [("champion", 2, 90), ("challenger", 2, 10)]
    assert client.get("/v1/models/hunt@2").json()["deployments"] == ["pets"]
    assert client.get("/v1/models/hunt@1").json()["deployments"] == []
    both = client.patch(
        "/v1/deployments/pets", json={"targets": [{**target, "weight": 50} for target in targets[:1] * 2]}
    )
    assert both.status_code == 422
    unknown = client.patch("/v1/deployments/pets", json={"targets": [{"model": "hunt@nobody"}]})
    assert unknown.status_code == 404
    assert "hunt@nobody" in unknown.json()["detail"]
    mixed = [{"model": "hunt@champion", "weight": 50}, {"model": "hunt@2", "weight": 50}]
    assert client.patch("/v1/deployments/pets", json={"targets": mixed}).status_code == 200
    assert told() == [("champion", 2, 50), (None, 2, 50)]


def test_what_is_deployed_or_named_is_not_deleted_and_the_refusal_says_by_whom(client: TestClient, won: World) -> None:
    client.put(CHAMPION, json={"version": 1})
    for name in ("pets", "more-pets"):
        client.post("/v1/deployments", json={"name": name, "targets": [{"model": "hunt@champion"}]})

    def refused(path: str, *said: str) -> None:
        answer = client.delete(path)
        assert answer.status_code == 409, answer.text
        for words in said:
            assert words in answer.json()["detail"]

    for path in ("hunt", "hunt@1", "hunt@champion", "hunt/versions/1"):
        refused(f"/v1/models/{path}", "hunt@1", "the deployments 'more-pets', 'pets'")
    refused(CHAMPION, "hunt@champion", "the deployments 'more-pets', 'pets'")
    for name in ("pets", "more-pets"):
        client.patch(f"/v1/deployments/{name}", json={"targets": [{"model": "hunt@2"}]})
    refused("/v1/models/hunt@1", "the alias 'champion'")
    assert client.delete(CHAMPION).status_code == 204
    assert client.delete("/v1/models/hunt@1").status_code == 200
