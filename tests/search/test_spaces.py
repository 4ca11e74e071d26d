"""What every space must hold, whatever it contains."""

import json
from itertools import islice
from random import Random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from search import catalog
from search.catalog import OptionError
from search.classifier import Classifier
from search.export import parity, served_of, to_onnx
from search.space import Genotype, InvalidGenotypeError, Json, Scalable, Shape, Space, Tokenised
from search.spaces import space_for
from search.spaces.stages import reference
from tests.search.spaces import SHAPE, SMALL, small_space


@pytest.fixture(params=catalog.SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return small_space(request.param)


def drawn(space: Space, count: int) -> list[Genotype]:
    return [space.sample(Random(seed)) for seed in range(count)]


def test_every_space_of_the_catalogue_is_tested() -> None:
    assert set(SMALL) == set(catalog.SPACES)


def test_a_space_keeps_the_protocol_and_its_name(space: Space) -> None:
    assert isinstance(space, Space)
    assert space.name in catalog.SPACES
    assert space.shape == SHAPE


def test_draws_changes_and_neighbours_are_legal(space: Space) -> None:
    for seed, genotype in enumerate(drawn(space, 20)):
        space.check(genotype)
        space.check(space.mutate(genotype, Random(seed)))
        for neighbour in islice(space.neighbours(genotype), 40):
            space.check(neighbour)


def test_the_same_random_numbers_draw_the_same(space: Space) -> None:
    one, other = space.sample(Random("a")), space.sample(Random("a"))
    assert one == other
    assert space.mutate(one, Random("b")) == space.mutate(other, Random("b"))
    assert len({space.key(each) for each in drawn(space, 30)}) > 15


def test_a_change_makes_another_architecture(space: Space) -> None:
    for seed, genotype in enumerate(drawn(space, 20)):
        assert space.key(space.mutate(genotype, Random(seed))) != space.key(genotype)


def test_neighbours_are_not_the_genotype_itself(space: Space) -> None:
    genotype = space.sample(Random(1))
    neighbours = list(space.neighbours(genotype))
    assert len(neighbours) > 10
    assert genotype not in neighbours


def test_a_genotype_survives_json(space: Space) -> None:
    for genotype in drawn(space, 5):
        again = Genotype.from_json(json.loads(json.dumps(genotype.to_json())))
        assert again == genotype
        assert space.key(again) == space.key(genotype)


def test_features_have_one_length_and_are_numbers(space: Space) -> None:
    rows = [space.features(genotype) for genotype in drawn(space, 10)]
    assert {row.shape for row in rows} == {rows[0].shape}
    assert all(row.dtype == np.float32 and np.isfinite(row).all() for row in rows)
    assert len({row.tobytes() for row in rows}) > 5


def test_the_parameters_are_counted_exactly(space: Space) -> None:
    for genotype in drawn(space, 6):
        network = space.build(genotype)
        trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert space.cost(genotype).params == trainable


def test_the_arithmetic_is_counted(space: Space) -> None:
    """Counted again by hooks on every convolution and linear layer."""
    for genotype in drawn(space, 3):
        network, side, counted = space.build(genotype).eval(), space.recipe(genotype).side, 0

        def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
            nonlocal counted
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            counted += weight[0].numel() * output[0].numel()

        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        network(torch.zeros(1, SHAPE.channels, side, side))
        assert space.cost(genotype).flops == counted


def test_the_memory_of_a_training_step_is_estimated(space: Space) -> None:
    """Against what autograd keeps for the backward pass."""
    for genotype in drawn(space, 3):
        network, side, kept = space.build(genotype), space.recipe(genotype).side, dict[int, int]()

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size() // 4
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.randn(4, SHAPE.channels, side, side))
        cost = space.cost(genotype)
        assert 0.6 < (sum(kept.values()) - cost.params) / (4 * cost.activations) < 1.4


