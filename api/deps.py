"""What routes ask for: a transaction, the caller and its right, an unrepeated request, an unchanged row."""

import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from anyio import CancelScope
from anyio.to_thread import run_sync
from fastapi import Depends, Header, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer
from sqlalchemy.orm import Session
from starlette.requests import Request

from api.runtime import runtime_of
from store import audit
from store.keys import Role
from web.credentials import COOKIE, authenticate, credential_of, too_weak, unknown_key
from web.problems import Fault, ProblemError, invalid

ETAG = re.compile(r'(?:W/)?"(?P<revision>[0-9]{1,18})(?:\.[0-9a-f]+)?"')

bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="Authorization: Bearer nw_…")
header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="api_key", description="X-API-Key: nw_…")
cookie = APIKeyCookie(
    name=COOKIE,
    auto_error=False,
    scheme_name="session",
    description="The cookie of `POST /v1/session`, for browsers; changes need the header X-Requested-With beside it.",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The key behind a request. expires_at: when it, or the browser's session that stands for it, ends."""

    id: str
    name: str
    role: Role
    expires_at: datetime | None
    by_session: bool


async def current_caller(
    request: Request,
    _bearer: Annotated[object, Security(bearer)],
    _header: Annotated[object, Security(header)],
    _cookie: Annotated[object, Security(cookie)],
) -> Caller:
    """Who asks, read in a transaction of its own: a request may wait or stream long after it.

    Raises ProblemError: 401 without a good key, 429 for too many requests.
    """
    credential = credential_of(request.headers, request.method)
    runtime = runtime_of(request)

    def identify(session: Session) -> Caller | None:
        found = authenticate(session, credential)
        if found is None:
            return None
        key, expires_at = found
        return Caller(key.id, key.name, Role(key.role), expires_at, credential.is_session)

    caller = await runtime.transact(identify)
    if caller is None:
        raise unknown_key()
    request.state.key = caller.id
    wait_s = runtime.rates.take(caller.id)
    if wait_s > 0:
        raise ProblemError(
            429,
            "too-many-requests",
            f"this key may make {runtime.rates.per_minute} requests a minute; there is room for the next one in "
            f"{math.ceil(wait_s)} seconds",
            headers={"Retry-After": str(math.ceil(wait_s))},
        )
    return caller


async def unit_of_work(request: Request, _: Annotated[Caller, Depends(current_caller)]) -> AsyncIterator[Session]:
    """The request's one transaction: committed before the answer leaves, rolled back when anything was raised.

    Comes after the caller is known, whose own transaction is over by then: a request never waits for a second
    connection while it holds one.
    """
    async with transaction(request) as session:
        yield session


async def public_unit_of_work(request: Request) -> AsyncIterator[Session]:
    """The same for a route that anybody may call."""
    async with transaction(request) as session:
        yield session


@asynccontextmanager
async def transaction(request: Request) -> AsyncIterator[Session]:
    runtime = runtime_of(request)
    async with runtime.slot():
        session, whole = runtime.sessions(), False
        try:
            yield session
            whole = True
        finally:
            with CancelScope(shield=True):
                await run_sync(end, session, whole)


def end(session: Session, whole: bool) -> None:
    with session:
        if whole:
            session.commit()


# By default FastAPI runs what follows `yield` when the answer has left: a failing commit would have answered 200.
Work = Annotated[Session, Depends(unit_of_work, scope="function")]
PublicWork = Annotated[Session, Depends(public_unit_of_work, scope="function")]


def require(needed: Role) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets in callers whose role covers `needed`, and only parameters that the route knows."""

    async def guard(request: Request, caller: Annotated[Caller, Depends(current_caller)]) -> Caller:
        if not caller.role.covers(needed):
            raise too_weak(caller.role, needed)
        refuse_unknown_parameters(request)
        return caller

    return guard


def refuse_unknown_parameters(request: Request) -> None:
    """Raises ProblemError (422) for a query parameter that the route does not take: a typo must not pass for a wish."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = query_names(route.dependant)
    accepted = f"accepted: {', '.join(known)}" if known else "this route takes none"
    faults = [
        Fault(name, f"unknown query parameter; {accepted}", value)
        for name, value in request.query_params.items()
        if name not in known
    ]
    if faults:
        raise invalid(faults)


def query_names(dependant: Dependant) -> list[str]:
    names = [field.alias for field in dependant.query_params]
    return names + [name for below in dependant.dependencies for name in query_names(below)]


AnyKey = Annotated[Caller, Depends(require(Role.PREDICTOR))]
Viewer = Annotated[Caller, Depends(require(Role.VIEWER))]
Editor = Annotated[Caller, Depends(require(Role.EDITOR))]
Admin = Annotated[Caller, Depends(require(Role.ADMIN))]


class ReplayError(Exception):
    """Not an error of anybody: the request was answered before, and is answered so again."""

    def __init__(self, reply: audit.Reply) -> None:
        super().__init__("answered before")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Begun:
    """A request with an Idempotency-Key that is being answered for the first time."""

    session: Session
    caller_id: str
    key: str


async def raw_body(request: Request) -> bytes:
    return await request.body()


def once(
    request: Request,
    work: Work,
    caller: Annotated[Caller, Depends(current_caller)],
    body: Annotated[bytes, Depends(raw_body)],
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern="^[\\x21-\\x7e]{1,255}$",
            description="Any string of your own; the same request with the same key is carried out once in a day.",
        ),
    ] = None,
) -> None:
    """Carry out a request with an Idempotency-Key once; its answer is kept with the change, in one transaction.

    Raises ReplayError when it was answered before, ReusedKeyError (409) when the key stood on another request.
    """
    if idempotency_key is None:
        return
    line = f"{request.method} {request.url.path}?{request.url.query}\n"
    reply = audit.begin_once(work, caller.id, idempotency_key, line.encode() + body)
    if reply is not None:
        raise ReplayError(reply)
    request.state.begun = Begun(work, caller.id, idempotency_key)


Once = Annotated[None, Depends(once)]


class Precondition:
    """What `If-Match` asks for: that the row is still the one the caller saw."""

    def __init__(
        self,
        if_match: Annotated[
            str | None, Header(description="The ETag that the change is based on; another one by now is a 412.")
        ] = None,
    ) -> None:
        self.if_match = if_match

    def check(self, revision: int) -> None:
        """Raises ProblemError: 412 when the row has another revision."""
        if self.if_match is None or self.if_match.strip() == "*":
            return
        tags = [ETAG.fullmatch(tag.strip()) for tag in self.if_match.split(",")]
        if not any(tag is not None and int(tag["revision"]) == revision for tag in tags):
            raise ProblemError(
                412,
                "precondition-failed",
                f"If-Match is {self.if_match[:100]}, but the resource is at revision {revision} by now; read it again and "
                "decide anew",
            )


Unchanged = Annotated[Precondition, Depends()]
