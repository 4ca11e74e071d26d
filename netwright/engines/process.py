"""Running programs as an account, finding them again, and ending them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from netwright.engines.errors import EngineError

LAUNCH = Path(__file__).with_name("launch.py")
LOG_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a program runs as; `uid is None` is whoever runs this process."""

    uid: int | None
    gid: int | None
    name: str

    @property
    def spelled(self) -> str:
        return "-" if self.uid is None else f"{self.uid}:{self.gid}"


MYSELF = Account(None, None, "this user")


def environment() -> dict[str, str]:
    """The environment of an engine: nothing of the caller's, whose variables may carry secrets or PG… settings."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def launched(command: Sequence[str | Path], account: Account, directory: Path, death_signal: int) -> list[str]:
    """The command line that runs `command` as `account` in `directory`, with `death_signal` when this process dies."""
    start = [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(death_signal))]
    return [*start, account.spelled, str(directory), *map(str, command)]


def run(command: Sequence[str | Path], account: Account, directory: Path, *, timeout_s: float = 60) -> str:
    """Runs a short program to its end and returns what it printed. Raises EngineError when it fails."""
    line = launched(command, account, directory, signal.SIGKILL)
    try:
        done = subprocess.run(
            line,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise EngineError(f"{command[0]} ended with {done.returncode}: {said[-2000:]}")
    return done.stdout


def spawn(
    command: Sequence[str | Path], account: Account, directory: Path, log: Path, *, death_signal: int
) -> psutil.Popen:
    """Starts a long-running program whose output goes to `log`; it gets `death_signal` when this process dies.

    Raises EngineError outside the main thread: Linux counts the end of the *thread* that started a child as the
    parent's death.
    """
    if threading.current_thread() is not threading.main_thread():
        raise EngineError("an engine must be started from the main thread, for it ends with the thread that started it")
    log.parent.mkdir(parents=True, exist_ok=True)
    set_aside(log)
    with log.open("ab") as output:
        return psutil.Popen(
            launched(command, account, directory, death_signal),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is the supervisor's to handle
        )


def set_aside(log: Path) -> None:
    """Keeps one former log when `log` has grown long. Its writer appends, so the file can be emptied under its hands."""
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def tail(log: Path, size: int = 1500) -> str:
    """The end of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - size))
        return stream.read().decode(errors="replace").strip()


def matching(*, programs: Sequence[str], mark: str) -> Iterator[psutil.Process]:
    """Processes of one of `programs` whose command line holds `mark`.

    The command line is the one thing everybody may read of everybody's processes, also in a container that took
    CAP_SYS_PTRACE from root.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = process.cmdline()
            title = " ".join(line)
            if line and mark in title and any(Path(line[0]).name.startswith(program) for program in programs):
                yield process


def alive(process: psutil.Process) -> bool:
    """Whether the process runs; a child that ended and waits to be collected does not."""
    with suppress(psutil.Error):
        if isinstance(process, psutil.Popen):
            return process.poll() is None
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(ready: Callable[[], bool], *, timeout_s: float, every_s: float = 0.01) -> bool:
    """Polls until `ready()`; False when the time is over."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True


def end(process: psutil.Process, *signals: int, grace_s: float) -> None:
    """Sends one signal after another, each with `grace_s` to work, and SIGKILL at last."""
    for number in (*signals, signal.SIGKILL):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        if wait_until(lambda: not alive(process), timeout_s=grace_s):
            return
    raise EngineError(f"process {process.pid} did not end, not even by SIGKILL; is its disk hanging?")
