"""What is particular to the cell of NAS-Bench-201."""

import csv
import gzip
from collections import defaultdict
from itertools import product
from pathlib import Path
from random import Random

import pytest
import torch

from search.space import Genotype, InvalidGenotypeError, Shape
from search.spaces.nb201 import EDGES, NONE, OPS, SKIP, Genes, Nb201Space, from_string, is_connected, to_string

ROOT = Path(__file__).parents[2]
TABLE = ROOT.parent / "shared/data/nas/nasbench201_cifar10.csv.gz"
TEXT = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"


def space() -> Nb201Space:
    return Nb201Space(Shape(3, 16, 5), channels=4, side=16)


def of(text: str) -> Genotype:
    return space().genotype(from_string(text))


def test_the_published_form_is_read_and_written() -> None:
    cell = from_string(TEXT)
    assert cell == ("nor_conv_3x3", "nor_conv_3x3", "avg_pool_3x3", "skip_connect", "nor_conv_3x3", "none")
    assert all(from_string(to_string(cell)) == cell for cell in product(OPS, repeat=len(EDGES)))


@pytest.mark.parametrize("text", ["", "+", "||+||+||", TEXT + "|", TEXT[1:], TEXT.replace("~1", "~3"), TEXT + "\n"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidGenotypeError, match="needed: "):
        from_string(text)


def test_there_are_as_many_classes_as_the_paper_counts() -> None:
    assert len({space().key(space().genotype(cell)) for cell in product(OPS, repeat=len(EDGES))}) == 6_466


def test_isomorphic_cells_share_their_key() -> None:
    """A skip is passed by; an edge that leads nowhere may have any operation."""
    key = space().key
    through = "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"
    assert key(of(through)) == key(of("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"))
    dead = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    assert key(of(dead)) == key(of(dead.replace("nor_conv_3x3", "avg_pool_3x3")))
    assert key(of(dead)) != key(of(dead.replace("none~1|none~2", "skip_connect~1|none~2")))


def test_classes_are_those_of_the_published_table() -> None:
    if not TABLE.exists():
        pytest.skip(
            f"the published table is not part of the project; put it at {TABLE.relative_to(ROOT.parent)} beside it"
        )
    with gzip.open(TABLE, "rt") as lines:
        rows = [(row["arch"], row["iso_class"]) for row in csv.DictReader(lines)]
    classes, keys = defaultdict[str, set[str]](set), set[str]()
    for text, name in rows:
        classes[name].add(space().key(of(text)))
        keys |= classes[name]
    assert len(rows) == 15_625
    assert len(classes) == len(keys) == 6_466
    assert all(len(each) == 1 for each in classes.values())


def test_a_skeleton_makes_another_architecture() -> None:
    other = Nb201Space(Shape(3, 16, 5), channels=8, side=16)
    assert other.key(other.genotype(from_string(TEXT))) != space().key(of(TEXT))


def test_cells_that_are_not_connected_are_neither_drawn_nor_moved_to_but_train() -> None:
    lonely = of("|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|none~2|")
    assert not is_connected(Genes.of(lonely).cell)
    assert all(is_connected(Genes.of(space().sample(Random(seed))).cell) for seed in range(300))
    for seed in range(20):
        assert is_connected(Genes.of(space().mutate(lonely, Random(seed))).cell)
    assert [Genes.of(each).cell[3] for each in space().neighbours(lonely)].count(NONE) == 8
    network = space().build(lonely)
    torch.autograd.backward(network(torch.randn(4, 3, 16, 16)).square().mean())
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    assert space().cost(lonely).params == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_what_brings_nothing_is_not_built() -> None:
    with_dead = of("|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|none~2|")
    without = of("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    assert space().cost(with_dead) == space().cost(without)
    assert (space().features(with_dead) == space().features(without)).all()


def test_the_published_network_has_the_published_size() -> None:
    """The table says 1.5315 M parameters (the scales of normalisation included) and 222.9 M multiply-adds (its
    arithmetic included) for the cell of 3×3 convolutions alone."""
    full = Nb201Space(Shape(3, 32, 10), cells=5, channels=16)
    cost = full.cost(full.genotype(("nor_conv_3x3",) * 6))
    assert cost.params == pytest.approx(1.5315e6, rel=0.005)
    assert cost.flops == pytest.approx(222.9e6, rel=0.015)


def test_features_tell_of_paths() -> None:
    """Two conv 1×1 in a row and side by side: as many of each operation, other paths."""
    chain = space().features(of("|nor_conv_1x1~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|"))
    beside = space().features(of("|nor_conv_1x1~0|+|nor_conv_1x1~0|none~1|+|none~0|skip_connect~1|skip_connect~2|"))
    graph = slice(2 + len(EDGES) * len(OPS), None)
    assert not (chain[graph] == beside[graph]).all()
    assert {SKIP, NONE} <= set(OPS)
