"""The Open Inference Protocol, version 2, as KServe and Triton define it, over the same models as `/v1`.

A model of the protocol is one of our deployments, else one of our models; its versions are the numbers of model versions.
Requests go through the same keys, batches, limits and metrics. The extensions are Triton's, of
https://github.com/triton-inference-server/server, docs/protocol: binary_tensor_data, classification, model_configuration, and
of model_repository the index.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version as version_of
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from search.runtime import INPUT, OUTPUT
from serve import metrics, oip_tensors
from serve.encodings import packed, unpacked, wanted
from serve.inputs import INLINE_BYTES, body_of
from serve.oip_tensors import HEADER, Inference, wrong
from serve.registry import Kind, Route, Version
from serve.runtime import preprocessing_of
from serve.schemas import MAX_INSTANCES
from serve.service import Service, counted, json_bytes, note_success
from store.errors import NotFoundError
from web.problems import Handler, ProblemError, from_store
from web.requests import rename, request_id_of

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration")
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"  # Triton's names for what runs here
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
INLINE_SCORES = 4096  # so many are written on the event loop: in less time than a thread takes to wake
PACK_FROM_BYTES = 1024  # a smaller answer fits one packet anyway


def claims(path: str) -> bool:
    """Whether a path is the protocol's."""
    return path == "/v2" or path.startswith("/v2/")


def translated(handler: Handler) -> Handler:
    """`handler`, whose problems become `{"error": …}` where the protocol is spoken."""

    async def handle(request: Request, error: Exception) -> Response:
        told = await handler(request, error)
        if not claims(request.url.path):
            return told
        kept = {name: value for name, value in told.headers.items() if name not in {"content-type", "content-length"}}
        refusal = {"error": json.loads(bytes(told.body))["detail"]}
        return Response(json_bytes(refusal), told.status_code, headers=kept, media_type="application/json")

    return handle


async def server_metadata(request: Request) -> Response:
    await _entered(request)
    return _json({"name": "netwright", "version": version_of("netwright"), "extensions": EXTENSIONS})


async def live(_: Request) -> Response:
    """Alive."""
    return _json({"live": True})


async def ready(request: Request) -> Response:
    """Able to answer for a model that is not loaded yet."""
    service: Service = request.app.state.service
    await service.check_ready()
    return _json({"live": True, "ready": True})


async def model_ready(request: Request) -> Response:
    """Able to answer: loads what is not loaded, so the first prediction does not wait for it."""
    service = await _entered(request)
    route = await _find(service, request)
    await service.predictor.load(route.versions)
    return _json({"name": request.path_params["model"], "ready": True})


async def model_metadata(request: Request) -> Response:
    service = await _entered(request)
    route = await _find(service, request)
    if route.kind is Kind.DEPLOYMENT:
        whole = await _named(service, request.path_params["model"])
        numbers: Sequence[int] = sorted({version.number for version in whole.versions})
    else:
        numbers = await service.registry.numbers(route.name)
    shape, labels = _shape(route.versions), _labels(route.versions)
    return _json(
        {
            "name": request.path_params["model"],
            "versions": [str(number) for number in numbers],
            "platform": PLATFORM,
            "inputs": [
                {
                    "name": INPUT,
                    "datatype": "UINT8",
                    "shape": [-1, *shape],
                    "parameters": {"also": {"datatype": "BYTES", "shape": [-1]}},
                }
            ],
            "outputs": [
                {
                    "name": OUTPUT,
                    "datatype": "FP32",
                    "shape": [-1, -1 if labels is None else len(labels)],
                    "parameters": {"labels": labels},
                }
            ],
        }
    )


