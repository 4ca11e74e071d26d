"""What is changed in the rows is what is answered a moment later, and no request is lost on the way."""

import base64
import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import sessionmaker

from netwright import engines
from store import browser_sessions, deployments, keys, migrate, models
from store.database import engine_for
from store.deployments import Target
from store.keys import Role
from store.settings import Settings
from store.states import DeploymentState
from store.tables import ApiKey
from tests.serve.conftest import Serving, Store, eventually, running
from tests.serve.networks import colour_network, picture
from tests.support.service import ROOT
from web.credentials import COOKIE

URL = "/v1/deployments/colours/predict"
SEEN_S = 1.3  # a second, and what a busy machine adds
SOON_S = 10.0  # where it does not matter when


def status(client: httpx.Client, url: str = URL) -> int:
    return client.post(url, content=picture()).status_code


def model_of(client: httpx.Client, url: str = URL, request_id: str = "r") -> str:
    answer = client.post(url, content=picture(), headers={"X-Request-ID": request_id})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["id"])


def test_a_deployment_that_is_pointed_elsewhere_answers_from_there_within_a_second(
    store: Store, serving: Serving
) -> None:
    old, new = store.model(), store.model(onnx=colour_network(turn=1))
    store.deploy("colours", old)
    with serving() as client:
        assert model_of(client) == old
        store.retarget("colours", new)
        eventually(lambda: model_of(client) == new, SEEN_S)
        answer = client.post(URL, content=picture("red")).json()
    assert answer["predictions"][0]["label"] == "green"
    assert answer["model"]["version"] == 2


def test_a_moved_alias_takes_the_requests_with_it(store: Store, serving: Serving) -> None:
    old, new = store.model(), store.model(onnx=colour_network(turn=1))
    store.name("colours", "champion", 1)
    store.deploy("colours", ("colours@champion", 90), (old, 10))
    by_name = "/v1/models/colours@champion/predict"
    ids = [f"request-{number}" for number in range(40)]
    with serving() as client:
        assert {model_of(client, request_id=each) for each in ids} == {old} == {model_of(client, by_name)}
        store.name("colours", "champion", 2)
        eventually(lambda: model_of(client, by_name) == new, SOON_S)
        eventually(lambda: new in {model_of(client, request_id=each) for each in ids}, SOON_S)
        moved = {each: model_of(client, request_id=each) for each in ids}
        assert Counter(moved.values())[new] > 28  # 36 expected, 2 of them one standard deviation
        store.name("colours", "champion", 1)
        eventually(lambda: {model_of(client, request_id=each) for each in ids} == {old}, SOON_S)
        assert status(client, "/v1/models/colours@nobody/predict") == 404


def test_a_target_in_int8_is_answered_by_the_newest_export(store: Store, serving: Serving) -> None:
    own, first, second = (colour_network(turn=turn) for turn in range(3))  # each takes red for another colour
    model = store.model(onnx=own)
    store.quantised("colours", first)
    store.deploy("colours", (model, 100))

    def answered() -> set[str]:
        said = [client.post(URL, content=picture("red")) for _ in range(20)]
        assert {answer.status_code for answer in said} == {200}
        return {answer.json()["predictions"][0]["label"] for answer in said}

    with serving() as client:
        assert answered() == {"red"}
        store.retarget("colours", Target(model, 100, "int8"))
        eventually(lambda: answered() == {"green"}, SOON_S)
        store.quantised("colours", second, method="another")
        eventually(lambda: answered() == {"blue"}, SOON_S)
        store.retarget("colours", Target(model, 50, "int8"), Target(model, 50))
        eventually(lambda: answered() == {"red", "blue"}, SOON_S)
        assert model_of(client) == model


def test_undeployed_deployed_deleted_and_made_anew_each_within_a_second(store: Store, serving: Serving) -> None:
    model = store.model()
    store.deploy("colours", model)

    def move(to: DeploymentState) -> None:
        with store.sessions.begin() as session:
            deployments.move(session, deployments.get(session, "colours"), to)

    with serving() as client:
        assert status(client) == 200
        move(DeploymentState.UNDEPLOYED)
        eventually(lambda: status(client) == 409, SEEN_S)
        move(DeploymentState.DEPLOYED)
        eventually(lambda: status(client) == 200, SEEN_S)
        with store.sessions.begin() as session:
            deployments.delete(session, deployments.get(session, "colours"))
        eventually(lambda: status(client) == 404, SEEN_S)
        store.deploy("colours", model)
        eventually(lambda: status(client) == 200, SEEN_S)


def test_a_models_name_is_its_newest_version_and_a_deleted_version_is_gone_within_a_second(
    store: Store, serving: Serving
) -> None:
    first = store.model("flowers")
    with serving() as client:
        assert model_of(client, "/v1/models/flowers/predict") == first
        second = store.model("flowers")
        eventually(lambda: model_of(client, "/v1/models/flowers/predict") == second, SEEN_S)
        assert model_of(client, "/v1/models/flowers@1/predict") == first
        assert model_of(client, f"/v1/models/{first}/predict") == first
        with store.sessions.begin() as session:
            models.delete(session, models.get(session, first))
        eventually(lambda: status(client, "/v1/models/flowers@1/predict") == 404, SEEN_S)
        assert model_of(client, "/v1/models/flowers/predict") == second


def test_weights_split_the_requests_and_a_request_id_always_meets_the_same_model(
    store: Store, serving: Serving
) -> None:
    champion, challenger = store.model(), store.model()
    store.deploy("colours", (champion, 80), (challenger, 20))
    with serving() as client:
        first = {number: model_of(client, request_id=f"request-{number}") for number in range(400)}
        again = {number: model_of(client, request_id=f"request-{number}") for number in range(0, 400, 10)}
    assert 50 <= Counter(first.values())[challenger] <= 110  # 80 expected, 8 of them one standard deviation
    assert all(first[number] == model for number, model in again.items())


