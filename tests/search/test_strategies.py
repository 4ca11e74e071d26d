"""What every strategy must hold, on every space it can search."""

import json
from random import Random

import pytest

from search import catalog
from search.candidate import Candidate, Fidelity, Note, Observation
from search.catalog import OptionError
from search.oneshot import Shortlisted, SupernetGenes
from search.space import Json, Space
from search.strategies import StateError, Strategy, strategy_for
from tests.search.damage import damaged
from tests.search.spaces import small_space

SEARCHING = [name for name in catalog.STRATEGIES if name != catalog.FIXED]
QUICK: dict[str, dict[str, Json]] = {"bayesian": {"initial": 5, "pool": 40}}  # where defaults would take long
HALVED = {"rungs": 3, "eta": 2}
SHARED = "trial-shared"  # weights, of the strategies that begin with such
PAIRS = [(name, space, False) for name in SEARCHING for space in catalog.STRATEGIES[name].spaces] + [
    (name, entry.spaces[-1], True)
    for name, entry in catalog.STRATEGIES.items()
    if set(catalog.HALVING) <= set(entry.options)
]
Pair = tuple[str, Space, dict[str, Json]]


@pytest.fixture(params=PAIRS, ids=lambda each: "-".join([*each[:2], "halved"] if each[2] else each[:2]))
def pair(request: pytest.FixtureRequest) -> Pair:
    name, space, halved = request.param
    return name, small_space(space), QUICK.get(name, {}) | (HALVED if halved else {})


def fresh(pair: Pair, seed: int = 7, state: dict[str, Json] | None = None) -> Strategy:
    """As it stands before its first proposal of an architecture: shared weights have been trained."""
    strategy = strategy_for(pair[0], pair[1], pair[2], seed, state)
    if pair[0] == "enas" and state is None:
        strategy.tell([reported(pair[1], seed)])
    return strategy


def reported(space: Space, seed: int, count: int = 6) -> Observation:
    """What came of shared weights: a shortlist of so many draws, the trial that its architectures descend from."""
    genotypes = {space.key(each): each for each in (space.sample(Random(f"{seed}/{n}")) for n in range(2 * count))}
    shortlist = [Shortlisted(each, 1 - n / 10) for n, each in enumerate(list(genotypes.values())[:count])]
    report = {"shortlist": [each.to_json() for each in shortlist], "steps": []}
    supernet = Candidate(SupernetGenes(space.name).to_genotype(), Fidelity(epochs=1))
    return Observation(supernet, 1.0, 1.0, SHARED, report)


def seen(candidates: list[Candidate], start: int = 0, failing: int = 4) -> list[Observation]:
    """Results with scores that depend on the genotype alone; every `failing`th failed."""
    return [
        Observation(
            candidate,
            None if (start + place) % failing == failing - 1 else Random(candidate.genotype.digest()).random(),
            1.0,
            f"trial-{start + place:04d}",
        )
        for place, candidate in enumerate(candidates)
    ]


def searched(strategy: Strategy, rounds: int, count: int = 3) -> list[Candidate]:
    asked: list[Candidate] = []
    for _ in range(rounds):
        candidates = strategy.ask(count, [])
        strategy.tell(seen(candidates, len(asked)))
        asked += candidates
    return asked


def through_json(state: dict[str, Json]) -> dict[str, Json]:
    document: dict[str, Json] = json.loads(json.dumps(state))
    return document


def test_a_strategy_keeps_the_protocol(pair: Pair) -> None:
    assert isinstance(fresh(pair), Strategy)


def test_proposals_are_legal_and_new(pair: Pair) -> None:
    asked = searched(fresh(pair), rounds=10)
    assert len(asked) == 30
    for candidate in asked:
        pair[1].check(candidate.genotype)
    assert len({(pair[1].key(candidate.genotype), candidate.fidelity.rung) for candidate in asked}) == 30


def test_parents_are_trials_that_scored(pair: Pair) -> None:
    asked = searched(fresh(pair), rounds=10)
    scored = {observation.trial for observation in seen(asked) if observation.score is not None}
    assert {candidate.parent for candidate in asked} - {None} <= scored | {SHARED}


def test_a_restored_strategy_goes_on_like_the_unrestored(pair: Pair) -> None:
    one = fresh(pair)
    for step in range(8):
        other = fresh(pair, state=through_json(one.dump()))
        asked, asked_other = one.ask(2, []), other.ask(2, [])
        assert asked == asked_other
        results = seen(asked, 2 * step)
        one.tell(results)
        other.tell(results)
        assert through_json(one.dump()) == through_json(other.dump())


def test_the_order_of_results_does_not_matter(pair: Pair) -> None:
    results: list[list[Observation]] = []
    strategies = [fresh(pair), fresh(pair), fresh(pair)]
    for _ in range(2):
        asked = [strategy.ask(8, []) for strategy in strategies]
        assert asked[0] == asked[1] == asked[2]
        results = [seen(asked[0], 8 * len(results))]
        observed = results[0]
        strategies[0].tell(observed)
        for observation in reversed(observed):
            strategies[1].tell([observation])
        Random(1).shuffle(observed)
        for start in range(0, 8, 3):
            strategies[2].tell(observed[start : start + 3])
    assert strategies[0].ask(5, []) == strategies[1].ask(5, []) == strategies[2].ask(5, [])


