"""Models in memory: ONNX Runtime sessions, read from Postgres when first asked for, let go when idle."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray

from ingest.errors import UnreadableImageError
from ingest.limits import Limits
from ingest.preprocess import Preprocessing, to_array
from search.runtime import INPUT, OUTPUT, providers, session_options
from serve import metrics
from serve.batching import Batcher
from serve.capacity import KIB, Capacity, busy
from serve.fresh import DATABASE_AWAY, OutageError
from serve.registry import Version
from store.errors import CorruptBlobError
from web.problems import ProblemError

log = structlog.get_logger()

UNUSABLE_S = 5.0  # a model that could not be loaded is not tried again for so long
# Pictures up to these bounds take some 0.1 ms to decode and are decoded within the batch they run in, which saves
# a hop between threads; larger ones are decoded beforehand, beside the batches.
SMALL_BYTES = 64 * KIB
SMALL_PIXELS = 256 * 256
QUICK_S = 0.002  # a network that answers one picture sooner does so on the event loop, when nothing else runs
SLOW_S = 0.005  # one that takes longer on a single thread gets more of them
_TIMED_RUNS = 3
BATCH_PIXELS = 32 * 64 * 64  # of one batch, as the network sees them: bounds memory and the wait for a turn

Picture = bytes | NDArray[np.uint8]
Scores = NDArray[np.float32]


class UnusableModelError(ProblemError):
    """A model whose file is missing, damaged or not what its row says; other models go on."""

    def __init__(self, version: Version, why: str) -> None:
        super().__init__(500, "unusable-model", f"the model {version.spoken} ({version.id}) cannot be used: {why}")


def preprocessing_of(version: Version) -> Preprocessing:
    """What its network takes. Raises UnusableModelError when the row says something else than that."""
    try:
        return Preprocessing.from_json(dict(version.preprocessing))
    except (ValueError, KeyError, TypeError) as error:
        raise UnusableModelError(version, f"its preprocessing is {dict(version.preprocessing)}: {error}") from error


@dataclass(frozen=True, slots=True)
class NotSmall:
    """Says that a picture was not decoded within its batch."""


class Network:
    """A model version that is ready to answer."""

    def __init__(self, version: Version, session: onnxruntime.InferenceSession, capacity: Capacity) -> None:
        """Raises UnusableModelError when the file is not what the row says."""
        self.version = version
        self._session = session
        self._limits = Limits(max_pixels=capacity.picture_max_pixels)
        self._small = Limits(max_pixels=min(SMALL_PIXELS, capacity.picture_max_pixels))
        self._preprocessing = preprocessing_of(version)
        side, channels = self._preprocessing.side, self._preprocessing.channels
        self.batch_max = max(1, min(capacity.batch_max, BATCH_PIXELS // side**2))
        inputs = [(node.name, node.type, node.shape[1:]) for node in session.get_inputs()]
        outputs = [(node.name, node.type, node.shape[1:]) for node in session.get_outputs()]
        for found, expected in (
            (inputs, [(INPUT, "tensor(uint8)", [side, side, channels])]),
            (outputs, [(OUTPUT, "tensor(float)", [len(version.labels)])]),
        ):
            if found != expected:
                raise UnusableModelError(version, f"its file has {found} where {expected} belongs")

    @property
    def side(self) -> int:
        """Of a picture as the network sees it, in pixels."""
        return self._preprocessing.side

    def warm(self) -> float:
        """Run at both ends of the batch size, so that no request pays for first-time work; the seconds that one picture takes."""
        side, channels = self._preprocessing.side, self._preprocessing.channels
        many, one = (np.zeros((size, side, side, channels), np.uint8) for size in (self.batch_max, 1))
        self._scores(many)
        self._scores(one)
        taken = []
        for _ in range(_TIMED_RUNS):
            began = time.perf_counter()
            self._scores(one)
            taken.append(time.perf_counter() - began)
        return min(taken)

    def decode(self, picture: bytes) -> NDArray[np.uint8]:
        """uint8 (side, side, channels). Raises UnreadableImageError."""
        return to_array(picture, self._preprocessing, self._limits)

    def run(self, pictures: Sequence[Picture]) -> Sequence[Scores | NotSmall]:
        """The scores (classes,) of each picture; NotSmall for bytes that `decode` has to deal with first."""
        results: list[Scores | NotSmall] = [NotSmall()] * len(pictures)
        arrays, places = [], []
        for place, picture in enumerate(pictures):
            if isinstance(picture, bytes):
                try:
                    picture = to_array(picture, self._preprocessing, self._small)
                except UnreadableImageError:
                    continue
            arrays.append(picture)
            places.append(place)
        if arrays:
            for place, scores in zip(places, self._scores(np.stack(arrays)), strict=True):
                results[place] = scores
        return results

    def _scores(self, images: NDArray[np.uint8]) -> Scores:
        """(N, side, side, channels) to (N, classes)."""
        try:
            (scores,) = self._session.run([OUTPUT], {INPUT: images})
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise UnusableModelError(self.version, f"ONNX Runtime: {error}") from error
        if not isinstance(scores, np.ndarray) or scores.shape != (len(images), len(self.version.labels)):
            raise UnusableModelError(self.version, "its scores have another shape than its labels")
        if not np.isfinite(scores).all():
            raise UnusableModelError(self.version, "its scores are not finite")
        return scores


@dataclass(slots=True)
class Loaded:
    """A network and the batches that run on it."""

    network: Network
    batcher: Batcher[Picture, Scores | NotSmall]
    used_at: float


@dataclass(frozen=True, slots=True)
class _Opened:
    """A network as it was started. alone_s: what one picture takes."""

    network: Network
    threads: int
    alone_s: float


@dataclass(frozen=True, slots=True)
class _Unusable:
    error: UnusableModelError
    until: float


class Runtime:
    """Loads, keeps and forgets networks. Used on one event loop; loading and running happen in threads."""

    def __init__(self, read_blob: Callable[[bytes], bytes], capacity: Capacity) -> None:
        """`read_blob` gives the bytes of a digest, verified; it may block. It raises CorruptBlobError."""
        self._read_blob = read_blob
        self._capacity = capacity
        self._loaded: dict[str, Loaded] = {}
        self._unusable: dict[str, _Unusable] = {}
        self._loading: dict[str, asyncio.Task[Loaded]] = {}
        self._loaders = ThreadPoolExecutor(2, "load")
        self._lanes = ThreadPoolExecutor(capacity.lanes, "lane")

    def is_prepared(self, versions: Iterable[Version]) -> bool:
        """Whether each of them is loaded, or is known to be unusable."""
        return all(version.key in self._loaded or self._failure(version) is not None for version in versions)

    def is_loaded(self, versions: Iterable[Version]) -> bool:
        return all(version.key in self._loaded for version in versions)

    def prepare(self, versions: Iterable[Version]) -> None:
        """Begin to load those that are not loaded, and do not wait."""
        for version in versions:
            if version.key not in self._loaded and self._failure(version) is None:
                self._load_once(version)

    async def get(self, version: Version) -> Loaded:
        """The network, loaded if it is not yet.

        Raises UnusableModelError, OutageError without a database, and ProblemError (503) when loading takes too long.
        """
        loaded = self._loaded.get(version.key)
        if loaded is None:
            failure = self._failure(version)
            if failure is not None:
                raise failure
            loaded = await self._loaded_in_time(version)
        loaded.used_at = time.monotonic()
        return loaded

    async def _loaded_in_time(self, version: Version) -> Loaded:
        """Raises ProblemError (503, Retry-After) when it takes longer than bearable; the loading goes on."""
        loading, limit_s = self._load_once(version), self._capacity.load_max_s
        try:
            async with asyncio.timeout(limit_s):
                loaded = await asyncio.shield(loading)
        except TimeoutError:
            metrics.COLD_REQUESTS.labels("refused").inc()
            raise busy(f"the model {version.spoken} is still being loaded after {limit_s:g} s") from None
        metrics.COLD_REQUESTS.labels("answered").inc()
        return loaded

    def unload_idle(self) -> None:
        """Let go of what nobody has asked for in a while; running batches keep what they use."""
        now = time.monotonic()
        for loaded in list(self._loaded.values()):
            if now - loaded.used_at > self._capacity.idle_s:
                self._unload(loaded, "idle")
        self._unusable = {key: unusable for key, unusable in self._unusable.items() if unusable.until > now}

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._loaders.shutdown(cancel_futures=True)
        self._lanes.shutdown(cancel_futures=True)
        for loaded in list(self._loaded.values()):
            self._unload(loaded, "closed")

    def _failure(self, version: Version) -> UnusableModelError | None:
        unusable = self._unusable.get(version.key)
        return unusable.error if unusable is not None and unusable.until > time.monotonic() else None

    def failure(self, version_id: str) -> str | None:
        """Why a version could not be loaded a moment ago; None of one that was not tried, or is loaded."""
        unusable = self._unusable.get(version_id)
        return None if unusable is None else unusable.error.detail

    def _load_once(self, version: Version) -> "asyncio.Task[Loaded]":
        task = self._loading.get(version.key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(version))
            self._loading[version.key] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting
        return task

    async def _load(self, version: Version) -> Loaded:
        began = time.monotonic()
        try:
            opened = await asyncio.get_running_loop().run_in_executor(self._loaders, self._open, version)
        except UnusableModelError as error:
            self._unusable[version.key] = _Unusable(error, time.monotonic() + UNUSABLE_S)
            metrics.LOADS.labels("failed").inc()
            log.error("model.unusable", model=version.id, name=version.spoken, reason=error.detail)
            raise
        except DATABASE_AWAY as error:
            raise OutageError from error
        finally:
            del self._loading[version.key]
        seconds = time.monotonic() - began
        network = opened.network
        batcher: Batcher[Picture, Scores | NotSmall] = Batcher(
            network.run,
            self._lanes,
            max_size=network.batch_max,
            lanes=max(1, self._capacity.lanes // opened.threads),
            wait_max_s=self._capacity.wait_max_s,
            is_quick=opened.alone_s < QUICK_S,
        )
        loaded = Loaded(network, batcher, time.monotonic())
        self._make_room(version.size_bytes)
        self._loaded[version.key] = loaded
        metrics.LOADS.labels("succeeded").inc()
        metrics.LOAD_SECONDS.observe(seconds)
        self._count()
        log.info("model.loaded", model=version.id, name=version.spoken, seconds=round(seconds, 3))
        return loaded

    def _open(self, version: Version) -> _Opened:
        """With one thread, which costs the least for each picture; with more where one answer would take long."""
        try:
            document = self._read_blob(version.onnx_sha256)
        except CorruptBlobError as error:
            raise UnusableModelError(version, str(error)) from error
        opened = self._started(version, document, 1)
        if opened.alone_s > SLOW_S and self._capacity.threads > 1:
            opened = self._started(version, document, self._capacity.threads)
        return opened

    def _started(self, version: Version, document: bytes, threads: int) -> _Opened:
        try:
            session = onnxruntime.InferenceSession(document, session_options(threads), providers=providers())
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise UnusableModelError(version, f"ONNX Runtime: {error}") from error
        network = Network(version, session, self._capacity)
        return _Opened(network, threads, network.warm())

    def _make_room(self, size_bytes: int) -> None:
        """Let the longest unused go until `size_bytes` fit; a model larger than all room stays alone."""
        oldest_first = sorted(self._loaded.values(), key=lambda loaded: loaded.used_at)
        held = sum(loaded.network.version.size_bytes for loaded in oldest_first)
        for loaded in oldest_first:
            if held + size_bytes <= self._capacity.models_max_bytes:
                break
            held -= loaded.network.version.size_bytes
            self._unload(loaded, "room")

    def _unload(self, loaded: Loaded, why: str) -> None:
        version = loaded.network.version
        del self._loaded[version.key]
        self._count()
        log.info("model.unloaded", model=version.id, name=version.spoken, why=why)

    def _count(self) -> None:
        metrics.MODELS_LOADED.set(len(self._loaded))
        metrics.MODELS_BYTES.set(sum(loaded.network.version.size_bytes for loaded in self._loaded.values()))
