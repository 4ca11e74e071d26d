"""How cells grow, and what the surrogate makes of their scores."""

import json
from random import Random

import numpy as np
import pytest

from search.candidate import Candidate, Note, Observation
from search.catalog import OptionError
from search.space import Genotype, Json, Shape, Space
from search.spaces import space_for
from search.spaces.cell import CellSpace
from search.strategies import StateError, Strategy, strategy_for
from search.strategies.history import WHOLE
from search.surrogates.ensemble import Ensemble
from search.surrogates.ranks import rank_correlation


def tied(blocks: int = 3) -> CellSpace:
    space = space_for("cell", Shape(3, 16, 5), {"blocks": blocks, "ops": "fast", "filters": 4, "tied": True})
    assert isinstance(space, CellSpace)
    return space


def made(space: Space, seed: int = 0, **options: Json) -> Strategy:
    return strategy_for("pnas", space, options, seed, None)


def score(genotype: Genotype) -> float:
    """Something to be learned, between 0 and 1, of which the smallest cells tell."""
    text = genotype.genes_json
    return 0.5 + 0.03 * text.count("conv3x3") - 0.01 * text.count("identity")


def told(strategy: Strategy, candidates: list[Candidate], start: int) -> None:
    strategy.tell(
        [Observation(each, score(each.genotype), 1.0, f"t{start + at:04d}") for at, each in enumerate(candidates)]
    )


def searched(strategy: Strategy, children: int, count: int = 6) -> list[Genotype]:
    found: list[Genotype] = []
    while len(found) < children:
        asked = strategy.ask(count, [])
        told(strategy, asked, len(found))
        found += [each.genotype for each in asked]
    return found


def test_cells_grow_by_a_block_a_level_to_the_largest_and_stay_there() -> None:
    space = tied()
    found = searched(made(space, beam=4), 16, count=4)
    assert [space.size(each) for each in found] == [1] * 4 + [2] * 4 + [3] * 8


def test_every_cell_continues_one_of_the_level_before() -> None:
    space = tied()
    found = searched(made(space, beam=6), 18)
    for earlier, later in ((found[:6], found[6:12]), (found[6:12], found[12:])):
        possible = {space.key(each) for parent in earlier for each in space.grown(parent)}
        assert {space.key(each) for each in later} <= possible


def test_as_published_every_cell_of_one_block_is_trained() -> None:
    space = tied()
    found = searched(made(space, beam=256), 55, count=55)
    assert {space.key(each) for each in found} == {space.key(each) for each in space.smallest()}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["mlp", "lstm"])
def test_the_surrogate_ranks_a_learnable_score_better_than_chance(form: str) -> None:
    strategy = made(tied(), beam=24, surrogate=form)
    searched(strategy, 72, count=24)
    strategy.ask(1, [])  # begins the next level, which notes the last
    notes: list[Note] = strategy.notes()
    assert [(note.step, note.kind, note.data["blocks"]) for note in notes] == [
        (step, "surrogate", step) for step in (1, 2, 3)
    ]
    first, *predicted = [json.loads(json.dumps(note.data)) for note in notes]
    assert first["rank_correlation"] is None
    assert first["pairs"] == []
    for data in predicted:
        assert len(data["pairs"]) == data["children"] == 24
        assert data["rank_correlation"] == rank_correlation(*zip(*data["pairs"], strict=True))
    assert predicted[0]["mean"] > first["mean"] + 0.04
    assert predicted[1]["mean"] > predicted[0]["mean"] + 0.04


@pytest.mark.parametrize("form", ["mlp", pytest.param("lstm", marks=pytest.mark.slow)])
def test_the_ensemble_ranks_larger_cells_from_smaller_ones(form: str) -> None:
    space, random = tied(), Random(0)
    smallest = list(space.smallest())
    two = [space.continued(random.choice(smallest), random) for _ in range(40)]
    three = [space.continued(each, random) for each in two]
    ensemble = Ensemble(space.decisions(), space.blocks, "lstm" if form == "lstm" else "mlp", "x")
    known = smallest + two
    ensemble.fit([space.tokens(each) for each in known], [score(each) for each in known])
    predicted = ensemble.predict([space.tokens(each) for each in three])
    correlation = rank_correlation(predicted.tolist(), [score(each) for each in three])
    assert correlation is not None
    assert correlation > 0.5
    again = Ensemble(space.decisions(), space.blocks, "lstm" if form == "lstm" else "mlp", "x")
    again.fit([space.tokens(each) for each in known], [score(each) for each in known])
    assert np.array_equal(again.predict([space.tokens(each) for each in three]), predicted)


