"""`netwright up` as a user runs it: a process, with everything under it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import structlog

from netwright import engines, supervisor
from netwright.children import MARK, Children, Role, marked
from netwright.engines import place, postgres, valkey
from netwright.engines.process import alive, wait_until
from store.settings import Settings

UP_S = 60  # a machine may have other things to do
DOWN_S = 20


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="netwright-"))
    folder.chmod(0o711)
    yield folder
    assert wait_until(lambda: not any(marked(f"@{folder}")), timeout_s=DOWN_S), "children were left behind"
    engines.remove(folder)


@dataclass(slots=True)
class Up:
    """A running `netwright up` and what it said."""

    process: "subprocess.Popen[str]"
    said: dict[str, str]

    @property
    def url(self) -> str:
        return self.said["API"]

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/healthz", timeout=5).is_success
        return False


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "netwright", *arguments]


def variables(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "NETWRIGHT_HOME": str(home), **more}


@contextmanager
def up(home: Path) -> Iterator[Up]:
    """`netwright up` on a free port; ended by SIGTERM if the test has not ended it."""
    arguments = command("up", "--port", "0")
    with subprocess.Popen(arguments, env=variables(home), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = {}
        for line in process.stdout:
            name, _, value = line.strip().partition(": ")
            said[name] = value
            if name == "Data, logs":
                break
        assert "API" in said, "the service did not start"
        try:
            yield Up(process, said)
        finally:
            process.terminate()
            assert process.wait(DOWN_S) in (0, -signal.SIGKILL)


def child(home: Path, name: str) -> psutil.Process:
    """The process at the head of a role."""
    return min(marked(f"{name}@{home}"), key=lambda process: process.create_time())


@pytest.mark.slow
def test_the_service_comes_back_from_the_death_of_each_of_its_processes_and_of_all_of_them(home: Path) -> None:
    with up(home) as service:
        assert service.answers()
        assert re.fullmatch(r"nw_\S{43}", service.said["Admin key"].split()[0])
        where = place.locate(home)

        def server() -> psutil.Process:
            return child(home, "server")

        def database() -> psutil.Process:
            found = postgres.postmaster(where.root / "postgres")
            assert found is not None
            return found

        def broker() -> psutil.Process:
            found = valkey.find(where)
            assert found is not None
            return found.process

        def worker() -> psutil.Process:
            return child(home, "control")

        def is_back(find: Callable[[], psutil.Process], victim: psutil.Process) -> bool:
            with suppress(AssertionError, ValueError, psutil.Error):
                return find().pid != victim.pid
            return False

        for find in (server, database, broker, worker):
            victim = find()
            victim.kill()
            assert wait_until(lambda find=find, victim=victim: is_back(find, victim), timeout_s=UP_S)  # type: ignore[misc]
            assert wait_until(service.answers, timeout_s=UP_S, every_s=0.1)

        def deaths() -> tuple[int, int]:
            events = [json.loads(line)["event"] for line in (home / "logs" / "supervisor.log").read_text().splitlines()]
            return events.count("child.died"), events.count("engine.died")

        # A worker's pool outlives it for a moment, so the role may look played before the death is noticed.
        assert wait_until(lambda: deaths() == (2, 2), timeout_s=UP_S), deaths()

        refused = subprocess.run(command("up"), env=variables(home), capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert service.url in refused.stderr

        service.process.kill()
        service.process.wait()
        with up(home) as second:  # at once, while the first one's processes are on their way down
            assert second.answers()
            assert "Admin key" not in second.said
            key = subprocess.run(
                command("key", "create", "ci"), env=variables(home), capture_output=True, text=True, check=True
            )
            assert key.stdout.startswith("nw_")
            began = time.monotonic()
            second.process.terminate()
            assert second.process.wait(DOWN_S) == 0
            assert time.monotonic() - began < 15
    assert postgres.find(where) is None
    assert valkey.find(where) is None
    assert supervisor.running_at(home) is None


def children(home: Path, *roles: Role) -> Children:
    return Children(home, roles, structlog.get_logger(), home / "logs")


def test_a_child_that_dies_again_and_again_is_started_later_each_time_and_named(tmp_path: Path) -> None:
    made = children(tmp_path, Role("broken", ("no-such-command",)))
    made.start({})
    hopeless: list[str] = []

    def named() -> bool:
        hopeless.extend(made.tend())
        return bool(hopeless)

    assert wait_until(named, timeout_s=UP_S)
    assert hopeless == ["broken"]
    assert made.failures("broken") == 3
    assert made.children[0].due - time.monotonic() > 1
    assert "no-such-command" in (tmp_path / "logs" / "broken.log").read_text()
    made.stop()


def test_what_a_predecessor_left_behind_is_ended_before_the_start(tmp_path: Path) -> None:
    orphan = psutil.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, lambda *_: None); print(1, flush=True); time.sleep(60)",
        ],
        env={**os.environ, MARK: f"trial@{tmp_path}"},
        stdout=subprocess.PIPE,
    )
    orphan.stdout.readline()  # it ignores SIGTERM from here on
    made = children(tmp_path)
    made.start({})
    assert not alive(orphan)
    orphan.stdout.close()


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")],
)
def test_the_url_is_one_that_this_machine_can_reach(host: str, url: str) -> None:
    assert supervisor.address(host, 80) == url


def test_a_taken_port_is_refused_with_another_one_named() -> None:
    with socket.socket() as neighbour:
        neighbour.bind(("127.0.0.1", 0))
        neighbour.listen()
        port = neighbour.getsockname()[1]
        with (
            pytest.raises(
                supervisor.SupervisorError, match=f"port {port} on 127.0.0.1 is taken.*NETWRIGHT_PORT={port + 1}"
            ),
            supervisor.listening(Settings(port=port)),
        ):
            pass
