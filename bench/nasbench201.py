"""Strategies on the published results of NAS-Bench-201: how soon each finds how good a cell. No training.

    python -m bench.nasbench201 TABLE [--data c10] [--seeds 100] [--queries 500] [--strategies NAME …] [--json FILE]

TABLE: csv or csv.gz with columns `arch` (the published string), `DATA_val_200` and `DATA_test_200`. A query is the
validation accuracy after 200 epochs of one run; isomorphic cells are one cell, the one that comes first in the table.
The strategies are those of the service, over the space `nb201`. Prints, after 20 to 500 queries, the mean and deviation over the seeds of the
best validation accuracy so far and of the test accuracy of that cell, how many seeds found the optimum, and the median
of the queries they needed; a search that has found it is not continued, since it can only stay there.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import Pool
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from search.candidate import Observation
from search.space import Shape
from search.spaces.nb201 import Nb201Space, from_string
from search.strategies import strategy_for

SHOWN = (20, 50, 100, 200, 500)
RUNS: Mapping[str, tuple[str, dict[str, Any], int]] = {  # label → strategy, options, proposals at a time
    "random": ("random", {}, 1),
    "reinforce": ("reinforce", {}, 1),
    "reinforce, table": ("reinforce", {"algorithm": "reinforce", "controller": "table", "batch": 1, "entropy": 0.0, "baseline_decay": 0.9}, 1),
    "evolution, P 10 S 3": ("evolution", {}, 1),
    "evolution, P 50 S 10": ("evolution", {"population": 50, "sample": 10}, 1),
    "local": ("local", {}, 1),
    "bayesian": ("bayesian", {"pool": 2000}, 1),
    "bayesian, default pool": ("bayesian", {}, 1),
    "bayesian, warm start": ("bayesian", {"pool": 2000, "warm_start": True}, 1),
    "bayesian, batches of 5": ("bayesian", {"pool": 2000}, 5),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    validation: float
    test: float


SPACE = Nb201Space(Shape(3, 32, 10), cells=5)


@lru_cache(maxsize=1)
def table(path: Path, data: str) -> dict[str, Row]:
    """By key of the space."""
    rows: dict[str, Row] = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in csv.DictReader(lines):
            key = SPACE.key(SPACE.genotype(from_string(line["arch"])))
            rows.setdefault(key, Row(float(line[f"{data}_val_200"]), float(line[f"{data}_test_200"])))
    return rows


def searched(task: tuple[Path, str, str, int, int]) -> list[Row]:
    """The best cell so far after each query, by validation."""
    path, data, label, seed, queries = task
    rows, (name, options, batch) = table(path, data), RUNS[label]
    optimum = max(row.validation for row in rows.values())
    strategy = strategy_for(name, SPACE, options, seed, None)
    best: list[Row] = []
    while len(best) < queries and not (best and best[-1].validation == optimum):
        seen = []
        for candidate in strategy.ask(batch, []):
            row = rows[SPACE.key(candidate.genotype)]
            best.append(max(row, best[-1], key=lambda each: each.validation) if best else row)
            seen.append(Observation(candidate, row.validation / 100, 1.0, f"{len(best):05d}"))
        if not seen:
            break  # the space is exhausted
        strategy.tell(seen)
    best += [best[-1]] * (queries - len(best))
    return best[:queries]


def summary(label: str, curves: list[list[Row]], optimum: float, took_s: float) -> dict[str, Any]:
    count = len(curves)
    needed = [
        next((place for place, row in enumerate(curve, 1) if row.validation == optimum), None) for curve in curves
    ]
    at: dict[str, Any] = {}
    for queries in (each for each in SHOWN if each <= len(curves[0])):
        rows = [curve[queries - 1] for curve in curves]
        validation, test = [row.validation for row in rows], [row.test for row in rows]
        at[str(queries)] = {
            "validation": round(mean(validation), 3),
            "validation_sd": round(stdev(validation), 3) if count > 1 else None,
            "test": round(mean(test), 3),
            "test_sd": round(stdev(test), 3) if count > 1 else None,
            "optimum": round(sum(place is not None and place <= queries for place in needed) / count, 3),
        }
    middle = median(place or float("inf") for place in needed)
    name, options, batch = RUNS[label]
    return {
        "run": label,
        "strategy": name,
        "options": options,
        "batch": batch,
        "seeds": count,
        "at": at,
        "median_queries_to_optimum": middle if np.isfinite(middle) else None,
        "mean_by_query": [
            round(mean(curve[place].validation for curve in curves), 4) for place in range(len(curves[0]))
        ],
        "took_s": round(took_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", default="c10")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--strategies", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    values = table(arguments.table, arguments.data).values()
    optimum = max(row.validation for row in values)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{len(values)} cells, optimum {optimum} validation, {arguments.seeds} seeds")
    shown = [each for each in SHOWN if each <= arguments.queries]
    print(f"{'':24}" + "".join(f"{f'@{each}':>14}" for each in shown) + f"{'test':>14}{'P(optimum)':>20}{'median':>8}")
    results = []
    with Pool(os.cpu_count()) as pool:
        for label in arguments.strategies:
            began = time.monotonic()
            tasks = [
                (arguments.table, arguments.data, label, seed, arguments.queries) for seed in range(arguments.seeds)
            ]
            curves = pool.map(searched, tasks, chunksize=1)
            row = summary(label, curves, optimum, time.monotonic() - began)
            results.append(row)
            cells = [row["at"][str(each)] for each in shown]
            deviations = [each["validation_sd"] or 0.0 for each in cells]
            print(
                f"{label:24}"
                + "".join(
                    f"{each['validation']:8.3f} ± {sd:.2f}"[:14].rjust(14)
                    for each, sd in zip(cells, deviations, strict=True)
                )
                + f"{cells[-1]['test']:7.2f} ± {cells[-1]['test_sd'] or 0.0:.2f}"
                + "/".join(f"{each['optimum']:.2f}" for each in cells).rjust(26)
                + f"{row['median_queries_to_optimum'] or '-':>8}  ({row['took_s']} s)",
                flush=True,
            )
            if arguments.json is not None:
                document = {"data": arguments.data, "optimum": optimum, "cells": len(values), "runs": results}
                arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
