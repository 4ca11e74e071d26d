"""A running serving process on a real Postgres, and models to put behind it."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

import httpx
import pytest
import uvicorn

from ingest.preprocess import Preprocessing
from serve.app import create_app
from serve.capacity import Capacity
from store import aliases, deployments, exports, jobs, keys, leases, models
from store.database import Sessions
from store.deployments import Target
from store.keys import Role
from store.settings import Settings
from store.states import JobState
from store.tables import Job
from tests.serve.networks import LABELS, colour_network
from tests.support.rows import a_model


class Store:
    """Writes rows as the API and the worker do."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    def model(
        self,
        name: str = "colours",
        onnx: bytes | None = None,
        *,
        labels: Sequence[str] = LABELS,
        side: int = 16,
        channels: int = 3,
    ) -> str:
        """Registers the next version under `name`; returns its id."""
        document = colour_network(side) if onnx is None else onnx
        with self.sessions.begin() as session:
            model = a_model(session, name, document, labels, Preprocessing(side, channels).to_json())
        return model.id

    def quantised(self, reference: str, onnx: bytes, **options: str) -> None:
        """What the worker leaves of an export to int8 that succeeded."""
        with self.sessions.begin() as session:
            model = models.get(session, reference)
            job, _ = exports.ask(session, model, exports.INT8, options)
            held = leases.claim(session, Job, job.id, "worker", 30)
            assert held is not None
            made = exports.keep(session, held, model, exports.File(onnx, "int8.onnx", "application/octet-stream", {}))
            jobs.finish(session, job.id, held.attempt, JobState.SUCCEEDED, result={"export_id": made.id})

    def deploy(self, name: str, *targets: Target | str | tuple[str, int]) -> None:
        with self.sessions.begin() as session:
            deployments.create(session, name, _targets(targets))

    def retarget(self, name: str, *targets: Target | str | tuple[str, int]) -> None:
        with self.sessions.begin() as session:
            deployments.retarget(session, deployments.get(session, name, lock=True), _targets(targets))

    def name(self, name: str, alias: str, number: int) -> None:
        """Has the alias name that version."""
        with self.sessions.begin() as session:
            aliases.put(session, name, alias, number)

    def key(self, role: Role = Role.PREDICTOR, expires_at: datetime | None = None) -> tuple[str, str]:
        """Returns its id and its secret."""
        with self.sessions.begin() as session:
            key, secret = keys.create_key(session, "test", role, expires_at)
        return key.id, secret


def _targets(targets: Sequence[Target | str | tuple[str, int]]) -> list[Target]:
    return [
        target if isinstance(target, Target) else Target(target) if isinstance(target, str) else Target(*target)
        for target in targets
    ]


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def store(sessions: Sessions) -> Store:
    return Store(sessions)


@contextmanager
def running(settings: Settings, store: Store, capacity: Capacity | None = None) -> Iterator[httpx.Client]:
    """A server of its own; yields a client that carries a predictor's key."""
    config = uvicorn.Config(
        create_app(settings, capacity), host="127.0.0.1", port=0, log_level="warning", ws="none", lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="serving")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {store.key()[1]}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


Serving = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def serving(settings: Settings, store: Store) -> Serving:
    """Starts a server on the run's database, with `capacity` if given."""
    return lambda capacity=None: running(settings, store, capacity)


def eventually(check: Callable[[], bool], within_s: float) -> float:
    """How many seconds it took until `check` held; fails when that is more than `within_s`."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - began