def test_a_trial_told_twice_changes_nothing(pair: Pair) -> None:
    one, other = fresh(pair), fresh(pair)
    results = seen(one.ask(6, []))
    other.ask(6, [])
    one.tell(results)
    other.tell(results)
    other.tell(results[2:4])
    assert through_json(one.dump()) == through_json(other.dump())


def test_notes_are_small_json_and_each_names_another_step(pair: Pair) -> None:
    """Whenever they are fetched, and again when a lost state is rebuilt."""
    strategy, told = fresh(pair), list[Observation]()
    notes: list[Note] = []
    for step in range(12):
        asked = strategy.ask(1, []) + strategy.ask(1, [])
        told += seen(asked, len(told))
        strategy.tell(told[-len(asked) :])
        if step % 3:
            notes += strategy.notes()
    assert len({(note.kind, note.step) for note in notes}) == len(notes)
    assert strategy.notes() == []
    for note in notes:
        assert len(json.dumps(note.data, allow_nan=False)) < 5_000
    rebuilt = fresh(pair)
    rebuilt.tell(told)
    again = rebuilt.notes()
    assert len({(note.kind, note.step) for note in again}) == len(again)


def test_it_goes_on_when_everything_fails(pair: Pair) -> None:
    strategy = fresh(pair)
    for step in range(8):
        asked = strategy.ask(2, [])
        assert len(asked) == 2
        strategy.tell(seen(asked, 2 * step, failing=1))


def test_pending_candidates_are_not_proposed_again_even_if_forgotten(pair: Pair) -> None:
    pending = fresh(pair).ask(5, [])
    keys = {pair[1].key(candidate.genotype) for candidate in pending}
    amnesiac = fresh(pair)  # as after a state that could not be read
    assert not keys & {pair[1].key(candidate.genotype) for candidate in amnesiac.ask(5, pending)}


def test_a_replay_of_the_table_stands_in_for_a_lost_state(pair: Pair) -> None:
    one = fresh(pair)
    asked = searched(one, rounds=5)
    again = fresh(pair)
    again.tell(seen(asked))
    proposed = {(pair[1].key(candidate.genotype), candidate.fidelity.rung) for candidate in again.ask(5, [])}
    assert len(proposed) == 5
    assert not proposed & {(pair[1].key(candidate.genotype), candidate.fidelity.rung) for candidate in asked}


def test_foreign_genotypes_in_pending_and_results_do_no_harm(pair: Pair) -> None:
    other = small_space("stages" if pair[1].name == "cell" else "cell")
    foreign = Candidate(other.sample(Random(0)), Fidelity(epochs=1))
    strategy = fresh(pair)
    strategy.tell([Observation(foreign, 0.9, 1.0, "trial-x")])
    for candidate in strategy.ask(3, [foreign]):
        pair[1].check(candidate.genotype)


def test_the_seed_decides(pair: Pair) -> None:
    assert searched(fresh(pair, 1), 3) == searched(fresh(pair, 1), 3)
    assert searched(fresh(pair, 1), 3) != searched(fresh(pair, 2), 3)


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"strategy": "other"},
        {"keys": None},
        {"members": [{"key": "unknown"}]},
        {"members": 5},
    ],
)
def test_a_damaged_state_is_refused_as_such(pair: Pair, damage: dict[str, Json]) -> None:
    with pytest.raises(StateError):
        fresh(pair, state=fresh(pair).dump() | damage)


def test_a_state_with_one_thing_wrong_is_refused_or_works(pair: Pair) -> None:
    """Only StateError has the search rebuild its state."""
    strategy = fresh(pair)
    searched(strategy, 4)
    whole = through_json(strategy.dump())
    for seed in range(40):
        state, _ = damaged(whole, Random(seed))
        try:
            read = fresh(pair, state=state)
        except StateError:
            continue
        read.tell(seen(read.ask(3, []), 50))
        read.ask(2, [])
        json.dumps(read.dump(), allow_nan=False)


def test_a_state_over_another_space_is_refused() -> None:
    state = fresh(("evolution", small_space("stages"), {}))
    searched(state, 3)
    with pytest.raises(StateError, match="of space 'stages' in a state over 'cell'"):
        fresh(("evolution", small_space("cell"), {}), state=state.dump())


@pytest.mark.parametrize("name", SEARCHING)
def test_an_exhausted_space_ends_in_fewer_proposals(name: str) -> None:
    """One block of one cell pair over two operations has few members."""
    space = small_space("cell")
    space.blocks = 1  # type: ignore[attr-defined]  # the cell space's
    space.ops = ("identity", "conv1x1")  # type: ignore[attr-defined]
    strategy = fresh((name, space, QUICK.get(name, {})))
    total = 0
    while asked := strategy.ask(20, []):
        strategy.tell(seen(asked, total))
        total += len(asked)
    assert 40 < total <= 100  # 10 different cells each
    assert strategy.ask(1, []) == []


