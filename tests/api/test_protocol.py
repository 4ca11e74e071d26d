"""What all routes have in common: repetition, ETags, pages, limits, headers, refusals."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import func, select

from api.app import create_app
from store import searches, workers
from store.settings import Settings
from store.states import SearchState
from store.tables import AuditEntry
from tests.api.world import World

JSON = {"Content-Type": "application/json"}


def test_a_repeated_post_is_carried_out_once(client: TestClient, world: World) -> None:
    once = {"Idempotency-Key": "a1"}
    first = client.post("/v1/datasets", json={"name": "flowers"}, headers=once)
    second = client.post("/v1/datasets", json={"name": "flowers"}, headers=once)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert second.headers["idempotent-replayed"] == "true"
    for header in ("location", "etag", "content-type"):
        assert second.headers[header] == first.headers[header]
    assert "idempotent-replayed" not in first.headers
    assert world.run(lambda session: session.scalar(select(func.count(AuditEntry.number)))) == 1


def test_a_key_used_for_another_request_is_refused(client: TestClient, world: World, secrets: dict[str, str]) -> None:
    once = {"Idempotency-Key": "a1"}
    client.post("/v1/datasets", json={"name": "flowers"}, headers=once)
    for other in (
        client.post("/v1/datasets", json={"name": "leaves"}, headers=once),
        client.post("/v1/datasets?x=1", json={"name": "flowers"}, headers=once),
        client.post("/v1/searches", json={"name": "flowers"}, headers=once),
    ):
        assert other.status_code in (409, 422)
    conflict = client.post("/v1/datasets", json={"name": "leaves"}, headers=once)
    assert conflict.status_code == 409
    assert "'a1'" in conflict.json()["detail"]
    editor = once | {"Authorization": f"Bearer {secrets['editor']}"}
    assert client.post("/v1/datasets", json={"name": "leaves"}, headers=editor).status_code == 201


def test_a_refused_request_may_be_sent_again_with_its_key(client: TestClient) -> None:
    once = {"Idempotency-Key": "a1"}
    new = {"dataset": "flowers", "budget": {"minutes": 1}}
    assert client.post("/v1/searches", json=new, headers=once).status_code == 404
    assert client.post("/v1/datasets", json={"name": "flowers"}, headers=once).status_code == 201
    for odd in ("", "a" * 256, "a b", "é".encode("latin-1")):
        answer = client.post("/v1/datasets", json={"name": "x"}, headers={"Idempotency-Key": odd})
        assert answer.status_code == 422


def test_repetitions_at_the_same_time_are_answered_alike(client: TestClient, world: World) -> None:
    world.dataset()
    new = {"dataset": "pets", "budget": {"minutes": 1}}
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda _: client.post("/v1/searches", json=new, headers={"Idempotency-Key": "z"}), range(6))
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/searches").json()["items"]) == 1


def test_an_etag_guards_a_change_and_spares_an_answer(client: TestClient, world: World) -> None:
    made = client.post("/v1/datasets", json={"name": "flowers"})
    first = made.headers["etag"]
    assert client.get("/v1/datasets/flowers").headers["etag"] == first
    unchanged = client.get("/v1/datasets/flowers", headers={"If-None-Match": f'"x", W/{first}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", first)
    changed = client.patch("/v1/datasets/flowers", json={"description": "d"}, headers={"If-Match": first})
    assert changed.status_code == 200
    for tag in (first, '"1"', "1", "", "odd", '"99999999999999999999999"'):
        stale = client.patch("/v1/datasets/flowers", json={"description": "e"}, headers={"If-Match": tag})
        assert stale.status_code == 412
        assert client.delete("/v1/datasets/flowers", headers={"If-Match": tag}).status_code == 412
    assert client.get("/v1/datasets/flowers", headers={"If-None-Match": first}).json()["description"] == "d"
    assert (
        client.get("/v1/datasets", headers={"If-None-Match": client.get("/v1/datasets").headers["etag"]}).status_code
        == 304
    )
    for tag in ("*", f'"7", {changed.headers["etag"]}'):
        assert client.patch("/v1/datasets/flowers", json={"description": "d"}, headers={"If-Match": tag}).status_code in (
            200, 412,
        )  # fmt: skip
    last = client.get("/v1/datasets/flowers").headers["etag"]
    assert client.delete("/v1/datasets/flowers", headers={"If-Match": last}).status_code == 200


def test_a_running_search_keeps_its_revision_while_its_clock_goes_on(client: TestClient, world: World) -> None:
    world.dataset()
    search = world.search()
    world.move("hunt", SearchState.RUNNING)
    seen = client.get("/v1/searches/hunt").headers["etag"]
    world.run(lambda session: searches.tick(session, search.id))
    world.trial("hunt", 0.5)
    assert client.get("/v1/searches/hunt", headers={"If-None-Match": seen}).status_code == 200
    assert client.post("/v1/searches/hunt/pause", headers={"If-Match": seen}).status_code == 200
    assert client.post("/v1/searches/hunt/resume", headers={"If-Match": seen}).status_code == 412


def test_pages_follow_one_another_to_the_end(client: TestClient) -> None:
    for number in range(5):
        client.post("/v1/datasets", json={"name": f"d{number}"})
    names, token = [], None
    while True:
        answer = client.get("/v1/datasets", params={"page_size": 2} | ({"page_token": token} if token else {})).json()
        names += [item["name"] for item in answer["items"]]
        token = answer["next_page_token"]
        if token is None:
            break
    assert names == ["d4", "d3", "d2", "d1", "d0"]


def test_a_page_token_that_is_none_is_refused(client: TestClient, world: World) -> None:
    client.post("/v1/datasets", json={"name": "flowers"})

    def token(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()

    garbage = ["x", "é", "====", "AAAA", "\0", token(1), token({"a": 1}), token("\0"), token("\ud800"), token(None),
               token(True), base64.urlsafe_b64encode(b"[" * 140).decode(), "a" * 201, token("a" * 140)]  # fmt: skip
    for sent in garbage[:-1]:
        answer = client.get("/v1/datasets", params={"page_token": sent})
        assert answer.status_code == 422, sent
        assert answer.json()["errors"][0]["field"] == "page_token"
    for sent in (token("a"), token(10**30), token(1.5), token("\0"), token(-1)):
        answer = client.get("/v1/audit", params={"page_token": sent})
        assert answer.status_code in (200, 422), sent
    for size in ("0", "-1", "501", "x", "1e3", "9" * 30):
        assert client.get(f"/v1/datasets?page_size={size}").status_code == 422


def test_unknown_parameters_are_refused_by_name(client: TestClient) -> None:
    answer = client.get("/v1/datasets?page_sise=3&state=ready")
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "field": "page_sise",
            "value": "3",
            "message": "unknown query parameter; accepted: state, page_size, page_token",
        }
    ]
    assert client.delete("/v1/datasets/x?force=true").json()["errors"][0]["message"].endswith("this route takes none")


def test_bodies_that_cannot_be_read_are_refused(client: TestClient) -> None:
    def post(content: bytes, **headers: str) -> int:
        return client.post("/v1/datasets", content=content, headers=headers).status_code

    assert post(b"{nope", **JSON) == 400
    assert post(b"\xff\xfe", **JSON) == 400
    assert post(b"[" * 200_000, **JSON) == 400
    assert post(b'{"name": ' + b"1" * 10_000 + b"}", **JSON) in (400, 422)
    assert post(b'{"name": "x"}') == 415
    assert post(b'{"name": "x"}', **{"Content-Type": "text/plain"}) == 415
    assert post(b"", **JSON) == 422
    assert post(b"null", **JSON) == 422
    assert post(b"[]", **JSON) == 422
    assert post(b'{"name": "x", "description": "\\u0000"}', **JSON) == 422
    assert post(b'{"name": "x", "description": "\\ud800"}', **JSON) == 422
    assert post(b'{"name": "x", "description": "' + b"y" * 2001 + b'"}', **JSON) == 422
    assert post(b'{"name": "x", "description": "' + "👩‍🚀 ﷽ é".encode() + b'"}', **JSON) == 201
    too_long = client.post("/v1/datasets", content=b" " * (1 << 20) + b"{}", headers=JSON)
    assert (too_long.status_code, too_long.headers["content-type"]) == (413, "application/problem+json")
    chunked = client.post("/v1/datasets", content=iter([b" " * (1 << 19)] * 3), headers=JSON)
    assert chunked.status_code == 413
    assert "1048576 bytes" in chunked.json()["detail"]


def test_a_path_that_can_name_nothing_is_not_found(client: TestClient) -> None:
    for name in ("%00", "%ff", "a%2fb", "%F0%9F%98%80", "-x", "x" * 64, "a%0a", "..%2f..%2fetc", "'%20OR%201=1"):
        for path in ("datasets", "searches", "models", "deployments", "jobs", "keys"):
            answer = client.get(f"/v1/{path}/{name}")
            assert answer.status_code == 404, (path, name)
            assert answer.headers["content-type"] == "application/problem+json"


def test_every_answer_has_an_id_and_keeps_browsers_out(client: TestClient) -> None:
    for path in ("/v1/datasets", "/v1/nothing", "/healthz", "/docs"):
        answer = client.get(path, headers={"X-Request-ID": "trace-1", "Origin": "https://elsewhere.example"})
        assert answer.headers["x-request-id"] == "trace-1"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert not any(name.startswith("access-control") for name in answer.headers)
    assert client.options("/v1/datasets", headers={"Origin": "https://elsewhere.example"}).status_code == 405


def test_a_database_that_is_away_is_said_to_be(settings: Settings) -> None:
    away = SecretStr("postgresql://nobody:nothing@127.0.0.1:9/none")
    app = create_app(settings.model_copy(update={"database_url": away}))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/v1/datasets", headers={"X-API-Key": "nw_" + "A" * 43})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "database does not answer" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"], ready.json()["broker"]) == (503, "not ready", "ok")


def test_a_broker_that_is_away_stops_nothing_but_readiness(
    settings: Settings, secrets: dict[str, str], world: World
) -> None:
    world.dataset()
    app = create_app(settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    with TestClient(app, headers={"X-API-Key": secrets["editor"]}, raise_server_exceptions=False) as client:
        assert client.post("/v1/searches", json={"dataset": "pets", "budget": {"minutes": 1}}).status_code == 202
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["database"], ready.json()["broker"]) == (503, "ok", "failed")


def test_it_is_ready_and_counts_what_it_does(client: TestClient, world: World) -> None:
    world.dataset()
    world.finished()
    assert client.get("/readyz").json() == {"status": "ready", "database": "ok", "migrations": "ok", "broker": "ok"}
    client.get("/v1/datasets/pets")
    text = client.get("/metrics").text
    assert "process_resident_memory_bytes" in text
    assert 'netwright_http_requests_total{method="GET",route="/v1/datasets/{dataset}",status="200"} 1.0' in text
    assert 'netwright_search_count{state="succeeded"} 1.0' in text
    assert 'netwright_trial_count{state="failed"} 1.0' in text
    assert "netwright_workers_alive 0.0" in text
    usage = client.get("/v1/usage").json()
    assert (usage["datasets"], usage["examples"], usage["trials"], usage["trial_seconds"]) == (1, 10, 3, 4.0)


def test_the_workers_are_shown_with_what_they_do(client: TestClient, world: World) -> None:
    world.run(lambda session: workers.beat(session, "w@host", ["trial"]))
    assert client.get("/v1/workers").json()["items"][0]["name"] == "w@host"


def test_limits_tell_what_a_form_needs(client: TestClient, app: FastAPI) -> None:
    limits = client.get("/v1/limits").json()
    assert limits["search"]["minutes"] == {"minimum": 0.5, "maximum": 43200}
    cell = next(space for space in limits["search"]["spaces"] if space["name"] == "cell")
    assert next(option for option in cell["options"] if option["name"] == "blocks")["maximum"] == 7
    names = [option["name"] for option in limits["search"]["limits"]]
    assert names == ["max_params", "max_flops", "max_size_mb", "max_latency_ms"]
    assert all(option["default"] is None and option["minimum"] > 0 for option in limits["search"]["limits"])


def test_changes_are_noted_with_who_made_them(client: TestClient, secrets: dict[str, str]) -> None:
    editor = {"Authorization": f"Bearer {secrets['editor']}"}
    made = client.post("/v1/datasets", json={"name": "flowers"}, headers=editor).json()
    client.post("/v1/datasets", json={"name": "leaves"})
    lines = client.get(f"/v1/audit?target={made['id']}").json()["items"]
    assert [(line["action"], line["target"]) for line in lines] == [("dataset.create", made["id"])]
    by_id = {key["id"]: key["role"] for key in client.get("/v1/keys").json()["items"]}
    assert by_id[lines[0]["key"]] == "editor"
