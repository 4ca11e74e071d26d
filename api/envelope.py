"""Around every answer: its id, its security headers, a line in the log, a count in the metrics."""

import time
from collections.abc import Callable

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics
from web.requests import request_id_of

log = structlog.get_logger()

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "private, no-cache",
}
"""Unless a route says otherwise. No CORS header is ever sent: no other site may read an answer."""

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds by machines


class Envelope:
    """A plain ASGI middleware: it holds no answer back, so streams stay streams."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self.app = app
        self.metrics = metrics
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, streamed = self.clock(), 500, False

        async def wrapped(message: Message) -> None:
            nonlocal status, streamed
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                streamed = headers.get("content-type", "").startswith("text/event-stream")
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id_of(scope))
        try:
            await self.app(scope, receive, wrapped)
        finally:
            seconds = self.clock() - begun
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(scope["method"], route, status).inc()
            if not streamed:
                self.metrics.seconds.labels(scope["method"], route).observe(seconds)
            if scope["path"] not in QUIET:
                log.info(
                    "request.answered",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round(seconds * 1000, 1),
                    key=scope.get("state", {}).get("key"),
                )
            structlog.contextvars.unbind_contextvars("request_id")
