"""Every strategy runs to its end over HTTP on real pictures, with kills -9 of the worker on the way.

All searches run beside each other on the one worker, so every kill befalls all of them, and the training of one.
"""

import json
import os
import signal
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import psutil
import pytest

from search import catalog
from search.space import Shape
from search.spaces import space_for
from tests.support.pictures import digits_zip, png, some_digits
from tests.support.service import Service, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

SMALL: dict[str, dict[str, Any]] = {
    "stages": {},
    "cell": {"blocks": 2, "tied": True, "filters": 4, "side": 14},
    "macro": {"layers": 3, "filters": 4, "side": 14},
    "nb201": {"channels": 4, "side": 14},
}
# Where they are to be tried, and what makes them decide within a few trials. Those that are not named: on `nb201`.
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "race": ("stages", {}),
    "evolution": ("macro", {"population": 2, "sample": 2}),
    "bayesian": ("nb201", {"initial": 3, "pool": 10}),
    "reinforce": ("cell", {"batch": 2}),
    "pnas": ("cell", {"beam": 2}),
}
NOTES = {
    "bayesian": {"surrogate"},
    "enas": {"supernet", "shared_scores"},
    "pnas": {"surrogate"},
    "reinforce": {"controller"},
}  # and, whatever the strategy, `finalists`
TRIALS = 7
# Few: a worker that dies again and again is started ever later.
VICTIMS = [name for name in ("random", "pnas", "reinforce", "bayesian", "enas") if name in catalog.STRATEGIES]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service quick to notice deaths, with small data, one class of which has a single picture."""
    with running_service(lease_s="2", sweep_s="0.3", heartbeat_s="0.3", checkpoint_s="0.5") as service:
        path = digits_zip(tmp_path_factory.mktemp("data") / "digits.zip", per_class=40)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("lonely/1.png", png(some_digits(1, first=100)[0][0]))
        assert service.upload("digits", path)["state"] == "succeeded"
        yield service


@pytest.fixture(scope="module")
def killed(service: Service) -> dict[str, int]:
    """All searches begun, and the worker killed under one trial of each victim: that trial's number."""
    for strategy in catalog.STRATEGIES:
        space, options = CHOICES.get(strategy, ("nb201", {}))
        service.post(
            "/v1/searches",
            {
                "dataset": "digits", "name": strategy, "strategy": strategy, "strategy_options": options,
                "space": space, "space_options": SMALL[space], "budget": {"trials": TRIALS}, "seed": 5,
                "seeds": seeds(space) if strategy == catalog.FIXED else [],
            },
        )  # fmt: skip
    killed: dict[str, int] = {}
    deadline = time.monotonic() + 240
    while len(killed) < len(VICTIMS) and time.monotonic() < deadline:
        held = held_by_worker(service, [name for name in VICTIMS if name not in killed])
        worker = service.processes("netwright worker", "--queue trial")  # its main process and those of its pool
        if held is None or not worker:
            time.sleep(0.05)  # a key may ask a hundred times a second
            continue
        signal_all(worker, signal.SIGSTOP)
        time.sleep(0.05)  # what it has sent to Postgres arrives
        if held_by_worker(service, [held[0]]) == held:
            signal_all(worker, signal.SIGKILL)
            standing = {search["name"]: search["state"] for search in service.get("/v1/searches")["items"]}
            assert killed or standing == dict.fromkeys(catalog.STRATEGIES, "running")
            killed[held[0]] = held[1]
        else:
            signal_all(worker, signal.SIGCONT)
    assert set(killed) == set(VICTIMS), service.logs()
    return killed


def held_by_worker(service: Service, searches: Sequence[str]) -> tuple[str, int] | None:
    """The search and number of the trial that is being trained, if it is of one of these and not its floor."""
    for search in searches:
        for trial in service.get(f"/v1/searches/{search}/trials", state="running")["items"]:
            if trial["purpose"] != "floor":
                return search, trial["number"]
    return None


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process.pid, number)


def seeds(space: str) -> list[dict[str, Any]]:
    found = space_for(space, Shape(1, 28, 11), SMALL[space])
    return [found.sample(Random(number)).to_json() for number in range(TRIALS - 2)]


def told(service: Service, search: str) -> list[tuple[str, Any]]:
    """Every event of an ended search: its kind and what it says."""
    lines = service.http.get(f"/v1/searches/{search}/events").text.splitlines()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    said = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(kinds, said, strict=True))


@pytest.mark.parametrize("strategy", catalog.STRATEGIES)
def test_a_search_runs_to_its_end_though_the_worker_is_killed(
    service: Service, killed: dict[str, int], strategy: str
) -> None:
    ended = service.ended(f"/v1/searches/{strategy}")
    assert (ended["state"], ended["error"]) == ("succeeded", None)
    assert service.get(ended["model"]["link"])["trial"] == ended["best"]["trial"]

    trials = service.get(f"/v1/searches/{strategy}/trials")["items"]
    assert [trial["number"] for trial in trials] == list(range(1, TRIALS + 1))
    assert {trial["state"] for trial in trials} == {"succeeded"}
    again = [trial["number"] for trial in trials if trial["attempt"] != 1]
    assert again == ([killed[strategy]] if strategy in killed else [])
    assert (trials[0]["purpose"], trials[-1]["purpose"]) == ("floor", "final")

    events = told(service, strategy)
    successes = Counter(data["number"] for kind, data in events if kind == "trial" and data["state"] == "succeeded")
    assert successes == dict.fromkeys(range(1, TRIALS + 1), 1)
    notes = service.get(f"/v1/searches/{strategy}/notes")["items"]
    assert [(note["number"], note["kind"], note["step"]) for note in notes] == [
        (data["number"], data["kind"], data["step"]) for kind, data in events if kind == "note"
    ]
    assert {note["kind"] for note in notes} == NOTES.get(strategy, set()) | {"finalists"}
