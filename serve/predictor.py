"""One prediction from name to scores: which model version answers, and what it says of each picture."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from ingest.errors import UnreadableImageError
from serve.capacity import Room
from serve.inputs import Ask
from serve.registry import Kind, Registry, Route, Version
from serve.runtime import SMALL_BYTES, Loaded, NotSmall, Picture, Runtime, Scores
from web.problems import Fault, ProblemError, invalid

WATCH_AFTER_S = 0.02  # what is answered sooner is answered before a departure could be noticed


class Predictor:
    """Sends pictures to the model that a name stands for."""

    def __init__(self, registry: Registry, runtime: Runtime, decoders: Executor, room: Room) -> None:
        """`room` bounds the pictures in work, `decoders` are the threads that decode large ones."""
        self._registry = registry
        self._runtime = runtime
        self._decoders = decoders
        self._room = room
        self._serving: dict[tuple[Kind, str], Route] = {}

    async def route(self, kind: Kind, reference: str) -> Route:
        """Where requests for this name go now. Raises ProblemError 404 or 409.

        A name that was pointed at another model goes there as soon as that one is loaded and warm; until then the
        old one answers, so that nobody waits for the change and nobody is turned away by it.
        """
        key = (kind, reference)
        try:
            latest = await self._registry.route(kind, reference)
        except ProblemError as problem:
            if problem.status in {404, 409}:
                self._serving.pop(key, None)
            raise
        serving = self._serving.get(key)
        if serving is latest:
            return latest
        if (
            serving is None
            or serving == latest
            or self._runtime.is_prepared(latest.versions)
            or not self._runtime.is_loaded(serving.versions)
        ):
            self._serving[key] = latest
            return latest
        self._runtime.prepare(latest.versions)
        return serving

    async def load(self, versions: Iterable[Version]) -> None:
        """Has them in memory. Raises UnusableModelError, and OutageError without a database."""
        for version in versions:
            await self._runtime.get(version)

    def failure(self, model_id: str) -> str | None:
        """Why a model version could not be loaded the last time, as long as that is remembered."""
        return self._runtime.failure(model_id)

    async def scores(self, version: Version, ask: Ask, receive: Receive) -> Sequence[Scores]:
        """The scores (classes,) of each picture.

        `receive` is the request's, its body read: all that can still come from it is that the client is gone.
        Raises ProblemError (422 for pictures that cannot be read, all of them named) and ClientDisconnect.
        """
        with self._room.hold(len(ask.pictures)):
            loaded = await self._runtime.get(version)
            alone = len(ask.pictures) == 1
            if alone and _is_quick(ask.pictures[0]) and loaded.batcher.is_idle:
                found = [await self._outcome(loaded, ask.pictures[0])]  # done before a departure could be noticed
            else:
                async with while_client_waits(receive):
                    found = list(await asyncio.gather(*(self._outcome(loaded, picture) for picture in ask.pictures)))
        unreadable = [
            (field, outcome)
            for field, outcome in zip(ask.fields, found, strict=True)
            if isinstance(outcome, UnreadableImageError)
        ]
        if unreadable and alone:
            raise unreadable_picture(*unreadable[0])
        if unreadable:
            raise invalid([_fault(field, error) for field, error in unreadable])
        return [outcome for outcome in found if not isinstance(outcome, UnreadableImageError)]

    async def _outcome(self, loaded: Loaded, picture: Picture) -> Scores | UnreadableImageError:
        if _is_quick(picture):
            scores = await loaded.batcher.submit(picture)
            if not isinstance(scores, NotSmall):
                return scores
        assert isinstance(picture, bytes)
        try:
            array = await asyncio.get_running_loop().run_in_executor(self._decoders, loaded.network.decode, picture)
        except UnreadableImageError as error:
            return error
        scores = await loaded.batcher.submit(array)
        assert not isinstance(scores, NotSmall)
        return scores


def unreadable_picture(field: str, error: UnreadableImageError) -> ProblemError:
    """422 for the one picture of a request."""
    fault = _fault(field, error)
    return ProblemError(422, "unreadable-picture", f"the picture {fault.message}", faults=[fault])


def _fault(field: str, error: UnreadableImageError) -> Fault:
    return Fault(field, f"{error.reason}; {error.mend}")


def _is_quick(picture: Picture) -> bool:
    """Whether it can go into a batch as it is."""
    return not isinstance(picture, bytes) or len(picture) <= SMALL_BYTES


class while_client_waits:  # noqa: N801  # reads as the block that it is
    """Cancels the block when the client goes away, and raises ClientDisconnect then.

    Nobody looks before WATCH_AFTER_S: most blocks are through by then, and a look costs more than they do.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> None:
        working = asyncio.current_task()
        assert working is not None
        self._working = working
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._working.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError:
            self._working.uncancel()
            raise ClientDisconnect from None
