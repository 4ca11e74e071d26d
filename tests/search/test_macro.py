"""What is particular to ENAS's space of whole networks."""

from random import Random

import pytest
import torch

from search.space import Shape
from search.spaces.macro import Genes, Layer, MacroSpace, Skeleton, laid_out

SHAPE = Shape(3, 16, 5)


def test_as_many_networks_as_the_paper_counts() -> None:
    space, count = MacroSpace(SHAPE, layers=12), 1
    for decision in space.decisions():
        count *= len(decision.choices)
    assert count == 6**12 * 2 ** (12 * 11 // 2)


def test_everything_is_halved_after_a_third_and_two_thirds_of_the_layers() -> None:
    space = MacroSpace(SHAPE, layers=7, filters=4)
    network = space.build(space.sample(Random(0))).eval()
    sides = []
    for number in range(1, 8):
        network.get_submodule(f"layer{number}").register_forward_hook(
            lambda _module, _input, output: sides.append(tuple(output.shape[1:3]))
        )
    network(torch.zeros(1, 3, 16, 16))
    assert sides == [(4, 16)] * 2 + [(8, 8)] * 2 + [(16, 4)] * 3


def test_a_skip_reaches_over_both_reductions_and_only_what_is_needed_is_halved() -> None:
    plain = tuple(Layer("sep3x3", ()) for _ in range(5))
    skipping = (*plain, Layer("max3x3", (0,)))
    layout = laid_out(Genes(skipping, Skeleton(4, 16)))
    assert [sorted(layer.halved) for layer in layout] == [[], [0, 2], [], [0, 4], [], []]
    layout = laid_out(Genes((*plain, Layer("max3x3", ())), Skeleton(4, 16)))
    assert [sorted(layer.halved) for layer in layout] == [[], [2], [], [4], [], []]


def test_a_layer_joins_what_it_skips_to() -> None:
    layers = (Layer("conv3x3", ()), Layer("conv3x3", (0,)), Layer("conv3x3", (0, 1)))
    joins = [layer.join for layer in laid_out(Genes(layers, Skeleton(4, 16)))]
    assert [join.inputs if join else None for join in joins] == [None, 2 * 8, 3 * 16]


def test_a_change_is_one_operation_or_one_skip() -> None:
    space = MacroSpace(SHAPE, layers=6, filters=4)
    for seed in range(30):
        parent = space.sample(Random(seed))
        child = space.mutate(parent, Random(seed))
        pairs = zip(space.tokens(parent), space.tokens(child), strict=True)
        assert sum(one != other for one, other in pairs) == 1
    assert len(list(space.neighbours(parent))) == 6 * 5 + 6 * 5 // 2


def test_paths_are_counted_over_skips() -> None:
    space = MacroSpace(SHAPE, layers=3, filters=4)
    layers = (Layer("conv3x3", ()), Layer("conv3x3", (0,)), Layer("max3x3", (1,)))
    row = space.features(Genes(layers, space.skeleton).to_genotype())[-14:].tolist()
    by_op = dict(zip((*space.ops, "length"), zip(row[::2], row[1::2], strict=True), strict=True))
    assert by_op["conv3x3"] == (0, 2)
    assert by_op["max3x3"] == (0, 1)
    assert by_op["length"] == (1, 3)


@pytest.mark.parametrize("tokens", [0, 5, 7])
def test_a_wrong_number_of_tokens_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{tokens} tokens; 6 are needed for 3 layers"):
        MacroSpace(SHAPE, layers=3).from_tokens([0] * tokens)
