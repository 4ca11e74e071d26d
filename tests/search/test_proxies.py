"""What proxies say of networks before any training."""

import math
from random import Random

import pytest
import torch

from search.candidate import Observation
from search.proxies import synflow
from search.space import Shape
from search.spaces import space_for
from search.spaces.nb201 import Nb201Space, from_string
from search.strategies import strategy_for
from tests.search.spaces import SMALL, small_space

SPACE = Nb201Space(Shape(3, 16, 5), channels=4, side=16)


def of(cell: str) -> float:
    return synflow(SPACE, SPACE.genotype(from_string(cell)))


@pytest.mark.parametrize("name", SMALL)
def test_synflow_is_a_number_that_depends_on_the_genotype_alone(name: str) -> None:
    space = small_space(name)
    for seed in range(3):
        genotype = space.sample(Random(seed))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        one = synflow(space, genotype)
        assert torch.equal(torch.get_rng_state(), before)
        assert math.isfinite(one)
        assert one == synflow(space, genotype)


def test_synflow_looks_at_what_needs_more_than_its_pixels_at_as_many_as_it_takes() -> None:
    space = space_for("stages", Shape(3, 64, 5), {})
    networks = [space.sample(Random(seed)) for seed in range(60)]
    deep = [each for each in networks if space.least_side(each) > 16]
    assert deep
    smallest = min(deep, key=lambda each: space.cost(each).params)
    assert math.isfinite(synflow(space, smallest))


def test_synflow_grows_with_what_flows() -> None:
    much = of("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|")
    little = of("|none~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|")
    assert much > little
    assert of("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|") == -math.inf


def test_a_warm_start_proposes_what_the_proxy_prefers_until_the_model_decides() -> None:
    warm = strategy_for("bayesian", SPACE, {"initial": 5, "warm_start": True}, 0, None)
    plain = strategy_for("bayesian", SPACE, {"initial": 5}, 0, None)
    mean = {
        strategy: sum(synflow(SPACE, each.genotype) for each in strategy.ask(5, [])) / 5 for strategy in (warm, plain)
    }
    assert mean[warm] > mean[plain]
    again = strategy_for("bayesian", SPACE, {"initial": 5, "warm_start": True}, 0, None)
    first = again.ask(5, [])
    again.tell([Observation(each, place / 10, 1.0, f"t{place}") for place, each in enumerate(first)])
    assert len(again.ask(1, [])) == 1
    assert len(again.notes()) == 1  # by the model


def test_of_networks_that_are_too_large_to_compare_the_first_draw_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.strategies.bayesian._WARM_PARAMS", 1)
    warm = strategy_for("bayesian", SPACE, {"warm_start": True}, 0, None)
    assert warm.ask(4, []) == strategy_for("bayesian", SPACE, {}, 0, None).ask(4, [])
