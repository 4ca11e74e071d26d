"""Refusals as problem details (RFC 9457): one shape, whichever process answers.

```json
{
  "type": "urn:netwright:problem:invalid-request", "title": "Invalid request", "status": 422,
  "detail": "1 field of the request is wrong: budget.minutes: Input should be greater than 0",
  "instance": "/v1/searches", "request_id": "3f0c…",
  "errors": [{"field": "budget.minutes", "value": -1, "message": "Input should be greater than 0"}]
}
```
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any

import structlog
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from store.errors import ConflictError, CorruptBlobError, NotFoundError, RefusedError, StaleError, StoreError
from web.requests import request_id_of

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:netwright:problem:"
VALUE_MAX_CHARS = 200  # a refused value is quoted, not echoed back whole
VALUES_MAX = 5  # of one list or object in it


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request. `field` is a path such as `instances[3].b64`; `value` is what was sent."""

    field: str
    message: str
    value: Any = None


class ProblemError(Exception):
    """A refusal with its HTTP status.

    `kind` is a short stable slug such as `not-found`: it ends the problem's `type` and, capitalised, is its `title`.
    `detail` is a sentence for the caller: the thing, the value, the limit, what would be accepted.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = dict(headers or {})


def from_store(error: StoreError) -> ProblemError:
    """What each refusal of the store is in HTTP."""
    match error:
        case NotFoundError():
            return ProblemError(404, "not-found", str(error))
        case ConflictError() | StaleError():
            return ProblemError(409, "conflict", str(error))
        case RefusedError(field=str(field)):
            return ProblemError(422, "refused", str(error), faults=[Fault(field, str(error))])
        case RefusedError():
            return ProblemError(422, "refused", str(error))
        case CorruptBlobError():
            return ProblemError(500, "corrupt-blob", str(error))
        case _:
            raise error


def from_validation(error: ValidationError) -> ProblemError:
    """Pydantic's findings, each with the path of its field; a body that is no JSON at all is a 400."""
    faults = []
    for found in error.errors():
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] == "json_invalid":
            return ProblemError(400, "malformed", f"the body is not valid JSON: {found['ctx']['error']}")
        if found["type"] == "missing":
            faults.append(Fault(field_path(found["loc"]), "this is required"))
        else:
            faults.append(Fault(field_path(found["loc"]), message, found["input"]))
    return invalid(faults)


def invalid(faults: Sequence[Fault]) -> ProblemError:
    """422 for a request whose fields do not say something that can be done."""
    listed = "; ".join(f"{fault.field}: {fault.message}" if fault.field else fault.message for fault in faults[:5])
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    counted = (
        "1 field of the request is wrong" if len(faults) == 1 else f"{len(faults)} fields of the request are wrong"
    )
    return ProblemError(422, "invalid-request", f"{counted}: {listed}{more}", faults=faults)


def field_path(location: Sequence[str | int]) -> str:
    """`["instances", 3, "b64"]` as `instances[3].b64`."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return path


def quoted(value: Any) -> Any:
    """`value` as JSON may carry it back: short, finite, of JSON's own types."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else _shape(value)
    return text if len(text) <= VALUE_MAX_CHARS else text[:VALUE_MAX_CHARS] + "…"


def _shape(value: Any) -> str:
    """The beginning of a nested value, found without walking through all of it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'"{key}": {_shape(item)}' for key, item in islice(value.items(), VALUES_MAX)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shape(item) for item in islice(value, VALUES_MAX)) + "]"
    return repr(value[:VALUE_MAX_CHARS]) if isinstance(value, str | bytes) else repr(value)[:VALUE_MAX_CHARS]


def response(problem: ProblemError, *, instance: str, request_id: str) -> Response:
    """The answer a problem becomes."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.kind,
        "title": problem.kind.replace("-", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "request_id": request_id,
    }
    if problem.faults:
        body["errors"] = [
            {"field": fault.field, "value": quoted(fault.value), "message": fault.message} for fault in problem.faults
        ]
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def _answer(request: Request, problem: ProblemError) -> Response:
    return response(problem, instance=request.url.path, request_id=request_id_of(request.scope))


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _answer(request, error)


async def _on_store(request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreError)
    return _answer(request, from_store(error))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    kind = phrase.lower().replace(" ", "-")
    detail = error.detail
    if detail == phrase:  # Starlette's router says no more than the status does
        what = {404: "there is nothing at", 405: f"{request.method} is not allowed at"}.get(error.status_code, phrase)
        detail = f"{what} {request.url.path}; /docs lists the routes"
    return _answer(request, ProblemError(error.status_code, kind, detail, headers=error.headers))


async def _on_bug(request: Request, error: Exception) -> Response:
    request_id = request_id_of(request.scope)
    log.error("request.broken", path=request.url.path, method=request.method, request_id=request_id, exc_info=error)
    detail = f"something broke while answering this; the server's log has the cause under request_id {request_id}"
    return _answer(request, ProblemError(500, "internal-error", detail))


Handler = Callable[[Request, Exception], Awaitable[Response]]

HANDLERS: Mapping[int | type[Exception], Handler] = {
    ProblemError: _on_problem,
    StoreError: _on_store,
    HTTPException: _on_http,
    Exception: _on_bug,
}
"""For `exception_handlers=` of a Starlette or FastAPI app."""
