"""The route that every noun's router is made of: body limits, ETags, answers that are kept for repetition."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import ClassVar

from anyio.to_thread import run_sync
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from api.deps import Begun
from store import audit

JSON_MAX_BYTES = 1 << 20
KEPT_HEADERS = ("content-type", "location", "etag")


class Route(APIRoute):
    """A route whose answer carries an ETag and honours If-None-Match, and whose body has a limit."""

    body_max_bytes: ClassVar[int | None] = JSON_MAX_BYTES

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # its own answer is narrower
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if self.body_max_bytes is not None:
                request = Request(request.scope, limited(request, self.body_max_bytes))
            response = await answer(request)
            tag(response)
            begun = getattr(request.state, "begun", None)
            if isinstance(begun, Begun):  # its transaction is still open here: FastAPI commits once this returns
                kept = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
                reply = audit.Reply(response.status_code, kept, bytes(response.body))
                await run_sync(audit.remember, begun.session, begun.caller_id, begun.key, reply)
            return not_modified(request, response) or response

        return handle


class StreamedRoute(Route):
    """A route that reads its body itself, piece by piece, and counts for itself."""

    body_max_bytes = None


def limited(request: Request, limit: int) -> Receive:
    """The request's `receive`, which raises HTTPException (413) once the body is longer than `limit` bytes."""
    refusal = HTTPException(413, f"the body of this request may have {limit} bytes at most")
    declared = request.headers.get("content-length", "")
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        if declared.isdecimal() and int(declared) > limit:
            raise refusal
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise refusal
        return message

    return receive


def revision_tag(revision: int) -> dict[str, str]:
    """The header by which a route says which revision of a row it answers with; `tag` completes it."""
    return {"ETag": f'"{revision}"'}


def tag(response: Response) -> None:
    """Give a JSON answer its ETag: the row's revision, where it has one, and a digest of what is said about it.

    If-Match looks at the revision alone, so that a search's clock does not defeat it; If-None-Match at all of it.
    """
    body = getattr(response, "body", b"")
    if response.headers.get("content-type") != "application/json" or not 200 <= response.status_code < 300:
        return
    digest = hashlib.sha256(body).hexdigest()[:16]
    revision = json.loads(response.headers["etag"]) if "etag" in response.headers else "0"
    response.headers["ETag"] = f'"{revision}.{digest}"'


def not_modified(request: Request, response: Response) -> Response | None:
    """304 in place of an answer that the caller has."""
    known = request.headers.get("if-none-match")
    current = response.headers.get("etag")
    if request.method != "GET" or known is None or current is None or response.status_code not in (200, 206):
        return None
    if known.strip() == "*" or current in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
        headers = {name: value for name in ("etag", "cache-control") if (value := response.headers.get(name))}
        return Response(status_code=304, headers=headers)
    return None
