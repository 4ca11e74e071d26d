"""The inference runtime as an ASGI app: alone behind a load balancer, or beside the API in one server."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import Scope

from serve import explain, metrics
from serve.capacity import Capacity, Room
from serve.explain import Explainer
from serve.fresh import DATABASE_AWAY, OutageError
from serve.inputs import body_of, parse
from serve.keys import Keys
from serve.log import RequestLog
from serve.predictor import Predictor
from serve.registry import Kind, Registry, Route
from serve.runtime import Runtime, Scores
from store import blobs
from store.database import Sessions, engine_for, sessions_for
from store.objects import Objects
from store.settings import Settings
from web.problems import HANDLERS, ProblemError
from web.requests import RequestIds, request_id_of

SWEEP_S = 5.0  # between looks for idle models
READY_S = 2.0  # for the database to answer /readyz
SCORE_DIGITS = 6  # float32 has hardly more
CLIENT_CLOSED = 499  # nginx's word for it; the client never sees it, the metrics do

_CLAIMED = re.compile(r"/v1/(?:deployments|models)/[^/]+/(?:predict|explain)")


def claims(scope: Scope) -> bool:
    """Whether a request is one of those that this app answers when it stands beside the API."""
    return scope["type"] == "http" and _CLAIMED.fullmatch(scope["path"]) is not None


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes work with while the app runs."""

    capacity: Capacity
    keys: Keys
    predictor: Predictor
    explainer: Explainer
    decoders: ThreadPoolExecutor
    lookups: ThreadPoolExecutor
    bodies: Room
    sessions: Sessions
    log: RequestLog


