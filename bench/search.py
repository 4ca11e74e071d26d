"""A real search on real pictures, as a user runs it: upload, import, search, all over HTTP on a service of its own.

    python -m bench.search ARCHIVE [ARCHIVE …] [--minutes 5] [--seeds 0 1 2] [--strategies race pnas:cell …] [--json FILE]

ARCHIVE: a zip or tar of class folders, best under train/ and test/. Prints, for each, how long the search took by the
clock and by its own count, and the accuracy of floor and winner: on validation, and of the winner on the test split.
Several strategies and seeds are compared at equal time, one search after the other; a table of means comes last. A
strategy searches `stages` unless a colon names another space; `floor` is none, but the fixed network trained for all of the
time. The file is written after each search, and what stands in it is not measured again: a long comparison that was cut
off goes on.
"""

import argparse
import json
import os
import platform
import time
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from search import catalog
from tests.support.service import running_service

FLOOR = "floor"
_TRAINED = 0.96  # of the time; the rest is for start, import of the code, and the test pictures


def trained_floor(archive: Path, minutes: float, seed: int) -> dict[str, Any]:
    """What the fixed network makes of all the time that a search of so many minutes has for training."""
    from bench.imported import imported
    from search.candidate import Fidelity
    from search.data import Split
    from search.device import Device
    from search.evaluate import evaluate
    from search.floor import floor
    from search.spaces import space_for
    from search.train import train

    with imported(archive) as images:
        device, seconds = Device.best(), 60 * minutes
        genotype = floor(images.shape(), len(images.train), flops_per_s=device.flops_per_s, seconds=seconds)
        space = space_for(genotype.space, images.shape(), {})
        began = time.monotonic()
        trained = train(space, genotype, images, Fidelity(seconds=_TRAINED * seconds), seed=seed, device=device)
        tested = evaluate(
            space, genotype, trained.weights, images, Split.TEST, mirror_at_test=trained.mirror_at_test, device=device
        )
        return {
            "data": archive.stem,
            "budget_s": seconds,
            "took_s": round(time.monotonic() - began, 1),
            "trials": 1,
            "floor_validation": round(trained.score, 4),
            "winner_validation": round(trained.score, 4),
            "winner_test": round(tested.metrics["accuracy"], 4),
            "winner_test_balanced": round(tested.metrics["balanced_accuracy"], 4),
            "winner": space.describe(genotype),
            "seed": seed,
            "strategy": FLOOR,
        }


def measure(archive: Path, minutes: float, seed: int, choice: str) -> dict[str, Any]:
    if choice == FLOOR:
        return trained_floor(archive, minutes, seed)
    strategy, _, space = choice.partition(":")
    space = space or catalog.DEFAULT_SPACE
    with running_service() as service:
        began = time.monotonic()
        job = service.upload("data", archive)
        if job["state"] != "succeeded":
            raise SystemExit(f"{archive} was not imported: {job['error']}")
        imported_s = time.monotonic() - began
        began = time.monotonic()
        body = {"dataset": "data", "budget": {"minutes": minutes}, "seed": seed, "strategy": strategy, "space": space}
        search = service.post("/v1/searches", body)
        search = service.ended(f"/v1/searches/{search['id']}", within_s=60 * minutes + 120)
        took_s = time.monotonic() - began
        if search["state"] != "succeeded":
            raise SystemExit(f"the search on {archive} {search['state']}: {search['error']}")
        tested = service.get(f"/v1/models/{search['model']['id']}/evaluation")
        return {
            "data": archive.stem,
            "pictures": job["result"]["examples"],
            "import_s": round(imported_s, 1),
            "budget_s": 60 * minutes,
            "took_s": round(took_s, 1),
            "spent_s": round(search["spent_s"], 1),
            "trials": sum(search["trials"].values()),
            "floor_validation": round(search["floor"]["score"], 4),
            "winner_validation": round(search["best"]["score"], 4),
            "winner_test": round(tested["metrics"]["accuracy"], 4),
            "winner_test_balanced": round(tested["metrics"]["balanced_accuracy"], 4),
            "winner": search["best"]["description"],
            "seed": seed,
            "strategy": choice,
        }


def compared(rows: list[dict[str, Any]]) -> None:
    """Mean and spread over the seeds, of each strategy on each archive."""
    print(f"{'data':20} {'strategy':12} {'n':>2} {'test':>16} {'validation':>10} {'trials':>6}")
    for data, strategy in dict.fromkeys((row["data"], row["strategy"]) for row in rows):
        of = [row for row in rows if (row["data"], row["strategy"]) == (data, strategy)]
        tests = [row["winner_test"] for row in of]
        spread = f"± {stdev(tests):.4f}" if len(tests) > 1 else ""
        validation, trials = mean(row["winner_validation"] for row in of), mean(row["trials"] for row in of)
        print(f"{data:20} {strategy:12} {len(of):2} {mean(tests):7.4f} {spread:8} {validation:10.4f} {trials:6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("archives", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--strategies", nargs="+", default=["race"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    rows: list[dict[str, Any]] = []
    if arguments.json is not None and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())
    known = {(row["data"], row["budget_s"], row["seed"], row["strategy"]) for row in rows}
    for archive, seed, strategy in product(arguments.archives, arguments.seeds, arguments.strategies):
        if (archive.stem, 60 * arguments.minutes, seed, strategy) in known:
            continue
        row = measure(archive, arguments.minutes, seed, strategy)
        rows.append(row)
        for name, value in row.items():
            print(f"{name:22} {value}")
        print(flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if len(rows) > 1:
        compared(rows)


if __name__ == "__main__":
    main()
