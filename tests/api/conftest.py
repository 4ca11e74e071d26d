"""A control plane of each test's own: real Postgres, real Valkey, real objects; in process or behind a real socket."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from store import keys
from store.database import Sessions
from store.keys import Role
from store.objects import Objects
from store.settings import Settings
from tests.api.world import World


@pytest.fixture(autouse=True, scope="session")
def _plain_logs() -> None:
    """The default renders tracebacks with every local variable, which takes seconds."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info,
                    structlog.processors.KeyValueRenderer()]
    )  # fmt: skip


@pytest.fixture
def secrets(sessions: Sessions) -> dict[str, str]:
    """A key of each role, by the role's name."""
    with sessions.begin() as session:
        return {role.value: keys.create_key(session, f"the {role.value}", role)[1] for role in Role}


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI, secrets: dict[str, str]) -> Iterator[TestClient]:
    """Calls the application as an admin; what goes wrong is answered, not raised."""
    headers = {"Authorization": f"Bearer {secrets['admin']}"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def world(sessions: Sessions, settings: Settings) -> World:
    """Rows and objects as workers would have left them."""
    return World(sessions, Objects.of(settings))


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextmanager
def serving(app: FastAPI) -> Iterator[Address]:
    """The application behind a real socket, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield Address(*server.servers[0].sockets[0].getsockname()[:2])
    finally:
        app.state.runtime.stopping.set()
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def server(app: FastAPI, secrets: dict[str, str]) -> Iterator[Address]:
    with serving(app) as address:
        yield address