async def model_configuration(request: Request) -> Response:
    service = await _entered(request)
    route = await _find(service, request)
    shape, labels = _shape(route.versions), _labels(route.versions)
    return _json(
        {
            "name": request.path_params["model"],
            "platform": PLATFORM,
            "backend": BACKEND,
            "max_batch_size": MAX_INSTANCES,
            "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "format": "FORMAT_NHWC", "dims": shape}],
            "output": [
                {"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [-1 if labels is None else len(labels)]},
            ],
        }
    )


async def repository_index(request: Request) -> Response:
    """Every version that can be asked for, and why one cannot."""
    service = await _entered(request)
    async with body_of(request.receive, request.headers, service.capacity, service.bodies) as body:
        ready_only = _ready_only(body)
    entries = []
    for entry in await service.registry.entries():
        reason = service.predictor.failure(entry.model_id)
        if not entry.deployed:
            reason = "the deployment is undeployed"
        if reason is not None and ready_only:
            continue
        state = "READY" if reason is None else "UNAVAILABLE"
        entries.append({"name": entry.name, "version": str(entry.number), "state": state, "reason": reason or ""})
    return _json(entries)


def _ready_only(body: bytes) -> bool:
    try:
        asked = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise wrong(f"the body is not valid JSON: {error}") from None
    value = asked.get("ready", False) if isinstance(asked, dict) else None
    if not isinstance(value, bool):
        raise wrong('the body must be empty or {"ready": true}, which leaves out what cannot be asked')
    return value


async def infer(request: Request) -> Response:
    return await counted(request, Kind.MODEL, metrics.REQUESTS, lambda service: _find(service, request), _answer)


async def _answer(service: Service, route: Route, request: Request) -> Response:
    capacity, encoding = service.capacity, request.headers.get("content-encoding", "")
    unpacking = service.bodies.hold(capacity.body_max_bytes) if encoding else nullcontext()  # what it may become
    with unpacking:
        async with body_of(request.receive, request.headers, capacity, service.bodies) as body:
            began = time.perf_counter()
            inference = await _read(service, body, encoding, request.headers.get(HEADER))
            if inference.id:
                rename(request.scope, inference.id)
            request_id = request_id_of(request.scope)
            version = route.choose(request_id)
            ask = oip_tensors.ask_of(inference, preprocessing_of(version), version.spoken)
            try:
                async with asyncio.timeout(inference.timeout_us and inference.timeout_us / 1e6):
                    scores = await service.predictor.scores(version, ask, request.receive)
            except TimeoutError:
                late = f"the scores were not there within the timeout of {inference.timeout_us:,} µs that was asked for"
                raise ProblemError(504, "deadline-passed", late) from None
            except ProblemError as problem:
                if problem.status == 422:
                    raise wrong(problem.detail) from None
                raise
    note_success(service, route, version, request_id, ask, scores, time.perf_counter() - began)
    about: dict[str, Any] = {"model_name": request.path_params["model"], "model_version": str(version.number)}
    if inference.id is not None:
        about["id"] = inference.id
    about["parameters"] = {"model": version.spoken}

    def write() -> Response:
        content, header_length = oip_tensors.answer(inference, scores, version.labels, about)
        return _packed(content, header_length, request.headers.get("accept-encoding", ""))

    if len(scores) * len(version.labels) <= INLINE_SCORES:
        return write()
    return await asyncio.get_running_loop().run_in_executor(service.decoders, write)


async def _read(service: Service, body: bytes, encoding: str, header_length: str | None) -> Inference:
    def read() -> Inference:
        return oip_tensors.read(unpacked(body, encoding, service.capacity.body_max_bytes), header_length)

    if len(body) <= INLINE_BYTES and not encoding:
        return read()
    return await asyncio.get_running_loop().run_in_executor(service.decoders, read)


def _packed(content: bytes, header_length: int | None, accepted: str) -> Response:
    headers = {} if header_length is None else {HEADER: str(header_length)}
    encoding = wanted(accepted) if len(content) >= PACK_FROM_BYTES else None
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        content = packed(content, encoding)
    media_type = "application/json" if header_length is None else "application/octet-stream"
    return Response(content, headers=headers, media_type=media_type)


async def _entered(request: Request) -> Service:
    service: Service = request.app.state.service
    await service.keys.check(request.headers, request.method)
    return service


async def _find(service: Service, request: Request) -> Route:
    """What the URL names; with a version, that version alone."""
    reference: str = request.path_params["model"]
    number: str | None = request.path_params.get("version")
    if number is None:
        return await _named(service, reference)
    if not NUMBER.fullmatch(number):
        raise ProblemError(404, "not-found", f"the version {number[:100]!r} is none; versions are numbers from 1 on")
    route = await _named(service, reference)
    if route.kind is Kind.MODEL:
        return await service.predictor.route(Kind.MODEL, f"{route.name}@{number}")
    shares = tuple(share for share in route.shares if share.version.number == int(number))
    if len(shares) != 1:
        targets = ", ".join(version.spoken for version in route.versions)
        raise ProblemError(
            404,
            "not-found",
            f"{'several' if shares else 'none'} of the models behind the deployment {route.name!r} ({targets}) "
            f"{'have' if shares else 'has'} the version {number}; ask a model as name@number instead",
        )
    return replace(route, shares=shares)


async def _named(service: Service, reference: str) -> Route:
    """The deployment of that name, else the model. Raises ProblemError 404 or 409."""
    for kind in (Kind.DEPLOYMENT, Kind.MODEL):
        try:
            return await service.predictor.route(kind, reference)
        except ProblemError as problem:
            if problem.status != 404:
                raise
    raise from_store(NotFoundError("deployment or model", reference[:100]))


def _shape(versions: Sequence[Version]) -> list[int]:
    """(side, side, channels) of what they take; -1 where they differ."""
    taken = [preprocessing_of(version) for version in versions]
    shapes = [(one.side, one.side, one.channels) for one in taken]
    return [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True)]


def _labels(versions: Sequence[Version]) -> Sequence[str] | None:
    """What the scores stand for; None where they differ."""
    labels = {version.labels for version in versions}
    return labels.pop() if len(labels) == 1 else None


def _json(value: Any) -> Response:
    return Response(json_bytes(value), media_type="application/json")


ROUTES = [
    HttpRoute("/v2", server_metadata),
    HttpRoute("/v2/health/live", live),
    HttpRoute("/v2/health/ready", ready),
    HttpRoute("/v2/repository/index", repository_index, methods=["POST"]),
    *(
        HttpRoute(f"/v2/models/{{model}}{version}{path}", endpoint, methods=[method])
        for version in ("", "/versions/{version}")
        for path, endpoint, method in (
            ("", model_metadata, "GET"),
            ("/ready", model_ready, "GET"),
            ("/config", model_configuration, "GET"),
            ("/infer", infer, "POST"),
        )
    ),
]
