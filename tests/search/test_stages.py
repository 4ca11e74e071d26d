"""What is particular to the space of whole networks, beside the contract that every space keeps."""

import dataclasses
from random import Random

import pytest
import torch

from search.device import Device
from search.floor import affordable_flops, floor
from search.space import Shape
from search.spaces.stages import Genes, StagesNetwork, StagesSpace, Whitening, fitted, reference

SHAPE = Shape(3, 32, 10)


def test_the_whitening_layer_decorrelates_patches() -> None:
    random = torch.Generator().manual_seed(0)
    base = torch.randn(200, 1, 16, 16, generator=random)
    images = base + 0.1 * torch.randn(200, 3, 16, 16, generator=random)  # channels nearly alike, as in photographs
    layer = Whitening(3, 2, 1)
    layer.fit(images)
    half = layer.out_channels // 2
    answers = layer(images)[:, :half].transpose(0, 1).reshape(half, -1)
    torch.testing.assert_close(torch.cov(answers), torch.eye(half), atol=0.15, rtol=0)
    assert torch.equal(layer.weight[:half], -layer.weight[half:])
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("side", [16, 20, 32])
def test_one_network_takes_any_resolution_of_its_training(side: int) -> None:
    genes = reference(SHAPE, 2_000_000)
    assert StagesNetwork(genes, SHAPE)(torch.randn(2, 3, side, side)).shape == (2, 10)


@pytest.mark.parametrize("flops", [1_000_000, 10_000_000, 100_000_000])
def test_samples_are_about_as_large_as_wanted(flops: int) -> None:
    space = StagesSpace(SHAPE, flops=flops)
    costs = [space.cost(space.sample(Random(seed))).flops for seed in range(40)]
    assert 0.3 * flops < sorted(costs)[20] < 1.3 * flops
    assert max(costs) < 4 * flops


def test_samples_differ_and_stay_around_the_centre() -> None:
    space = StagesSpace(SHAPE)
    keys = {space.key(space.sample(Random(seed))) for seed in range(40)}
    assert len(keys) > 30


def test_a_network_is_fitted_by_its_widths_alone() -> None:
    genes = reference(SHAPE, 50_000_000)
    small = fitted(genes, SHAPE, 5_000_000)
    assert StagesSpace(SHAPE).cost(small.to_genotype()).flops <= 5_500_000
    assert dataclasses.replace(small, stages=genes.stages) == genes


@pytest.mark.parametrize(
    "shape", [Shape(1, 8, 2), Shape(1, 28, 10), Shape(3, 32, 10), Shape(3, 64, 7), Shape(3, 128, 200)]
)
def test_the_floor_is_legal_for_any_shape_and_grows_with_the_time(shape: Shape) -> None:
    costs = []
    for seconds in (5.0, 60.0, 3600.0):
        genotype = floor(shape, 5_000, flops_per_s=7e10, seconds=seconds)
        space = StagesSpace(shape)
        space.check(genotype)
        space.check(space.sample(Random(0)))
        costs.append(space.cost(genotype).flops)
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_more_pictures_or_a_slower_machine_mean_a_smaller_network() -> None:
    base = affordable_flops(50_000, flops_per_s=7e10, seconds=60)
    assert affordable_flops(500_000, flops_per_s=7e10, seconds=60) <= base
    assert affordable_flops(50_000, flops_per_s=1e10, seconds=60) < base


def test_a_bridge_around_nothing_is_no_other_network() -> None:
    genes = reference(SHAPE, 1_000_000)
    one, other = (
        dataclasses.replace(
            genes, stages=tuple(dataclasses.replace(stage, depth=1, block=block) for stage in genes.stages)
        )
        for block in ("plain", "residual")
    )
    space = StagesSpace(SHAPE)
    assert one != other
    assert space.key(one.to_genotype()) == space.key(other.to_genotype())


def test_genes_survive_their_genotype() -> None:
    genes = reference(SHAPE, 1_000_000)
    assert Genes.of(genes.to_genotype()) == genes


def test_the_device_is_measured_once_and_described() -> None:
    device = Device.cpu()
    assert device is Device.cpu()
    assert device.flops_per_s > 1e8
    assert device.free_bytes() > 0
    assert device.describe()["kind"] == "cpu"


@pytest.mark.parametrize("shape", [Shape(1, 8, 2), Shape(3, 32, 10), Shape(3, 128, 5)])
def test_any_tokens_are_a_legal_network_of_about_the_wanted_size(shape: Shape) -> None:
    space = StagesSpace(shape, flops=10_000_000)
    decisions, random = space.decisions(), Random(0)
    flops = []
    for _ in range(60):
        genotype = space.from_tokens([random.randrange(len(decision.choices)) for decision in decisions])
        space.check(genotype)
        flops.append(space.cost(genotype).flops)
    if shape.side > 8:  # the widest networks of so few pixels have less
        assert 0.3 * 10_000_000 < sorted(flops)[30] < 1.1 * 10_000_000
    with pytest.raises(ValueError, match="3 tokens"):
        space.from_tokens([0, 1, 2])


def test_tokens_say_what_the_network_is() -> None:
    space = StagesSpace(SHAPE, flops=10_000_000)
    names = [decision.name for decision in space.decisions()]
    tokens = space.tokens(space.sample(Random(5)))
    for name, token in (("stem_kernel", 1), ("pooling", 2), ("stages[1].block", 2), ("recipe.flip", 0), ("stages", 0)):
        changed = list(tokens)
        changed[names.index(name)] = token
        assert space.tokens(space.from_tokens(changed))[names.index(name)] == token
    genes = Genes.of(space.from_tokens(tokens))
    assert Genes.of(space.sample(Random(5))).recipe == genes.recipe


def test_a_network_is_brought_to_smaller_pictures_of_other_channels_and_classes() -> None:
    large, small = Shape(3, 64, 100), Shape(1, 16, 2)
    for number in range(50):
        found = StagesSpace(large, flops=50_000_000).sample(Random(number))
        space = StagesSpace(small)
        carried = space.scaled(found, 2_000_000)
        space.check(carried)
        assert space.cost(carried).flops <= 2_000_000 or Genes.of(carried).stages[0].width == 8
