"""Who may do what: keys good, wrong, expired, revoked and too weak."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import func, update

from api.deps import current_caller
from store.database import Sessions
from store.keys import PREFIX
from store.settings import Settings
from store.tables import ApiKey
from tests.api.world import World


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_key_is_taken_from_either_header(client: TestClient, secrets: dict[str, str]) -> None:
    client.headers.clear()
    assert client.get("/v1/datasets", headers=bearer(secrets["viewer"])).status_code == 200
    assert client.get("/v1/datasets", headers={"X-API-Key": secrets["viewer"]}).status_code == 200


def test_without_a_good_key_nothing_is_said(client: TestClient, secrets: dict[str, str]) -> None:
    client.headers.clear()
    odd: list[dict[str, Any]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic abc"},
        bearer("nw_short"),
        bearer(PREFIX + "A" * 43),
        bearer(secrets["admin"] + "x"),
        bearer(secrets["admin"].upper()),
        {"X-API-Key": "é".encode()},
        {"X-API-Key": "a" * 5000},
    ]
    for headers in odd:
        for method, path in (
            ("GET", "/v1/datasets"),
            ("POST", "/v1/datasets"),
            ("GET", "/v1/jobs/x"),
            ("GET", "/metrics"),
        ):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, headers
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"


def test_expired_and_revoked_keys_open_nothing(client: TestClient, sessions: Sessions) -> None:
    made = [client.post("/v1/keys", json={"name": "k", "role": "viewer"}).json() for _ in range(2)]
    for key in made:
        assert client.get("/v1/datasets", headers=bearer(key["secret"])).status_code == 200
    with sessions.begin() as session:
        past = func.clock_timestamp() - timedelta(seconds=1)
        session.execute(update(ApiKey).where(ApiKey.id == made[0]["id"]).values(expires_at=past))
    assert client.delete(f"/v1/keys/{made[1]['id']}").status_code == 204
    for key, state in zip(made, ("expired", "revoked"), strict=True):
        assert client.get("/v1/datasets", headers=bearer(key["secret"])).status_code == 401
        assert client.get(f"/v1/keys/{key['id']}").json()["state"] == state


def test_a_role_does_what_it_may_and_no_more(client: TestClient, secrets: dict[str, str], world: World) -> None:
    world.dataset()
    world.finished()
    tried = {
        ("GET", "/v1/limits"): "predictor",
        ("GET", "/v1/datasets"): "viewer",
        ("GET", "/v1/searches/hunt/events"): "viewer",
        ("GET", "/metrics"): "viewer",
        ("POST", "/v1/searches"): "editor",
        ("PUT", "/v1/datasets/pets/data"): "editor",
        ("DELETE", "/v1/searches/none"): "editor",
        ("GET", "/v1/keys"): "admin",
        ("POST", "/v1/keys"): "admin",
        ("GET", "/v1/audit"): "admin",
    }
    ranks = ["predictor", "viewer", "editor", "admin"]
    for (method, path), needed in tried.items():
        for role in ranks:
            answer = client.request(method, path, headers=bearer(secrets[role]))
            assert (answer.status_code == 403) == (ranks.index(role) < ranks.index(needed)), (path, role)
            if answer.status_code == 403:
                assert needed in answer.json()["detail"]
                assert role in answer.json()["detail"]


def test_every_route_of_the_api_asks_for_a_key(app: FastAPI) -> None:
    def asks(dependant: Any) -> bool:
        return dependant.call is current_caller or any(asks(below) for below in dependant.dependencies)

    document = app.openapi()
    public = {
        path for path, methods in document["paths"].items() for item in methods.values() if not item.get("security")
    }
    assert public == {"/healthz", "/readyz", "/v1/session"}  # which is where one shows a key
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path.startswith("/v1") and route.name != "sign_in":
            assert asks(route.dependant), route.path


def test_a_secret_is_shown_once_and_kept_nowhere(client: TestClient, secrets: dict[str, str]) -> None:
    body = {
        "name": "Zoë's site",
        "role": "predictor",
        "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
    }
    made = client.post("/v1/keys", json=body)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    assert key["secret"].startswith(key["hint"])
    assert client.get("/v1/limits", headers=bearer(key["secret"])).status_code == 200
    shown = client.get(f"/v1/keys/{key['id']}").json()
    assert "secret" not in shown
    assert shown["state"] == "active"
    assert shown["last_used_at"] is not None
    listed = client.get("/v1/keys").text + client.get("/v1/audit").text
    assert key["secret"] not in listed
    assert not any(secret in listed for secret in secrets.values())
    refused = client.post("/v1/keys", json=body, headers={"Idempotency-Key": "1"})
    assert refused.status_code == 422
    assert "holds a secret" in refused.json()["detail"]


WRONG_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"name": "k", "role": "king"}, "role"),
    ({"name": "k"}, "role"),
    ({"name": "", "role": "viewer"}, "name"),
    ({"name": "a\0", "role": "viewer"}, "name"),
    ({"name": "\ud800", "role": "viewer"}, "name"),
    ({"name": "x" * 101, "role": "viewer"}, "name"),
    ({"name": "k", "role": "viewer", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ({"name": "k", "role": "viewer", "expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
    ({"name": "k", "role": "viewer", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
    ({"name": "k", "role": "viewer", "expires_at": 10**30}, "expires_at"),
    ({"name": "k", "role": "viewer", "expires_at": "tomorrow"}, "expires_at"),
]


def test_a_key_that_makes_no_sense_is_refused(client: TestClient) -> None:
    for body, field in WRONG_KEYS:
        answer = client.post("/v1/keys", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, body
        assert [fault["field"] for fault in answer.json()["errors"]] == [field]


def test_the_last_admin_key_cannot_be_revoked(client: TestClient) -> None:
    admin = next(key for key in client.get("/v1/keys").json()["items"] if key["role"] == "admin")
    answer = client.delete(f"/v1/keys/{admin['id']}")
    assert answer.status_code == 409
    assert "last admin key" in answer.json()["detail"]
    assert client.delete("/v1/keys/ke_0197c1d2e3f47a5b8c6d7e8f90a1b2c3").status_code == 404
    assert client.delete("/v1/keys/x").status_code == 404


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update=getattr(request, "param", {}))


@pytest.mark.parametrize("settings", [{"requests_per_minute": 3}], indirect=True)
def test_a_key_that_asks_too_often_is_told_when_to_come_back(client: TestClient, secrets: dict[str, str]) -> None:
    answers = [client.get("/v1/limits") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert "3 requests a minute" in answers[-1].json()["detail"]
    assert client.get("/v1/limits", headers=bearer(secrets["viewer"])).status_code == 200
