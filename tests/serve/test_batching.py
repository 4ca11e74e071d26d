"""A lone item runs at once; what gathers meanwhile runs together."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.batching import Batcher
from web.problems import ProblemError


class Gate:
    """Work that notes its batches and ends when it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Semaphore(0)
        self.ran: Callable[[], object] = bool

    def run(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.ran()
        assert self.open.acquire(timeout=5)
        if 13 in items:
            raise ValueError("unlucky")
        return [10 * item for item in items]


Scenario = Callable[[Batcher[int, int], Gate], Awaitable[None]]


def play(
    scenario: Scenario, *, max_size: int = 4, lanes: int = 1, wait_max_s: float = 5.0, is_quick: bool = False
) -> Gate:
    gate = Gate()

    async def main(executor: ThreadPoolExecutor) -> None:
        batcher = Batcher(gate.run, executor, max_size=max_size, lanes=lanes, wait_max_s=wait_max_s, is_quick=is_quick)
        await scenario(batcher, gate)

    with ThreadPoolExecutor(lanes) as executor:
        asyncio.run(main(executor))
    return gate


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110  # what it waits for happens in a thread
            await asyncio.sleep(0.001)


def test_a_lone_item_runs_at_once_and_what_comes_meanwhile_runs_together() -> None:
    async def scenario(batcher: Batcher[int, int], gate: Gate) -> None:
        first = batcher.submit(1)
        await until(lambda: gate.batches == [[1]])
        assert not batcher.is_idle
        rest = [batcher.submit(item) for item in (2, 3, 4)]
        gate.open.release(2)
        assert await asyncio.gather(first, *rest) == [10, 20, 30, 40]
        assert batcher.is_idle

    assert play(scenario).batches == [[1], [2, 3, 4]]


def test_a_lone_quick_item_runs_on_the_loop_and_company_in_a_lane() -> None:
    async def scenario(batcher: Batcher[int, int], gate: Gate) -> None:
        gate.open.release(9)
        threads: list[str] = []
        gate.ran = lambda: threads.append(threading.current_thread().name)
        assert await batcher.submit(1) == 10
        assert await asyncio.gather(batcher.submit(2), batcher.submit(3)) == [20, 30]
        with pytest.raises(ValueError, match="unlucky"):
            await batcher.submit(13)
        assert await batcher.submit(4) == 40
        here = threading.current_thread().name
        assert [name == here for name in threads] == [True, False, True, True]

    assert play(scenario, is_quick=True).batches == [[1], [2, 3], [13], [4]]


def test_items_of_one_round_of_the_loop_go_together_and_no_batch_is_larger_than_allowed() -> None:
    async def scenario(batcher: Batcher[int, int], gate: Gate) -> None:
        gate.open.release(9)
        assert await asyncio.gather(*(batcher.submit(item) for item in range(10))) == list(range(0, 100, 10))

    assert play(scenario).batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_free_lanes_share_what_waits() -> None:
    async def scenario(batcher: Batcher[int, int], gate: Gate) -> None:
        answers = asyncio.gather(*(batcher.submit(item) for item in range(4)))
        await until(lambda: len(gate.batches) == 2)
        gate.open.release(2)
        await answers

    assert sorted(play(scenario, lanes=2).batches) == [[0, 1], [2, 3]]


def test_who_has_left_is_not_worked_for() -> None:
    async def scenario(batcher: Batcher[int, int], gate: Gate) -> None:
        first = batcher.submit(1)
        await until(lambda: gate.batches == [[1]])
        gone, here = batcher.submit(2), batcher.submit(3)
        gone.cancel()
        first.cancel()  # too late to save the work, early enough not to be answered
        gate.open.release(2)
        assert await here == 30

    assert play(scenario).batches == [[1], [3]]


def test_an_error_reaches_those_of_its_batch_alone() -> None:
    async def scenario(batcher: Batcher[int, int], gate: Gate) -> None:
        gate.open.release(2)
        answers = await asyncio.gather(*(batcher.submit(item) for item in (1, 2, 13, 3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [int, int, ValueError, ValueError]

    play(scenario, max_size=2)


def test_who_has_waited_too_long_is_told_to_come_again() -> None:
    async def scenario(batcher: Batcher[int, int], gate: Gate) -> None:
        first = batcher.submit(1)
        await until(lambda: gate.batches == [[1]])
        late = batcher.submit(2)
        await asyncio.sleep(0.1)
        gate.open.release(2)
        assert await first == 10
        with pytest.raises(ProblemError, match="try again") as caught:
            await late
        assert caught.value.status == 503
        assert await batcher.submit(3) == 30

    assert play(scenario, wait_max_s=0.05).batches == [[1], [3]]
