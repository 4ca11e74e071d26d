"""The fleet of docker-compose.yml, checked against the code: no Docker is needed to see that they fit."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.testclient import TestClient
from typer.main import get_command

from api.app import create_app as create_api
from netwright.cli import cli
from netwright.supervisor import worker_roles
from serve.app import create_app as create_serve
from store.queue import Queue
from store.settings import Settings

ROOT = Path(__file__).parents[1]
GIVEN = {"POSTGRES_PASSWORD": "of-postgres", "VALKEY_PASSWORD": "of-valkey"}
OURS = ("migrate", "api", "serve", "worker", "worker-gpu")


def interpolated(text: str) -> str:
    """What `docker compose` makes of ${NAME:-default} and ${NAME:?complaint}."""
    return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", lambda m: GIVEN.get(m[1]) or (m[3] if m[2] == "-" else ""), text)


COMPOSE = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())


def instructions(name: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in DOCKERFILE.splitlines() if line.startswith(f"{name} ")]


def image_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for line in instructions("ENV") for word in line)


def commands() -> dict[str, Any]:
    command: Any = get_command(cli)
    return dict(command.commands)


def test_the_image_starts_with_the_command_that_the_package_installs() -> None:
    assert '\nENTRYPOINT ["netwright"]\nCMD ["up"]' in DOCKERFILE
    assert PYPROJECT["project"]["scripts"] == {"netwright": "netwright.cli:main"}
    assert "up" in commands()


@pytest.mark.parametrize("service", OURS)
def test_every_command_is_one_of_the_cli(service: str) -> None:
    name, *arguments = SERVICES[service]["command"]
    commands()[name].make_context(name, list(arguments))  # raises for an unknown option


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting_and_has_a_legal_value(service: str) -> None:
    given = {**image_environment(), **SERVICES[service]["environment"]}
    ours = {
        name.removeprefix("NETWRIGHT_").lower(): value for name, value in given.items() if name.startswith("NETWRIGHT_")
    }
    assert set(ours) <= set(Settings.model_fields)
    settings = Settings.model_validate(ours)
    assert settings.host == "0.0.0.0", "a container is reached from outside of it"


@pytest.mark.parametrize("service", OURS)
def test_database_and_broker_are_the_services_with_their_passwords(service: str) -> None:
    database = urlsplit(SERVICES[service]["environment"]["NETWRIGHT_DATABASE_URL"])
    postgres = SERVICES["postgres"]["environment"]
    assert (database.hostname, database.port) == ("postgres", 5432)
    assert (database.username, database.password) == (postgres["POSTGRES_USER"], postgres["POSTGRES_PASSWORD"])
    assert database.path == f"/{postgres['POSTGRES_DB']}"
    broker = urlsplit(SERVICES[service]["environment"]["NETWRIGHT_REDIS_URL"])
    assert (broker.hostname, broker.port, broker.password) == ("valkey", 6379, GIVEN["VALKEY_PASSWORD"])
    assert SERVICES["valkey"]["command"][-2:] == ["--requirepass", GIVEN["VALKEY_PASSWORD"]]


@pytest.mark.parametrize(("service", "create"), [("api", create_api), ("serve", create_serve)])
def test_health_checks_ask_a_path_that_is_there_on_the_port_that_is_listened_on(
    service: str, create: Any, settings: Settings
) -> None:
    program = SERVICES[service]["healthcheck"]["test"][-1]
    asked = urlsplit(re.search(r"http://[^']+", program)[0])  # type: ignore[index]
    assert asked.port == int(image_environment()["NETWRIGHT_PORT"])
    with TestClient(create(settings)) as client:
        assert client.get(asked.path).status_code == 200
    compile(program, "health check", "exec")


@pytest.mark.parametrize("service", ["api", "serve"])
def test_published_ports_are_those_of_the_image_and_on_loopback_unless_told_otherwise(service: str) -> None:
    (published,) = SERVICES[service]["ports"]
    address, _, inside = published.rpartition(":")
    assert address.startswith("127.0.0.1:")
    assert inside == image_environment()["NETWRIGHT_PORT"]


def test_health_checks_run_commands_that_exist() -> None:
    for service in ("worker", "worker-gpu"):
        assert SERVICES[service]["healthcheck"]["test"][:2] == ["CMD", "netwright"]
        assert SERVICES[service]["healthcheck"]["test"][2] in commands()
    for service in SERVICES:
        assert service == "migrate" or SERVICES[service]["healthcheck"]["test"][0] == "CMD"


def test_everything_waits_for_what_it_needs() -> None:
    for name, service in SERVICES.items():
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in SERVICES, name
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed]
            else:
                assert condition["condition"] == "service_completed_successfully"
                assert needed == "migrate"
    assert all("migrate" in SERVICES[name]["depends_on"] for name in OURS if name != "migrate")


def test_workers_can_be_scaled_and_take_from_every_queue() -> None:
    for name in ("worker", "worker-gpu"):
        assert not {"container_name", "ports", "hostname"} & set(SERVICES[name])
    taken = {role.arguments[role.arguments.index("--queue") + 1] for role in worker_roles()}
    assert taken == {queue.value for queue in Queue}


def test_the_gpu_worker_reserves_gpus_and_only_its_profile_starts_it() -> None:
    gpu = SERVICES["worker-gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert gpu["profiles"] == ["gpu"]
    assert gpu["build"]["args"] == {"TORCH_INDEX": ""}
    assert gpu["image"] != SERVICES["worker"]["image"]
    assert "ARG TORCH_INDEX=" in DOCKERFILE


def test_data_is_kept_in_declared_volumes_and_objects_are_shared() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
    home = image_environment()["NETWRIGHT_HOME"]
    for name in OURS:
        assert f"objects:{home}" in SERVICES[name]["volumes"]
        assert SERVICES[name]["environment"]["NETWRIGHT_OBJECT_STORE_URL"] == f"file://{home}/objects"


def test_the_image_carries_every_package_and_the_pinned_torch() -> None:
    copied = {source for line in instructions("COPY") if not line[0].startswith("--") for source in line[:-1]}
    assert set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source.rstrip('/')}" in ignore or source == "./"
    torch = next(line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch"))
    assert torch in DOCKERFILE
    assert torch in (ROOT / "Makefile").read_text()


def test_the_image_runs_as_a_user_of_no_privilege() -> None:
    assert instructions("USER") == [["netwright"]]
    last_stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert "USER netwright" in last_stage
    assert "--uid 10001" in last_stage


def test_passwords_must_be_given() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"\$\{(POSTGRES|VALKEY)_PASSWORD(?!:\?)", text)
