"""Rows are remembered for a moment, and through an outage of the database."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import OperationalError

from serve import fresh
from serve.fresh import Fresh, OutageError
from web.problems import ProblemError


class Row:
    """A row that may change, be slow, or be out of reach."""

    def __init__(self) -> None:
        self.value = "old"
        self.reads = 0
        self.away = False
        self.hold = threading.Event()
        self.hold.set()

    def read(self) -> str:
        self.reads += 1
        value = self.value
        assert self.hold.wait(5)
        if self.away:
            raise OperationalError("SELECT", {}, Exception("connection refused"))
        return value


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"SOFT_S": 0.1, "HARD_S": 0.2, "OUTAGE_S": 1.0, "PATIENCE_S": 0.1, "RETRY_S": 0.1}.items():
        monkeypatch.setattr(fresh, name, seconds)


def play(scenario: Callable[[Fresh[str, str], Row], Awaitable[None]]) -> Row:
    row = Row()

    async def main(executor: ThreadPoolExecutor) -> None:
        await scenario(Fresh(executor), row)

    with ThreadPoolExecutor(2) as executor:
        asyncio.run(main(executor))
    return row


def test_many_who_ask_at_once_share_one_reading() -> None:
    async def scenario(known: Fresh[str, str], row: Row) -> None:
        assert await asyncio.gather(*(known.get("k", row.read) for _ in range(50))) == ["old"] * 50
        assert await known.get("k", row.read) == "old"

    assert play(scenario).reads == 1


def test_between_soft_and_hard_the_old_value_is_used_while_the_new_one_is_read() -> None:
    async def scenario(known: Fresh[str, str], row: Row) -> None:
        await known.get("k", row.read)
        row.value = "new"
        await asyncio.sleep(0.12)
        row.hold.clear()
        began = time.monotonic()
        assert await known.get("k", row.read) == "old"
        assert time.monotonic() - began < 0.05
        row.hold.set()
        await asyncio.sleep(0.02)
        assert await known.get("k", row.read) == "new"

    assert play(scenario).reads == 2


def test_after_hard_one_waits_for_the_new_value() -> None:
    async def scenario(known: Fresh[str, str], row: Row) -> None:
        await known.get("k", row.read)
        row.value = "new"
        await asyncio.sleep(0.25)
        assert await known.get("k", row.read) == "new"

    play(scenario)


@pytest.mark.parametrize("hangs", [False, True])
def test_while_the_database_is_away_what_is_known_is_used_for_a_bounded_time(hangs: bool) -> None:
    async def scenario(known: Fresh[str, str], row: Row) -> None:
        await known.get("k", row.read)
        row.value = "new"
        row.away = not hangs
        if hangs:
            row.hold.clear()
        await asyncio.sleep(0.25)
        began = time.monotonic()
        for _ in range(50):
            assert await known.get("k", row.read) == "old"
        assert time.monotonic() - began < 0.3  # waited for once, not fifty times
        with pytest.raises(OutageError) if not hangs else pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await known.get("unknown", row.read)
        await asyncio.sleep(1.0)
        with pytest.raises(OutageError):
            await known.get("k", row.read)
        row.away = False
        row.hold.set()
        await asyncio.sleep(0.15)
        assert await known.get("k", row.read) == "new"

    play(scenario)


def test_guesses_of_strangers_do_not_queue_without_end() -> None:
    async def scenario(known: Fresh[str, str], row: Row) -> None:
        row.hold.clear()
        guesses = [asyncio.create_task(known.get(f"guess-{number}", row.read)) for number in range(100)]
        await asyncio.sleep(0.05)
        row.hold.set()
        results = await asyncio.gather(*guesses, return_exceptions=True)
        refused = [result for result in results if isinstance(result, ProblemError)]
        assert len(refused) == 100 - fresh.UNKNOWN_READS_MAX
        assert {problem.status for problem in refused} == {503}

    play(scenario)


def test_the_longest_unread_is_forgotten_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "ENTRIES_MAX", 3)

    async def scenario(known: Fresh[str, str], row: Row) -> None:
        for key in ("a", "b", "c", "d", "d", "c", "b"):
            await known.get(key, row.read)
        assert row.reads == 4
        await known.get("a", row.read)
        assert row.reads == 5

    play(scenario)
