"""A few decoding processes behind a queue of bounded length.

They are started as programs, not by `multiprocessing`: an import runs in a Celery worker's child, which is daemonic,
and such a process may have no children in multiprocessing's sense.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from ingest.files import raise_if_disk_full
from ingest.limits import Limits
from ingest.preprocess import Preprocessing

Json = Any
Place = tuple[int, int, int]  # shard, offset, length

READY = b"ready\n"
_ROOT = Path(__file__).resolve().parent.parent
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")  # not: addresses and passwords of databases
_QUEUED_EACH = 4
_PATIENCE_S = 60.0  # for an answer, and as much more for each large picture
_CRASHED = {"reason": "made the decoder crash or run without end", "mend": "open and save it anew"}


class Decoders:
    """`count` processes that probe and pack pictures of `workdir`. Leaving the context ends them."""

    def __init__(self, workdir: Path, limits: Limits, count: int) -> None:
        self._workdir, self._limits = workdir, limits
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._room = threading.BoundedSemaphore(count * _QUEUED_EACH)
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._lock = threading.Lock()
        self._all: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        started = [self._start() for _ in range(count)]
        for process in started:
            self._idle.put(_ready(process))

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._closed = True
            for process in self._all:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            _reap(process)

    def probe(self, places: Sequence[Place]) -> Future[list[Json]]:
        """One item for each picture: a Probe's fields, or `reason` and `mend`. Waits while the queue is full."""
        return self._submit({"places": places})

    def pack(
        self, preprocessing: Preprocessing, row: int, places: Sequence[Place], *, hashed: bool
    ) -> Future[list[Json]]:
        """Write rows of images.npy from `row` on. One item for each picture: `reason` and `mend` where it was refused,
        else None or, when `hashed`, [hash, all gray]."""
        return self._submit({"preprocessing": preprocessing.to_json(), "row": row, "places": places, "hashed": hashed})

    def _submit(self, request: Json) -> Future[list[Json]]:
        self._room.acquire()
        future = self._threads.submit(self._run, request)
        future.add_done_callback(lambda _: self._room.release())
        return future

    def _run(self, request: Json) -> list[Json]:
        reply = self._ask(request)
        if reply is not None:
            raise_if_disk_full(reply.get("errno"), self._workdir)
            if "errno" in reply:
                raise OSError(reply["errno"], os.strerror(reply["errno"]))
            items: list[Json] = reply["items"]
            return items
        if len(request["places"]) == 1:
            return [_CRASHED]
        return [item for part in _singly(request) for item in self._run(part)]

    def _ask(self, request: Json) -> Json | None:
        """The answer of an idle process; None when it died of the question or did not answer in time."""
        process = self._idle.get()
        patience = _PATIENCE_S * (1 + len(request["places"]) // 64)
        answer = _exchange(process, json.dumps(request).encode() + b"\n", patience)
        if answer:
            self._idle.put(process)
            return json.loads(answer)
        process.kill()
        _reap(process)
        with self._lock:
            self._all.discard(process)
            if self._closed:
                raise RuntimeError("the import was ended")
        self._idle.put(_ready(self._start()))
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "ingest.decoding", self._workdir, json.dumps(asdict(self._limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # complaints of decoding libraries about what a stranger sent
            env=environment,
        )
        with self._lock:
            self._all.add(process)
            if self._closed:
                process.kill()
        return process


def _ready(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Raises RuntimeError when the program does not start at all: that is no picture's fault."""
    assert process.stdout is not None
    if process.stdout.readline() != READY:
        process.kill()
        raise RuntimeError(f"the decoding process ended before it began, with code {process.wait()}")
    return process


def _exchange(process: subprocess.Popen[bytes], question: bytes, patience_s: float) -> bytes:
    """Empty when the process is gone or silent."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    waiting = select.poll()  # select() itself knows no descriptor beyond 1023
    waiting.register(process.stdout, select.POLLIN)
    return process.stdout.readline() if waiting.poll(patience_s * 1000) else b""


def _reap(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # it died with a question half asked
        process.stdin.close()
    process.wait()


def _singly(request: Json) -> list[Json]:
    parts = []
    for at, place in enumerate(request["places"]):
        part = {**request, "places": [place]}
        if "row" in request:
            part["row"] = request["row"] + at
        parts.append(part)
    return parts
