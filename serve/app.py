"""The inference runtime as an ASGI app: alone behind a load balancer, or beside the API in one server."""

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import Scope

from serve import explain, metrics, oip
from serve.capacity import Capacity, Room
from serve.direct import Direct
from serve.explain import Explainer
from serve.inputs import body_of, parse
from serve.keys import Keys
from serve.log import RequestLog
from serve.predictor import Predictor
from serve.registry import Kind, Registry, Route
from serve.runtime import Runtime, Scores
from serve.service import Find, Service, counted, json_bytes, note_success, target_of
from store import blobs
from store.database import engine_for, sessions_for
from store.objects import Objects
from store.settings import Settings
from web.problems import HANDLERS
from web.requests import RequestIds, request_id_of

SWEEP_S = 5.0  # between looks for idle models
SCORE_DIGITS = 6  # float32 has hardly more

_CLAIMED = re.compile(r"/v1/(?:deployments|models)/[^/]+/(?:predict|explain)")


def claims(scope: Scope) -> bool:
    """Whether a request is one of those that this app answers when it stands beside the API."""
    return scope["type"] == "http" and (_CLAIMED.fullmatch(scope["path"]) is not None or oip.claims(scope["path"]))


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
        registry = Registry(sessions, lookups)
        request_log = RequestLog(sessions, lambda: Objects.of(settings), limits)
        app.state.service = Service(
            capacity=limits,
            keys=Keys(sessions, lookups),
            registry=registry,
            predictor=Predictor(registry, runtime, decoders, pictures),
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
        exception_handlers={kind: oip.translated(handler) for kind, handler in HANDLERS.items()},
        routes=[
            *oip.ROUTES,
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
    app.add_middleware(Direct, endpoints={"deployments": predict_deployment, "models": predict_model})
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
    return await counted(request, Kind.DEPLOYMENT, metrics.REQUESTS, _named(Kind.DEPLOYMENT, request), _predict)


async def predict_model(request: Request) -> Response:
    return await counted(request, Kind.MODEL, metrics.REQUESTS, _named(Kind.MODEL, request), _predict)


async def explain_deployment(request: Request) -> Response:
    return await counted(request, Kind.DEPLOYMENT, metrics.EXPLANATIONS, _named(Kind.DEPLOYMENT, request), _explain)


async def explain_model(request: Request) -> Response:
    return await counted(request, Kind.MODEL, metrics.EXPLANATIONS, _named(Kind.MODEL, request), _explain)


def _named(kind: Kind, request: Request) -> Find:
    return lambda service: service.predictor.route(kind, request.path_params["reference"])


async def _predict(service: Service, route: Route, request: Request) -> Response:
    request_id = request_id_of(request.scope)
    async with body_of(request.receive, request.headers, service.capacity, service.bodies) as body:
        began = time.perf_counter()
        ask = await parse(body, request.headers, request.query_params.get("top_k"), service.decoders)
        version = route.choose(request_id)
        scores = await service.predictor.scores(version, ask, request.receive)
    seconds = time.perf_counter() - began
    note_success(service, route, version, request_id, ask, scores, seconds)
    return _json(
        {
            "predictions": [prediction(picture, version.labels, ask.top_k) for picture in scores],
            "model": {"id": version.id, "name": version.name, "version": version.number},
            "deployment": route.name if route.kind is Kind.DEPLOYMENT else None,
            "request_id": request_id,
            "latency_ms": round(seconds * 1000, 3),
        }
    )


async def _explain(service: Service, route: Route, request: Request) -> Response:
    request_id = request_id_of(request.scope)
    async with body_of(request.receive, request.headers, service.capacity, service.bodies) as body:
        began = time.perf_counter()
        question = await explain.parse(body, request.headers, request.query_params, service.decoders)
        version = route.choose(request_id)
        found = await service.explainer.explain(version, question, request.receive)
    seconds = time.perf_counter() - began
    metrics.EXPLAIN_LATENCY.labels(target_of(route)).observe(seconds)
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
    await service.check_ready()
    return _json({"status": "ready"})


async def expose_metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _json(value: dict[str, Any]) -> Response:
    return Response(json_bytes(value), media_type="application/json")