@pytest.mark.slow
def test_ten_switches_under_load_lose_none_of_twenty_thousand_requests(store: Store, serving: Serving) -> None:
    for turn in (0, 1):
        store.model(onnx=colour_network(turn=turn))
    store.name("colours", "champion", 1)
    store.deploy("colours", "colours@champion")
    with serving() as client:
        host, port = client.base_url.host, str(client.base_url.port)
        asked = [host, port, URL, store.key()[1], "20000", "16"]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.serve.load", *asked],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as hammer:  # fmt: skip
            assert hammer.stdin is not None
            print(base64.b64encode(picture("red")).decode(), file=hammer.stdin, flush=True)
            for turn in range(10):
                time.sleep(1)  # seen within one
                if turn % 3 < 2:
                    store.name("colours", "champion", 2 - turn % 2)
                else:  # the same, by the deployment itself
                    store.retarget("colours", f"colours@{2 - turn % 2}")
                    store.name("colours", "champion", 2 - turn % 2)
                    store.retarget("colours", "colours@champion")
            time.sleep(1)
            said, _ = hammer.communicate()
    found = json.loads(said)
    assert found["failures"] == 0, found
    assert found["sent"] >= 20_000
    assert sum(found["outcomes"].values()) == found["sent"]
    assert set(found["outcomes"]) == {"1 red", "2 green"}
    assert found["changes"] >= 6  # on a slow machine two switches may pass as one


def test_a_revoked_key_opens_nothing_within_two_seconds_and_an_expired_one_at_once(
    store: Store, serving: Serving
) -> None:
    store.deploy("colours", store.model())
    key, secret = store.key(Role.VIEWER)
    _, short = store.key(expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    _, over = store.key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with serving() as client:

        def status_with(secret: str) -> int:
            return client.post(URL, content=picture(), headers={"Authorization": f"Bearer {secret}"}).status_code

        assert status_with(over) == 401
        assert status_with(short) == status_with(secret) == 200
        with store.sessions.begin() as session:
            keys.revoke_key(session, key)
        eventually(lambda: status_with(secret) == 401, 2)
        eventually(lambda: status_with(short) == 401, 2)
        made_later = store.key()[1]
        assert status_with(made_later) == 200


@pytest.mark.parametrize("role", list(Role))
def test_every_role_may_predict_and_the_keys_use_is_noted(store: Store, serving: Serving, role: Role) -> None:
    store.deploy("colours", store.model())
    key, secret = store.key(role)
    with serving() as client:
        client.headers.pop("Authorization")
        assert client.post(URL, content=picture(), headers={"X-API-Key": secret}).status_code == 200
    with store.sessions() as session:
        assert session.scalar(text("SELECT last_used_at FROM api_keys WHERE id = :id"), {"id": key}) is not None


def test_predictions_ask_the_database_a_few_times_a_second_whatever_the_load(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    begun: list[object] = []
    with serving() as client:
        status(client)
        count = begun.append  # one object, by which it is removed again
        event.listen(Engine, "begin", count)
        try:
            began = time.monotonic()
            for _ in range(300):
                assert status(client) == 200
            seconds = time.monotonic() - began
        finally:
            event.remove(Engine, "begin", count)
    assert len(begun) < 5 + 6 * seconds  # the key and the route, each every 0.4 s


def test_health_readiness_and_metrics_need_no_key(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    with serving() as client:
        status(client)
        status(client, "/v1/deployments/made-up/predict")
        client.headers.pop("Authorization")
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}
        metrics = client.get("/metrics").text
    assert 'netwright_predict_requests_total{status="200",target="deployment/colours"}' in metrics
    assert 'netwright_predict_latency_seconds_count{target="deployment/colours"}' in metrics
    assert "netwright_models_loaded 1.0" in metrics
    assert "made-up" not in metrics


@pytest.mark.slow
def test_without_its_database_what_is_known_goes_on_and_the_rest_is_told_to_come_again(tmp_path: Path) -> None:
    with ExitStack() as database:
        url = database.enter_context(engines.temporary()).database_url
        migrate.upgrade(url)
        engine = engine_for(url)
        store = Store(sessionmaker(engine, expire_on_commit=False))
        store.deploy("colours", store.model())
        store.model("other")
        engine.dispose()
        with running(Settings(home=tmp_path, database_url=SecretStr(url)), store) as client:
            assert status(client) == 200
            engine.dispose()
            database.close()
            began = time.monotonic()
            while time.monotonic() - began < 1.5:
                assert status(client) == 200
            answer = client.post("/v1/models/other/predict", content=picture())
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "2"
            assert client.get("/readyz").status_code == 503
            assert client.get("/healthz").status_code == 200


def test_a_signed_in_browser_may_predict_until_it_signs_out_and_no_other_site_through_it(
    store: Store, serving: Serving
) -> None:
    store.deploy("colours", store.model())
    key, _ = store.key()
    with store.sessions.begin() as session:
        row = session.get(ApiKey, key)
        assert row is not None
        token, _ = browser_sessions.begin(session, row)
    with serving() as client:
        client.headers.pop("Authorization")
        cookie = {"Cookie": f"{COOKIE}={token}"}

        def status_with(headers: dict[str, str]) -> int:
            return client.post(URL, content=picture(), headers=cookie | headers).status_code

        ours = {"X-Requested-With": "dashboard"}
        assert status_with(ours) == 200
        assert status_with({}) == 403
        assert status_with(ours | {"Sec-Fetch-Site": "cross-site"}) == 403
        with store.sessions.begin() as session:
            browser_sessions.end(session, token)
        eventually(lambda: status_with(ours) == 401, 2)
