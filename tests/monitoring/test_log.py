"""What deployments answer is written down: sampled, bounded, for as long as was asked."""

import base64
import io
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import Engine, text, update

from ingest.statistics import appearance
from serve.capacity import Capacity
from store import keys, migrate
from store.keys import Role
from store.settings import Settings
from store.tables import DoomedObject, LogEntry
from tests.monitoring.conftest import URL, Watched, deploy, eventually, files, fresh_digits, serving
from worker.context import Context


def test_each_picture_that_was_answered_is_in_the_log(watched: Watched) -> None:
    pictures = files(fresh_digits(4))
    began = datetime.now(UTC)
    (first,) = watched.ask(pictures[:1], **{"X-Request-ID": "mine"})
    form = [("image", ("a.png", picture)) for picture in pictures[1:]]
    second = watched.client.post(f"{URL}/predict", files=form).json()
    entries = watched.logged(4)
    assert [(entry["request_id"], entry["item"]) for entry in entries] == [
        (second["request_id"], 2), (second["request_id"], 1), (second["request_id"], 0), ("mine", 0),
    ]  # fmt: skip
    oldest = entries[-1]
    told = first["predictions"][0]
    assert (oldest["label"], oldest["score"]) == (told["label"], told["score"])
    assert oldest["scores"] == told["scores"]
    assert (oldest["model_id"], oldest["model"]) == (first["model"]["id"], "digits@1")
    assert oldest["latency_ms"] == first["latency_ms"]
    assert oldest["sha256"] == sha256(pictures[0]).hexdigest()
    assert (oldest["picture"], oldest["feedback"], oldest["true_label"]) == (None, None, None)
    pixels = fresh_digits(1)[0].astype(float) / 255
    assert oldest["statistics"]["gray_mean"] == pytest.approx(pixels.mean(), rel=1e-3)
    assert oldest["statistics"]["gray_deviation"] == pytest.approx(pixels.std(), rel=1e-3)
    assert oldest["statistics"]["aspect_ratio"] == 1.0
    assert began <= datetime.fromisoformat(oldest["at"]) <= datetime.now(UTC)


def test_the_log_is_read_in_pages_and_by_label_time_certainty_and_request(watched: Watched) -> None:
    replies = watched.ask(files(fresh_digits(20)))
    entries = watched.logged(20)
    token, paged = None, []
    while token is not None or not paged:
        page = watched.get("/requests", page_size=7, **({"page_token": token} if token else {}))
        paged += page["items"]
        token = page["next_page_token"]
    assert paged == entries
    label = replies[0]["predictions"][0]["label"]
    assert watched.get("/requests", label=label)["items"] == [entry for entry in entries if entry["label"] == label]
    unsure = sorted(entry["score"] for entry in entries)[4]
    assert watched.get("/requests", max_score=unsure)["items"] == [e for e in entries if e["score"] <= unsure]
    assert watched.get("/requests", since=entries[5]["at"])["items"] == entries[:6]
    assert watched.get("/requests", request_id=replies[3]["request_id"])["items"] == [entries[-4]]
    assert watched.get("/requests", label="none such")["items"] == []


def test_pictures_are_kept_where_that_is_asked_for_and_found_again(watched: Watched) -> None:
    (picture,) = files(fresh_digits(1))
    watched.ask([picture])
    assert watched.client.patch(URL, json={"logging": {"pictures": True}}).json()["logging"] == {
        "sample": 1.0,
        "pictures": True,
        "retention_days": 7,
    }

    def is_kept() -> bool:
        watched.ask([picture])
        return any(entry["picture"] for entry in watched.get("/requests")["items"])

    eventually(is_kept)
    entries = watched.get("/requests")["items"]
    answer = watched.client.get(next(entry["picture"] for entry in entries if entry["picture"]))
    assert (answer.content, answer.headers["content-type"]) == (picture, "image/png")
    assert answer.headers["cache-control"] == "private, no-store"
    without = watched.client.get(f"{URL}/requests/{entries[-1]['id']}/picture")
    assert without.status_code == 404
    assert "no picture kept" in without.json()["detail"]


