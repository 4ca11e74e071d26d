"""Processes that are kept running: started, watched, started again, stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from structlog.typing import FilteringBoundLogger

from netwright.engines.process import MYSELF, alive, end, launched, set_aside, wait_until

MARK = "NETWRIGHT_CHILD"  # in the environment of every child and of what it starts, so that orphans can be told
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
STEADY_S = 60.0  # one that ran this long begins its backoff anew
DEATHS_IN_A_ROW = 3
STOP_GRACE_S = 8.0
ORPHAN_GRACE_S = 4.0  # they had been told to end when their supervisor died
LOGS_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Role:
    """A process to keep running: `netwright` with these arguments, more environment, and open sockets to pass on."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()


@dataclass(slots=True)
class Child:
    """A role and the process that plays it. `failures` counts deaths in a row, `due` is when to start it again."""

    role: Role
    process: psutil.Popen | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0


class Children:
    """The children of one home. They end with this process, however it ends.

    logs: the folder for what they say, a file for each; without it they say it where this process does.
    """

    def __init__(self, home: Path, roles: Sequence[Role], log: FilteringBoundLogger, logs: Path | None) -> None:
        self.home = home
        self.children = [Child(role) for role in roles]
        self.log = log
        self.logs = logs
        self.logs_due = 0.0

    def start(self, environment: Mapping[str, str]) -> None:
        """Ends what a killed predecessor left behind, then starts everyone."""
        self.environment = dict(environment)
        end_all(list(marked(f"@{self.home}")), grace_s=ORPHAN_GRACE_S)
        for child in self.children:
            self.launch(child)

    def launch(self, child: Child) -> None:
        command = [sys.executable, "-P", "-m", "netwright", *child.role.arguments]
        mark = {MARK: f"{child.role.name}@{self.home}"}
        with ExitStack() as stack:
            output = None
            if self.logs is not None:
                log = self.logs / f"{child.role.name}.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                set_aside(log)
                output = stack.enter_context(log.open("ab"))
            child.process = psutil.Popen(
                launched(command, MYSELF, Path.cwd(), signal.SIGTERM),
                env={**os.environ, **self.environment, **child.role.environment, **mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output is not None else None,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor alone
                pass_fds=child.role.descriptors,
            )
        child.started = time.monotonic()
        self.log.info("child.started", child=child.role.name, pid=child.process.pid)

    def tend(self) -> list[str]:
        """Starts again who has died, later after each death in a row; keeps the logs short. Call it often.

        Returns who has just died so often in a row that it will hardly get better by itself.
        """
        now = time.monotonic()
        hopeless = []
        for child in self.children:
            if child.process is not None and not alive(child.process):
                code = child.process.wait()
                child.process = None
                child.failures = 1 if now - child.started > STEADY_S else child.failures + 1
                wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (child.failures - 1))
                child.due = now + wait_s
                if child.failures == DEATHS_IN_A_ROW:
                    hopeless.append(child.role.name)
                self.log.warning("child.died", child=child.role.name, code=code, again_in_s=wait_s)
                end_all(list(marked(f"{child.role.name}@{self.home}")))  # what it had started
            if child.process is None and now >= child.due:
                self.launch(child)
        if self.logs is not None and now >= self.logs_due:
            self.logs_due = now + LOGS_EVERY_S
            for path in self.logs.glob("*.log"):
                set_aside(path)
        return hopeless

    def failures(self, name: str) -> int:
        return next(child.failures for child in self.children if child.role.name == name)

    def stop(self) -> None:
        """Asks all to end, at once; ends by force those that do not within the grace, and what they started."""
        end_all([child.process for child in self.children if child.process is not None])
        end_all(list(marked(f"@{self.home}")), grace_s=0.5)
        for child in self.children:
            child.process = None


def marked(mark: str) -> Iterator[psutil.Process]:
    """Processes of this user that a child of this mark is or has started."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK, "").endswith(mark) and process.pid != os.getpid():
                yield process


def end_all(processes: Sequence[psutil.Process], *, grace_s: float = STOP_GRACE_S) -> None:
    """SIGTERM to all, SIGKILL to those that are there after the grace."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    wait_until(lambda: not any(alive(process) for process in processes), timeout_s=grace_s, every_s=0.05)
    for process in processes:
        if alive(process):
            end(process, grace_s=5.0)
