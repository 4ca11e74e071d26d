"""Rows remembered for a moment, so that a prediction costs no round trip to the database.

What is younger than SOFT_S is used as it is. Up to HARD_S it is used while it is read anew; older than that, the
caller waits for the new reading. So a change of a row is seen within HARD_S, and under load nobody waits for it. When
the database cannot be reached, what is known stays good for OUTAGE_S: nothing can be changed then either.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from serve.capacity import busy
from web.problems import ProblemError

log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)  # unreachable, shut down or saturated

SOFT_S = 0.4
HARD_S = 0.8
OUTAGE_S = 300.0
PATIENCE_S = 2.0  # for a database that hangs, when there is an old reading to fall back on
RETRY_S = 1.0  # between attempts to reach a database that is away
ENTRIES_MAX = 10_000
UNKNOWN_READS_MAX = 64  # strangers' guesses waiting for the database; known entries are renewed before them


class OutageError(ProblemError):
    """The database cannot be asked, and there is no recent enough answer of it."""

    def __init__(self) -> None:
        super().__init__(
            503, "database-unreachable", "the database cannot be reached; try again", headers={"Retry-After": "2"}
        )


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    read_at: float  # when the reading began
    away_at: float = float("-inf")  # when the database last failed to renew it


class Fresh(Generic[K, V]):
    """A cache of readings, at most one under way per key. Used on one event loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._entries: dict[K, _Entry[V]] = {}
        self._reading: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, read: Callable[[], V]) -> V:
        """The value under `key`, at most HARD_S old, else from `read`, which may block.

        Raises what `read` raises, and OutageError for a database that is away for longer than is bearable.
        """
        entry = self._entries.get(key)
        if entry is None:
            if key not in self._reading and len(self._reading) >= UNKNOWN_READS_MAX:
                raise busy(f"{len(self._reading)} look-ups wait for the database already")
            return await asyncio.shield(self._renew(key, read))
        now = time.monotonic()
        age = now - entry.read_at
        if age < SOFT_S:
            return entry.value
        bearable = age < OUTAGE_S
        if bearable and now - entry.away_at < RETRY_S:
            return entry.value
        renewal = self._renew(key, read)
        if age < HARD_S:
            return entry.value
        try:
            return await asyncio.wait_for(asyncio.shield(renewal), PATIENCE_S)
        except (OutageError, TimeoutError):
            if not bearable:
                raise OutageError from None
            entry.away_at = time.monotonic()
            return entry.value

    def _renew(self, key: K, read: Callable[[], V]) -> asyncio.Task[V]:
        task = self._reading.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read(key, read))
            self._reading[key] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a renewal nobody waits for
        return task

    async def _read(self, key: K, read: Callable[[], V]) -> V:
        began = time.monotonic()
        try:
            value = await asyncio.get_running_loop().run_in_executor(self._executor, read)
        except DATABASE_AWAY as error:
            log.warning("database.unreachable", reason=str(error).split("\n", 1)[0])
            raise OutageError from error
        finally:
            del self._reading[key]
        self._entries.pop(key, None)  # so that the longest unread stand first
        self._entries[key] = _Entry(value, began)
        while len(self._entries) > ENTRIES_MAX:
            del self._entries[next(iter(self._entries))]
        return value
