"""Server-sent events: what happens to a search or a job, as it happens, resumable after any break."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Header
from fastapi.sse import format_sse_event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.runtime import POLL_FIRST_S, POLL_LAST_S, Runtime, runtime_of
from store import events
from store.errors import NotFoundError
from store.tables import Event
from web.problems import ProblemError

KEEP_ALIVE_S = 15.0  # proxies cut what is silent for longer than 30 to 60 seconds
BATCH = 500

LastEventId = Annotated[
    str | None,
    Header(pattern="^[0-9]{0,18}$", description="The id of the last event received; those that follow it are sent."),
]
Standing = Callable[[Session], str | None]
"""The final state of the row behind a stream once it has one; None before. Raises NotFoundError when it is gone."""


async def follow(request: Request, stream: str, ended: Standing, last_event_id: str | None) -> Response:
    """The events of `stream` from `last_event_id` on, until the row behind it is final and all has been told.

    Each event has an id, a kind (`event:`) and JSON (`data:`); the last one, without an id, is `end`. Holds a database
    connection only while it looks. 204 when nothing will ever follow: that makes a browser's EventSource stop.
    """
    if not wants_events(request.headers.get("accept", "*/*")):
        raise ProblemError(406, "not-acceptable", "this is a stream of events; accept text/event-stream")
    number = int(last_event_id or 0)
    runtime = runtime_of(request)
    final, first = await look(runtime, stream, ended, number)
    if number and final is not None and not first:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(tell(runtime, stream, ended, number), media_type="text/event-stream", headers=headers)


async def look(runtime: Runtime, stream: str, ended: Standing, number: int) -> tuple[str | None, list[Event]]:
    """(final state or None, events after `number`). The state is read first: nothing follows a final one."""

    def both(session: Session) -> tuple[str | None, list[Event]]:
        return ended(session), list(events.after(session, stream, number, BATCH))

    return await runtime.transact(both)


async def tell(runtime: Runtime, stream: str, ended: Standing, number: int) -> AsyncIterator[bytes]:
    delay, silent_s = POLL_FIRST_S, 0.0
    yield b": the events of this stream follow\n\n"
    while True:
        try:
            final, fresh = await look(runtime, stream, ended, number)
        except (DBAPIError, PoolTimeoutError, ProblemError):  # no database: the caller stays until it is back
            final, fresh = None, []
        except NotFoundError:
            final, fresh = "deleted", []
        for event in fresh:
            number, data = event.number, json.dumps(event.payload, allow_nan=False)
            yield format_sse_event(event=event.kind, data_str=data, id=str(number))
        if final is not None and len(fresh) < BATCH:
            yield format_sse_event(event="end", data_str=json.dumps({"state": final}))
            return
        if fresh:
            delay, silent_s = POLL_FIRST_S, 0.0
            if len(fresh) == BATCH:
                continue
        if await runtime.pause(delay):
            return
        silent_s += delay
        delay = min(delay * 1.3, POLL_LAST_S)
        if silent_s >= KEEP_ALIVE_S:
            silent_s = 0.0
            yield b": still here\n\n"


def wants_events(accept: str) -> bool:
    types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return not types.isdisjoint({"text/event-stream", "text/*", "*/*"})
