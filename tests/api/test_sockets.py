"""What only a real connection shows: events as they happen, uploads cut off, a server that is told to stop."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api import events
from api.app import create_app
from api.errors import is_disk_full
from store import searches
from store.settings import Settings
from store.states import SearchState
from store.tables import Dataset, DoomedObject
from tests.api.conftest import Address, serving
from tests.api.world import World


@pytest.fixture
def caller(server: Address, secrets: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"X-API-Key": secrets["admin"]}, timeout=20) as client:
        yield client


def parse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream, comments left out."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line and event:
            yield event
            event = {}
        name, _, value = line.partition(": ")
        if line and name:
            event[name] = json.loads(value) if name == "data" else value


def test_events_are_told_as_they_happen_until_the_search_has_ended(caller: httpx.Client, world: World) -> None:
    world.dataset()
    world.search()
    with caller.stream("GET", "/v1/searches/hunt/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = parse(answer.iter_lines())
        first = next(told)
        assert (first["id"], first["event"], first["data"]["state"]) == ("1", "search", "queued")
        begun = time.monotonic()
        world.move("hunt", SearchState.RUNNING)
        assert next(told)["data"]["state"] == "running"
        assert time.monotonic() - begun < 2
        world.trial("hunt", 0.5)
        assert [next(told)["data"]["state"] for _ in range(3)] == ["queued", "running", "succeeded"]
        world.move("hunt", SearchState.CANCELLED)
        rest = list(told)
    assert [(event["event"], event.get("id")) for event in rest] == [("search", "6"), ("end", None)]
    assert rest[-1]["data"] == {"state": "cancelled"}


def test_a_follower_goes_on_where_it_was_cut_off(caller: httpx.Client, world: World) -> None:
    world.dataset()
    world.search()
    for state in (SearchState.RUNNING, SearchState.PAUSED, SearchState.CANCELLED):
        world.move("hunt", state)
    url = "/v1/searches/hunt/events"
    told = list(parse(iter(caller.get(url, headers={"Last-Event-ID": "2"}).text.splitlines())))
    assert [event.get("id") for event in told] == ["3", "4", None]
    assert caller.get(url, headers={"Last-Event-ID": "4"}).status_code == 204
    for odd in ("x", "-1", "1.5", "9" * 19):
        assert caller.get(url, headers={"Last-Event-ID": odd}).status_code == 422
    assert caller.get(url, headers={"Accept": "application/json"}).status_code == 406
    assert caller.get("/v1/searches/none/events").status_code == 404
    assert caller.get("/v1/jobs/jo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3/events").status_code == 404


def test_followers_hold_no_connection_and_are_kept_alive(
    app: FastAPI, caller: httpx.Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.3)
    world.dataset()
    search = world.search()
    streams = [caller.stream("GET", "/v1/searches/hunt/events") for _ in range(30)]
    answers = [stream.__enter__() for stream in streams]  # more than there are connections to Postgres
    try:
        lines = answers[0].iter_lines()
        assert any(line == ": still here" for line in lines)
        assert caller.get("/v1/datasets/pets").status_code == 200
        assert app.state.runtime.engine.pool.checkedout() <= 2
        world.run(lambda session: searches.request_cancel(session, session.merge(search)))
        world.move("hunt", SearchState.CANCELLED)
        world.run(lambda session: searches.delete(session, searches.get(session, "hunt")))
        assert list(parse(lines))[-1]["data"]["state"] in {"cancelled", "deleted"}
    finally:
        for stream in streams:
            stream.__exit__(None, None, None)


def test_lost_connections_to_postgres_are_made_anew(caller: httpx.Client, world: World) -> None:
    world.dataset()
    world.search()

    def cut(session: Session) -> int:
        others = text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                      " AND datname = current_database()")  # fmt: skip
        return session.scalar(others) or 0

    with caller.stream("GET", "/v1/searches/hunt/events") as answer:
        told = parse(answer.iter_lines())
        next(told)
        assert caller.get("/v1/datasets/pets").status_code == 200
        assert world.run(cut) > 0
        assert caller.get("/v1/datasets/pets").status_code == 200
        world.move("hunt", SearchState.CANCELLED)
        assert [event["event"] for event in told] == ["search", "end"]


def send_raw(server: Address, secret: str, head: str, body: bytes) -> bytes:
    """Send what is no whole request, then hang up; returns what came back before."""
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        start = (
            f"PUT /v1/datasets/flowers/data?create=true HTTP/1.1\r\nHost: x\r\nX-API-Key: {secret}\r\n{head}\r\n\r\n"
        )
        connection.sendall(start.encode() + body)
        connection.settimeout(0.5)
        try:
            return connection.recv(4096)
        except TimeoutError:
            return b""


def eventually(check: Any, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 100000000", b"x" * 3_000_000),
        ("Transfer-Encoding: chunked", b"2dc6c0\r\n" + b"x" * 3_000_000 + b"\r\n"),
        ("Transfer-Encoding: chunked", b"zz\r\nno chunk"),
    ],
)
def test_an_upload_that_is_cut_off_leaves_nothing(
    server: Address, secrets: dict[str, str], world: World, head: str, body: bytes
) -> None:
    send_raw(server, secrets["editor"], head, body)
    assert eventually(lambda: world.uploads() == [])
    assert world.run(lambda session: session.scalars(select(Dataset)).all()) == []

    def due() -> bool:
        rows = world.run(lambda session: session.scalars(select(DoomedObject)).all())
        return all(row.due_at.timestamp() <= time.time() + 1 for row in rows)

    assert eventually(due)


def test_an_upload_that_is_too_large_is_refused_early_and_on_the_way(
    settings: Settings, secrets: dict[str, str], world: World
) -> None:
    app_of_small = small(settings, upload_max_bytes=1_000_000)
    with serving(app_of_small) as server, httpx.Client(base_url=server.url) as client:
        headers = {"X-API-Key": secrets["editor"]}
        url = "/v1/datasets/flowers/data?create=true"
        answer = send_raw(server, secrets["editor"], "Content-Length: 1000001\r\nExpect: 100-continue", b"")
        assert answer.startswith(b"HTTP/1.1 413")  # before a byte of it was sent
        chunks = iter([b"x" * 400_000] * 4)
        chunked = client.put(url, content=chunks, headers=headers)
        assert chunked.status_code == 413
        assert "1000000 bytes" in chunked.json()["detail"]
        assert client.put(url, content=b"x" * 1_000_000, headers=headers).status_code == 202
    assert len(world.uploads()) == 1


def small(settings: Settings, **values: Any) -> FastAPI:
    return create_app(settings.model_copy(update=values))


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """A disk that is full: the kernel refuses to let a file of this process grow further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_said_to_be_full(caller: httpx.Client, world: World) -> None:
    url = "/v1/datasets/flowers/data?create=true"
    with no_file_over(4_000_000):
        answer = caller.put(url, content=iter([b"x" * 1_000_000] * 20))
    assert answer.status_code == 507
    assert "no space left" in answer.json()["detail"]
    assert world.uploads() == []
    assert caller.get("/v1/datasets/flowers").status_code == 404
    assert caller.put(url, content=b"zip").status_code == 202


