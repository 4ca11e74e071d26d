"""ENAS as a strategy: shared weights first, then what they point out."""

import json
from random import Random

import pytest

from search.candidate import Candidate, Fidelity, Note, Observation
from search.catalog import OptionError, check_pair
from search.oneshot import SUPERNET, Shortlisted, SupernetGenes
from search.space import Json, Space
from search.strategies import StateError, Strategy, strategy_for
from search.surrogates.ranks import kendall
from tests.search.spaces import small_space

SPACE = small_space("nb201")
STEPS = [
    {"step": n, "score": n / 10, "entropy": {"op": 1.6 / n}, "preferences": {"op": {"none": 0.2}}} for n in (1, 2, 3)
]


def enas(state: dict[str, Json] | None = None, **options: Json) -> Strategy:
    return strategy_for("enas", SPACE, options, 3, state)


def shortlist(count: int) -> list[Shortlisted]:
    """Different architectures, the best by shared score first."""
    space: Space = SPACE
    draws = (space.sample(Random(f"shortlist/{number}")) for number in range(10 * count))
    genotypes = list({space.key(each): each for each in draws}.values())[:count]
    return [Shortlisted(each, 0.9 - number / 100) for number, each in enumerate(genotypes)]


def trained(candidate: Candidate, trial: str = "t1", count: int = 5) -> Observation:
    report = {"shortlist": [each.to_json() for each in shortlist(count)], "steps": STEPS}
    return Observation(candidate, 0.9, 60.0, trial, json.loads(json.dumps(report)))


def alone(candidates: list[Candidate], scores: list[float | None]) -> list[Observation]:
    return [
        Observation(candidate, score, 1.0, f"u{number}")
        for number, (candidate, score) in enumerate(zip(candidates, scores, strict=True))
    ]


def of_kind(notes: list[Note], kind: str) -> list[Note]:
    return [note for note in notes if note.kind == kind]


def test_shared_weights_come_first_and_alone() -> None:
    strategy = enas(form="published", shortlist=7, entropy=0.5, share=0.25)
    (first,) = strategy.ask(4, [])
    assert SupernetGenes.read(first.genotype) == SupernetGenes("nb201", "published", 7, 0.5)
    assert first.fidelity.rung == 0.25
    assert strategy.ask(4, [first]) == []
    assert strategy.ask(0, []) == []


def test_the_shortlist_follows_in_its_order_then_the_whole_space() -> None:
    strategy = enas()
    (first,) = strategy.ask(1, [])
    strategy.tell([trained(first)])
    asked = strategy.ask(8, [])
    assert [each.genotype for each in asked[:5]] == [each.genotype for each in shortlist(5)]
    assert [each.parent for each in asked] == ["t1"] * 5 + [None] * 3
    assert all(each.genotype.space == "nb201" for each in asked)


def test_it_asks_once_more_for_shared_weights_that_failed_and_then_draws() -> None:
    strategy = enas()
    for trial in ("t1", "t2"):
        (again,) = strategy.ask(3, [])
        assert again.genotype.space == SUPERNET
        strategy.tell([Observation(again, None, 5.0, trial)])
        strategy.tell([Observation(again, None, 5.0, trial)])
    assert {each.genotype.space for each in strategy.ask(3, [])} == {"nb201"}
    assert of_kind(strategy.notes(), "supernet_failed") == [
        Note(1, "supernet_failed", {"trial": "t1"}),
        Note(2, "supernet_failed", {"trial": "t2"}),
    ]


def test_a_second_training_of_shared_weights_may_succeed() -> None:
    strategy = enas()
    (first,) = strategy.ask(1, [])
    strategy.tell([Observation(first, None, 5.0, "t1")])
    (again,) = strategy.ask(1, [])
    strategy.tell([trained(again, "t2")])
    assert strategy.ask(1, [])[0].genotype == shortlist(1)[0].genotype


