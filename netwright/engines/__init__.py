"""Embedded Postgres and Valkey: real servers that come as wheels, for a machine that has none.

`start` runs both for a home, `borrow` gives a command the database of a home whether the service runs or not,
`temporary` gives fresh ones that leave nothing behind.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netwright.engines import postgres, valkey
from netwright.engines.errors import EngineError
from netwright.engines.place import locate, starting
from netwright.engines.server import Server

__all__ = [
    "EngineError",
    "Engines",
    "Server",
    "borrow",
    "remove",
    "start",
    "start_postgres",
    "start_valkey",
    "temporary",
]


@dataclass(frozen=True, slots=True)
class Engines:
    """Both engines, answering."""

    postgres: Server
    valkey: Server

    @property
    def database_url(self) -> str:
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    def stop(self) -> None:
        """Ends both, also those that were adopted."""
        self.valkey.stop()
        self.postgres.stop()


def start(home: Path, *, durable: bool = True) -> Engines:
    """Starts Postgres and Valkey with their data in `home`, or adopts those that run there already.

    They end when this process does, however it ends. Call it from the main thread. durable=False trades safety in a
    crash for speed, for tests. Raises EngineError.
    """
    database = start_postgres(home, durable=durable)
    try:
        return Engines(database, start_valkey(home))
    except BaseException:
        if not database.adopted:
            database.stop()
        raise


def start_postgres(home: Path, *, folder: Path | None = None, durable: bool = True) -> Server:
    """Postgres alone; `folder` is where `postgres` and `initdb` lie when not in a usual place."""
    place = locate(home)
    with starting(home):
        return postgres.start(place, folder=folder, durable=durable)


def start_valkey(home: Path, *, folder: Path | None = None) -> Server:
    """Valkey alone; `folder` is where `valkey-server` or `redis-server` lies when not in a usual place."""
    place = locate(home)
    with starting(home):
        return valkey.start(place, folder=folder)


@contextmanager
def borrow(home: Path, *, folder: Path | None = None) -> Iterator[Server]:
    """Postgres for the length of a command: that of a running service is left running, another ends with the command."""
    server = start_postgres(home, folder=folder)
    try:
        yield server
    finally:
        if not server.adopted:
            server.stop()


@contextmanager
def temporary(*, durable: bool = False) -> Iterator[Engines]:
    """Fresh engines in a new folder; both are gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="netwright-"))
    home.chmod(0o711)  # so that the account which root steps down to can pass through
    try:
        engines = start(home, durable=durable)
        try:
            yield engines
        finally:
            engines.stop()
    finally:
        remove(home)


def remove(home: Path) -> None:
    """Deletes the engines' data and everything else below `home`; the engines must have been stopped."""
    if home.exists():
        root = locate(home).root
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(home)
