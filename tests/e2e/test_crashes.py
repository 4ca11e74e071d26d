"""kill -9 of every process in turn, in the middle of searches: what was finished stays, what was not goes on."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.pictures import digits_zip
from tests.support.service import Service, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEARCH = {"dataset": "digits", "budget": {"trials": 6}, "seed": 7}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with small data, quick to notice deaths."""
    with running_service(lease_s="3", sweep_s="0.5", heartbeat_s="0.3", checkpoint_s="1") as service:
        archive = digits_zip(tmp_path_factory.mktemp("data") / "digits.zip", per_class=60)
        assert service.upload("digits", archive)["state"] == "succeeded"
        yield service


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> list[dict[str, Any]]:
    """The trials of a search that nothing happened to."""
    search = service.post("/v1/searches", SEARCH | {"name": "undisturbed"})
    assert service.ended(f"/v1/searches/{search['id']}")["state"] == "succeeded"
    return trials_of(service, "undisturbed")


def trials_of(service: Service, search: str) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = service.get(f"/v1/searches/{search}/trials")["items"]
    return sorted(trials, key=lambda trial: trial["number"])


def in_mid_training(service: Service, search: str) -> None:
    """Wait until a trial other than the first trains."""
    service.until(
        f"/v1/searches/{search}", lambda row: row["trials"]["succeeded"] >= 1 and row["trials"]["running"] >= 1
    )
    time.sleep(0.5)


def kill(processes: list[psutil.Process]) -> None:
    assert processes
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


def training_child(service: Service) -> None:
    kill(service.processes("worker.trainer"))


def whole_worker(service: Service) -> None:
    kill(service.processes("netwright worker", "--queue trial"))


def valkey(service: Service) -> None:
    kill(service.processes("valkey-server"))


def postgres(service: Service) -> None:
    kill(service.processes("bin/postgres", "-D"))


def up_itself(service: Service) -> None:
    service.kill()
    service.start()


@pytest.mark.parametrize("victim", [training_child, whole_worker, valkey, postgres, up_itself])
def test_a_search_survives_the_death_of(
    service: Service, undisturbed: list[dict[str, Any]], victim: Any, tmp_path: Path
) -> None:
    name = victim.__name__.replace("_", "-")
    service.post("/v1/searches", SEARCH | {"name": name})
    in_mid_training(service, name)
    finished = {trial["id"]: trial for trial in trials_of(service, name) if trial["state"] == "succeeded"}
    victim(service)
    ended = service.ended(f"/v1/searches/{name}")
    assert ended["state"] == "succeeded", ended
    trials = trials_of(service, name)
    for trial in trials:
        if trial["id"] in finished:
            assert trial == finished[trial["id"]], "a finished trial was touched"
    # Checkpoints resume exactly, so that the whole search comes out as if nothing had happened.
    assert [trial["score"] for trial in trials] == [trial["score"] for trial in undisturbed]
    assert [trial["genotype"] for trial in trials] == [trial["genotype"] for trial in undisturbed]
    worked = sum(trial["seconds"] for trial in trials)
    assert ended["spent_s"] < 2 * worked + 30
