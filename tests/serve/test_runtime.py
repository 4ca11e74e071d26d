"""Models come into memory when asked for, leave when idle, and a broken one breaks nothing else."""

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from serve import app
from serve.capacity import Capacity
from tests.serve.conftest import Serving, Store, digest, eventually
from tests.serve.networks import colour_network, heavy_network, picture


def predict(client: httpx.Client, model: str) -> httpx.Response:
    return client.post(f"/v1/models/{model}/predict", content=picture())


def loads(outcome: str = "succeeded") -> float:
    return REGISTRY.get_sample_value("netwright_model_loads_total", {"outcome": outcome}) or 0.0


def colds(outcome: str) -> float:
    return REGISTRY.get_sample_value("netwright_model_cold_requests_total", {"outcome": outcome}) or 0.0


def loaded() -> float | None:
    return REGISTRY.get_sample_value("netwright_models_loaded")


def change(store: Store, statement: str, document: bytes) -> None:
    with store.sessions.begin() as session:
        session.execute(text(statement), {"sha256": digest(document)})


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "UPDATE blob_chunks SET data = set_byte(data, 100, 255 - get_byte(data, 100)) WHERE sha256 = :sha256",
            "holds other bytes",
        ),
        ("DELETE FROM blob_chunks WHERE sha256 = :sha256", "ends after 0 of"),
    ],
)
def test_a_model_with_damaged_bytes_is_refused_by_name_while_others_answer(
    store: Store, serving: Serving, statement: str, reason: str
) -> None:
    document = colour_network(turn=2)
    good, bad = store.model("good"), store.model("bad", document)
    change(store, statement, document)
    store.deploy("mixed", (good, 50), (bad, 50))
    with serving() as client:
        answer = predict(client, "bad")
        assert answer.status_code == 500
        assert answer.json()["type"] == "urn:netwright:problem:unusable-model"
        for said in ("bad@1", bad, digest(document).hex(), reason):
            assert said in answer.json()["detail"]
        assert predict(client, "good").status_code == 200
        answers = [client.post("/v1/deployments/mixed/predict", content=picture()) for _ in range(30)]
        assert {answer.status_code for answer in answers} == {200, 500}
        assert all("bad@1" in answer.text for answer in answers if answer.status_code == 500)


def test_what_is_no_model_or_another_one_than_its_row_says_is_refused(store: Store, serving: Serving) -> None:
    for name, onnx, side, labels, reason in (
        ("nonsense", b"no ONNX at all", 16, ("a", "b", "c"), "ONNX Runtime"),
        ("side", colour_network(side=16), 24, ("a", "b", "c"), "[24, 24, 3]"),
        ("labels", colour_network(side=16), 16, ("a", "b"), "[2]"),
        ("infinite", colour_network(sharpness=float("nan")), 16, ("a", "b", "c"), "not finite"),
    ):
        store.model(name, onnx, side=side, labels=labels)
        with serving() as client:
            answer = predict(client, name)
        assert answer.status_code == 500
        assert reason in answer.json()["detail"], answer.text


def test_a_broken_model_is_not_read_again_at_every_request(store: Store, serving: Serving) -> None:
    store.model("nonsense", b"no ONNX at all")
    with serving() as client:
        before = loads("failed")
        for _ in range(20):
            assert predict(client, "nonsense").status_code == 500
    assert loads("failed") == before + 1


def test_many_first_requests_load_a_model_once(store: Store, serving: Serving) -> None:
    store.model("heavy", heavy_network(), side=64)
    with serving() as client, ThreadPoolExecutor(16) as threads:
        before = loads()
        answers = list(threads.map(lambda _: predict(client, "heavy").status_code, range(32)))
    assert answers == [200] * 32
    assert loads() == before + 1


def test_an_idle_model_is_unloaded_and_comes_back_when_asked_for(
    store: Store, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SWEEP_S", 0.05)
    store.model("colours")
    with serving(Capacity(idle_s=0.3)) as client:
        cold = colds("answered")
        assert predict(client, "colours").status_code == 200
        assert (loaded(), colds("answered")) == (1, cold + 1)
        assert predict(client, "colours").status_code == 200
        assert colds("answered") == cold + 1
        eventually(lambda: loaded() == 0, 10)
        assert predict(client, "colours").status_code == 200
        assert (loaded(), colds("answered")) == (1, cold + 2)


def test_a_first_request_waits_for_its_model_no_longer_than_is_bearable(store: Store, serving: Serving) -> None:
    store.model("colours")
    store.model("other", colour_network(turn=1))
    with serving(Capacity(load_max_s=0.3)) as client:
        assert predict(client, "other").status_code == 200
        before = colds("refused")
        with store.sessions.begin() as session:
            session.execute(text("LOCK TABLE blob_chunks IN ACCESS EXCLUSIVE MODE"))
            answer = predict(client, "colours")
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "colours@1 is still being loaded after 0.3 s" in answer.json()["detail"]
            assert colds("refused") == before + 1
            assert predict(client, "other").status_code == 200
        eventually(lambda: predict(client, "colours").status_code == 200, 10)


def test_the_longest_unused_model_makes_room_for_another(store: Store, serving: Serving) -> None:
    size = len(colour_network())
    for name in ("a", "b", "c"):
        store.model(name)
    with serving(Capacity(models_max_bytes=2 * size + size // 2)) as client:
        for name in ("a", "b", "a", "c"):
            assert predict(client, name).status_code == 200
        assert loaded() == 2
        before = loads()
        predict(client, "a")
        predict(client, "c")
        assert loads() == before
        predict(client, "b")
        assert loads() == before + 1


def test_a_retarget_to_a_broken_model_says_so(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model("good"))
    broken = store.model("broken", b"no ONNX at all")
    with serving() as client:
        url = "/v1/deployments/colours/predict"
        assert client.post(url, content=picture()).status_code == 200
        store.retarget("colours", broken)
        eventually(lambda: client.post(url, content=picture()).status_code == 500, 1.5)


def test_a_client_that_leaves_is_not_worked_for(store: Store, serving: Serving) -> None:
    store.model("heavy", heavy_network(width=64, depth=8), side=64)

    def batches() -> float:
        return REGISTRY.get_sample_value("netwright_predict_batch_size_count") or 0.0

    def gone() -> float:
        labels = {"target": "model/heavy", "status": "499"}
        return REGISTRY.get_sample_value("netwright_predict_requests_total", labels) or 0.0

    with serving(Capacity(batch_max=1)) as client:
        assert predict(client, "heavy").status_code == 200
        batches_before, gone_before = batches(), gone()
        body = picture()
        request = (
            f"POST /v1/models/heavy/predict HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        address = (client.base_url.host, client.base_url.port or 0)
        impatient = [socket.create_connection(address, timeout=10) for _ in range(16)]
        for connection in impatient:
            connection.sendall(request)
        for connection in impatient:
            connection.close()
        eventually(lambda: gone() - gone_before >= 10, 5)
        assert predict(client, "heavy").status_code == 200
        assert batches() - batches_before <= 7
