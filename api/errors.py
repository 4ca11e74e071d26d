"""Every HTTP code of the control plane: what went wrong, as the problem that the caller is told."""

import errno
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from obstore.exceptions import BaseError
from psycopg import errors as postgres
from pydantic import BaseModel
from sqlalchemy import exc as sql
from starlette.requests import Request
from starlette.responses import Response

from api.deps import ReplayError
from search.catalog import OptionError
from store.objects import ObjectsError
from web import problems
from web.problems import Fault, Handler, ProblemError, field_path, invalid
from web.requests import request_id_of

log = structlog.get_logger()

RETRY_S = "5"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_SAID = ("(os error 28)", "(os error 122)", "(os error 27)")  # the same, in the words of obstore
TURN_TAKEN = (postgres.DeadlockDetected, postgres.SerializationFailure, postgres.LockNotAvailable)


def answer(request: Request, problem: ProblemError) -> Response:
    return problems.response(problem, instance=request.url.path, request_id=request_id_of(request.scope))


def from_database(error: BaseException) -> ProblemError:
    """What a failure of Postgres or of the way to it is in HTTP."""
    cause = getattr(error, "orig", None) or error
    match cause:
        case postgres.DiskFull():
            return disk_full("the database")
        case _ if isinstance(cause, TURN_TAKEN):
            return ProblemError(
                503,
                "busy",
                "another request changed the same rows at the same time; send this one again",
                headers={"Retry-After": "1"},
            )
        case psycopg.DataError():
            reason = str(cause).partition("\n")[0]
            return ProblemError(422, "invalid-request", f"a value of the request cannot be stored: {reason}")
        case psycopg.IntegrityError():
            return ProblemError(
                409, "conflict", "a row that this request builds on was changed or deleted meanwhile; look again"
            )
        case _:
            return ProblemError(
                503,
                "database-unavailable",
                f"the database does not answer; nothing was changed. Try again in {RETRY_S} seconds",
                headers={"Retry-After": RETRY_S},
            )


def disk_full(where: str) -> ProblemError:
    return ProblemError(
        507,
        "insufficient-storage",
        f"{where} has no space left; nothing was kept of this request. Free some (delete data sets or models that are "
        "not needed) and send it again",
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether something could not be written for want of space."""
    return getattr(error, "errno", None) in FULL or any(said in str(error) for said in FULL_SAID)


def from_option(error: OptionError) -> ProblemError:
    """A choice that the catalogue does not offer; the message lists what it does."""
    return invalid([Fault(error.field, str(error).removeprefix(f"{error.field}: "))])


def from_request(error: RequestValidationError, route: object) -> ProblemError:
    """Pydantic's findings as a problem.

    A path that can name nothing names nothing: 404. A body that is no JSON at all is a 400, one of another media type
    a 415. Otherwise 422, each fault with its field and value; an unknown field also with those that there are.
    """
    faults = []
    for found in error.errors():
        origin, *location = found["loc"]
        kind, value, message = found["type"], found.get("input"), found["msg"].removeprefix("Value error, ")
        if origin == "path":
            return ProblemError(404, "not-found", f"there is no {location[0]!s} {str(value)[:100]!r}")
        if kind == "json_invalid":
            reason = found.get("ctx", {}).get("error", message)
            return ProblemError(400, "malformed", f"the body is not valid JSON: {reason} (at character {location[0]})")
        if origin == "body" and not location and isinstance(value, bytes):
            return ProblemError(
                415,
                "unsupported-media-type",
                "the body must be JSON and say so: Content-Type: application/json",
                headers={"Accept": "application/json"},
            )
        if kind == "missing":
            message, value = ("the body is missing; it must be JSON" if not location else "this is required"), None
        elif kind == "extra_forbidden":
            known = fields_at(route, location[:-1])
            message = f"unknown field; accepted: {', '.join(known)}" if known else "unknown field"
        elif kind == "finite_number":
            message = "must be a finite number"
        faults.append(Fault(field_path(location), message, value))
    return invalid(faults)


def fields_at(route: object, location: Sequence[str | int]) -> list[str]:
    """The field names of the request's model at `location`; empty when there is none."""
    if not isinstance(route, APIRoute) or route.body_field is None:
        return []
    here: Any = route.body_field.field_info.annotation
    for step in ("", *location):
        if isinstance(step, str) and step:
            if not (isinstance(here, type) and issubclass(here, BaseModel)) or step not in here.model_fields:
                return []
            here = here.model_fields[step].annotation
        here = innermost(here)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def innermost(annotation: Any) -> Any:
    """The model inside `Model | None`, `list[Model]` and the like."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, list}:
        return next((innermost(part) for part in typing.get_args(annotation) if part is not type(None)), annotation)
    return annotation


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(request, from_request(error, request.scope.get("route")))


async def _on_database(request: Request, error: Exception) -> Response:
    problem = from_database(error)
    log.warning("request.database_failed", status=problem.status, reason=str(error).partition("\n")[0])
    return answer(request, problem)


async def _on_system(request: Request, error: Exception) -> Response:
    if is_disk_full(error):
        return answer(request, disk_full("the disk of the object store"))
    raise error


async def _on_objects(request: Request, error: Exception) -> Response:
    if is_disk_full(error):
        return answer(request, disk_full("the disk of the object store"))
    log.warning("request.objects_failed", reason=str(error))
    detail = "the object store does not give or take the bytes; the server's log says why. Try again later"
    return answer(request, ProblemError(503, "objects-unavailable", detail, headers={"Retry-After": RETRY_S}))


async def _on_option(request: Request, error: Exception) -> Response:
    assert isinstance(error, OptionError)
    return answer(request, from_option(error))


async def _on_replay(_: Request, error: Exception) -> Response:
    assert isinstance(error, ReplayError)
    reply = error.reply
    return Response(reply.body, reply.status, headers={**reply.headers, "Idempotent-Replayed": "true"})


HANDLERS: Mapping[int | type[Exception], Handler] = {
    **problems.HANDLERS,
    RequestValidationError: _on_validation,
    OptionError: _on_option,
    ReplayError: _on_replay,
    ObjectsError: _on_objects,
    OSError: _on_system,
    BaseError: _on_objects,
    sql.DBAPIError: _on_database,
    sql.TimeoutError: _on_database,
    psycopg.Error: _on_database,
}
