"""Models and deployments over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from store.states import SearchState
from tests.api.world import World


@pytest.fixture
def won(world: World) -> World:
    world.dataset()
    world.finished()
    return world


def test_a_model_is_had_by_name_version_and_id(client: TestClient, won: World) -> None:
    newest = client.get("/v1/models/hunt").json()
    assert (newest["version"], newest["dataset"], newest["dataset_version"]) == (2, "pets", 1)
    assert client.get("/v1/models/hunt@2").json() == newest == client.get(f"/v1/models/{newest['id']}").json()
    assert client.get("/v1/models/hunt/versions/2").json() == newest
    assert client.get("/v1/models/hunt@1").json()["version"] == 1
    assert [item["version"] for item in client.get("/v1/models/hunt/versions").json()["items"]] == [2, 1]
    assert [item["version"] for item in client.get("/v1/models").json()["items"]] == [2]
    for nowhere in ("none", "hunt@3", "hunt@0", "hunt/versions/3", "hunt/versions/0", "hunt/versions/x", "%00"):
        assert client.get(f"/v1/models/{nowhere}").status_code == 404


def test_a_model_is_evaluated_and_taken_away(client: TestClient, won: World) -> None:
    evaluation = client.get("/v1/models/hunt/evaluation").json()
    assert (evaluation["split"], evaluation["metrics"]) == ("test", {"accuracy": 0.5, "auc_pr": None})
    assert client.get(evaluation["links"]["confusion"]).json()["matrix"] == [[0, 1], [0, 1]]
    assert client.get("/v1/models/hunt/evaluation?split=validation").status_code == 404
    onnx = client.get("/v1/models/hunt/onnx")
    assert onnx.content.startswith(b"onnxtr_")
    assert onnx.headers["content-disposition"] == 'attachment; filename="hunt-2.onnx"'


def test_the_source_of_a_model_can_be_taken_away(client: TestClient, world: World) -> None:
    world.dataset()
    world.finished()
    answer = client.get(client.get("/v1/models/hunt").json()["links"]["source"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/x-python; charset=utf-8")
    assert 'filename="hunt-2.py"' in answer.headers["content-disposition"]
    assert "class Network" in answer.text
    assert client.get("/v1/models/none/source").status_code == 404


def test_models_outlive_their_search_and_data_set(client: TestClient, won: World) -> None:
    assert client.delete("/v1/datasets/pets").status_code == 200
    model = client.get("/v1/models/hunt").json()
    assert (model["dataset"], model["search"]) == (None, None)
    assert client.delete("/v1/models/hunt/versions/1").json()["freed_bytes"] > 0
    assert client.delete("/v1/models/hunt").status_code == 200
    assert client.get("/v1/models/hunt").status_code == 404


def test_the_best_so_far_of_a_running_search_stays(client: TestClient, world: World) -> None:
    world.dataset()
    world.search()
    world.move("hunt", SearchState.RUNNING)
    world.model("hunt", world.trial("hunt", 0.5))
    answer = client.delete("/v1/models/hunt")
    assert answer.status_code == 409
    assert "running search" in answer.json()["detail"]


def test_a_deployment_is_made_pointed_elsewhere_undeployed_and_deleted(client: TestClient, won: World) -> None:
    made = client.post("/v1/deployments", json={"name": "pets", "targets": [{"model": "hunt"}]})
    assert made.status_code == 201
    assert made.headers["location"] == "/v1/deployments/pets"
    assert [(target["model"], target["version"], target["weight"]) for target in made.json()["targets"]] == [
        ("hunt", 2, 100)
    ]
    assert client.get("/v1/models/hunt").json()["deployments"] == ["pets"]
    refused = client.delete("/v1/models/hunt")
    assert refused.status_code == 409
    assert "'pets'" in refused.json()["detail"]
    split = {"targets": [{"model": "hunt@1", "weight": 10}, {"model": "hunt@2", "weight": 90}]}
    patched = client.patch("/v1/deployments/pets", json=split)
    assert sorted(target["weight"] for target in patched.json()["targets"]) == [10, 90]
    assert client.patch("/v1/deployments/pets", json={"state": "undeployed"}).json()["state"] == "undeployed"
    assert client.patch("/v1/deployments/pets", json={"state": "undeployed"}).status_code == 200
    assert len(client.get("/v1/deployments").json()["items"]) == 1
    assert client.delete("/v1/deployments/pets").status_code == 204
    assert client.get("/v1/deployments/pets").status_code == 404


ODD_DEPLOYMENTS: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "p", "targets": []}, 422, "at least 1"),
    ({"name": "p", "targets": [{"model": "none"}]}, 404, "'none'"),
    ({"name": "p", "targets": [{"model": "hunt", "weight": 50}]}, 422, "add up to 50"),
    ({"name": "p", "targets": [{"model": "hunt", "weight": 0}]}, 422, "greater than or equal to 1"),
    ({"name": "p", "targets": [{"model": "hunt", "weight": 50}] * 2}, 422, "same model"),
    ({"name": "p", "targets": [{"model": "hunt", "share": 100}]}, 422, "accepted: model, weight"),
    ({"name": "p", "targets": [{"model": "hu\0nt"}]}, 422, "id or a name"),
    ({"name": "p"}, 422, "required"),
    ({"name": "..", "targets": [{"model": "hunt"}]}, 422, "letters, digits"),
]


def test_a_deployment_of_nothing_sensible_is_refused(client: TestClient, won: World) -> None:
    for body, status, said in ODD_DEPLOYMENTS:
        answer = client.post("/v1/deployments", json=body)
        assert answer.status_code == status, body
        assert said in answer.json()["detail"], body
    assert client.get("/v1/deployments").json()["items"] == []


def test_a_patch_without_a_change_is_refused(client: TestClient, won: World) -> None:
    client.post("/v1/deployments", json={"name": "pets", "targets": [{"model": "hunt"}]})
    for body in ({}, {"state": None}, {"targets": None}):
        assert client.patch("/v1/deployments/pets", json=body).status_code == 422


def test_one_of_many_deployments_of_one_name_is_made(client: TestClient, won: World) -> None:
    body = {"name": "pets", "targets": [{"model": "hunt"}]}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/deployments", json=body), range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5