def test_a_network_learns_from_a_step(space: Space) -> None:
    genotype = space.sample(Random(3))
    torch.manual_seed(0)
    network, side = space.build(genotype), space.recipe(genotype).side
    images, targets = torch.randn(8, SHAPE.channels, side, side), torch.arange(8) % SHAPE.classes
    step = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 0.01)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(network(images), targets)
        losses.append(loss.item())
        step.zero_grad()
        torch.autograd.backward(loss)
        step.step()
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_every_draw_and_its_changes_take_a_step_through_all_their_weights(space: Space) -> None:
    for seed, genotype in enumerate(drawn(space, 4)):
        for each in (genotype, space.mutate(genotype, Random(seed))):
            network, side = space.build(each), space.recipe(each).side
            torch.autograd.backward(network(torch.randn(4, SHAPE.channels, side, side)).square().mean())
            trained = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
            assert [name for name, gradient in trained.items() if gradient is None] == []
            assert all(gradient is not None and gradient.isfinite().all() for gradient in trained.values())


def test_a_network_exports_with_any_batch_size_and_answers_the_same(space: Space) -> None:
    for genotype in drawn(space, 3):
        torch.manual_seed(0)
        network, side = space.build(genotype), space.recipe(genotype).side
        statistics = torch.full((SHAPE.channels,), 120.0), torch.full((SHAPE.channels,), 60.0)
        weights = Classifier.around(network, SHAPE.classes, *statistics, packed_side=20, side=side).state_dict()
        labels = [str(label) for label in range(SHAPE.classes)]
        model = to_onnx(space, genotype, weights, packed_side=20, mirror_at_test=True, labels=labels)
        served = served_of(space, genotype, weights, mirror_at_test=True)
        for count in (1, 5):
            samples = np.random.default_rng(0).integers(0, 256, (count, 20, 20, SHAPE.channels), dtype=np.uint8)
            assert parity(model, served, samples) < 1e-5


def test_tokens_and_genotypes_are_two_forms_of_one_thing(space: Space) -> None:
    assert isinstance(space, Tokenised)
    decisions = space.decisions()
    assert len({decision.name for decision in decisions}) == len(decisions)
    random = Random(0)
    for genotype in drawn(space, 10):
        tokens = space.tokens(genotype)
        assert all(0 <= token < len(of.choices) for token, of in zip(tokens, decisions, strict=True))
        again = space.from_tokens(tokens)
        space.check(again)
        assert space.tokens(again) == space.tokens(space.from_tokens(space.tokens(again)))
        space.check(space.from_tokens([random.randrange(len(of.choices)) for of in decisions]))
    space.check(space.from_tokens([99] * len(decisions)))


def test_an_architecture_is_scaled_to_a_limit_and_stays_itself(space: Space) -> None:
    assert isinstance(space, Scalable)
    genotype = space.sample(Random(0))
    least = space.cost(space.scaled(genotype, 1)).flops
    seen = []
    for flops in (2 * least, 8 * least, 32 * least):
        scaled = space.scaled(genotype, flops)
        space.check(scaled)
        seen.append(space.cost(scaled).flops)
        assert seen[-1] <= 1.02 * flops
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


def test_a_description_is_one_sentence_with_the_size(space: Space) -> None:
    text = space.describe(space.sample(Random(5)))
    assert text.endswith(".")
    assert "parameters" in text


