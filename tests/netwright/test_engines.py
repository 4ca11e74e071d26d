"""The embedded engines: started, killed, adopted, moved, as this user and as another."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from netwright import engines
from netwright.engines import place
from netwright.engines.process import alive, wait_until

ROOT = Path(engines.__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home") / "netwright"
    yield folder
    engines.remove(folder)


def write(url: str, value: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def values(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


def test_both_answer_and_what_was_written_is_there_after_a_restart(home: Path) -> None:
    first = engines.start(home, durable=False)
    write(first.database_url, 1)
    redis.Redis.from_url(first.redis_url).set("kept", "yes")
    first.stop()
    assert not first.postgres.is_alive
    assert not first.valkey.is_alive
    second = engines.start(home, durable=False)
    assert (second.database_url, second.redis_url) == (first.database_url, first.redis_url)
    assert values(second.database_url) == [1]
    assert redis.Redis.from_url(second.redis_url).get("kept") == b"yes"
    second.stop()


def test_passwords_are_asked_for_and_lie_in_a_file_of_this_user_alone(home: Path) -> None:
    started = engines.start(home, durable=False)
    assert (home / "engines.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(started.database_url.replace("netwright:", "netwright:not"))
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(started.redis_url.split("//:")[0] + "//" + started.redis_url.split("@")[1]).ping()
    listening = psutil.Process(started.postgres.process.pid).net_connections("tcp")
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    started.stop()


def test_a_killed_postgres_recovers_every_committed_row_although_its_children_lived_on(home: Path) -> None:
    first = engines.start(home)
    write(first.database_url, 1)
    children = first.postgres.process.children()
    for child in children:
        with suppress(psutil.NoSuchProcess):  # a worker at the end of its short life
            child.suspend()  # as a backend amid a long query: it does not notice the death of its parent
    first.postgres.process.kill()
    first.postgres.process.wait()
    second = engines.start(home)
    assert second.valkey.adopted
    assert values(second.database_url) == [1]
    assert not any(alive(child) for child in children)
    second.stop()
    first.valkey.stop()


def test_a_pid_file_that_names_a_stranger_does_not_stop_the_start(home: Path) -> None:
    first = engines.start(home)
    write(first.database_url, 1)
    first.postgres.process.kill()
    first.postgres.process.wait()
    pid_file = place.locate(home).root / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    first.valkey.stop()
    second = engines.start(home)
    assert values(second.database_url) == [1]
    second.stop()


def test_a_running_engine_is_adopted_and_a_borrower_leaves_it_running(home: Path) -> None:
    owner = engines.start(home, durable=False)
    with engines.borrow(home) as borrowed:
        assert borrowed.adopted
        assert borrowed.url == owner.database_url
        assert borrowed.process.pid == owner.postgres.process.pid
    assert owner.postgres.is_alive
    again = engines.start(home, durable=False)
    assert again.valkey.adopted
    assert again.redis_url == owner.redis_url
    assert owner.postgres.is_alive
    assert owner.valkey.is_alive
    owner.stop()


def test_a_port_taken_meanwhile_is_replaced_by_another(home: Path) -> None:
    engines.start(home, durable=False).stop()
    where = place.locate(home)
    taken = where.port("postgres")
    assert taken is not None
    with place.socket.socket() as neighbour:
        neighbour.setsockopt(place.socket.SOL_SOCKET, place.socket.SO_REUSEADDR, 1)
        neighbour.bind(("127.0.0.1", taken))
        neighbour.listen()
        started = engines.start(home, durable=False)
        assert where.port("postgres") not in (taken, None)
        write(started.database_url, 1)
        started.stop()


def test_an_unreadable_log_of_writes_is_set_aside(home: Path) -> None:
    engines.start(home, durable=False).stop()
    folder = place.locate(home).root / "valkey" / "appendonlydir"
    for path in folder.iterdir():
        path.write_bytes(b"\x00 not what was written \xff" * 10)
    started = engines.start(home, durable=False)
    assert redis.Redis.from_url(started.redis_url).ping()
    assert list(folder.parent.glob("unreadable-*"))
    started.stop()


def test_an_interrupted_creation_is_begun_anew(home: Path) -> None:
    where = place.locate(home)
    (where.folder("postgres.new") / "PG_VERSION").write_text("18\n")
    started = engines.start(home, durable=False)
    write(started.database_url, 1)
    started.stop()


def test_a_given_folder_whose_program_does_not_start_is_named(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "valkey-server").write_text("#!/bin/sh\nexit 3\n")
    (broken / "valkey-server").chmod(0o755)
    with pytest.raises(engines.EngineError) as refusal:
        engines.start_valkey(home, folder=broken)
    assert str(broken) in str(refusal.value)


PYTHONS = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")  # root's own may lie where nobody else can go
STARTER = """
    import os, sys, time
    from pathlib import Path
    from netwright import engines
    started = engines.start(Path(sys.argv[1]))
    print(started.postgres.process.pid, started.valkey.process.pid, started.postgres.process.uids().real, flush=True)
    sys.stdin.read()
    started.stop()
"""


def starter(home: Path, uid: int | None = None) -> subprocess.Popen[str]:
    """A process that starts the engines of `home` and ends them when its input closes; says both pids and the user."""
    for python in PYTHONS:
        command = [python, "-c", textwrap.dedent(STARTER), str(home)]
        variables = {"PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])}
        with suppress(OSError):
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=variables | {"PYTHONDONTWRITEBYTECODE": "1"},
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
            )
    pytest.skip(f"uid {uid} may run none of {', '.join(PYTHONS)}")


def test_the_engines_of_a_killed_process_end_with_it_and_start_anew(home: Path) -> None:
    first = starter(home)
    assert first.stdout is not None
    pids = [int(word) for word in first.stdout.readline().split()[:2]]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = engines.start(home)  # while the first ones may still be on their way down
    write(second.database_url, 1)
    assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), timeout_s=5)
    assert second.postgres.is_alive
    second.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's engines ever live outside of the home")
def test_a_place_outside_of_a_home_that_is_gone_is_told(home: Path) -> None:
    root = place.locate(home).root
    assert root.is_relative_to(place.SERVICE)
    assert root not in place.abandoned()
    state = (home / "engines.json").read_text()
    (home / "engines.json").unlink()
    assert root in place.abandoned()
    (home / "engines.json").write_text(state)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_steps_down_to_a_lesser_user(home: Path) -> None:
    started = engines.start(home, durable=False)
    assert started.postgres.process.uids().real != 0
    assert started.valkey.process.uids().real == started.postgres.process.uids().real
    started.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_normal_user_runs_them_as_himself_and_root_goes_on_as_that_user(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="netwright-"))
    os.chown(folder, NOBODY, NOBODY)
    home = folder / "home"
    with starter(home, NOBODY) as theirs:
        assert theirs.stdout is not None
        assert theirs.stdout.readline().split()[2] == str(NOBODY)
    assert (home / "engines" / "postgres").stat().st_uid == NOBODY
    ours = engines.start(home)
    assert ours.postgres.process.uids().real == NOBODY
    write(ours.database_url, 1)
    ours.stop()
    engines.remove(home)
    folder.rmdir()
