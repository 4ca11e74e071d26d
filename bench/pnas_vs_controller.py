"""How many children each strategy needs until its best five are as good as the controller's after 150: real, small trainings.

    python -m bench.pnas_vs_controller ARCHIVE [--seeds 0 1 …] [--children 150] [--most 450] [--repeated 30] [--cache FILE] [--json FILE]

ARCHIVE: a zip or tar of class folders, whose training pictures are used. The space is `cell` with tied cells of five
blocks, as in PNAS, which counted like this (Liu et al. 2018, arXiv:1712.00559): models, and the training examples shown to them, until
the mean of the best five equals the controller's. That is the mean over the seeds of `reinforce` after `--children`; the
others are asked for one architecture at a time, told its score, and go on until they are there or have had `--most`.

A child sees 500 pictures of 8 × 8 eight times and is scored on 1,000 others. Its training is a function of the cell, and
isomorphic cells share it: FILE keeps one line a child, so that strategies and seeds share children and a run that was cut off goes on.
`--repeated` cells are trained with a second seed: what is luck in a score, beside how far cells differ.
"""

import argparse
import json
import multiprocessing
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from bench.imported import imported
from search.candidate import Fidelity, Observation
from search.data import Images, Split
from search.device import Device
from search.space import Genotype, Space
from search.spaces import space_for
from search.strategies import strategy_for
from search.surrogates.ranks import rank_correlation
from search.train import DivergedError, train

CONTROLLER = "reinforce"
OTHERS = ("pnas", "bayesian", "evolution", "random")
OPTIONS = {"blocks": 5, "ops": "fast", "tied": True, "cells": 1, "filters": 8, "side": 8}
PICTURES, SCORED, EPOCHS = 500, 1_000, 8.0
BEST = 5  # whose mean is compared
SHOWN = (25, 50, 100, 150)


@dataclass(frozen=True, slots=True)
class Child:
    """What came of a training. score: None when it diverged."""

    score: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Bench:
    """What every process needs. images: PICTURES to learn from, SCORED to score on."""

    images: Images
    cache: Path

    @property
    def space(self) -> Space:
        return space_for("cell", self.images.shape(), OPTIONS)

    def child(self, genotype: Genotype, seed: int = 0) -> Child:
        name = f"{self.space.key(genotype)}/{seed}/{PICTURES}/{SCORED}/{EPOCHS}"
        known = self._known().get(name)
        if known is None:
            known = self._trained(genotype, seed)
            line = json.dumps({"child": name, "score": known.score, "seconds": known.seconds})
            with self.cache.open("a") as lines:
                lines.write(line + "\n")  # one write: processes share the file
        return known

    def _known(self) -> dict[str, Child]:
        return _read(self.cache, self.cache.stat().st_size) if self.cache.exists() else {}

    def _trained(self, genotype: Genotype, seed: int) -> Child:
        try:
            done = train(self.space, genotype, self.images, Fidelity(epochs=EPOCHS), seed=seed, device=Device.cpu())
        except DivergedError:
            return Child(None, 0.0)
        return Child(done.score, round(done.seconds, 3))

    def random_cells(self, count: int) -> list[Genotype]:
        """The first that random search of seed 0 tries."""
        return [each.genotype for each in strategy_for("random", self.space, {}, 0, None).ask(count, [])]


@lru_cache(maxsize=1)
def _read(cache: Path, size: int) -> dict[str, Child]:
    """size: of the file, so that it is read again when it has grown. A line that was cut off is left out."""
    whole = [line for line in cache.read_text()[:size].splitlines() if line.endswith("}")]
    return {each["child"]: Child(each["score"], each["seconds"]) for each in map(json.loads, whole)}


def pictures_of(archive: Path) -> Images:
    with imported(archive) as images:
        rows = np.random.RandomState(0).permutation(images.train)[: PICTURES + SCORED]
        splits = np.where(np.arange(len(rows)) < PICTURES, Split.TRAIN, Split.VALIDATION).astype(np.uint8)
        return Images.of(images.pixels[rows], images.targets[rows], splits, images.labels)


def best_five(scores: Sequence[float | None]) -> float:
    return mean(sorted((score or 0.0 for score in scores), reverse=True)[:BEST])


# ---------------------------------------------------------------------------------------------- in processes

_bench: Bench  # of this process


def _begin(bench: Bench) -> None:
    global _bench  # the pool has no other way to hand something over once
    _bench = bench
    torch.set_num_threads(1)


def _searched(task: tuple[str, int, float | None, int]) -> tuple[str, int, list[Child]]:
    """Children of one search in their order, until the best five reach the target or there are `most`."""
    name, seed, target, most = task
    strategy = strategy_for(name, _bench.space, {}, seed, None)
    children: list[Child] = []
    while len(children) < most:
        asked = strategy.ask(1, [])
        if not asked:
            break
        children.append(child := _bench.child(asked[0].genotype))
        strategy.tell([Observation(asked[0], child.score, child.seconds, f"{len(children):05d}")])
        if target is not None and len(children) >= BEST and best_five([each.score for each in children]) >= target:
            break
    return name, seed, children


