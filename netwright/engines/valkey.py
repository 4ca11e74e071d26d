"""An embedded Valkey (or Redis): a real server, TCP on 127.0.0.1 behind a password, its log of writes in the home."""

import signal
import time
from pathlib import Path

import psutil
import redis

from netwright.engines.binaries import find_valkey
from netwright.engines.errors import EngineError
from netwright.engines.place import Place
from netwright.engines.process import alive, end, matching, spawn, tail, wait_until
from netwright.engines.server import Server

NAME = "valkey"
START_S = 20.0
STOP_GRACE_S = 5.0
STOP_SIGNALS = (signal.SIGTERM,)  # writes its log out and ends


def start(place: Place, *, folder: Path | None = None) -> Server:
    """Starts the Valkey of `place`, or adopts the one that runs there, and returns when it answers.

    A log of writes that cannot be read is set aside: the broker holds wake-ups, and the sweep sends them anew.
    Raises EngineError.
    """
    running = find(place)
    if running is not None:
        return running
    program = find_valkey(place, folder)
    data = place.folder(NAME)
    port = place.free_port(NAME)
    conf = configure(place, data, port)
    for attempt in ("as it is", "with a fresh log of writes"):
        process = spawn([program.path, conf], place.account, data, place.log(NAME), death_signal=signal.SIGTERM)
        server = answering(place, process, port)
        if server is not None:
            return server
        end(process, *STOP_SIGNALS, grace_s=STOP_GRACE_S)
        writes = data / "appendonlydir"
        if attempt == "as it is" and writes.exists():
            writes.replace(writes.with_name(f"unreadable-{time.time_ns()}"))
        else:
            break
    raise EngineError(f"Valkey {program.version} did not start on {data}: {tail(place.log(NAME))}")


def find(place: Place) -> Server | None:
    """The Valkey of `place` that runs and answers, whoever started it; one that runs and does not answer is ended."""
    conf = place.root / NAME / "valkey.conf"
    for process in matching(programs=["valkey-server", "redis-server"], mark=f" {conf}"):
        port = place.port(NAME)
        server = answering(place, process, port, adopted=True) if port is not None else None
        if server is not None:
            return server
        end(process, *STOP_SIGNALS, grace_s=STOP_GRACE_S)
    return None


def configure(place: Place, data: Path, port: int) -> Path:
    """Writes the file that holds the password, readable by the account alone."""
    conf = data / "valkey.conf"
    conf.touch(0o600)
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {place.secret(NAME)}",
        f'dir "{data}"',
        "appendonly yes",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
        "set-proc-title no",  # the command line is how a later start finds it
        "loglevel notice",
    ]
    conf.write_text("\n".join(lines) + "\n")
    conf.chmod(0o600)
    place.give(conf)
    return conf


def answering(place: Place, process: psutil.Process, port: int, *, adopted: bool = False) -> Server | None:
    """The server once it answers; None when it ends or stays silent."""
    url = f"redis://:{place.secret(NAME)}@127.0.0.1:{port}/0"
    with redis.Redis.from_url(url, socket_timeout=2) as client:

        def pongs() -> bool:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):  # BusyLoadingError is a ConnectionError
                return False

        answered = wait_until(lambda: not alive(process) or pongs(), timeout_s=START_S)
        if not answered or not alive(process):
            return None
        info = client.info("server")
    version = str(info.get("valkey_version") or info["redis_version"])
    return Server(NAME, url, version, process, adopted, STOP_SIGNALS, STOP_GRACE_S)
