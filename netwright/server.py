"""The control plane and the inference runtime as one ASGI application, and how each is run."""

import gc
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app as create_api
from serve import openapi
from serve.app import claims
from serve.app import create_app as create_serve
from store import logs
from store.settings import Settings

SHUTDOWN_GRACE_S = 3  # event streams never end by themselves
SWITCH_S = (
    0.0005  # a batch that is done waits for the event loop to let go of the interpreter; Python's 5 ms are many batches
)


class Composed:
    """Requests that the runtime claims go there, all else to the control plane; both live and end together."""

    def __init__(self, api: Starlette, serve: Starlette) -> None:
        self.api = api
        self.serve = serve
        self.lifespan: ASGIApp = Starlette(lifespan=self.both)

    @asynccontextmanager
    async def both(self, _: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in (self.api, self.serve):
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
        elif claims(scope):
            await self.serve(scope, receive, send)
        else:
            await self.api(scope, receive, send)


def compose(settings: Settings) -> Composed:
    """Both applications as one, described in one OpenAPI document."""
    api = create_api(settings)
    describe_predictions(api)
    return Composed(api, create_serve(settings))


def describe_predictions(api: FastAPI) -> None:
    """Has the control plane's description list the runtime's routes, too; made when it is first asked for."""
    plain = api.openapi

    def whole() -> dict[str, Any]:
        document = plain()
        openapi.add_to(document)
        return document

    api.openapi = whole  # type: ignore[method-assign]  # FastAPI's own way to extend the document


def run(app: ASGIApp, settings: Settings, descriptor: int | None = None) -> None:
    """Serves until SIGTERM. descriptor: an open listening socket; without it, host and port of the settings."""
    logs.configure(settings.log_level)
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()  # what was imported stays: looking through all of it takes longer than a prediction
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level.lower(),
        server_header=False,
        access_log=False,  # metrics count predictions, and the control plane logs its requests itself
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    uvicorn.Server(config).run(None if descriptor is None else [socket.socket(fileno=descriptor)])
