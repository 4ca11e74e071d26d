"""What the routes work with, and how each request for predictions is let in and counted, whatever protocol it speaks."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from prometheus_client import Counter, Histogram
from sqlalchemy import text
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serve import metrics
from serve.capacity import Capacity, Room
from serve.explain import Explainer
from serve.fresh import DATABASE_AWAY, OutageError
from serve.inputs import Ask
from serve.keys import Keys
from serve.log import RequestLog
from serve.predictor import Predictor
from serve.registry import Kind, Registry, Route, Version
from serve.runtime import Scores
from store.database import Sessions
from web.problems import ProblemError

READY_S = 2.0  # for the database to answer when it is asked whether this process is ready
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
CLIENT_CLOSED = 499  # nginx's word for it; the client never sees it, the metrics do


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes work with while the app runs."""

    capacity: Capacity
    keys: Keys
    registry: Registry
    predictor: Predictor
    explainer: Explainer
    decoders: ThreadPoolExecutor
    lookups: ThreadPoolExecutor
    bodies: Room
    sessions: Sessions
    log: RequestLog

    async def check_ready(self) -> None:
        """Raises OutageError when a model that is not loaded yet could not be: the database is away."""

        def ask() -> None:
            with self.sessions.begin() as session:
                session.execute(text("SELECT 1"))

        try:
            async with asyncio.timeout(READY_S):
                await asyncio.get_running_loop().run_in_executor(self.lookups, ask)
        except (*DATABASE_AWAY, TimeoutError):
            raise OutageError from None


M = TypeVar("M", Counter, Histogram)
Find = Callable[[Service], Awaitable[Route]]
Answer = Callable[[Service, Route, Request], Awaitable[Response]]


async def counted(request: Request, kind: Kind, counter: Counter, find: Find, answer: Answer) -> Response:
    """Checks the key, finds where the request goes, and counts what `answer` does.

    kind: under which requests for unknown names are counted.
    """
    target = f"{kind}/-"  # until it is known that there is such a thing: a stranger must not make up labels
    status = 500
    route = None
    service: Service = request.app.state.service
    try:
        await service.keys.check(request.headers, request.method)
        route = await find(service)
        target = target_of(route)
        reply = await answer(service, route, request)
        status = reply.status_code
        return reply
    except ProblemError as problem:
        status = problem.status
        raise
    except ClientDisconnect:
        status = CLIENT_CLOSED
        return Response(status_code=CLIENT_CLOSED)
    finally:
        _labelled(counter, target, status).inc()
        if route is not None and status >= 400 and counter is metrics.REQUESTS:
            service.log.failed(route, status)


@cache
def _labelled(metric: M, *values: object) -> M:
    """`metric.labels`, which takes longer than to count."""
    labelled: M = metric.labels(*map(str, values))
    return labelled


def target_of(route: Route) -> str:
    """What the metrics call it."""
    return f"{route.kind}/{route.name}"


def note_success(
    service: Service,
    route: Route,
    version: Version,
    request_id: str,
    ask: Ask,
    scores: Sequence[Scores],
    seconds: float,
) -> None:
    """Counts and logs a prediction that leaves now. seconds: from the last byte of the request on."""
    target = target_of(route)
    _labelled(metrics.LATENCY, target).observe(seconds)
    _labelled(metrics.PICTURES, target).inc(len(scores))
    service.log.answered(route, version, request_id, ask.pictures, scores, seconds)


def json_bytes(value: Any) -> bytes:
    """JSON without NaN, and with what UTF-8 cannot hold escaped: half of a surrogate pair from a file's name."""
    return _ENCODER.encode(value).encode("utf-8", "backslashreplace")
