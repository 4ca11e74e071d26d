"""A finished network over many pictures: decoding in processes of their own, ahead of several lanes of ONNX Runtime.

Each lane runs one batch on one thread: that is more pictures a second than one batch at a time on all threads, and
leaves no thread waiting for another.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ingest.decoders import Decoders
from ingest.files import create_images, images_path, shard_path
from ingest.limits import MIB, Limits
from ingest.preprocess import Preprocessing
from search.runtime import INPUT, OUTPUT, cores, providers, session_options
from worker.rows import Row

BATCH = 64  # pictures; also what is asked of a decoding process at a time
_BATCH_PIXELS = BATCH * 128 * 128  # as the network sees them: bounds the memory of one run
_BATCH_BYTES = 32 * MIB  # of originals, which wait on the disk
_AHEAD = 8  # batches that are begun for each lane
_DECODERS_MOST = 8

Scores = NDArray[np.float32]


class UnusableModelError(Exception):
    """A network that is not what its row says, or that answers with what are no scores."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of some rows. order: int64 (n, k), the best labels of each, best first. scores: float32 (n, k).

    reasons: why a picture could not be read, None where it could; then its row of the arrays says something.
    """

    rows: Sequence[Row]
    order: NDArray[np.int64]
    scores: Scores
    reasons: Sequence[str | None]


class Answers:
    """Answers of one network. Leaving the context ends its threads and processes."""

    def __init__(
        self,
        onnx: bytes,
        preprocessing: Preprocessing,
        labels: int,
        top_k: int,
        folder: Path,
        limits: Limits,
        packed: NDArray[np.uint8] | None,
    ) -> None:
        """folder: where the shards of the rows lie; packed: what rows that name a place in it mean, else None.

        Raises UnusableModelError.
        """
        self._preprocessing, self._labels = preprocessing, labels
        self._top_k = min(top_k, labels)
        self._folder, self._packed = folder, packed
        self.batch = max(1, min(BATCH, _BATCH_PIXELS // preprocessing.side**2))
        lanes = cores()
        self._ahead = _AHEAD * lanes
        self._session = _opened(onnx, preprocessing, labels)
        self._stack = ExitStack()
        self._decoders: Decoders | None = None
        if packed is None:
            side, channels = preprocessing.side, preprocessing.channels
            self._rounds = self._ahead + 2  # batches that hold rows of images.npy: the waiting, one taken, one made
            create_images(folder, self._rounds * self.batch, side, channels)
            self._pixels: NDArray[np.uint8] = np.load(images_path(folder), mmap_mode="r")
            self._decoders = self._stack.enter_context(Decoders(folder, limits, min(cores(), _DECODERS_MOST)))
        self._lanes = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._stack.callback(self._lanes.shutdown, cancel_futures=True)

    def __enter__(self) -> "Answers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def of(self, rows: Iterator[Row]) -> Iterator[Answered]:
        """In the order of `rows`, some at a time. Raises UnusableModelError, and what `rows` raises."""
        waiting: deque[Future[Answered]] = deque()
        kept = 0  # the first shard that is still needed
        for number, batch in enumerate(self._batches(rows)):
            waiting.append(self._begin(number, batch))
            while len(waiting) > self._ahead or (waiting and waiting[0].done()):
                answered = waiting.popleft().result()
                kept = self._let_go(answered.rows, kept)
                yield answered
        while waiting:
            yield waiting.popleft().result()

    def _batches(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        size_bytes = 0
        for row in rows:
            batch.append(row)
            size_bytes += row.size_bytes
            if len(batch) == self.batch or size_bytes > _BATCH_BYTES:
                yield batch
                batch, size_bytes = [], 0
        if batch:
            yield batch

    def _let_go(self, rows: Sequence[Row], kept: int) -> int:
        """Remove shards that were filled for rows before these alone."""
        places = [row.place for row in rows if row.place is not None and row.size_bytes]
        if not places:
            return kept
        for shard in range(kept, places[0][0]):
            shard_path(self._folder, shard).unlink(missing_ok=True)
        return max(kept, places[0][0])

    def _begin(self, number: int, rows: list[Row]) -> Future[Answered]:
        decoding: Future[list[Any]] | None = None
        first = 0
        places = [row.place for row in rows if row.place is not None]
        if self._decoders is not None and places:
            first = number % self._rounds * self.batch
            decoding = self._decoders.pack(self._preprocessing, first, places, hashed=False)
        return self._lanes.submit(self._answer, rows, first, decoding)

    def _answer(self, rows: list[Row], first: int, decoding: Future[list[Any]] | None) -> Answered:
        reasons = [row.error for row in rows]
        readable = [at for at, reason in enumerate(reasons) if reason is None]
        if decoding is not None:
            items = decoding.result()
            for at, item in zip(readable, items, strict=True):
                if item is not None:
                    reasons[at] = item["reason"]
            rows_read = [first + place for place, item in enumerate(items) if item is None]
            readable = [at for at in readable if reasons[at] is None]
            pixels = self._pixels[rows_read]
        elif self._packed is not None:
            pixels = self._packed[[row.packed for row in rows if row.packed is not None]]
        order = np.zeros((len(rows), self._top_k), np.int64)
        scores = np.zeros((len(rows), self._top_k), np.float32)
        if readable:
            found = self._scores(pixels)
            best = np.argsort(-found, axis=1, kind="stable")[:, : self._top_k]
            order[readable] = best
            scores[readable] = np.take_along_axis(found, best, axis=1)
        return Answered(rows, order, scores, reasons)

    def _scores(self, pixels: NDArray[np.uint8]) -> Scores:
        """(n, side, side, channels) to (n, labels)."""
        (found,) = self._session.run([OUTPUT], {INPUT: pixels})
        if not isinstance(found, np.ndarray) or found.shape != (len(pixels), self._labels):
            raise UnusableModelError("its scores have another shape than its labels")
        if not np.isfinite(found).all():
            raise UnusableModelError("its scores are not finite")
        return found


def _opened(onnx: bytes, preprocessing: Preprocessing, labels: int) -> onnxruntime.InferenceSession:
    session = onnxruntime.InferenceSession(onnx, session_options(1), providers=providers())
    side, channels = preprocessing.side, preprocessing.channels
    found = [(node.name, node.type, node.shape[1:]) for node in (*session.get_inputs(), *session.get_outputs())]
    expected = [(INPUT, "tensor(uint8)", [side, side, channels]), (OUTPUT, "tensor(float)", [labels])]
    if found != expected:
        raise UnusableModelError(f"its file has {found} where {expected} belongs")
    return session
