"""A space with one member: every strategy finds that there is nothing else, and the search ends."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, cast

import pytest

from search import catalog
from search.candidate import Observation, Purpose
from search.race import Budget
from search.space import Genotype, Progressive, Space
from search.strategies import strategy_for
from tests.search.spaces import small_space
from tests.search.test_race import Simulation
from tests.search.test_strategies import HALVED, QUICK, SEARCHING, fresh


class Only:
    """A space but for its members, of which it has one. A change of it, where there is no other, is itself."""

    def __init__(self, space: Space) -> None:
        self._space, self._member = space, space.sample(Random(0))
        if isinstance(space, Progressive):
            self._member = next(space.smallest())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    def sample(self, random: Random) -> Genotype:
        return self._member

    def mutate(self, genotype: Genotype, random: Random) -> Genotype:
        return self._member

    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]:
        return iter(())

    def from_tokens(self, tokens: Sequence[int]) -> Genotype:
        return self._member

    def smallest(self) -> Iterator[Genotype]:
        yield self._member

    def grown(self, genotype: Genotype) -> Iterator[Genotype]:
        return iter(())

    def continued(self, genotype: Genotype, random: Random) -> Genotype:
        return self._member


def only(strategy: str) -> Space:
    return cast(Space, Only(small_space(catalog.STRATEGIES[strategy].spaces[-1])))


@pytest.mark.parametrize("score", [0.9, None])
@pytest.mark.parametrize("name", SEARCHING)
def test_a_strategy_proposes_the_one_member_once(name: str, score: float | None) -> None:
    strategy = fresh((name, only(name), QUICK.get(name, {})))
    (candidate,) = strategy.ask(3, [])
    assert strategy.ask(3, [candidate]) == []
    strategy.tell([Observation(candidate, score, 1.0, "trial-1")])
    assert strategy.ask(3, []) == []
    assert strategy.ask(1, []) == []


@pytest.mark.parametrize(
    "name", [name for name in SEARCHING if set(catalog.HALVING) <= set(catalog.STRATEGIES[name].options)]
)
def test_under_halving_it_is_proposed_once_a_rung(name: str) -> None:
    strategy = strategy_for(name, only(name), QUICK.get(name, {}) | HALVED, 0, None)
    asked = strategy.ask(3, [])
    for rung in range(5):
        strategy.tell([Observation(each, 0.9, 1.0, f"trial-{rung}") for each in asked])
        if not (asked := strategy.ask(3, [])):
            break
    assert asked == []


@pytest.mark.parametrize("budget", [Budget(trials=30), Budget(seconds=600)], ids=["trials", "seconds"])
@pytest.mark.parametrize("name", SEARCHING)
def test_a_search_of_it_ends_with_a_final(name: str, budget: Budget) -> None:
    done = Simulation(budget, strategy_name=name, space=only(name)).run()
    assert done.log[-1][1].purpose is Purpose.FINAL
    assert len([work for work in done.of(Purpose.EXPLORE) if work.candidate.genotype.space != "stages"]) <= 1
