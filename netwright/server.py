"""The control plane and the inference runtime as one ASGI application, and how each is run."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app as create_api
from serve.app import create_app as create_serve
from store.settings import Settings

SHUTDOWN_GRACE_S = 3  # event streams never end by themselves
INFERENCE = ("/v1/", "/v2/")  # what of the runtime's paths the composition shows: its own /healthz and docs it does not


class Composed:
    """Requests for the runtime's routes go there, all else to the control plane; both live and end together."""

    def __init__(self, api: FastAPI, serve: FastAPI) -> None:
        self.api = api
        self.serve = serve
        self.lifespan: ASGIApp = FastAPI(lifespan=self.both, openapi_url=None)

    @asynccontextmanager
    async def both(self, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for app in (self.api, self.serve):
                given: Mapping[str, Any] | None = await stack.enter_async_context(app.router.lifespan_context(app))
                state.update(given or {})
            yield state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
        elif self.is_inference(scope):
            await self.serve(scope, receive, send)
        else:
            await self.api(scope, receive, send)

    def is_inference(self, scope: Scope) -> bool:
        return scope["path"].startswith(INFERENCE) and any(
            route.matches(scope)[0] is Match.FULL for route in self.serve.router.routes
        )


def compose(settings: Settings) -> Composed:
    """Both applications as one, described by one OpenAPI document."""
    api, serve = create_api(settings), create_serve(settings)
    own_openapi = api.openapi

    def openapi() -> dict[str, Any]:
        document: dict[str, Any] = own_openapi()
        theirs: dict[str, Any] = serve.openapi()
        shown = {path: item for path, item in theirs["paths"].items() if path.startswith(INFERENCE)}
        document["paths"] = {**document["paths"], **shown}
        for kind, components in theirs.get("components", {}).items():
            document.setdefault("components", {})[kind] = {**components, **document.get("components", {}).get(kind, {})}
        return document

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    return Composed(api, serve)


def run(app: ASGIApp, settings: Settings, descriptor: int | None = None) -> None:
    """Serves until SIGTERM. descriptor: an open listening socket; without it, host and port of the settings."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level.lower(),
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    sockets = None if descriptor is None else [socket.socket(fileno=descriptor)]
    uvicorn.Server(config).run(sockets)
