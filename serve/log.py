"""The request log and the counts of traffic: noted as answers leave, written in batches by a thread of their own.

A request pays for counters and an append to a queue (some microseconds); what is written of its pictures is decoded
once more and measured in that thread, which works a bounded part of the time. Whatever does not fit (the queue, the
rate, a database that stays away) is dropped and counted, and no prediction waits for it.
"""

import hashlib
import io
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from ingest.errors import UnreadableImageError
from ingest.limits import Limits
from ingest.preprocess import Preprocessing, probe, to_array
from ingest.statistics import appearance, format_of
from serve import metrics
from serve.capacity import Capacity
from serve.fresh import DATABASE_AWAY
from serve.registry import Kind, Route, Version
from serve.runtime import Picture, Scores
from store import requests, traffic
from store.database import Sessions
from store.ids import new_id
from store.objects import Objects, ObjectsError
from store.traffic import Counts

log = structlog.get_logger()

FLUSH_S = 1.0  # so long an answer may be younger than the log
AT_ONCE = 8  # pictures measured together: a millisecond for small ones, in which the event loop may have to wait
WRITTEN_AT_ONCE = 200  # rows, while more are being measured
ROWS_MOST = 5_000  # measured and not written yet, while the database is away
BURST_S = 60.0  # a deployment may log as much at once as the rate allows in this time
WORKING_SHARE = 0.1  # of a core, at most: the thread then pauses nine times as long as it has worked
MEASURED_PIXELS = 25_000_000  # a larger picture is logged without what it looks like: decoding takes too much memory
SCORES_LISTED = 5
CLOSING_S = 3.0  # of work on what still waits when the process ends
FORGET_S = 300.0  # counts of a minute are kept so long after it
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class _Taken:
    """One picture to be logged."""

    deployment_id: str
    keeps_picture: bool
    version: Version
    request_id: str
    item: int
    at: float
    seconds: float
    picture: Picture
    scores: Scores


@dataclass(slots=True)
class _Allowance:
    """How many pictures a deployment may still log, as of a moment."""

    pictures: float
    at: float


