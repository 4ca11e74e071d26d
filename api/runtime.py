"""What a running control plane holds: one of each, made when it starts, let go when it stops."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from anyio import CapacityLimiter, fail_after, move_on_after
from anyio.to_thread import run_sync
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.requests import Request

from api.metrics import Metrics
from api.rates import Rates
from store.database import Sessions, engine_for, sessions_for
from store.objects import Objects
from store.queue import Hints
from store.settings import Settings
from web.problems import ProblemError

T = TypeVar("T")

POOL_SIZE = 10  # and as many on top: 20 of Postgres' usual 100, room for other processes
SLOTS = 16  # fewer than connections: the rest is for requests that commit something early, in a transaction of its own
SLOT_WAIT_S = 15.0
POLL_FIRST_S = 0.2
POLL_LAST_S = 1.0  # a follower with nothing to hear costs one query a second


@dataclass(frozen=True, slots=True)
class Runtime:
    """slots: rights to a connection. Whoever wants one waits here, on the event loop, not in a thread:
    forty threads waiting for connections would leave none to those that hold one and want to give it back.
    stopping: set when the server was told to end; what waits or streams then comes to its end.
    """

    settings: Settings
    engine: Engine
    sessions: Sessions
    hints: Hints
    objects: Objects
    slots: CapacityLimiter
    stopping: asyncio.Event
    rates: Rates
    metrics: Metrics

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics) -> "Runtime":
        """To be called on the event loop. Connects to nothing yet: a service whose Postgres is down says so itself."""
        engine = engine_for(settings.require_database_url(), pool_size=POOL_SIZE)
        hints = Hints(settings.require_redis_url())
        return cls(
            settings=settings,
            engine=engine,
            sessions=sessions_for(engine, hints),
            hints=hints,
            objects=Objects.of(settings),
            slots=CapacityLimiter(SLOTS),
            stopping=asyncio.Event(),
            rates=Rates(settings.requests_per_minute),
            metrics=metrics,
        )

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """The right to one connection. Raises ProblemError (503) when none comes free in time."""
        try:
            with fail_after(SLOT_WAIT_S):
                await self.slots.acquire()
        except TimeoutError as error:
            raise ProblemError(
                503,
                "overloaded",
                f"no database connection came free in {SLOT_WAIT_S:g} seconds; try again later",
                headers={"Retry-After": "5"},
            ) from error
        try:
            yield
        finally:
            self.slots.release()

    async def transact(self, work: Callable[[Session], T]) -> T:
        """`work` in a transaction of its own, in a thread. For those who must not hold a connection for long."""

        def transaction() -> T:
            with self.sessions.begin() as session:
                return work(session)

        async with self.slot():
            return await run_sync(transaction)

    async def pause(self, seconds: float) -> bool:
        """Sleep, unless the server is told to stop; returns whether it was."""
        with move_on_after(seconds):
            await self.stopping.wait()
        return self.stopping.is_set()

    async def until(self, reached: Callable[[Session], bool], seconds: float, request: Request) -> None:
        """Poll until `reached`, for `seconds` at most, or until the caller or the server leaves. Between two looks no
        connection is held."""
        loop = asyncio.get_running_loop()
        end, delay = loop.time() + seconds, POLL_FIRST_S
        while (left := end - loop.time()) > 0 and not await self.transact(reached):
            if await self.pause(min(delay, left)) or await request.is_disconnected():
                return
            delay = min(delay * 1.3, POLL_LAST_S)


def runtime_of(request: Request) -> Runtime:
    """The runtime of the app that answers this request."""
    runtime: Runtime = request.app.state.runtime
    return runtime