def _repeated(task: tuple[Genotype, int]) -> float | None:
    return _bench.child(*task).score


# ---------------------------------------------------------------------------------------------- tables


def searches(pool: Any, names: Sequence[str], seeds: Sequence[int], target: float | None, most: int) -> Iterator[Any]:
    tasks = [(name, seed, target, most) for seed in seeds for name in names]
    for name, seed, children in pool.imap_unordered(_searched, tasks):
        scores = [each.score for each in children]
        curve = [round(best_five(scores[:count]), 4) for count in range(BEST, len(scores) + 1)]
        yield {
            "strategy": name,
            "seed": seed,
            "children": len(children),
            "reached": target is not None and curve[-1] >= target,
            "best_five": curve[-1],
            "best_five_at": {str(at): curve[at - BEST] for at in SHOWN if at <= len(scores)},
            "failed": sum(score is None for score in scores),
            "training_s": round(sum(each.seconds for each in children), 1),
            "curve": curve,
        }


def summary(name: str, rows: Sequence[dict[str, Any]], children: int) -> dict[str, Any]:
    """models: mean over the seeds, those that never got there counted with what they had."""
    models = mean(row["children"] for row in rows)
    return {
        "strategy": name,
        "seeds": len(rows),
        "reached": sum(row["reached"] for row in rows),
        "models": round(models, 1),
        "models_sd": round(stdev(row["children"] for row in rows), 1) if len(rows) > 1 else None,
        "examples": round(models * PICTURES * EPOCHS),
        "times_fewer": round(children / models, 2),
        "best_five_at": {
            str(at): round(mean(row["curve"][min(at, row["children"]) - BEST] for row in rows), 4) for at in SHOWN
        },
    }


def luck(pool: Any, bench: Bench, count: int) -> dict[str, Any]:
    cells = bench.random_cells(count)
    scores = pool.map(_repeated, [(cell, seed) for cell in cells for seed in (0, 1)], chunksize=1)
    pairs = [(one, other) for one, other in zip(scores[::2], scores[1::2], strict=True) if None not in (one, other)]
    noise = float(np.sqrt(np.mean([(one - other) ** 2 / 2 for one, other in pairs])))
    spread = stdev(one for one, _ in pairs)
    figures = [
        round(value, 4)
        for value in (noise, spread, rank_correlation([a for a, _ in pairs], [b for _, b in pairs]) or 0)
    ]
    return {"cells": len(pairs), **dict(zip(("noise", "spread", "rank_correlation"), figures, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--children", type=int, default=150)
    parser.add_argument("--most", type=int, default=450)
    parser.add_argument("--repeated", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=Path("pnas_vs_controller.jsonl"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    bench = Bench(pictures_of(arguments.archive), arguments.cache)
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), _begin, (bench,)) as pool:

        def run(names: Sequence[str], target: float | None, most: int) -> None:
            for row in searches(pool, names, arguments.seeds, target, most):
                rows.append(row)
                print(
                    f"{row['strategy']:10} seed {row['seed']}: {row['children']} children, best five "
                    f"{row['best_five']:.4f}, {row['training_s']} s of training",
                    flush=True,
                )

        run([CONTROLLER], None, arguments.children)
        target = round(mean(row["best_five"] for row in rows), 6)
        print(f"to reach: {target:.4f}")
        run(OTHERS, target, arguments.most)
        document: dict[str, Any] = {
            "data": arguments.archive.stem,
            "space": OPTIONS,
            "child": {"pictures": PICTURES, "scored": SCORED, "epochs": EPOCHS},
            "seeds": arguments.seeds,
            "target": target,
            "luck": luck(pool, bench, arguments.repeated),
        }
    print(document["luck"])
    print(
        f"{'':10}{'reached':>8}{'models':>16}{'examples':>12}{'fewer':>7}   best five at {', '.join(map(str, SHOWN))} or the end"
    )
    document["strategies"] = []
    for name in (CONTROLLER, *OTHERS):
        row = summary(name, [each for each in rows if each["strategy"] == name], arguments.children)
        document["strategies"].append(row)
        spread = f" ± {row['models_sd']}" if row["models_sd"] is not None else ""
        reached = "-" if name == CONTROLLER else f"{row['reached']} of {row['seeds']}"
        print(
            f"{name:10}{reached:>8}{str(row['models']) + spread:>16}{row['examples']:12,}{row['times_fewer']:7}   "
            + ", ".join(f"{value:.4f}" for value in row["best_five_at"].values())
        )
    document["searches"] = rows
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