def test_evolution_and_race_find_more_than_chance() -> None:
    """On a score that the number of 3×3 convolutions decides."""
    space = small_space("cell")

    def score(candidate: Candidate) -> float:
        return float(candidate.genotype.genes_json.count("conv3x3"))

    best: dict[str, float] = {}
    options = {"race": {"pool": 20, "initial": 40}}
    for name in ("random", "evolution", "race"):
        total = 0.0
        for seed in range(5):
            strategy, top = strategy_for(name, space, options.get(name, {}), seed, None), 0.0
            for step in range(120 if name == "evolution" else 60):
                (candidate,) = strategy.ask(1, [])
                top = max(top, score(candidate))
                strategy.tell([Observation(candidate, score(candidate), 1.0, f"trial-{step:04d}")])
            total += top / 5
        best[name] = total
    assert best["evolution"] > best["random"] + 1
    assert best["race"] > best["random"] + 1


def test_local_search_climbs_and_begins_elsewhere_on_a_summit() -> None:
    space = small_space("cell")

    def score(candidate: Candidate) -> float:
        return float(candidate.genotype.genes_json.count("conv3x3"))

    strategy, scores, starts = strategy_for("local", space, {}, 3, None), dict[str, float](), list[str]()
    for step in range(400):
        (candidate,) = strategy.ask(1, [])
        trial = f"trial-{step:04d}"
        if candidate.parent is None:
            starts.append(trial)
        else:
            assert scores[candidate.parent] == max(scores[name] for name in scores if name >= starts[-1])
        scores[trial] = score(candidate)
        strategy.tell([Observation(candidate, scores[trial], 1.0, trial)])
    assert len(starts) > 1
    assert max(scores.values()) == 12  # each half of each block of both cells


def test_local_search_waits_for_the_last_neighbours_before_it_leaves() -> None:
    space = small_space("cell")
    strategy = strategy_for("local", space, {}, 0, None)
    (start,) = strategy.ask(1, [])
    strategy.tell([Observation(start, 1.0, 1.0, "start")])
    neighbours = strategy.ask(10_000, [])
    assert {each.parent for each in neighbours} == {"start"}
    assert strategy.ask(1, neighbours[-1:]) == []
    strategy.tell([Observation(each, 0.5, 1.0, f"n{number:04d}") for number, each in enumerate(neighbours)])
    assert strategy.ask(1, [])[0].parent is None


def test_evolution_lets_the_oldest_die_and_not_the_worst() -> None:
    space = small_space("cell")
    strategy = strategy_for("evolution", space, {"population": 4, "sample": 4}, 0, None)
    first = strategy.ask(4, [])
    strategy.tell([Observation(each, 9.0 - place, 1.0, f"old-{place}") for place, each in enumerate(first)])
    parents = []
    for step in range(6):
        (child,) = strategy.ask(1, [])
        parents.append(child.parent)
        strategy.tell([Observation(child, step / 10, 1.0, f"new-{step}")])
    assert parents[:4] == ["old-0", "old-1", "old-2", "old-3"]
    assert parents[4:] == ["new-3", "new-4"]


def test_children_of_evolution_inherit_where_they_shall() -> None:
    space = small_space("cell")
    strategy = strategy_for("evolution", space, {"population": 3, "inherit": True}, 0, None)
    first = strategy.ask(3, [])
    assert not any(each.inherit for each in first)  # there is nothing to inherit
    strategy.tell([Observation(each, place / 10, 1.0, f"old-{place}") for place, each in enumerate(first)])
    children = strategy.ask(2, [])
    assert all(each.inherit and each.parent is not None for each in children)
    assert [Candidate.from_json(each.to_json()) for each in children] == children
    plain = strategy_for("evolution", space, {"population": 3}, 0, strategy.dump())
    assert not any(each.inherit for each in plain.ask(2, []))


def test_options_are_checked() -> None:
    space = small_space("cell")
    with pytest.raises(OptionError, match=r"strategy: 'pso' is unknown; choose one of race, random, local, evolution"):
        strategy_for("pso", space, {}, 0, None)
    with pytest.raises(OptionError, match=r"strategy_options\.population: 1 is not between 2 and 1000"):
        strategy_for("evolution", space, {"population": 1}, 0, None)
    with pytest.raises(OptionError, match=r"strategy_options\.size: 'random' has no such option; it takes rungs, eta"):
        strategy_for("random", space, {"size": 1}, 0, None)


def test_the_fixed_strategy_proposes_nothing_and_keeps_the_protocol() -> None:
    space = small_space("cell")
    strategy = strategy_for("fixed", space, {}, 0, None)
    assert isinstance(strategy, Strategy)
    strategy.tell(seen([Candidate(space.sample(Random(0)), Fidelity(epochs=1))]))
    assert strategy.ask(3, []) == []
    assert strategy_for("fixed", space, {}, 0, through_json(strategy.dump())).dump() == strategy.dump()