def test_how_the_shared_weights_came_about_is_noted_step_by_step() -> None:
    strategy = enas()
    strategy.tell([trained(strategy.ask(1, [])[0])])
    notes = strategy.notes()
    assert [(note.step, note.data["score"]) for note in of_kind(notes, "supernet")] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert notes[0].data["preferences"] == {"op": {"none": 0.2}}
    assert strategy.notes() == []


def test_the_agreement_of_shared_and_stand_alone_scores_is_noted_as_it_grows() -> None:
    strategy = enas()
    strategy.tell([trained(strategy.ask(1, [])[0])])
    asked = strategy.ask(6, [])
    strategy.notes()
    results = alone(asked, [0.8, 0.7, None, 0.5, 0.6, 0.99])  # the last is not of the shortlist
    strategy.tell(results[:2])
    strategy.tell(results[2:3])
    strategy.tell(results[3:])
    two, four = of_kind(strategy.notes(), "shared_scores")
    assert (two.step, two.data["n"], two.data["tau"]) == (2, 2, None)
    assert (four.step, four.data["n"]) == (4, 4)
    assert four.data["tau"] == pytest.approx(4 / 6)
    assert four.data["pairs"] == [[0.9, 0.8], [0.89, 0.7], [0.87, 0.5], [0.86, 0.6]]


def test_told_everything_anew_it_comes_to_the_same() -> None:
    strategy = enas()
    (first,) = strategy.ask(1, [])
    told = [Observation(first, None, 5.0, "t0")]
    strategy.tell(told)
    told.append(trained(strategy.ask(1, [])[0]))
    strategy.tell(told[-1:])
    asked = strategy.ask(7, [])
    told += alone(asked, [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    strategy.tell(told[2:])
    again = enas()
    again.tell(told[::-1])
    assert again.dump() == strategy.dump()
    assert again.ask(3, []) == strategy.ask(3, [])
    (latest,) = of_kind(again.notes(), "shared_scores")
    assert latest.data["n"] == 5


def test_shared_weights_of_another_space_are_not_its_own() -> None:
    strategy = enas()
    foreign = Candidate(SupernetGenes("macro").to_genotype(), Fidelity(epochs=1))
    strategy.tell([Observation(foreign, None, 1.0, "t1"), Observation(foreign, 0.5, 1.0, "t2", {})])
    assert strategy.ask(1, [foreign])[0].genotype == SupernetGenes("nb201", shortlist=20).to_genotype()


@pytest.mark.parametrize(
    "damage",
    [
        {"report": 5},
        {"report": {"trial": "t1"}},
        {"report": {"trial": "t1", "shortlist": [{"genotype": small_space("macro").sample(Random(0)).to_json()}]}},
        {
            "report": {
                "trial": "t1",
                "shortlist": [{"genotype": small_space("macro").sample(Random(0)).to_json(), "shared_score": 1}],
            }
        },
        {
            "report": {
                "trial": "t1",
                "shortlist": [{"genotype": SPACE.sample(Random(0)).to_json(), "shared_score": 10**400}],
            }
        },
        {"failures": 7},
    ],
)
def test_a_state_whose_report_is_damaged_is_refused(damage: dict[str, Json]) -> None:
    with pytest.raises(StateError, match="state of 'enas' cannot be read"):
        enas(enas().dump() | damage)


def test_a_space_whose_networks_share_no_weights_is_refused_with_the_strategies_that_can() -> None:
    with pytest.raises(OptionError, match=r"'enas' cannot search 'stages'; these can: race, random, local, evolution"):
        check_pair("enas", "stages")
    with pytest.raises(OptionError, match=r"strategy_options\.rungs: 'enas' has no such option; it takes form"):
        enas(rungs=3)


@pytest.mark.parametrize(
    ("one", "other", "tau"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 2, 2, 3], [1, 2, 3, 4], 5 / 30**0.5),  # tau-b, as scipy.stats.kendalltau gives it
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [1], None),
    ],
)
def test_kendalls_tau_counts_pairs_in_order(one: list[float], other: list[float], tau: float | None) -> None:
    assert kendall(one, other) == (None if tau is None else pytest.approx(tau))
