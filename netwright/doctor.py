"""What is missing on this machine, and how to mend it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

import psutil
import psycopg
import redis
from obstore.exceptions import BaseError
from sqlalchemy.exc import SQLAlchemyError

from netwright import supervisor
from netwright.devices import gpus
from netwright.engines import EngineError, postgres
from netwright.engines.binaries import POSTGRES_OLDEST, Program, find_postgres, find_valkey
from netwright.engines.place import OWNER, Place, abandoned, locate
from netwright.supervisor import SupervisorError, running_at
from store import migrate
from store.database import engine_for
from store.objects import Objects, ObjectsError
from store.settings import GIB, Settings

REDIS_OLDEST = 6
DISK_NEEDED, DISK_WISHED = 1 * GIB, 10 * GIB
MEMORY_NEEDED, MEMORY_WISHED = 1 * GIB, 4 * GIB


class Verdict(Enum):
    """BLOCKED keeps the service from running; a NOTE makes it slower, smaller or less safe."""

    OK = "ok"
    NOTE = "note"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` is what to do about it, empty when there is nothing to do."""

    subject: str
    verdict: Verdict
    fact: str
    mend: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Looks at everything the service needs; starts, changes and sends nothing."""
    examinations: list[Callable[[Settings], Finding]] = [
        python,
        home,
        port,
        cores,
        memory,
        gpu,
        database,
        schema,
        broker,
        objects,
    ]
    return [*(examination(settings) for examination in examinations), *remains()]


def python(_: Settings) -> Finding:
    said = f"{sys.version.split()[0]} on {sys.platform}"
    if not sys.platform.startswith("linux"):
        return Finding("Python", Verdict.NOTE, said, "Linux is what is tested; the Docker images run elsewhere too")
    return Finding("Python", Verdict.OK, said)


def home(settings: Settings) -> Finding:
    folder = next(step for step in (settings.home, *settings.home.parents) if step.exists())
    free = shutil.disk_usage(folder).free
    said = f"{settings.home}, {free / GIB:.0f} GiB free"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        mend = "set NETWRIGHT_HOME to a folder of yours"
        return Finding("Home", Verdict.BLOCKED, f"{folder} cannot be written ({error.strerror})", mend)
    mend = "free some space, or set NETWRIGHT_HOME to a folder on a larger disk"
    if free < DISK_NEEDED:
        return Finding("Home", Verdict.BLOCKED, f"{said}; {DISK_NEEDED / GIB:.0f} GiB is the least", mend)
    if free < DISK_WISHED:
        return Finding("Home", Verdict.NOTE, f"{said}; data sets and models will fill that soon", mend)
    return Finding("Home", Verdict.OK, said)


def port(settings: Settings) -> Finding:
    running = running_at(settings.home)
    if running is not None:
        return Finding("Port", Verdict.OK, f"the service runs at {running.url}, as process {running.pid}")
    try:
        with supervisor.listening(settings):
            return Finding("Port", Verdict.OK, f"{settings.host}:{settings.port} is free")
    except SupervisorError as error:
        fact, _, mend = str(error).partition("; ")
        return Finding("Port", Verdict.BLOCKED, fact, mend)


def cores(_: Settings) -> Finding:
    count = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else psutil.cpu_count() or 1
    if count < 2:
        return Finding("Cores", Verdict.NOTE, "1", "two or more let predictions go on while a network trains")
    return Finding("Cores", Verdict.OK, str(count))


def memory(_: Settings) -> Finding:
    free = min(psutil.virtual_memory().available, container_memory())
    said = f"{free / GIB:.1f} GiB to be had"
    if free < MEMORY_NEEDED:
        mend = "end other programs, or give the machine or container more memory"
        return Finding("Memory", Verdict.BLOCKED, f"{said}; {MEMORY_NEEDED / GIB:.0f} GiB is the least", mend)
    if free < MEMORY_WISHED:
        mend = f"with {MEMORY_WISHED / GIB:.0f} GiB no search has to leave out a network for its size"
        return Finding("Memory", Verdict.NOTE, said, mend)
    return Finding("Memory", Verdict.OK, said)


def container_memory() -> float:
    """What the control group of this process has left; infinite when it has no limit."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return float("inf")
    return float(limit.read_text()) - float(used.read_text())


def gpu(_: Settings) -> Finding:
    found = gpus()
    if not found:
        return Finding("GPU", Verdict.OK, "none; networks train on the processor")
    said = ", ".join(device.name for device in found)
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", question], capture_output=True, check=False).returncode:
        mend = (
            "set TORCH_INDEX to PyTorch's index for your CUDA version and run `make clean up`; "
            "if this is a CUDA build already, the driver is too old for it"
        )
        return Finding("GPU", Verdict.NOTE, f"{said}, which the installed torch cannot use", mend)
    return Finding("GPU", Verdict.OK, said)