def test_a_full_disk_is_known_by_number_or_by_word() -> None:
    message = "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"
    assert is_disk_full(OSError(message))
    assert is_disk_full(OSError(28, "x"))
    assert not is_disk_full(OSError(13, "Permission denied"))


def test_a_server_that_is_told_to_stop_ends_its_streams_and_its_waits(
    settings: Settings, secrets: dict[str, str], world: World
) -> None:
    world.dataset()
    world.search()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert settings.database_url is not None
    assert settings.redis_url is not None
    environment = os.environ | {
        "NETWRIGHT_DATABASE_URL": settings.database_url.get_secret_value(),
        "NETWRIGHT_REDIS_URL": settings.redis_url.get_secret_value(),
        "NETWRIGHT_HOME": str(settings.home),
    }
    code = (
        "import uvicorn; from api.app import create_app; from store.settings import load_settings; "
        f"uvicorn.run(create_app(load_settings()), port={port}, log_level='critical')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
    url, headers = f"http://127.0.0.1:{port}", {"X-API-Key": secrets["viewer"]}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            assert eventually(lambda: reachable(client), 20)
            with client.stream("GET", "/v1/searches/hunt/events") as stream:
                told = parse(stream.iter_lines())
                next(told)
                process.send_signal(signal.SIGTERM)
                assert list(told) == []
        assert process.wait(5) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def reachable(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
