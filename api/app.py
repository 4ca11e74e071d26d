"""The control plane: HTTP to one function call and back."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

import api.audit.routes
import api.batch_predictions.routes
import api.datasets.routes
import api.deployments.routes
import api.docs.routes
import api.evaluations.routes
import api.explanations.routes
import api.exports.routes
import api.health.routes
import api.jobs.routes
import api.keys.routes
import api.limits.routes
import api.models.routes
import api.monitoring.routes
import api.searches.routes
import api.sessions.routes
import api.usage.routes
import api.workers.routes
from api.envelope import Envelope
from api.errors import HANDLERS
from api.metrics import Metrics
from api.openapi import describe, operation_id
from api.runtime import Runtime
from store.settings import Settings
from web.requests import RequestIds

DESCRIPTION = """Upload labelled pictures, get the best network for them, served.

Every request but `/healthz` and `/readyz` carries a key: `Authorization: Bearer nw_…` or `X-API-Key: nw_…`; a browser
that signed in (`POST /v1/session`) its cookie, and with changes the header `X-Requested-With`.
Lists come in pages: `page_size`, and `page_token` from the `next_page_token` of the page before. A POST with an
`Idempotency-Key` is carried out once. Single resources have an `ETag`: send it as `If-Match` to change only what you
saw, as `If-None-Match` to be told only what is new. Slow things answer at once; `?wait=30` waits for their end, and
`…/events` tells it as it happens. Refusals are problem details (RFC 9457)."""


def create_app(settings: Settings) -> FastAPI:
    """The application; it connects to nothing before its lifespan begins."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime = Runtime.of(settings, metrics)
        app.state.runtime = runtime
        with told_to_stop(runtime.stopping):
            yield
        runtime.stopping.set()
        runtime.engine.dispose()

    app = FastAPI(
        title="Netwright",
        version=version("netwright"),
        summary="A self-hosted Cloud AutoML.",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        exception_handlers=HANDLERS,  # type: ignore[arg-type]  # says dict of coroutines; a mapping of awaitables does
        middleware=[Middleware(RequestIds), Middleware(Envelope, metrics=metrics)],
    )
    for router in (
        api.datasets.routes.router,
        api.datasets.routes.streamed,
        api.searches.routes.router,
        api.models.routes.router,
        api.evaluations.routes.router,
        api.exports.routes.router,
        api.explanations.routes.router,
        api.deployments.routes.router,
        api.monitoring.routes.router,
        api.batch_predictions.routes.router,
        api.batch_predictions.routes.streamed,
        api.jobs.routes.router,
        api.keys.routes.router,
        api.sessions.routes.router,
        api.workers.routes.router,
        api.usage.routes.router,
        api.limits.routes.router,
        api.audit.routes.router,
        api.health.routes.router,
        api.docs.routes.router,
    ):
        app.include_router(router)

    def openapi() -> dict[str, Any]:
        return describe(app)

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    return app


@contextmanager
def told_to_stop(stopping: asyncio.Event) -> Iterator[None]:
    """Set `stopping` at SIGTERM or SIGINT, before the server's own handler runs.

    A server ends its lifespan only when every answer has ended, and a stream of events would never end by itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping.set)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    changed = [number for number, handler in before.items() if callable(handler)]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
