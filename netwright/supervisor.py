"""One machine's whole service: engines, schema, workers and server, started, watched and stopped together."""

import errno
import fcntl
import ipaddress
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

import httpx
import psycopg
import redis
import structlog
from structlog.typing import FilteringBoundLogger

from netwright import engines
from netwright.children import BACKOFF_MAX_S, DEATHS_IN_A_ROW, Children, Role
from netwright.devices import gpus
from netwright.engines import EngineError, Server
from netwright.engines.process import tail
from store import keys, migrate
from store.database import engine_for, sessions_for
from store.queue import Queue
from store.settings import Settings

SERVER = "server"
TICK_S = 0.2
READY_S = 120.0
REACHABLE_S = 30.0  # a machine may start its database and us at the same time


class SupervisorError(RuntimeError):
    """The service cannot be started; the message says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Started:
    """What the user needs once the service answers. `admin_key` is set at the first start alone."""

    url: str
    home: Path
    workers: Sequence[str]
    engines: Sequence[Server]
    admin_key: str | None


class Stop:
    """Whether the user has asked for the end, by Ctrl-C, `kill` or closing the terminal."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` asks for
                signal.signal(number, self.ask)

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def up(settings: Settings, announce: Callable[[Started], None], warn: Callable[[str], None]) -> None:
    """Runs the service until it is told to stop. Raises SupervisorError or EngineError when it cannot start.

    announce: told once, when the service answers. warn: told of what goes wrong afterwards and needs a human.
    """
    stop = Stop()
    logs = settings.home / "logs"
    with held(settings.home), log_file(logs / "supervisor.log") as log, listening(settings) as listener:
        url = address(settings.host, listener.getsockname()[1])
        embedded = Embedded(settings, log)
        try:
            urls = embedded.start()
            reach(urls)
            migrate.upgrade(urls.database)
            admin_key = first_key(urls.database)
            server = Role(SERVER, ("server", "--fd", str(listener.fileno())), descriptors=(listener.fileno(),))
            children = Children(settings.home, [server, *worker_roles()], log, logs)
            try:
                children.start(environment(settings, urls))
                await_answer(url, children, stop)
                note = settings.home / "service.json"
                note.write_text(json.dumps({"url": url, "pid": os.getpid()}))
                if not stop.asked:
                    announce(Started(url, settings.home, names(children), embedded.servers, admin_key))
                while not stop.asked:
                    time.sleep(TICK_S)
                    for name in children.tend():
                        warn(f"{name} dies again and again; {end_of(logs / f'{name}.log')}")
                    moved = embedded.tend()
                    if moved is not None:
                        children.stop()
                        children.start(environment(settings, moved))
                note.unlink(missing_ok=True)
            finally:
                children.stop()
        finally:
            embedded.stop()


def work(settings: Settings) -> None:
    """Runs the workers of this machine, for a database and a broker that are elsewhere, until told to stop.

    They say on stdout what they do, as containers are expected to.
    """
    stop = Stop()
    urls = Urls(settings.require_database_url(), settings.require_redis_url())
    children = Children(settings.home, worker_roles(), log_to(sys.stdout), None)
    try:
        children.start(environment(settings, urls))
        while not stop.asked:
            time.sleep(TICK_S)
            children.tend()
    finally:
        children.stop()