class RequestLog:
    """Used from one event loop; everything slow happens in a thread that lives from `start` to `close`."""

    def __init__(self, sessions: Sessions, open_objects: Callable[[], Objects], capacity: Capacity) -> None:
        """`open_objects` is called when the first picture is to be kept."""
        self._sessions = sessions
        self._open_objects = open_objects
        self._capacity = capacity
        self._process = secrets.token_hex(8)
        self._lock = threading.Lock()  # over the next five
        self._queue: deque[_Taken] = deque()
        self._queued_bytes = 0
        self._allowances: dict[str, _Allowance] = {}
        self._minutes: dict[tuple[str, int], Counts] = {}
        self._changed: set[tuple[str, int]] = set()
        self._rows: deque[dict[str, Any]] = deque()
        self._objects: Objects | None = None
        self._away = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left, once; what the database does not take now is lost."""
        self._stopping.set()
        self._thread.join()

    def answered(
        self,
        route: Route,
        version: Version,
        request_id: str,
        pictures: Sequence[Picture],
        scores: Sequence[Scores],
        seconds: float,
    ) -> None:
        """A prediction that leaves now. pictures: of the request, as files or arrays; scores: (classes,) of each."""
        if route.kind is not Kind.DEPLOYMENT:
            return
        now = time.time()
        kept = 0
        with self._lock:
            self._count(route.id, now, 200, seconds)
            if _in_sample(route, request_id):
                kept = min(len(pictures), self._allowed(route.id, now))
                for item in range(kept):
                    picture = pictures[item]
                    if not isinstance(picture, bytes) and picture.base is not None:
                        picture = picture.copy()  # else the whole body would be held for it
                    if not self._take(
                        _Taken(
                            route.id, route.logging.pictures, version, request_id, item, now, seconds,
                            picture, scores[item],
                        )
                    ):  # fmt: skip
                        metrics.LOG_DROPPED.labels("full").inc(kept - item)
                        return
                if kept < len(pictures):
                    metrics.LOG_DROPPED.labels("rate").inc(len(pictures) - kept)

    def failed(self, route: Route, status: int) -> None:
        """A request for a known deployment that was refused or failed, with its HTTP status of 400 or more."""
        if route.kind is Kind.DEPLOYMENT:
            with self._lock:
                self._count(route.id, time.time(), status, 0.0)

    def _count(self, deployment_id: str, now: float, status: int, seconds: float) -> None:
        key = (deployment_id, int(now // 60))
        counts = self._minutes.get(key)
        if counts is None:
            counts = self._minutes[key] = Counts()
        counts.add(status, seconds)
        self._changed.add(key)

    def _allowed(self, deployment_id: str, now: float) -> int:
        """How many pictures may be logged now, by a bucket that the rate fills."""
        rate = self._capacity.log_pictures_per_s
        allowance = self._allowances.get(deployment_id)
        if allowance is None:
            allowance = self._allowances[deployment_id] = _Allowance(rate * BURST_S, now)
        allowance.pictures = min(rate * BURST_S, allowance.pictures + max(0.0, now - allowance.at) * rate)
        allowance.at = now
        return int(allowance.pictures)

    def _take(self, taken: _Taken) -> bool:
        size = len(taken.picture) if isinstance(taken.picture, bytes) else taken.picture.nbytes
        if (
            len(self._queue) >= self._capacity.log_queue_max
            or self._queued_bytes + size > self._capacity.log_queue_max_bytes
        ):
            return False
        self._queue.append(taken)
        self._queued_bytes += size
        self._allowances[taken.deployment_id].pictures -= 1
        return True

    def _work(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            while batch := self._next():
                began = time.thread_time()
                self._measure(batch)
                pause_s = (time.thread_time() - began) * (1 / WORKING_SHARE - 1)
                if self._stopping.wait(pause_s):
                    break
                if len(self._rows) >= WRITTEN_AT_ONCE:
                    self._write()
            self._write()
        until = time.monotonic() + CLOSING_S
        while time.monotonic() < until and (batch := self._next()):
            self._measure(batch)
        self._write()
        metrics.LOG_DROPPED.labels("full").inc(len(self._queue))
        self._drop(len(self._rows))

    def _next(self) -> list[_Taken]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]
            self._queued_bytes -= sum(
                len(taken.picture) if isinstance(taken.picture, bytes) else taken.picture.nbytes for taken in batch
            )
        return batch

    def _measure(self, batch: Sequence[_Taken]) -> None:
        """Turn what was taken into rows."""
        versions = {taken.version.id: taken.version for taken in batch}
        for version in versions.values():
            mine = [taken for taken in batch if taken.version.id == version.id]
            for taken, statistics in zip(mine, _statistics(version, [taken.picture for taken in mine]), strict=True):
                self._rows.append(self._row(taken, statistics))
        self._drop(len(self._rows) - ROWS_MOST)

    def _row(self, taken: _Taken, statistics: Mapping[str, float]) -> dict[str, Any]:
        entry_id = new_id("request")
        labels, scores = taken.version.labels, taken.scores
        best = np.argsort(-scores, kind="stable")[:SCORES_LISTED].tolist()
        listed = [{"label": labels[place], "score": round(float(scores[place]), 6)} for place in best]
        data = taken.picture if isinstance(taken.picture, bytes) else taken.picture.tobytes()
        return {
            "deployment_id": taken.deployment_id,
            "id": entry_id,
            "request_id": taken.request_id,
            "item": taken.item,
            "at": datetime.fromtimestamp(taken.at, UTC),
            "model_id": taken.version.id,
            "model": taken.version.spoken,
            **listed[0],
            "scores": listed,
            "statistics": statistics,
            "latency_ms": round(taken.seconds * 1000, 3),
            "sha256": hashlib.sha256(data).digest(),
            "picture_key": self._keep(taken, entry_id) if taken.keeps_picture else None,
        }

    def _keep(self, taken: _Taken, entry_id: str) -> str | None:
        """Store the picture; returns its key, None when the object store does not take it."""
        key = f"requests/{taken.deployment_id}/{entry_id}"
        data = taken.picture if isinstance(taken.picture, bytes) else _png(taken.picture)
        try:
            if self._objects is None:
                self._objects = self._open_objects()
            self._objects.put(key, data)
        except (ObjectsError, OSError) as error:
            log.warning("request_log.picture_lost", deployment=taken.deployment_id, reason=str(error))
            metrics.LOG_DROPPED.labels("picture").inc()
            return None
        return key

    def _write(self) -> None:
        """Rows and counts in one transaction; they stay for the next time when the database is away."""
        rows = list(self._rows)
        with self._lock:
            self._forget()
            changed, self._changed = self._changed, set()
            minutes = {
                (deployment_id, datetime.fromtimestamp(minute * 60, UTC)): Counts(
                    counts.answered, counts.refused, counts.failed, dict(counts.latencies)
                )
                for deployment_id, minute in changed
                for counts in (self._minutes[deployment_id, minute],)
            }
        if not rows and not minutes:
            return
        try:
            with self._sessions.begin() as session:
                traffic.write(session, self._process, minutes)
                requests.append(session, rows)
        except DATABASE_AWAY as error:
            with self._lock:
                self._changed |= changed
            if not self._away:
                log.warning("request_log.database_away", reason=str(error).split("\n", 1)[0])
            self._away = True
        except SQLAlchemyError as error:  # what it does not take now it will not take later either
            log.error("request_log.refused", rows=len(rows), reason=str(error).split("\n", 1)[0])
            self._drop(len(rows))
        else:
            self._away = False
            for _ in rows:
                self._rows.popleft()
            metrics.LOG_WRITTEN.inc(len(rows))

    def _forget(self) -> None:
        """Let go of minutes that are over and written."""
        oldest = int((time.time() - FORGET_S) // 60)
        for key in [key for key in self._minutes if key[1] < oldest and key not in self._changed]:
            del self._minutes[key]

    def _drop(self, count: int) -> None:
        """Give the oldest rows up."""
        if count <= 0:
            return
        given_up = [self._rows.popleft() for _ in range(count)]
        metrics.LOG_DROPPED.labels("database").inc(count)
        keys = [row["picture_key"] for row in given_up if row["picture_key"] is not None]
        if keys and self._objects is not None:
            try:
                self._objects.delete(keys)
            except ObjectsError as error:
                log.warning("request_log.pictures_left", count=len(keys), reason=str(error))


def _in_sample(route: Route, request_id: str) -> bool:
    """Always the same for a request's id, and independent of which model answers it."""
    share = route.logging.sample
    if share >= 1:
        return True
    digest = hashlib.blake2b(f"log/{route.id}/{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _statistics(version: Version, pictures: Sequence[Picture]) -> list[dict[str, float]]:
    """What `ingest.statistics` says of each picture, as far as it can be told."""
    preprocessing = Preprocessing.from_json(dict(version.preprocessing))
    found: list[dict[str, float]] = [{} for _ in pictures]
    arrays, places = [], []
    for place, picture in enumerate(pictures):
        try:
            if isinstance(picture, bytes):
                seen = probe(picture, Limits())
                found[place] |= format_of(seen.width, seen.height)
                picture = to_array(picture, preprocessing, Limits(max_pixels=MEASURED_PIXELS))
        except UnreadableImageError:
            continue
        arrays.append(picture)
        places.append(place)
    if arrays:
        for name, values in appearance(np.stack(arrays)).items():
            for place, value in zip(places, values.tolist(), strict=True):
                found[place][name] = value
    return [{name: float(f"{value:.{_DIGITS}g}") for name, value in one.items()} for one in found]


def _png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(file, "PNG")
    return file.getvalue()