def test_requests_over_the_open_inference_protocol_are_logged_like_others(watched: Watched) -> None:
    watched.client.patch(URL, json={"logging": {"pictures": True}})
    pixels = fresh_digits(2)
    (file,) = files(pixels[:1])
    tensor = {"name": "images", "shape": [2, 28, 28, 1], "datatype": "UINT8", "data": pixels.ravel().tolist()}
    encoded = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(file).decode()]}

    def are_kept() -> bool:
        for name, given in (("tensor", tensor), ("file", encoded)):
            answer = watched.client.post("/v2/models/reader/infer", json={"id": name, "inputs": [given]})
            assert answer.status_code == 200, answer.text
        return all(
            sum(entry["picture"] is not None for entry in watched.get("/requests", request_id=name)["items"])
            for name in ("tensor", "file")
        )

    eventually(are_kept)
    (one,) = watched.get("/requests", request_id="file", page_size=1)["items"]
    *_, second, first = watched.get("/requests", request_id="tensor", page_size=500)["items"]
    assert (first["item"], second["item"]) == (0, 1)
    assert (first["label"], first["score"]) == (one["label"], one["score"])
    assert first["sha256"] == sha256(pixels[0].tobytes()).hexdigest()
    assert one["sha256"] == sha256(file).hexdigest()
    assert "aspect_ratio" not in first["statistics"]
    assert first["statistics"].items() <= one["statistics"].items()
    kept = next(entry for entry in watched.get("/requests", request_id="tensor")["items"] if entry["picture"])
    shown = Image.open(io.BytesIO(watched.client.get(kept["picture"]).content))
    assert np.array_equal(np.asarray(shown), pixels[kept["item"]])
    assert watched.client.post("/v2/models/reader/infer", json={"inputs": []}).status_code == 400
    eventually(lambda: bool(watched.get("/stats")["refused"] == 1))


def test_a_sample_is_drawn_by_the_requests_ids_alone(watched: Watched) -> None:
    watched.client.patch(URL, json={"logging": {"sample": 0.5}})
    (picture,) = files(fresh_digits(1))

    def sampled() -> set[str]:
        for number in range(40):
            watched.ask([picture], **{"X-Request-ID": f"request-{number}"})
        seen = {entry["request_id"] for entry in watched.settled()}
        with watched.context.sessions.begin() as session:
            session.execute(text("DELETE FROM request_log"))
        return seen

    eventually(lambda: 0 < len(sampled()) < 40)  # the change has come through
    first = sampled()
    assert 8 <= len(first) <= 32
    assert sampled() == first


def test_what_the_log_does_not_hold_is_dropped_and_counted_and_stats_count_all(
    settings: Settings, context: Context, prompt: None
) -> None:
    with serving(settings, context, Capacity(log_pictures_per_s=0.1)) as watched:  # six at once
        watched.model()
        deploy(watched)
        watched.ask(files(fresh_digits(20)))
        assert watched.client.post(f"{URL}/predict", content=b"no picture").status_code == 422
        eventually(lambda: bool(watched.get("/stats")["requests"] == 21))
        stats = watched.get("/stats")
        assert (stats["refused"], stats["failed"], stats["width_s"], len(stats["stretches"])) == (1, 0, 60, 60)
        assert sum(stretch["requests"] for stretch in stats["stretches"]) == 21
        times = stats["latency_ms"]
        assert 0 < times["p50"] <= times["p95"] <= times["p99"]
        assert stats["stretches"][0]["latency_ms"] == {"p50": None, "p95": None, "p99": None}
        assert {len(watched.get("/stats", window=window)["stretches"]) for window in ("24h", "7d")} == {96, 84}
        assert len(watched.logged(6)) == 6


def test_what_waits_is_written_when_the_server_ends(settings: Settings, context: Context) -> None:
    with serving(settings, context) as watched:
        watched.model()
        deploy(watched)
        watched.ask(files(fresh_digits(10)))
    with context.sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM request_log")) == 10
        assert session.scalar(text("SELECT sum(answered) FROM traffic_minutes")) == 10


def test_the_sweep_deletes_what_is_too_old_with_its_pictures_and_all_of_a_deleted_deployment(
    watched: Watched,
) -> None:
    watched.client.patch(URL, json={"logging": {"pictures": True, "retention_days": 2}})
    pictures = files(fresh_digits(10))

    def are_kept() -> bool:
        watched.ask(pictures)
        return sum(entry["picture"] is not None for entry in watched.get("/requests")["items"]) >= 10

    eventually(are_kept)
    requests = watched.settled()
    old = [entry for entry in requests if entry["picture"]][:3]
    with watched.context.sessions.begin() as session:
        session.execute(
            update(LogEntry)
            .where(LogEntry.id.in_([entry["id"] for entry in old]))
            .values(at=datetime.now(UTC) - timedelta(days=2, minutes=1))
        )
        session.execute(text("INSERT INTO feedback SELECT deployment_id, request_id, item, label, at FROM request_log"))
        minute = {"minute": datetime.now(UTC) - timedelta(days=3)}
        session.execute(
            text(
                "INSERT INTO traffic_minutes SELECT deployment_id, :minute, process, 1, 0, 0, '{}' FROM traffic_minutes"
                " LIMIT 1"
            ),
            minute,
        )
    watched.sweep()
    with watched.context.sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM traffic_minutes WHERE minute <= :minute"), minute) == 0
    left = {entry["id"] for entry in watched.get("/requests", page_size=500)["items"]}
    assert left == {entry["id"] for entry in requests} - {entry["id"] for entry in old}
    with watched.context.sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM feedback")) == len(left)
        assert session.query(DoomedObject).count() == 0  # deleted in the same sweep
    kept = watched.context.objects.keys("requests/")
    assert len(kept) == sum(entry["picture"] is not None for entry in requests) - 3
    assert watched.client.delete(URL).status_code == 204
    assert watched.client.get(f"{URL}/requests").status_code == 404
    watched.sweep()
    with watched.context.sessions() as session:
        for table in ("request_log", "traffic_minutes", "feedback"):
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0
    assert watched.context.objects.keys("requests/") == []


