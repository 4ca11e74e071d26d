"""The fixed network, or one that differs from it in size, resolution or recipe, trained on real pictures for equal time.

    python -m bench.recipe ARCHIVE [--seconds 90] [--flops 60] [--side 80] [--set learning_rate=2 cutout=0.25 …] [--seeds 0 1]

ARCHIVE: a zip or tar of class folders, best under train/ and test/. flops: in millions. side: in pixels; the space chooses
where it is left out. Prints a line a seed: accuracy and log loss of validation and test pictures together, since few
pictures tell little, and of the test pictures alone. What `search/floor.py` and the reference network of
`search/spaces/stages.py` settle was compared so.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench.imported import imported
from search.candidate import Fidelity
from search.classifier import Classifier
from search.data import Split
from search.device import Device
from search.evaluate import metrics_of, predicted
from search.spaces.stages import StagesSpace, reference
from search.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--flops", type=float, default=60.0)
    parser.add_argument("--side", type=int)
    parser.add_argument("--set", nargs="*", default=[], help="fields of the recipe, name=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    changes = {name: json.loads(value) for name, value in (each.split("=", 1) for each in arguments.set)}
    with imported(arguments.archive) as images:
        shape, device = images.shape(), Device.best()
        genes = reference(shape, int(1e6 * arguments.flops), side=arguments.side)
        genotype = replace(genes, recipe=replace(genes.recipe, **changes)).to_genotype()
        space = StagesSpace(shape)
        print(f"{arguments.archive.stem}, {len(images.train)} to learn from, {device.describe()}")
        print(space.describe(genotype))
        for seed in arguments.seeds:
            length = Fidelity(seconds=arguments.seconds)
            trained = train(space, genotype, images, length, seed=seed, device=device)
            classifier = Classifier.load(space, genotype, trained.weights)
            device.place(classifier)
            rows = np.concatenate([images.rows(Split.VALIDATION), images.rows(Split.TEST)])
            scores = torch.softmax(predicted(classifier, images, rows, trained.mirror_at_test, device), 1).numpy()
            tested = len(images.rows(Split.TEST))
            both, test = (
                metrics_of(images.targets[rows], scores),
                metrics_of(images.targets[rows[-tested:]], scores[-tested:]),
            )
            print(
                f"seed {seed}: {trained.epochs:5.1f} epochs, {trained.images_per_s:,.0f} pictures/s | "
                f"both {both['accuracy']:.4f} {both['log_loss']:.4f} | test {test['accuracy']:.4f} {test['log_loss']:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