def create_app(settings: Settings, capacity: Capacity | None = None) -> Starlette:
    """The app; it opens its own connections at start-up, so its lifespan has to run.

    Raises SettingsError when no database is set.
    """
    database_url = settings.require_database_url()
    limits = capacity or Capacity.of(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine = engine_for(database_url, pool_size=4)
        sessions = sessions_for(engine)
        lookups = ThreadPoolExecutor(2, "lookup")
        decoders = ThreadPoolExecutor(limits.decoders, "decode")

        def read_blob(sha256: bytes) -> bytes:
            with sessions.begin() as session:
                return blobs.get(session, sha256)

        runtime = Runtime(read_blob, limits)
        pictures = Room(limits.pictures_max, "pictures")
        metrics.IN_WORK.set_function(lambda: pictures.held)
        request_log = RequestLog(sessions, lambda: Objects.of(settings), limits)
        app.state.service = Service(
            capacity=limits,
            keys=Keys(sessions, lookups),
            predictor=Predictor(Registry(sessions, lookups), runtime, decoders, pictures),
            explainer=Explainer(runtime, decoders, pictures, limits),
            decoders=decoders,
            lookups=lookups,
            bodies=Room(limits.bodies_max_bytes, "bytes of requests"),
            sessions=sessions,
            log=request_log,
        )
        request_log.start()
        sweeper = asyncio.create_task(_unload_idle(runtime))
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.to_thread(_close, runtime, decoders, lookups)
            await asyncio.to_thread(request_log.close)
            engine.dispose()

    app = Starlette(
        lifespan=lifespan,
        exception_handlers=HANDLERS,
        routes=[
            HttpRoute("/v1/deployments/{reference}/predict", predict_deployment, methods=["POST"]),
            HttpRoute("/v1/models/{reference}/predict", predict_model, methods=["POST"]),
            HttpRoute("/v1/deployments/{reference}/explain", explain_deployment, methods=["POST"]),
            HttpRoute("/v1/models/{reference}/explain", explain_model, methods=["POST"]),
            HttpRoute("/healthz", healthz),
            HttpRoute("/readyz", readyz),
            HttpRoute("/metrics", expose_metrics),
        ],
    )
    app.add_middleware(RequestIds)
    return app


def _close(runtime: Runtime, *executors: ThreadPoolExecutor) -> None:
    runtime.close()
    for executor in executors:
        executor.shutdown(cancel_futures=True)


async def _unload_idle(runtime: Runtime) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        runtime.unload_idle()


async def predict_deployment(request: Request) -> Response:
    return await _counted(request, Kind.DEPLOYMENT, metrics.REQUESTS, _predict)


async def predict_model(request: Request) -> Response:
    return await _counted(request, Kind.MODEL, metrics.REQUESTS, _predict)


async def explain_deployment(request: Request) -> Response:
    return await _counted(request, Kind.DEPLOYMENT, metrics.EXPLANATIONS, _explain)


async def explain_model(request: Request) -> Response:
    return await _counted(request, Kind.MODEL, metrics.EXPLANATIONS, _explain)


Answer = Callable[[Service, Route, str, Request], Awaitable[Response]]


async def _counted(request: Request, kind: Kind, counter: Counter, answer: Answer) -> Response:
    """Checks the key, finds where the request goes, and counts what `answer` does."""
    target = f"{kind}/-"  # until it is known that there is such a thing: a stranger must not make up labels
    status = 500
    route = None
    service: Service = request.app.state.service
    try:
        await service.keys.check(request.headers)
        route = await service.predictor.route(kind, request.path_params["reference"])
        target = f"{kind}/{route.name}"
        reply = await answer(service, route, target, request)
        status = reply.status_code
        return reply
    except ProblemError as problem:
        status = problem.status
        raise
    except ClientDisconnect:
        status = CLIENT_CLOSED
        return Response(status_code=CLIENT_CLOSED)
    finally:
        counter.labels(target, str(status)).inc()
        if route is not None and status >= 400 and answer is _predict:
            service.log.failed(route, status)


async def _predict(service: Service, route: Route, target: str, request: Request) -> Response:
    request_id = request_id_of(request.scope)
    async with body_of(request.receive, request.headers, service.capacity, service.bodies) as body:
        began = time.perf_counter()
        ask = await parse(body, request.headers, request.query_params.get("top_k"), service.decoders)
        version = route.choose(request_id)
        scores = await service.predictor.scores(version, ask, request.receive)
    seconds = time.perf_counter() - began
    metrics.LATENCY.labels(target).observe(seconds)
    metrics.PICTURES.labels(target).inc(len(scores))
    service.log.answered(route, version, request_id, ask.pictures, scores, seconds)
    return _json(
        {
            "predictions": [prediction(picture, version.labels, ask.top_k) for picture in scores],
            "model": {"id": version.id, "name": version.name, "version": version.number},
            "deployment": route.name if route.kind is Kind.DEPLOYMENT else None,
            "request_id": request_id,
            "latency_ms": round(seconds * 1000, 3),
        }
    )


async def _explain(service: Service, route: Route, target: str, request: Request) -> Response:
    request_id = request_id_of(request.scope)
    async with body_of(request.receive, request.headers, service.capacity, service.bodies) as body:
        began = time.perf_counter()
        question = await explain.parse(body, request.headers, request.query_params, service.decoders)
        version = route.choose(request_id)
        found = await service.explainer.explain(version, question, request.receive)
    seconds = time.perf_counter() - began
    metrics.EXPLAIN_LATENCY.labels(target).observe(seconds)
    if explain.wants_png(request.headers.get("accept", "")):
        return Response(found.overlay, media_type="image/png")
    return _json(
        {
            "label": version.labels[found.label],
            "score": round(found.score, SCORE_DIGITS),
            "predicted": version.labels[found.predicted],
            "method": "occlusion",
            "side": found.plan.side,
            "patch": found.plan.patch,
            "stride": found.plan.stride,
            "fill": found.plan.fill,
            "grid": (found.grid.round(SCORE_DIGITS) + 0.0).tolist(),
            "overlay": base64.b64encode(found.overlay).decode(),
            "model": {"id": version.id, "name": version.name, "version": version.number},
            "deployment": route.name if route.kind is Kind.DEPLOYMENT else None,
            "request_id": request_id,
            "latency_ms": round(seconds * 1000, 3),
        }
    )


def prediction(scores: Scores, labels: Sequence[str], top_k: int) -> dict[str, Any]:
    """One picture's answer: its best label and the `top_k` best, best first; equal scores in the order of `labels`."""
    best = np.argsort(-scores, kind="stable")[:top_k]
    listed = [
        {"label": labels[place], "score": round(score, SCORE_DIGITS)}
        for place, score in zip(best.tolist(), scores[best].tolist(), strict=True)
    ]
    return {**listed[0], "scores": listed}


async def healthz(_: Request) -> Response:
    """Alive."""
    return _json({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Able to answer for a model that is not loaded yet: the database can be reached."""
    service: Service = request.app.state.service

    def ask() -> None:
        with service.sessions.begin() as session:
            session.execute(text("SELECT 1"))

    try:
        async with asyncio.timeout(READY_S):
            await asyncio.get_running_loop().run_in_executor(service.lookups, ask)
    except (*DATABASE_AWAY, TimeoutError):
        raise OutageError from None
    return _json({"status": "ready"})


async def expose_metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _json(value: dict[str, Any]) -> Response:
    content = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # a label may hold what UTF-8 cannot, e.g. half of a surrogate pair from a file's name
    return Response(content.encode("utf-8", "backslashreplace"), media_type="application/json")
