"""The service that a demo talks to: the one that runs, or one that starts for it and ends with it."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from netwright.access import sessions
from netwright.engines.process import MYSELF, launched
from netwright.supervisor import SupervisorError, running_at
from store.keys import Role, create_key
from store.settings import Settings

KEY_LASTS = timedelta(days=7)
STOP_S = 30


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the service answers and the key to it. `is_admin_key`: it is the first key, made at the first start."""

    url: str
    key: str
    is_own: bool
    is_admin_key: bool


@contextmanager
def stack(settings: Settings) -> Iterator[Stack]:
    """The running service of this home; else one for the length of the demo. Raises SupervisorError."""
    running = running_at(settings.home)
    if running is not None:
        yield Stack(running.url, demo_key(settings), is_own=False, is_admin_key=False)
        return
    command = [sys.executable, "-P", "-m", "netwright", "up", "--port", str(free_port(settings))]
    with subprocess.Popen(
        launched(command, MYSELF, Path.cwd(), signal.SIGTERM),  # ends with the demo, however that ends
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is the demo's to handle
    ) as process:
        try:
            said = announced(process)
            admin_key = said.get("Admin key", "").split(" ")[0]
            yield Stack(said["API"], admin_key or demo_key(settings), is_own=True, is_admin_key=bool(admin_key))
        finally:
            process.terminate()
            process.wait(STOP_S)


def announced(process: "subprocess.Popen[str]") -> dict[str, str]:
    """What `netwright up` says once it answers. Raises SupervisorError with its own words when it ends instead."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("Data, logs:"):
            return dict(one.split(": ", 1) for one in lines if ": " in one)
    raise SupervisorError("the service did not start: " + " ".join(lines).removeprefix("netwright: "))


def free_port(settings: Settings) -> int:
    """The usual port, or any when that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            return 0
    return settings.port


def demo_key(settings: Settings) -> str:
    """A key of the demo's own, that lasts long enough to try things afterwards."""
    with sessions(settings) as made, made.begin() as session:
        return create_key(session, "demo", Role.EDITOR, datetime.now(UTC) + KEY_LASTS)[1]
