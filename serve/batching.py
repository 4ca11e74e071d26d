"""Micro-batches without waiting: what comes while a batch runs is the next batch.

A lone request finds a free lane and runs at once. While all lanes are busy, requests gather, and the lane that gets
free takes them together. So batches grow with the load by themselves, and there is no time to choose. Where a run of one
takes no longer than handing it to a thread and back, a lone request runs on the loop itself.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from concurrent.futures import Future as Running
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve import metrics
from serve.capacity import busy

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    item: T
    answer: "asyncio.Future[R]"
    since: float


class Batcher(Generic[T, R]):
    """Runs items in batches of up to `max_size`, up to `lanes` batches at once, in the threads of `executor`.

    `run` gets the items of one batch and returns one result for each, in order; what it raises, each of them gets. If it
    `is_quick`, the event loop can wait for a run of one item. Used on one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        executor: Executor,
        *,
        max_size: int,
        lanes: int,
        wait_max_s: float,
        is_quick: bool = False,
    ) -> None:
        self._run = run
        self._executor = executor
        self._max_size = max_size
        self._lanes = lanes
        self._wait_max_s = wait_max_s
        self._is_quick = is_quick
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._running = 0
        self._woken = False

    @property
    def is_idle(self) -> bool:
        """Whether an item submitted now runs at once and alone."""
        return not self._waiting and self._running < self._lanes

    def submit(self, item: T) -> "asyncio.Future[R]":
        """The result of `item`, later. An answer that is set or cancelled before its batch begins is not worked on."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append(_Waiting(item, answer, loop.time()))
        if not self._woken and self._running < self._lanes:
            self._woken = True
            loop.call_soon(self._dispatch)  # not at once: requests read in the same round of the loop go together
        return answer

    def _dispatch(self) -> None:
        self._woken = False
        here = self._is_quick and self._running == 0 and len(self._waiting) == 1
        while self._running < self._lanes and (batch := self._next()):
            self._running += 1
            metrics.BATCH_SIZE.observe(len(batch))
            items = [waiting.item for waiting in batch]
            if here:
                self._run_here(batch, items)
                return
            running = self._executor.submit(self._run, items)
            running.add_done_callback(self._hand_over(batch))

    def _run_here(self, batch: Sequence[_Waiting[T, R]], items: Sequence[T]) -> None:
        try:
            results = self._run(items)
        except Exception as error:  # noqa: BLE001  # as an executor does: whatever it is, those who wait get it
            self._settle(batch, (), error)
        else:
            self._settle(batch, results, None)

    def _next(self) -> list[_Waiting[T, R]]:
        """The next batch: an equal share of what waits for each free lane, without those whose client is gone."""
        size = min(self._max_size, -(-len(self._waiting) // (self._lanes - self._running)))
        batch: list[_Waiting[T, R]] = []
        now = asyncio.get_running_loop().time()
        while self._waiting and len(batch) < size:
            waiting = self._waiting.popleft()
            if waiting.answer.done():
                continue
            if now - waiting.since > self._wait_max_s:
                waiting.answer.set_exception(busy(f"this has waited {self._wait_max_s:g} s for its turn"))
                continue
            batch.append(waiting)
        return batch

    def _hand_over(self, batch: Sequence[_Waiting[T, R]]) -> Callable[["Running[Sequence[R]]"], None]:
        loop = asyncio.get_running_loop()
        return lambda running: _quietly(loop, self._finish, batch, running)

    def _finish(self, batch: Sequence[_Waiting[T, R]], running: "Running[Sequence[R]]") -> None:
        error = running.exception()
        self._settle(batch, () if error is not None else running.result(), error)

    def _settle(self, batch: Sequence[_Waiting[T, R]], results: Sequence[R], error: BaseException | None) -> None:
        self._running -= 1
        for place, waiting in enumerate(batch):
            if waiting.answer.done():
                continue
            if error is not None:
                waiting.answer.set_exception(error)
            else:
                waiting.answer.set_result(results[place])
        if self._waiting:
            self._dispatch()


def _quietly(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """From a lane's thread to the loop; a loop that has closed in the meantime has nobody left to answer."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *arguments)