def test_the_ensemble_bears_one_score_and_scores_beyond_a_share() -> None:
    space = tied()
    tokens = [space.tokens(each) for each in space.smallest()]
    ensemble = Ensemble(space.decisions(), space.blocks, "mlp", "x")
    ensemble.fit(tokens[:1], [-3.0])
    assert np.allclose(ensemble.predict(tokens), -3.0)
    ensemble.fit(tokens, [-100.0 + place for place in range(len(tokens))])
    assert np.isfinite(ensemble.predict(tokens)).all()
    assert ensemble.predict(tokens[-5:]).mean() > ensemble.predict(tokens[:5]).mean() + 10


def test_a_level_waits_for_all_its_children_and_failures_have_come_back_too() -> None:
    space = tied()
    strategy = made(space, beam=4)
    level = strategy.ask(10, [])
    assert len(level) == 4
    told(strategy, level[:3], 0)
    assert strategy.ask(1, level[3:]) == []
    strategy.tell([Observation(level[3], None, 1.0, "t9")])
    assert {space.size(each.genotype) for each in strategy.ask(4, [])} == {2}
    assert [note.data["failures"] for note in strategy.notes()] == [1]


def test_a_level_of_failures_alone_is_followed_by_another_of_its_size() -> None:
    space = tied()
    strategy = made(space, beam=4)
    strategy.tell([Observation(each, None, 1.0, f"t{at}") for at, each in enumerate(strategy.ask(4, []))])
    again = strategy.ask(4, [])
    assert [space.size(each.genotype) for each in again] == [1] * 4
    told(strategy, again, 10)
    assert [space.size(each.genotype) for each in strategy.ask(4, [])] == [2] * 4


def test_untied_cells_grow_too_though_nobody_can_look_at_all_of_them() -> None:
    space = space_for("cell", Shape(3, 16, 5), {"blocks": 3, "ops": "fast", "filters": 4})
    assert isinstance(space, CellSpace)
    found = searched(made(space, beam=6), 18)
    assert [space.size(each) for each in found] == [1] * 6 + [2] * 6 + [3] * 6


def test_cells_of_others_become_parents_when_their_size_is_due() -> None:
    space = tied()
    strategy = made(space, beam=2)
    seed = max(space.smallest(), key=score)
    strategy.tell([Observation(Candidate(seed, WHOLE), 0.9, 1.0, "s")])
    told(strategy, strategy.ask(2, []), 0)
    children = strategy.ask(2, [])
    possible = {space.key(each) for each in space.grown(seed)}
    assert any(space.key(each.genotype) in possible for each in children)


@pytest.mark.parametrize(
    "damage",
    [
        {"plan": [[[1, 2, 3], None]]},
        {"plan": [[[0, 0, 0, 0], float("nan")]]},
        {"plan": 1},
        {"failed": None},
        {"level": None},
    ],
)
def test_a_damaged_state_is_refused(damage: dict[str, Json]) -> None:
    space = tied()
    with pytest.raises(StateError, match="state of 'pnas' cannot be read"):
        strategy_for("pnas", space, {}, 0, made(space).dump() | damage)


def test_a_space_that_does_not_grow_is_refused_with_the_strategies_that_serve_it() -> None:
    space = space_for("stages", Shape(3, 16, 5), {})
    with pytest.raises(OptionError, match="'pnas' cannot search 'stages'; these can: race, random"):
        strategy_for("pnas", space, {}, 0, None)


def test_ranks_correlate_as_spearman_says() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Ties share a rank: (1.5, 1.5, 3) against (1, 2, 3).
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.8660254)
    assert rank_correlation([1, 1], [1, 2]) is None
    assert rank_correlation([1], [1]) is None