def worker_roles() -> list[Role]:
    """A trial worker per GPU, or one with all cores, and one each for data and control."""

    def role(name: str, queue: Queue, **environment: str) -> Role:
        return Role(name, ("worker", "--queue", queue.value, "--name", name), environment)

    devices = gpus()
    trials = [role(f"trial-{gpu.index}", Queue.TRIAL, CUDA_VISIBLE_DEVICES=str(gpu.index)) for gpu in devices]
    return [*(trials or [role("trial", Queue.TRIAL)]), role("data", Queue.DATA), role("control", Queue.CONTROL)]


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the database and the broker are."""

    database: str
    redis: str


class Embedded:
    """The engines that this machine runs itself: those for which no URL is set."""

    def __init__(self, settings: Settings, log: FilteringBoundLogger) -> None:
        self.settings = settings
        self.log = log
        self.starters: dict[str, Callable[[], Server]] = {}
        self.running: dict[str, Server] = {}
        self.failures = 0
        self.due = 0.0
        home = settings.home
        if settings.database_url is None:
            self.starters["postgres"] = lambda: engines.start_postgres(home, folder=settings.postgres_bin)
        if settings.redis_url is None:
            self.starters["valkey"] = lambda: engines.start_valkey(home, folder=settings.valkey_bin)

    @property
    def servers(self) -> list[Server]:
        return list(self.running.values())

    def start(self) -> Urls:
        for name, starter in self.starters.items():
            self.running[name] = server = starter()
            self.log.info("engine.started", engine=name, version=server.version, adopted=server.adopted)
        return self.urls()

    def urls(self) -> Urls:
        """The given URLs, and the engines' own where none is given."""
        database, broker = self.settings.database_url, self.settings.redis_url
        return Urls(
            self.running["postgres"].url if database is None else database.get_secret_value(),
            self.running["valkey"].url if broker is None else broker.get_secret_value(),
        )

    def tend(self) -> Urls | None:
        """Starts dead engines again; the URLs when one of them has had to move to another port."""
        before = self.urls()
        for name, starter in self.starters.items():
            if self.running[name].is_alive or time.monotonic() < self.due:
                continue
            self.log.warning("engine.died", engine=name)
            try:
                self.running[name] = starter()
            except EngineError as error:
                self.failures += 1
                wait_s = min(BACKOFF_MAX_S, 2.0**self.failures)
                self.due = time.monotonic() + wait_s
                self.log.error("engine.not_started", engine=name, reason=str(error), again_in_s=wait_s)
            else:
                self.failures = 0
                self.log.info("engine.started", engine=name, version=self.running[name].version)
        after = self.urls()
        return after if after != before else None

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.stop()
            self.log.info("engine.stopped", engine=server.name)


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Makes this the only supervisor of the home. Raises SupervisorError when there is one."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        stream = (home / "supervisor.lock").open("a+")
    except OSError as error:
        raise SupervisorError(
            f"NETWRIGHT_HOME {home} cannot be written ({error.strerror}); set it to a folder of yours"
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            at = running_at(home)
            where = f"at {at.url}, as process {at.pid}" if at else "and is starting"
            raise SupervisorError(
                f"the service of {home} runs already {where}; stop it first, or set NETWRIGHT_HOME to another folder"
            ) from None
        (home / "service.json").unlink(missing_ok=True)
        yield


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answered when it wrote its note."""

    url: str
    pid: int


def running_at(home: Path) -> Running | None:
    """The service of this home, if one runs."""
    try:
        note = json.loads((home / "service.json").read_text())
        with (home / "supervisor.lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Running(note["url"], note["pid"])
    except (OSError, ValueError, KeyError):
        pass  # no note, or one that is just being written
    return None


@contextmanager
def log_file(path: Path) -> Iterator[FilteringBoundLogger]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as stream:
        yield log_to(stream)


def log_to(stream: TextIO) -> FilteringBoundLogger:
    """The supervisor's own log: one JSON object a line."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.add_log_level,
        structlog.processors.JSONRenderer(),
    ]
    kind = structlog.make_filtering_bound_logger("info")
    logger: FilteringBoundLogger = structlog.wrap_logger(structlog.WriteLogger(stream), processors, wrapper_class=kind)
    return logger


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The server's socket, open for as long as the service runs: while the server restarts, callers wait in line.

    Raises SupervisorError when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise SupervisorError(no_address(settings, error)) from error
        listener.listen(1024)
        yield listener


def no_address(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {settings.port} on {settings.host} is taken; choose another: NETWRIGHT_PORT={settings.port + 1}"
    if error.errno == errno.EACCES:
        return f"port {settings.port} is only for root; set NETWRIGHT_PORT to one above 1023"
    return f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; NETWRIGHT_HOST is an address of this machine"


def address(host: str, port: int) -> str:
    """The URL under which this machine reaches a server bound to `host`."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1" if ":" not in host else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def environment(settings: Settings, urls: Urls) -> dict[str, str]:
    return {
        "NETWRIGHT_HOME": str(settings.home),
        "NETWRIGHT_DATABASE_URL": urls.database,
        "NETWRIGHT_REDIS_URL": urls.redis,
        "PYTHONUNBUFFERED": "1",
    }


def reach(urls: Urls) -> None:
    """Waits until database and broker answer. Raises SupervisorError with what they said last."""
    end = time.monotonic() + REACHABLE_S
    while True:
        try:
            psycopg.connect(urls.database, connect_timeout=5).close()
            with redis.Redis.from_url(urls.redis.replace("redis+socket:", "unix:"), socket_timeout=5) as client:
                client.ping()
        except psycopg.Error as error:
            refusal = f"NETWRIGHT_DATABASE_URL: {error}".strip()
        except redis.RedisError as error:
            refusal = f"NETWRIGHT_REDIS_URL: {error}"
        else:
            return
        if time.monotonic() > end:
            raise SupervisorError(f"no answer within {REACHABLE_S:.0f} s. {refusal}")
        time.sleep(0.5)


def first_key(database_url: str) -> str | None:
    """An admin key when there is no key at all yet."""
    engine = engine_for(database_url, pooled=False)
    with sessions_for(engine).begin() as session:
        if keys.list_keys(session):
            return None
        return keys.create_key(session, "first admin", keys.Role.ADMIN)[1]


def await_answer(url: str, children: Children, stop: Stop) -> None:
    """Returns when the server answers or the user has asked for the end. Raises SupervisorError when it does not come up."""
    log = children.home / "logs" / f"{SERVER}.log"
    end = time.monotonic() + READY_S
    while not stop.asked:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=2).is_success:
                return
        children.tend()
        if children.failures(SERVER) >= DEATHS_IN_A_ROW or time.monotonic() > end:
            raise SupervisorError(f"the server does not answer; {end_of(log)}")
        time.sleep(0.05)


def names(children: Children) -> list[str]:
    return [child.role.name for child in children.children if child.role.name != SERVER]


def end_of(log: Path) -> str:
    return f"the end of {log}:\n{tail(log)}"
