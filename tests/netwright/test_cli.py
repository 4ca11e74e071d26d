"""The command line, and the doctor behind one of its commands."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from netwright import doctor
from netwright.cli import cli
from netwright.doctor import Finding, Verdict, examine
from netwright.engines import Engines
from store import keys
from store.database import Sessions
from store.settings import Settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, settings: Settings, sessions: Sessions) -> Sessions:
    """The run's own database and broker, by the environment, as a user sets them; emptied afterwards."""
    monkeypatch.setenv("NETWRIGHT_HOME", str(settings.home))
    monkeypatch.setenv("NETWRIGHT_PORT", "0")  # 8000 may be somebody's
    monkeypatch.setenv("NETWRIGHT_DATABASE_URL", settings.require_database_url())
    monkeypatch.setenv("NETWRIGHT_REDIS_URL", settings.require_redis_url())
    return sessions


def says(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result.output


def test_a_key_is_shown_once_listed_by_its_first_letters_and_revoked(environment: Sessions) -> None:
    secret = says("key", "create", "ci", "--role", "admin").split()[-1]
    says("key", "create", "spare", "--role", "admin", "--days", "1")
    with environment.begin() as session:
        row = keys.authenticate(session, secret)
        assert row is not None
        identity = row.id
    listed = says("key", "list")
    assert identity in listed
    assert secret not in listed
    assert "ci" in says("key", "revoke", identity)
    assert "revoked" in says("key", "list")
    with environment.begin() as session:
        assert keys.authenticate(session, secret) is None


def test_migrating_twice_is_fine(environment: Sessions) -> None:
    assert "current" in says("migrate")
    assert "current" in says("migrate")


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        (["up"], {"NETWRIGHT_PORT": "http"}, "NETWRIGHT_PORT: Input should be a valid integer"),
        (["serve"], {}, "NETWRIGHT_DATABASE_URL is not set"),
        (["up"], {"NETWRIGHT_HOME": "/proc/nowhere"}, "NETWRIGHT_HOME /proc/nowhere cannot be written"),
    ],
)
def test_what_the_user_can_mend_is_a_line_and_no_traceback(
    arguments: list[str], variables: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "netwright", *arguments],
        env={**os.environ, "NETWRIGHT_HOME": str(tmp_path / "home"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("netwright: ")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def found(settings: Settings, subject: str) -> Finding:
    return next(finding for finding in examine(settings) if finding.subject == subject)


def test_the_doctor_finds_nothing_to_mend_where_all_is_well(environment: Sessions) -> None:
    said = says("doctor")
    assert "blocked" not in said
    assert "Schema: current" in said


def test_a_machine_without_servers_is_well_too_and_stays_as_it_was(tmp_path: Path) -> None:
    home = tmp_path / "never"
    findings = examine(Settings(home=home))
    assert not [finding for finding in findings if finding.verdict is Verdict.BLOCKED and finding.subject != "Port"]
    assert "embedded" in next(finding.fact for finding in findings if finding.subject == "Postgres")
    assert not home.exists()


def test_servers_that_do_not_answer_block_and_the_variable_is_named(settings: Settings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: nobody else answers there
        port = closed.getsockname()[1]
        away = settings.model_copy(
            update={
                "database_url": SecretStr(f"postgresql://127.0.0.1:{port}/netwright"),
                "redis_url": SecretStr(f"redis://127.0.0.1:{port}/0"),
            }
        )
        for subject, variable in (("Postgres", "NETWRIGHT_DATABASE_URL"), ("Redis", "NETWRIGHT_REDIS_URL")):
            finding = found(away, subject)
            assert finding.verdict is Verdict.BLOCKED
            assert variable in finding.mend


def test_a_schema_of_another_version_blocks(settings: Settings, servers: Engines) -> None:
    empty = servers.database_url.rsplit("/", 1)[0] + "/postgres"
    finding = found(settings.model_copy(update={"database_url": SecretStr(empty)}), "Schema")
    assert finding.verdict is Verdict.BLOCKED
    assert "netwright migrate" in finding.mend


def test_a_taken_port_and_too_little_memory_or_disk_block(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as neighbour:
        neighbour.bind(("127.0.0.1", 0))
        neighbour.listen()
        taken = settings.model_copy(update={"port": neighbour.getsockname()[1]})
        assert doctor.port(taken).verdict is Verdict.BLOCKED
    for name in ("DISK_NEEDED", "MEMORY_NEEDED"):
        monkeypatch.setattr(doctor, name, 1 << 60)
    assert doctor.home(settings).verdict is Verdict.BLOCKED
    assert doctor.memory(settings).verdict is Verdict.BLOCKED


def test_a_gpu_that_the_installed_torch_cannot_use_is_said(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA Made Up (UUID: GPU-0)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    finding = doctor.gpu(settings)
    assert "NVIDIA Made Up" in finding.fact
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor.gpu(settings).fact.startswith("none")