@pytest.mark.slow
def test_while_the_database_is_away_predictions_go_on_and_the_log_catches_up(
    settings: Settings, engine: Engine, context: Context, prompt: None
) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.execute(text("CREATE DATABASE shy"))
        url = engine.url.set(database="shy").render_as_string(hide_password=False)
        migrate.upgrade(url)
        shy = settings.model_copy(update={"database_url": SecretStr(url)})
        elsewhere = Context.of(shy)
        with serving(shy, elsewhere) as watched:
            with context.sessions() as here, elsewhere.sessions.begin() as there:
                for table in ("datasets", "dataset_versions"):
                    for row in here.execute(text(f"SELECT * FROM {table}")).mappings():
                        there.execute(
                            text(f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, :row)"),
                            {"row": _json(row)},
                        )
            watched.model()
            deploy(watched)
            watched.ask(files(fresh_digits(10)))
            watched.logged(10)
            admin.execute(text("ALTER DATABASE shy ALLOW_CONNECTIONS false"))
            admin.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shy'"))
            watched.ask(files(fresh_digits(20)))
            admin.execute(text("ALTER DATABASE shy ALLOW_CONNECTIONS true"))
            assert len(watched.logged(30)) == 30
            eventually(lambda: bool(watched.get("/stats")["requests"] == 30))
        elsewhere.sessions.kw["bind"].dispose()


BAD_LOGGING = [
    ({"sample": 1.5}, "less than or equal to 1"),
    ({"sample": -0.1}, "greater than or equal to 0"),
    ({"sample": "all"}, "valid number"),
    ({"sample": None}, "none of sample"),
    ({"pictures": "yes"}, "boolean"),
    ({"retention_days": 0}, "greater than or equal to 1"),
    ({"retention_days": 1.5}, "integer"),
    ({"days": 3}, "accepted: sample, pictures, retention_days"),
]
BAD_QUERIES = [
    ({"max_score": "2"}, "less than or equal to 1"),
    ({"max_score": "nan"}, "finite"),
    ({"since": "yesterday"}, "datetime"),
    ({"since": "2026-01-01T00:00:00"}, "timezone"),
    ({"label": "a\0b"}, "text that can be stored"),
    ({"page_token": "x"}, "page_token"),
    ({"labels": "3"}, "accepted: "),
]


def test_bad_wishes_are_refused_with_what_is_accepted(watched: Watched) -> None:
    for logging, said in BAD_LOGGING:
        answer = watched.client.patch(URL, json={"logging": logging})
        assert answer.status_code == 422, logging
        assert said in answer.json()["detail"], answer.text
    for query, said in BAD_QUERIES:
        answer = watched.client.get(f"{URL}/requests", params=query)
        assert answer.status_code == 422, query
        assert said in answer.json()["detail"], answer.text
    for path in ("requests", "accuracy", "drift", "stats"):
        assert watched.client.get(f"/v1/deployments/none/{path}").status_code == 404
    for path in ("accuracy", "drift", "stats"):
        assert watched.client.get(f"{URL}/{path}", params={"window": "1y"}).status_code == 422
    for entry in ("rq_" + "0" * 32, "mine", "%00"):
        assert watched.client.get(f"{URL}/requests/{entry}/picture").status_code == 404


def test_a_predictor_reads_nothing_of_what_others_asked(watched: Watched) -> None:
    with watched.context.sessions.begin() as session:
        secret = keys.create_key(session, "shop", Role.PREDICTOR)[1]
    for path in ("requests", "accuracy", "drift", "stats"):
        answer = watched.client.get(f"{URL}/{path}", headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == 403, path


def _json(row: object) -> str:
    return json.dumps(dict(row), default=str)  # type: ignore[call-overload]  # a row's mapping


def test_gray_and_colour_pictures_of_a_single_pixel_have_statistics() -> None:
    for channels in (1, 3):
        found = appearance(np.full((2, 1, 1, channels), 51, np.uint8))
        assert len(found) == 2 * channels + 1
        assert found["sharpness"].tolist() == [0, 0]
        assert next(iter(found.values())).tolist() == pytest.approx([0.2, 0.2])
