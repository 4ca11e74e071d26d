"""What both processes read from every request, and write on every answer: its id."""

import hashlib
import random
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


class RequestIds:
    """Gives each request an id, the caller's own `X-Request-ID` if it sent a sound one, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id_of(scope)
            await send(message)

        await self.app(scope, receive, named)


def request_id_of(scope: Scope) -> str:
    """The id of this request: chosen at the first call, the same ever after."""
    state = scope.setdefault("state", {})
    request_id = state.get("request_id")
    if not isinstance(request_id, str):
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else f"{random.getrandbits(128):032x}"
        state["request_id"] = request_id
    return request_id


def rename(scope: Scope, request_id: str) -> None:
    """Gives this request the id that its body carries. One that is not sound as a header is digested."""
    if not REQUEST_ID.fullmatch(request_id):
        request_id = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    scope.setdefault("state", {})["request_id"] = request_id
