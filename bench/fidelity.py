"""Successive halving against full training at equal seconds, on published trainings of four lengths. No training.

    python -m bench.fidelity TABLE [--seeds 200] [--runs NAME …] [--json FILE]

TABLE: csv or csv.gz of NAS-Bench-101 (Ying et al. 2019, arXiv:1902.09635) with `key`, `val_4`, `val_12`, `val_36` and
`val_108` (validation accuracy of separate trainings of so many epochs), `train_s_108`, `params`, and where the cell is
known `ops` and `adjacency`. The strategies are those of the service; one machine trains one candidate after the other. A training of e
epochs takes e/108 of the longest, and each rung trains from the start, as here. Shown is the accuracy after 108 epochs of the cell that a
search would hand over after so many seconds: the best of the longest trainings that it has.

`bayesian` needs features of the cells, so it is compared on the cells that are known alone, with random search on these.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import Pool
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from search.candidate import Observation
from search.space import Genotype, Space
from search.strategies.asha import Asha
from search.strategies.bayesian import Bayesian
from search.strategies.random import RandomSearch

EPOCHS = (4, 12, 36, 108)
ETA = 3
OPS = ("conv3x3", "conv1x1", "maxpool3x3")
NODES = 7
SHOWN = (5_000, 10_000, 20_000, 50_000, 100_000)


@dataclass(frozen=True, slots=True)
class Run:
    """rungs: 1 trains every candidate in full. known: only cells whose graph is known."""

    strategy: str
    rungs: int
    known: bool


RUNS: Mapping[str, Run] = {
    "random": Run("random", 1, False),
    "random, 2 rungs": Run("random", 2, False),
    "random, 3 rungs": Run("random", 3, False),
    "random, 4 rungs": Run("random", 4, False),
    "known: random": Run("random", 1, True),
    "known: random, 2 rungs": Run("random", 2, True),
    "known: random, 4 rungs": Run("random", 4, True),
    "known: bayesian": Run("bayesian", 1, True),
    "known: bayesian, 2 rungs": Run("bayesian", 2, True),
    "known: bayesian, 3 rungs": Run("bayesian", 3, True),
    "known: bayesian, 4 rungs": Run("bayesian", 4, True),
}


@dataclass(frozen=True, slots=True)
class Row:
    """accuracy: after each of EPOCHS. seconds: of 108. features: none where the graph is not known."""

    accuracy: tuple[float, ...]
    seconds: float
    features: NDArray[np.float32] | None


def features_of(ops: list[str], adjacency: list[str], params: int) -> NDArray[np.float32]:
    """How often each operation occurs, least and most of it on a path, lengths of paths, edges, degrees, size."""
    edges = [(start, end) for start, line in enumerate(adjacency) for end, bit in enumerate(line) if bit == "1"]
    paths: list[list[int]] = [[0]]
    ended: list[list[int]] = []
    while paths:
        path = paths.pop()
        onward = [end for start, end in edges if start == path[-1]]
        paths += [[*path, end] for end in onward]
        if ops[path[-1]] == "out":
            ended.append(path)
    lengths = [len(path) for path in ended] or [0]
    row: list[float] = [len(ops), len(edges), len(ended), min(lengths), max(lengths), float(np.log(params))]
    for op in OPS:
        counts = [sum(ops[node] == op for node in path) for path in ended] or [0]
        into = sum(ops[end] == op for _, end in edges)
        row += [ops.count(op), min(counts), max(counts), into, sum(ops[start] == op for start, _ in edges)]
        row += [float(node < len(ops) and ops[node] == op) for node in range(1, NODES - 1)]
    row += [sum(start == 0 for start, _ in edges), sum(ops[end] == "out" for _, end in edges)]
    row.append(float((0, len(ops) - 1) in edges))
    return np.array(row, np.float32)


@lru_cache(maxsize=2)
def table(path: Path, known: bool) -> dict[str, Row]:
    rows = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in csv.DictReader(lines):
            if line["ops"] or not known:
                accuracy = tuple(float(line[f"val_{epochs}"]) for epochs in EPOCHS)
                features = (
                    features_of(line["ops"].split(";"), line["adjacency"].split("/"), int(line["params"]))
                    if known
                    else None
                )
                rows[line["key"]] = Row(accuracy, float(line["train_s_108"]), features)
    return rows


class Rows:
    """The rows of a table as far as these strategies ask: draws, keys and features."""

    name = "rows"

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows, self._keys = rows, sorted(rows)

    def sample(self, random: Random) -> Genotype:
        return Genotype.of(self.name, {"key": random.choice(self._keys)})

    def key(self, genotype: Genotype) -> str:
        return str(genotype.genes["key"])

    def neighbours(self, _genotype: Genotype) -> Iterator[Genotype]:
        return iter(())  # a sample of a space has none that would be in it, too

    def features(self, genotype: Genotype) -> NDArray[np.float32]:
        features = self._rows[self.key(genotype)].features
        assert features is not None
        return features


def searched(task: tuple[Path, str, int]) -> list[float | None]:
    """Accuracy after 108 epochs of what would be handed over at each of SHOWN; None before the first result."""
    path, label, seed = task
    run = RUNS[label]
    rows = table(path, run.known)
    space = cast(Space, Rows(rows))
    inner: RandomSearch | Bayesian = (
        RandomSearch(space, seed) if run.strategy == "random" else Bayesian(space, {"initial": 10, "pool": 500}, seed)
    )
    strategy = Asha(inner, space, run.rungs, ETA) if run.rungs > 1 else inner
    clock, trials = 0.0, 0
    held: list[float | None] = [None] * len(SHOWN)
    best = (-1, 0.0)  # rung, counted from the shortest, and score
    optimum = max(row.accuracy[-1] for row in rows.values())
    while clock < SHOWN[-1] and best != (len(EPOCHS) - 1, optimum):  # which could only stay
        asked = strategy.ask(1, [])
        if not asked:
            break
        row = rows[space.key(asked[0].genotype)]
        length = len(EPOCHS) - 1 + round(np.log(asked[0].fidelity.rung) / np.log(ETA))
        seconds, score = row.seconds * EPOCHS[length] / EPOCHS[-1], row.accuracy[length]
        clock, trials = clock + seconds, trials + 1
        if (length, score) > best:
            best = (length, score)
            held = [row.accuracy[-1] if clock <= at else before for at, before in zip(SHOWN, held, strict=True)]
        strategy.tell([Observation(asked[0], score, seconds, f"{trials:06d}")])
    return held


def summary(label: str, curves: list[list[float | None]], took_s: float) -> dict[str, Any]:
    at = {}
    for place, seconds in enumerate(SHOWN):
        values = [100 * value for curve in curves if (value := curve[place]) is not None]
        at[str(seconds)] = {
            "accuracy": round(mean(values), 3) if values else None,
            "sd": round(stdev(values), 3) if len(values) > 1 else None,
            "n": len(values),
        }
    run = RUNS[label]
    return {
        "run": label,
        "strategy": run.strategy,
        "rungs": run.rungs,
        "known": run.known,
        "seeds": len(curves),
        "at": at,
        "took_s": round(took_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    document: dict[str, Any] = {"seeds": arguments.seeds, "runs": []}
    for name, known in (("cells", False), ("known", True)):
        rows = table(arguments.table, known).values()
        best, seconds = 100 * max(row.accuracy[-1] for row in rows), mean(row.seconds for row in rows)
        document[name] = {"count": len(rows), "best": round(best, 3), "mean_seconds": round(seconds, 1)}
        print(f"{len(rows)} cells ({name}), best {best:.2f}, {seconds:.0f} s for 108 epochs on average")
    print(f"{'seconds':26}" + "".join(f"{at:>16,}" for at in SHOWN))
    with Pool(os.cpu_count()) as pool:
        for label in arguments.runs:
            began = time.monotonic()
            curves = pool.map(
                searched, [(arguments.table, label, seed) for seed in range(arguments.seeds)], chunksize=1
            )
            row = summary(label, curves, time.monotonic() - began)
            document["runs"].append(row)
            cells = [
                f"{each['accuracy']:.2f} ± {each['sd'] or 0.0:.2f}" if each["n"] == len(curves) else "-"
                for each in row["at"].values()
            ]
            print(f"{label:26}" + "".join(each.rjust(16) for each in cells) + f"  ({row['took_s']} s)", flush=True)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