@pytest.mark.parametrize(
    ("space_name", "genes", "named"),
    [
        ("cell", {"normal": []}, ("normal", "reduction")),
        ("cell", {"normal": [], "reduction": []}, ("normal, reduction", "needed: normal, reduction, skeleton")),
        ("cell", ("normal", 7), ("normal is 7", "list of blocks")),
        ("cell", ("normal", []), ("normal has 0 blocks", "1 to 3 are possible")),
        ("cell", ("skeleton", {"cells": 1}), ("skeleton", "needed: an object of cells, filters")),
        ("cell", ("skeleton", "cells", 0), ("skeleton.cells is 0", "1 to 20")),
        ("cell", ("skeleton", "filters", 1000), ("skeleton.filters is 1000", "4 to 512")),
        ("cell", ("skeleton", "side", 17), ("skeleton.side is 17", "8 to 16")),
        ("cell", ("normal", 1, "inputs", [0, 3]), ("normal[1].inputs[1]", "3", "2 to 2")),
        ("cell", ("normal", 0, "inputs", [True, 0]), ("normal[0].inputs[0]", "0 (the cell before the last)")),
        ("cell", ("reduction", 2, "ops", ["conv9x9", "identity"]), ("reduction[2].ops[0]", "conv9x9", "conv3x3")),
        ("macro", ("layers", 2, "op", "conv9x9"), ("layers[2].op", "conv9x9", "sep5x5")),
        ("macro", ("layers", 2, "skips", [2]), ("layers[2].skips[0] is 2", "0 (the stem), 1 to 1")),
        ("macro", ("layers", 0, "skips", [0]), ("layers[0].skips[0] is 0", "none here")),
        ("macro", ("layers", 3, "skips", [1, 0]), ("layers[3].skips is [1, 0]", "ascending")),
        ("macro", ("layers", [1]), ("layers[0] is 1", '"skips": [state, …]')),
        ("macro", ("layers", 7), ("layers is 7", "a list of layers")),
        ("macro", ("layers", []), ("layers has 0 entries", "this space has 5")),
        ("macro", ("skeleton", 7), ("skeleton is 7", "filters, side")),
        ("macro", ("skeleton", "filters", True), ("skeleton.filters is True", "4 to 512")),
        ("macro", {"layers": []}, ("genes are layers", "layers, skeleton")),
        ("cell", ("reduction", 2, "ops", ["identity"]), ("reduction[2]", '"ops": [name, name]')),
        ("nb201", ("cell", 5), ("cell is 5", "|skip_connect~0|+")),
        ("nb201", ("cell", "|none~0|+|none~0|none~1|"), ("has 2 nodes", "needed: 3")),
        ("nb201", ("cell", "|none~0|+|none~0|+|none~0|none~1|none~2|"), ("node 2", "|op~0|op~1|")),
        ("nb201", ("cell", "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|"), ("node 2", "|op~0|op~1|")),
        ("nb201", ("cell", "|none~0|+|none~0|max~1|+|none~0|none~1|none~2|"), ("node 2", "'max' from node 1", "none")),
        ("nb201", ("skeleton", "channels", 1.5), ("skeleton.channels is 1.5", "4 to 512")),
        ("nb201", ("skeleton", {}), ("skeleton", "cells, channels, side")),
        ("nb201", {"cell": ""}, ("cell, skeleton",)),
    ],
)
def test_an_illegal_genotype_is_refused_with_its_place_and_the_choices(
    space_name: str, genes: Json, named: tuple[str, ...]
) -> None:
    space = small_space(space_name)
    if isinstance(genes, tuple):
        *path, field, value = genes
        genes = place = space.sample(Random(0)).genes
        for name in path:
            place = place[name]
        place[field] = value
    genotype = Genotype.of(space_name, genes)
    with pytest.raises(InvalidGenotypeError) as refusal:
        space.check(genotype)
    assert all(text in str(refusal.value) for text in named)
    with pytest.raises(InvalidGenotypeError):
        space.build(genotype)


def test_a_genotype_of_another_space_is_refused() -> None:
    with pytest.raises(InvalidGenotypeError, match="of space 'stages' was given to space 'cell'"):
        small_space("cell").check(small_space("stages").sample(Random(0)))


def test_unknown_spaces_and_options_are_refused_with_what_there_is() -> None:
    with pytest.raises(OptionError, match=r"space: 'darts' is unknown; choose one of stages, cell"):
        space_for("darts", SHAPE, {})
    with pytest.raises(OptionError, match=r"space_options\.depth: 'cell' has no such option; it takes blocks, ops"):
        space_for("cell", SHAPE, {"depth": 3})
    with pytest.raises(OptionError, match=r"space_options\.blocks: 9 is not between 1 and 7"):
        space_for("cell", SHAPE, {"blocks": 9})


def test_samples_lie_around_the_centre_where_a_space_has_one() -> None:
    whole = small_space("stages")
    large = reference(SHAPE, 60_000_000).to_genotype()
    around = space_for("stages", SHAPE, {}, centre=large)
    flops = sorted(around.cost(around.sample(Random(seed))).flops for seed in range(15))
    assert flops[7] > 2 * whole.cost(whole.sample(Random(0))).flops
    assert space_for("cell", SHAPE, {}, centre=large).sample(Random(0)).space == "cell"


@pytest.mark.parametrize("side", [8, 13, 28])
def test_any_side_and_gray_pictures_fit(side: int) -> None:
    for name, options in SMALL.items():
        space = space_for(name, Shape(1, side, 2), options)
        genotype = space.sample(Random(0))
        trained_at = space.recipe(genotype).side
        assert trained_at <= side
        network = space.build(genotype)
        assert network(torch.zeros(2, 1, trained_at, trained_at)).shape == (2, 2)
        assert space.cost(genotype).params == sum(p.numel() for p in network.parameters() if p.requires_grad)
