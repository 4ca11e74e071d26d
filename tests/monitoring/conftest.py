"""Control plane and runtime as one server, a network that was trained on digits behind it, and its worker."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sqlalchemy import select

from api.app import create_app as create_api
from netwright.server import Composed
from serve import log
from serve.app import create_app as create_serve
from serve.capacity import Capacity
from store import keys
from store.keys import Role
from store.settings import Settings
from store.tables import DatasetVersion, Job
from tests.support.pictures import png, some_digits
from tests.support.rows import a_model
from tests.support.trained import PER_CLASS, trained_digits
from tests.support.versions import digits_version
from tests.worker.conftest import WORKER
from worker import jobs, sweep
from worker.context import Context

AMPLE = Capacity(log_pictures_per_s=1000.0)
URL = "/v1/deployments/reader"


@dataclass(frozen=True, slots=True)
class Watched:
    """A deployment `reader` of `digits@1`. client: an admin's. context: the worker's."""

    client: httpx.Client
    context: Context

    def ask(self, pictures: Sequence[bytes], **headers: str) -> list[dict[str, Any]]:
        """The replies, one request for each picture."""
        replies = []
        for picture in pictures:
            answer = self.client.post(f"{URL}/predict", content=picture, headers=headers)
            assert answer.status_code == 200, answer.text
            replies.append(answer.json())
        return replies

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.client.get(f"{URL}{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def logged(self, count: int) -> list[dict[str, Any]]:
        """The newest entries once there are `count`, up to 500."""
        eventually(lambda: len(self.get("/requests", page_size=min(count, 500))["items"]) >= min(count, 500))
        return list(self.get("/requests", page_size=500)["items"])

    def settled(self) -> list[dict[str, Any]]:
        """The newest entries, up to 500, once no more are coming."""
        seen: list[list[dict[str, Any]]] = [[]]

        def is_still() -> bool:
            time.sleep(0.3)
            seen.append(list(self.get("/requests", page_size=500)["items"]))
            return seen[-1] == seen[-2]

        eventually(is_still)
        return seen[-1]

    def sweep(self) -> None:
        sweep.run(self.context.sessions, self.context.objects, self.context.settings)

    def measure(self) -> None:
        """What workers do soon after something was deployed."""
        self.sweep()
        with self.context.sessions() as session:
            wanted = session.scalars(select(Job.id).where(Job.kind == "reference", Job.ended_at.is_(None))).all()
        for job_id in wanted:
            jobs.run(self.context, job_id, WORKER)

    def model(self, name: str = "digits") -> str:
        """A further version of the trained network, under `name`; returns its id."""
        with self.context.sessions.begin() as session:
            version = session.scalars(select(DatasetVersion)).one()
            model = a_model(session, name, trained_digits().onnx, version.labels, version.preprocessing, version.id)
        return model.id


def eventually(check: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)


def files(pixels: NDArray[np.uint8]) -> list[bytes]:
    return [png(one) for one in pixels]


def fresh_digits(count: int) -> NDArray[np.uint8]:
    """Digits that the network has not seen, of many writers, in no order."""
    pixels, _ = some_digits(400, first=100)
    return pixels[np.random.default_rng(0).permutation(len(pixels))[:count]]


def blurred(picture: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture)).filter(ImageFilter.GaussianBlur(1.5)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def serving(settings: Settings, context: Context, capacity: Capacity = AMPLE) -> Iterator[Watched]:
    """The whole service but its workers, behind a real socket."""
    with context.sessions.begin() as session:
        secret = keys.create_key(session, "test", Role.ADMIN)[1]
    app = Composed(create_api(settings), create_serve(settings, capacity))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            yield Watched(client, context)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def context(settings: Settings, sessions: object, tmp_path: Path) -> Iterator[Context]:
    """With the digits that the network was trained on, as an import leaves them."""
    context = Context.of(settings)
    with context.sessions.begin() as session:
        digits_version(session, context.objects, tmp_path / "made", PER_CLASS)
    yield context
    context.sessions.kw["bind"].dispose()


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is written at once and takes what time it needs."""
    monkeypatch.setattr(log, "FLUSH_S", 0.05)
    monkeypatch.setattr(log, "WORKING_SHARE", 1.0)


@pytest.fixture
def watched(settings: Settings, context: Context, prompt: None) -> Iterator[Watched]:
    with serving(settings, context) as watched:
        watched.model()
        deploy(watched)
        yield watched


def deploy(watched: Watched, **logging: Any) -> None:
    body = {"name": "reader", "targets": [{"model": "digits@1"}], "logging": logging}
    answer = watched.client.post("/v1/deployments", json=body)
    assert answer.status_code == 201, answer.text
