"""A whole service of a test's own: `netwright up` in a new home, spoken to over HTTP alone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from netwright import engines

ROOT = Path(__file__).parents[2]
UP_WITHIN_S = 90.0


class Service:
    """`netwright up`, its URL and its admin key. It may be killed and started again; the home stays."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment
        self.key = ""
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start (again) and wait until it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "netwright", "up", "--port", "0"],
            cwd=ROOT,
            env={**os.environ, **self.environment, "NETWRIGHT_HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        printed = []
        for line in self.process.stdout:
            printed.append(line)
            if found := re.search(r"nw_\S+", line):
                self.key = found[0]
            if line.startswith("Data, logs"):
                break
        else:
            raise AssertionError(f"the service did not come up:\n{''.join(printed)}")
        self.url = json.loads((self.home / "service.json").read_text())["url"]
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.http.get(path, params=parameters)
        assert answer.status_code == 200, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code < 300, f"POST {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def upload(self, dataset: str, archive: Path, **parameters: Any) -> Any:
        """The ended import job of an archive sent as data of a new data set."""
        answer = self.http.put(
            f"/v1/datasets/{dataset}/data",
            params={"create": "true", "task": "image_classification", **parameters},
            content=archive.read_bytes(),
        )
        assert answer.status_code == 202, answer.text
        return self.ended(f"/v1/jobs/{answer.json()['id']}")

    def ended(self, path: str, within_s: float = 240.0) -> Any:
        """The search or job at `path` once it has ended."""
        return self.until(path, lambda row: row["ended_at"] is not None, within_s)

    def until(self, path: str, holds: Callable[[Any], bool], within_s: float = 120.0) -> Any:
        """What `path` answers once `holds` is true of it; errors on the way are waited out: parts may be down."""
        deadline = time.monotonic() + within_s
        last: Any = None
        while time.monotonic() < deadline:
            try:
                answer = self.http.get(path)
                last = answer.json()
                if answer.status_code == 200 and holds(last):
                    return last
            except (httpx.HTTPError, json.JSONDecodeError) as error:
                last = error
            time.sleep(0.1)
        raise AssertionError(f"{path} did not get there within {within_s} s; last seen: {last}\n{self.logs()}")

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of this service whose command line holds all the words."""
        found = []
        for process in psutil.process_iter():
            try:
                command, environment = " ".join(process.cmdline()), process.environ()
            except (psutil.Error, OSError):
                continue
            ours = str(self.home) in environment.get("NETWRIGHT_HOME", "") or str(self.home) in command
            if ours and all(word in command for word in words):
                found.append(process)
        return found

    def logs(self) -> str:
        """The end of every log, for a failed test's reader."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted((self.home / "logs").glob("*.log"))
        )

    def stop(self) -> int:
        """Ask it to end; returns the exit status. Not by Ctrl-C, which a shell makes background jobs ignore."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9 of `netwright up` itself."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.http.close()
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process.stdout.close()
        return status


@contextmanager
def running_service(**environment: str) -> Iterator[Service]:
    """A service in a new home, stopped and removed afterwards; names of settings without NETWRIGHT_."""
    home = Path(tempfile.mkdtemp(prefix="netwright-e2e-"))
    home.chmod(0o711)
    service = Service(home, {f"NETWRIGHT_{name.upper()}": value for name, value in environment.items()})
    try:
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.stop()
        for engine in service.processes("postgres", "-D") + service.processes("valkey"):
            engine.kill()
        engines.remove(home)
        shutil.rmtree(home, ignore_errors=True)
