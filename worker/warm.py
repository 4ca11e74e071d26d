"""The parent's hold on a warm trainer: a child process that trains one trial after another and can be killed.

Orders go down its standard input and messages come up its standard output, a JSON document a line; bytes travel as
files in the trial's scratch folder. When the parent dies, however it dies, the child reads the end of its input and
ends too.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()
Message = dict[str, Any]


class TrainerDiedError(RuntimeError):
    """The trainer is gone. `status` is its exit status; negative: the signal that ended it."""

    def __init__(self, status: int) -> None:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        super().__init__(f"the training process ended with {how}")
        self.status = status


class Trainer:
    """One child process, and the messages it sent that nobody has read yet."""

    def __init__(self, memo: Path, on_ready: Callable[[Mapping[str, Any]], None]) -> None:
        """memo: where trainers of this machine keep what they found out about it. on_ready: told, from another thread,
        what the trainer found to compute with."""
        self._on_ready = on_ready
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.trainer", str(memo)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is the supervisor's to handle
            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"},  # cores are shared
        )
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="trainer-messages", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message["event"] == "ready":
                self._on_ready(message["device"])
            else:
                self._messages.put(message)
        self._messages.put(None)

    def send(self, order: Mapping[str, Any]) -> None:
        """Raises TrainerDiedError when there is nobody to read it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise TrainerDiedError(self._process.wait()) from error

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or None when there is none within `timeout_s`. Raises TrainerDiedError."""
        try:
            message = self._messages.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None
        if message is None:
            self._messages.put(None)
            raise TrainerDiedError(self._process.wait())
        return message

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it now. Nothing a trial does can survive this."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
