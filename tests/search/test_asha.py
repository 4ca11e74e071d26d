"""Successive halving around a strategy."""

import json
from collections.abc import Mapping, Sequence

import pytest

from search.candidate import Candidate, Fidelity, Note, Observation
from search.space import Json
from search.strategies import StateError, estimates_of, strategy_for
from search.strategies.asha import Asha
from search.strategies.random import RandomSearch
from tests.search.spaces import small_space

SPACE = small_space("nb201")


class Listening(RandomSearch):
    """A strategy that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(SPACE, 0)
        self.heard: list[tuple[str, float | None]] = []

    def tell(self, seen: Sequence[Observation]) -> None:
        super().tell(seen)
        self.heard += [(each.trial, each.score) for each in seen]


def told(candidate: Candidate, score: float | None, trial: str) -> Observation:
    return Observation(candidate, score, 1.0, trial)


def test_the_best_of_a_rung_go_on_and_longer_each_time() -> None:
    asha = Asha(RandomSearch(SPACE, 0), SPACE, rungs=3, eta=3)
    first = asha.ask(9, [])
    assert {each.fidelity.rung for each in first} == {1 / 9}
    asha.tell([told(each, place / 10, f"low-{place}") for place, each in enumerate(first)])
    second = asha.ask(4, [])
    assert [(each.parent, each.fidelity.rung) for each in second[:3]] == [
        ("low-8", 1 / 3), ("low-7", 1 / 3), ("low-6", 1 / 3),
    ]  # fmt: skip
    assert [each.genotype for each in second[:3]] == [first[8].genotype, first[7].genotype, first[6].genotype]
    assert second[3].fidelity.rung == 1 / 9
    asha.tell([told(each, 0.5 - place / 10, f"middle-{place}") for place, each in enumerate(second[:3])])
    (third,) = asha.ask(1, [])
    assert (third.parent, third.fidelity.rung, third.genotype) == ("middle-0", 1.0, first[8].genotype)
    asha.tell([told(third, 0.9, "high")])
    assert asha.ask(1, [])[0].fidelity.rung == 1 / 9  # nothing goes on from the last rung


def test_the_wrapped_strategy_hears_the_highest_rung_that_has_a_score() -> None:
    inner = Listening()
    asha = Asha(inner, SPACE, rungs=2, eta=2)
    one, two = asha.ask(2, [])
    asha.tell([told(one, 0.4, "a"), told(two, None, "b")])
    assert inner.heard == [("a", 0.4), ("b", None)]
    (again,) = asha.ask(1, [])
    assert again.parent == "a"
    asha.tell([told(again, None, "c")])
    assert len(inner.heard) == 2  # the failure above says less than the score below
    asha.tell([told(again, 0.3, "d")])
    assert inner.heard[2:] == [("d", 0.3)]
    asha.tell([told(one, 0.4, "a"), told(one, 0.8, "late")])
    assert len(inner.heard) == 3  # a lower rung adds nothing


def test_failures_count_in_a_rung_and_never_go_on() -> None:
    asha = Asha(RandomSearch(SPACE, 0), SPACE, rungs=2, eta=2)
    first = asha.ask(4, [])
    asha.tell([told(each, 0.5 if place == 0 else None, f"low-{place}") for place, each in enumerate(first)])
    asked = asha.ask(3, [])
    assert [each.parent for each in asked] == ["low-0", None, None]


def test_what_is_pending_on_a_higher_rung_is_not_sent_there_again_by_a_strategy_that_forgot() -> None:
    asha = Asha(RandomSearch(SPACE, 0), SPACE, rungs=2, eta=2)
    first = asha.ask(2, [])
    results = [told(each, 0.5, f"low-{place}") for place, each in enumerate(first)]
    asha.tell(results)
    (promoted,) = asha.ask(1, [])
    again = Asha(RandomSearch(SPACE, 0), SPACE, rungs=2, eta=2)
    again.tell(results)
    assert again.ask(1, [promoted])[0].fidelity.rung == 0.5


def test_the_floor_counts_for_the_last_rung() -> None:
    inner = Listening()
    asha = Asha(inner, SPACE, rungs=2, eta=2)
    (floor,) = RandomSearch(SPACE, 5).ask(1, [])
    asha.tell([told(Candidate(floor.genotype, Fidelity(seconds=5.0)), 0.5, "floor")])
    assert inner.heard == [("floor", 0.5)]
    assert asha.notes()[-1] == Note(1, "rungs", {"shares": [0.5, 1.0], "results": [0, 1], "promoted": [0, 0]})
    assert asha.notes() == []


@pytest.mark.parametrize("damage", [{"rungs": None}, {"rungs": []}, {"rungs": [{}, {}]}, {"rungs": [5, 5]}])
def test_a_damaged_state_of_the_rungs_is_refused(damage: Mapping[str, Json]) -> None:
    asha = Asha(RandomSearch(SPACE, 0), SPACE, rungs=2, eta=2)
    asha.tell([told(each, 0.5, f"low-{place}") for place, each in enumerate(asha.ask(4, []))])
    state = json.loads(json.dumps(asha.dump()))
    Asha(RandomSearch(SPACE, 0), SPACE, rungs=2, eta=2).load(state)
    with pytest.raises(StateError, match="rungs cannot be read"):
        Asha(RandomSearch(SPACE, 0), SPACE, rungs=2, eta=2).load(state | damage)


def test_one_rung_is_the_strategy_itself() -> None:
    assert not isinstance(strategy_for("random", SPACE, {"rungs": 1}, 0, None), Asha)
    assert isinstance(strategy_for("random", SPACE, {"rungs": 2}, 0, None), Asha)


def test_estimates_come_through() -> None:
    strategy = strategy_for("bayesian", SPACE, {"rungs": 2, "initial": 3, "pool": 20}, 0, None)
    asked = strategy.ask(3, [])
    assert estimates_of(strategy, [asked[0].genotype]) is None
    strategy.tell([told(each, place / 10, f"trial-{place}") for place, each in enumerate(asked)])
    estimates = estimates_of(strategy, [each.genotype for each in asked])
    assert estimates is not None
    assert 0.0 <= estimates[0] < estimates[2] <= 0.2
