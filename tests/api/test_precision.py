"""Deployments in int8 over HTTP: only with the export that serves them, which then stays."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.test_exports import ask, make
from tests.api.world import World


@pytest.fixture
def won(world: World) -> World:
    """A model `hunt` in two versions."""
    world.dataset()
    world.finished()
    return world


def quantised(client: TestClient, world: World, model: str, **options: Any) -> str:
    """The path of a new int8 export of `model`."""
    made = make(world, ask(client, "onnx-int8", model, **options)["id"], b"int8 of " + model.encode())
    return f"/v1/models/{model}/exports/{made}"


def deploy(client: TestClient, *targets: dict[str, Any]) -> Any:
    weights = [100 - 10 * (len(targets) - 1), *([10] * (len(targets) - 1))]
    listed = [{"weight": weight} | target for weight, target in zip(weights, targets, strict=True)]
    if client.get("/v1/deployments/pets").status_code == 200:
        return client.patch("/v1/deployments/pets", json={"targets": listed})
    return client.post("/v1/deployments", json={"name": "pets", "targets": listed})


def test_int8_is_refused_with_the_call_that_makes_it_possible(client: TestClient, won: World) -> None:
    for reference in ("hunt", "hunt@2", "hunt@champion"):
        client.put("/v1/models/hunt/aliases/champion", json={"version": 2})
        refused = deploy(client, {"model": reference, "precision": "int8"})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "targets"
        assert 'POST /v1/models/hunt@2/exports {"format": "onnx-int8"}' in refused.json()["detail"]
    assert client.get("/v1/deployments").json()["items"] == []
    odd = deploy(client, {"model": "hunt", "precision": "int4"})
    assert odd.status_code == 422
    assert "'fp32' or 'int8'" in odd.json()["detail"]


def test_a_model_answers_in_both_precisions_side_by_side(client: TestClient, won: World) -> None:
    quantised(client, won, "hunt@2")
    made = deploy(client, {"model": "hunt@2"}, {"model": "hunt@2", "precision": "int8"})
    assert made.status_code == 201, made.text
    assert [target["precision"] for target in made.json()["targets"]] == ["fp32", "int8"]
    twice = deploy(client, *[{"model": "hunt@2", "precision": "int8"}] * 2)
    assert twice.status_code == 422


def test_the_export_that_is_served_is_not_deleted(client: TestClient, won: World) -> None:
    older = quantised(client, won, "hunt@2")
    newer = quantised(client, won, "hunt@2", max_accuracy_drop=0.5)
    deploy(client, {"model": "hunt@2", "precision": "int8"})
    refused = client.delete(newer)
    assert refused.status_code == 409
    assert "the deployment 'pets'" in refused.json()["detail"]
    assert client.delete(older).status_code == 200
    deploy(client, {"model": "hunt@2"})
    assert client.delete(newer).status_code == 200


def test_an_alias_that_is_followed_in_int8_moves_only_to_versions_that_have_it(client: TestClient, won: World) -> None:
    champion = "/v1/models/hunt/aliases/champion"
    client.put(champion, json={"version": 2})
    quantised(client, won, "hunt@2")
    assert deploy(client, {"model": "hunt@champion", "precision": "int8"}).status_code == 201
    refused = client.put(champion, json={"version": 1})
    assert refused.status_code == 422
    assert 'POST /v1/models/hunt@1/exports {"format": "onnx-int8"}' in refused.json()["detail"]
    assert client.get("/v1/models/hunt@champion").json()["version"] == 2
    quantised(client, won, "hunt@1")
    assert client.put(champion, json={"version": 1}).status_code == 200
