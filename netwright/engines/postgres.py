"""An embedded Postgres: real server programs, data in the home, TCP on 127.0.0.1, SCRAM passwords."""

import hashlib
import shutil
import signal
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from netwright.engines.binaries import Program, find_postgres
from netwright.engines.errors import EngineError
from netwright.engines.place import Place
from netwright.engines.process import alive, end, matching, run, spawn, tail, wait_until
from netwright.engines.server import Server

NAME = "postgres"
USER = DATABASE = "netwright"
BUILTIN_LOCALE_SINCE = 17  # older ones know no locale provider of Postgres's own
START_S = 60.0  # recovery after a crash replays up to max_wal_size
STOP_GRACE_S = 10.0
ORPHAN_GRACE_S = 3.0
READY_LINE = 7  # postmaster.pid: pid, data directory, start time, port, socket directory, address, shared memory, state
STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT)  # rolls back and ends; ends at once and recovers at the next start


def start(place: Place, *, folder: Path | None = None, durable: bool = True) -> Server:
    """Starts the Postgres of `place`, or adopts the one that runs there, and returns when it answers.

    folder: where the programs lie, when not in a usual place. durable=False trades crash safety for speed, for tests.
    Raises EngineError.
    """
    data = place.root / NAME
    running = find(place)
    if running is not None:
        return running
    clear_orphans(data)
    program = find_postgres(place, folder, written_by(data))
    if not data.exists():
        create(place, program, data, durable)
    port = place.free_port(NAME)
    process = spawn(
        command(program, data, port, durable), place.account, data, place.log(NAME), death_signal=signal.SIGINT
    )
    ready = wait_until(lambda: state(data) == "ready" or not alive(process), timeout_s=START_S)
    if not ready or not alive(process):
        end(process, *STOP_SIGNALS, grace_s=STOP_GRACE_S)
        raise EngineError(f"Postgres {program.version} did not start on {data}: {tail(place.log(NAME))}")
    server = answering(place, process, port, adopted=False)
    ensure_database(server.url)
    return server


def find(place: Place) -> Server | None:
    """The Postgres of `place` that runs and takes connections, whoever started it.

    One that is on its way down is waited for; one that runs and does not answer is ended.
    """
    data = place.root / NAME
    process = postmaster(data)
    if process is None:
        return None
    settled = wait_until(lambda: state(data) == "ready" or not alive(process), timeout_s=START_S)
    port = listening_port(data)
    if settled and port is not None and alive(process):
        try:
            return answering(place, process, port, adopted=True)
        except EngineError:
            if not alive(process):  # it had been told to end
                return None
    end(process, *STOP_SIGNALS, grace_s=STOP_GRACE_S)
    return None


def answering(place: Place, process: psutil.Process, port: int, *, adopted: bool) -> Server:
    """The server after a first conversation. Raises EngineError when it refuses."""
    url = f"postgresql://{USER}:{place.secret(NAME)}@127.0.0.1:{port}/{DATABASE}"
    try:
        with psycopg.connect(url, dbname="postgres", connect_timeout=5) as connection:
            number = connection.info.server_version
    except psycopg.OperationalError as error:
        raise EngineError(f"Postgres on port {port} refuses: {error}") from error
    return Server(NAME, url, f"{number // 10000}.{number % 10000}", process, adopted, STOP_SIGNALS, STOP_GRACE_S)


def command(program: Program, data: Path, port: int, durable: bool) -> list[str | Path]:
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",  # their paths may be 107 bytes long, and homes are longer
        "cluster_name": cluster_name(data),
        "max_connections": 200,
        "max_parallel_workers_per_gather": 0,  # short queries; and containers have 64 MB for parallel ones to share
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
    }
    if not durable:
        options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    settings = (f"--{name}={value}" for name, value in options.items())
    return [program.path, "-D", data, *settings]


def cluster_name(data: Path) -> str:
    """A name that Postgres puts into the titles of its children; of the data, so that orphans can be told."""
    return "netwright-" + hashlib.sha256(str(data).encode()).hexdigest()[:12]


def create(place: Place, program: Program, data: Path, durable: bool) -> None:
    """Makes the data directory, whole or not at all."""
    fresh = place.root / f"{NAME}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    place.folder(fresh.name)
    secret = place.root / "postgres.password"
    secret.touch(0o600)
    secret.write_text(place.secret(NAME))
    place.give(secret)
    options: list[str | Path] = ["-D", fresh, "-U", USER, "--pwfile", secret, "-A", "scram-sha-256", "-E", "UTF8"]
    options.append("--locale=C.UTF-8")
    if not durable:
        options.append("--no-sync")
    if program.major >= BUILTIN_LOCALE_SINCE:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    try:
        run([program.path.with_name("initdb"), *options], place.account, place.root)
    finally:
        secret.unlink()
    fresh.replace(data)


def ensure_database(url: str) -> None:
    with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
        exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if exists is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def written_by(data: Path) -> int | None:
    """The major version that wrote the data."""
    mark = data / "PG_VERSION"
    return int(mark.read_text()) if mark.exists() else None


def pid_lines(data: Path) -> list[str]:
    path = data / "postmaster.pid"
    return path.read_text().splitlines() if path.exists() else []


def state(data: Path) -> str:
    lines = pid_lines(data)
    return lines[READY_LINE].strip() if len(lines) > READY_LINE else ""


def listening_port(data: Path) -> int | None:
    lines = pid_lines(data)
    return int(lines[3]) if len(lines) > READY_LINE and lines[3].isdigit() else None


def postmaster(data: Path) -> psutil.Process | None:
    """The server process of this data, told by its command line: a pid file may name a stranger after a crash."""
    for process in matching(programs=["postgres"], mark=f" -D {data} "):
        if alive(process):
            return process
    return None


def clear_orphans(data: Path) -> None:
    """Ends children of a killed postmaster that still hold its memory, then removes its stale pid file.

    Postgres refuses to start while either is there, and a pid that another program has got meanwhile would stop it for
    ever. The file goes last, for it is what keeps two servers off one directory.
    """
    for process in matching(programs=["postgres"], mark=f": {cluster_name(data)}: "):
        end(process, grace_s=ORPHAN_GRACE_S)
    if postmaster(data) is None:
        (data / "postmaster.pid").unlink(missing_ok=True)