def database(settings: Settings) -> Finding:
    if settings.database_url is None:
        return embedded(settings, "Postgres", partial(find_postgres_of, settings.postgres_bin))
    try:
        with psycopg.connect(settings.require_database_url(), connect_timeout=5) as connection:
            version = connection.info.server_version // 10000
            where = f"{connection.info.host}:{connection.info.port}"
    except (psycopg.Error, OSError) as error:
        mend = "start it, or correct NETWRIGHT_DATABASE_URL (unset, `netwright up` runs a Postgres of its own)"
        return Finding("Postgres", Verdict.BLOCKED, str(error).strip(), mend)
    if version < POSTGRES_OLDEST:
        mend = f"use Postgres {POSTGRES_OLDEST} or newer"
        return Finding("Postgres", Verdict.BLOCKED, f"{where} is version {version}", mend)
    return Finding("Postgres", Verdict.OK, f"version {version} at {where}")


def broker(settings: Settings) -> Finding:
    if settings.redis_url is None:
        return embedded(settings, "Valkey", lambda place: find_valkey(place, settings.valkey_bin))
    url = settings.require_redis_url().replace("redis+socket:", "unix:")
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            version = str(client.info("server")["redis_version"])
            policy = str(client.info("memory").get("maxmemory_policy", "noeviction"))
    except (redis.RedisError, ValueError, OSError) as error:
        mend = "start it, or correct NETWRIGHT_REDIS_URL (unset, `netwright up` runs a Valkey of its own)"
        return Finding("Redis", Verdict.BLOCKED, str(error), mend)
    if int(version.split(".")[0]) < REDIS_OLDEST:
        return Finding("Redis", Verdict.BLOCKED, f"version {version}", f"use Redis {REDIS_OLDEST} or newer, or Valkey")
    if policy != "noeviction":
        mend = "set its maxmemory-policy to noeviction; a lost wake-up is sent again, but late"
        return Finding("Redis", Verdict.NOTE, f"version {version} evicts keys ({policy})", mend)
    return Finding("Redis", Verdict.OK, f"version {version}")


def embedded(settings: Settings, subject: str, find: Callable[[Place], Program]) -> Finding:
    """Whether an engine of ours could run."""
    try:
        with somewhere(settings.home) as place:
            program = find(place)
    except EngineError as error:
        fact, _, mend = str(error).partition("; ")
        return Finding(subject, Verdict.BLOCKED, fact, mend)
    who = "" if place.account.uid is None else f", run as {place.account.name}"
    return Finding(subject, Verdict.OK, f"embedded, version {program.version} from {program.source}{who}")


def find_postgres_of(folder: Path | None, place: Place) -> Program:
    return find_postgres(place, folder, postgres.written_by(place.root / postgres.NAME))


@contextmanager
def somewhere(home: Path) -> Iterator[Place]:
    """The place of the home, or of a passing one when there is none yet: an examination makes nothing."""
    if home.exists():
        yield locate(home)
        return
    with tempfile.TemporaryDirectory(prefix="netwright-") as passing:
        Path(passing).chmod(0o711)
        yield locate(Path(passing))


def schema(settings: Settings) -> Finding:
    url = None if settings.database_url is None else settings.require_database_url()
    if url is None:
        server = postgres.find(locate(settings.home)) if running_at(settings.home) else None
        if server is None:
            return Finding("Schema", Verdict.OK, "`netwright up` brings it to this version when it starts")
        url = server.url
    engine = engine_for(url, pooled=False)
    try:
        current, newest = migrate.pending(engine)
    except SQLAlchemyError:
        return Finding("Schema", Verdict.NOTE, "not known while Postgres does not answer")
    finally:
        engine.dispose()
    if current != newest:
        return Finding(
            "Schema", Verdict.BLOCKED, f"at {current or 'nothing'}, not at {newest}", "run `netwright migrate`"
        )
    return Finding("Schema", Verdict.OK, f"current, at {current}")


def remains() -> list[Finding]:
    """What engines of homes that are gone have left on the disk."""
    return [
        Finding(
            "Remains",
            Verdict.NOTE,
            f"{root} holds the database of {(root / OWNER).read_text()}, which is gone",
            f"rm -r {root}",
        )
        for root in abandoned()
    ]


def objects(settings: Settings) -> Finding:
    if settings.object_store_url is None:
        return Finding("Objects", Verdict.OK, "in the home")
    try:
        Objects.of(settings).keys("doctor/")
    except (BaseError, ObjectsError, OSError, ValueError) as error:
        mend = "correct NETWRIGHT_OBJECT_STORE_URL and its credentials"
        return Finding("Objects", Verdict.BLOCKED, str(error), mend)
    return Finding("Objects", Verdict.OK, settings.objects)
