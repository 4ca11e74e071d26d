"""What the controller learns, and how."""

import json
from collections.abc import Mapping
from itertools import pairwise
from random import Random

import pytest
import torch

from search.candidate import Candidate, Note, Observation
from search.space import Json, Space, Tokenised
from search.strategies import StateError, Strategy, strategy_for
from search.strategies.controller import Controller, Learner, LstmController, TableController, draw, judge
from tests.search.spaces import small_space


def made(space: Space, seed: int, **options: Json) -> Strategy:
    return strategy_for("reinforce", space, options, seed, None)


def convolutions(candidate: Candidate) -> float:
    return candidate.genotype.genes_json.count("conv3x3") / 12


def searched(strategy: Strategy, steps: int, count: int = 1) -> list[float]:
    scores = []
    for step in range(steps):
        asked = strategy.ask(count, [])
        strategy.tell(
            [Observation(each, convolutions(each), 1.0, f"trial-{step:04d}-{at}") for at, each in enumerate(asked)]
        )
        scores += [convolutions(each) for each in asked]
    return scores


@pytest.mark.parametrize(
    "options",
    [{}, {"algorithm": "reinforce"}, {"controller": "table", "learning_rate": 0.1}],
    ids=["ppo", "reinforce", "table"],
)
def test_the_controller_learns_what_scores_well(options: Mapping[str, Json]) -> None:
    space = small_space("cell")
    late = [sum(searched(made(space, seed, **options), 150)[-30:]) / 30 for seed in range(2)]
    assert min(late) > 0.45  # chance is 0.2


def test_every_update_is_noted_and_the_notes_show_the_learning() -> None:
    strategy = made(small_space("cell"), 1, batch=10)
    searched(strategy, 15, count=10)
    notes = strategy.notes()
    assert [(note.step, note.kind) for note in notes] == [(step, "controller") for step in range(1, 16)]
    assert strategy.notes() == []
    first, last = notes[0].data, notes[-1].data
    json.dumps(last)
    assert last["baseline"] > first["baseline"]
    assert last["entropy"]["op"] < first["entropy"]["op"]
    assert last["preferences"]["op"]["conv3x3"] > first["preferences"]["op"]["conv3x3"] + 0.1
    assert sum(last["preferences"]["op"].values()) == pytest.approx(1)


def test_nothing_is_learned_before_the_batch_is_back_in_the_order_of_proposals() -> None:
    strategy = made(small_space("cell"), 0, batch=3)
    results = [Observation(each, 0.5, 1.0, f"t{at}") for at, each in enumerate(strategy.ask(6, []))]
    before = strategy.dump()["controller"]
    strategy.tell(results[1:])
    assert strategy.dump()["controller"] == before
    strategy.tell(results[:1])
    assert [note.step for note in strategy.notes()] == [1, 2]


def test_failures_fill_their_place_in_a_batch_and_teach_nothing() -> None:
    strategy = made(small_space("cell"), 0, batch=3)
    asked = strategy.ask(6, [])
    strategy.tell([Observation(each, None if at != 1 else 0.7, 1.0, f"t{at}") for at, each in enumerate(asked)])
    notes: list[Note] = strategy.notes()
    assert [(note.data["children"], note.data["reward"]) for note in notes] == [(1, 0.7)]


def test_an_architecture_drawn_again_is_learned_from_without_another_training() -> None:
    space = small_space("cell")
    space.blocks = 1  # type: ignore[attr-defined]  # the cell space's: a hundred members, so that draws repeat
    space.ops = ("identity", "conv3x3")  # type: ignore[attr-defined]
    strategy = made(space, 0, batch=5)
    scores = searched(strategy, 40)
    keys = strategy.dump()["keys"]
    assert len(keys) == len(set(keys)) == len(scores) == 40
    assert sum(note.data["children"] for note in strategy.notes()) > 40


def test_the_average_reward_moves_by_its_decay_and_is_right_from_the_start() -> None:
    strategy = made(small_space("cell"), 0, batch=1, baseline_decay=0.9)
    one, two = strategy.ask(2, [])
    strategy.tell([Observation(one, 0.5, 1.0, "t0"), Observation(two, 0.9, 1.0, "t1")])
    assert [note.data["baseline"] for note in strategy.notes()] == pytest.approx([0.5, (0.09 * 0.5 + 0.1 * 0.9) / 0.19])


def test_architectures_of_others_are_learned_from_too() -> None:
    space = small_space("cell")
    strategy = made(space, 0, batch=4)
    seeds = [Candidate(space.sample(Random(seed)), strategy.ask(1, [])[0].fidelity) for seed in range(8)]
    strategy.tell([Observation(each, 0.5, 1.0, f"t{at}") for at, each in enumerate(seeds)])
    asked = strategy.ask(0, [])
    assert asked == []
    assert {space.key(each.genotype) for each in seeds} <= set(strategy.dump()["outcomes"])


@pytest.mark.parametrize(
    "damage",
    [
        {"controller": {}},
        {"controller": 1},
        {"outcomes": {"x": float("nan")}},
        {"outcomes": []},
        {"samples": [["key", [99] * 24, 0.0]]},
        {"samples": [["key", [0], 0.0]]},
        {"average": None},
    ],
)
def test_a_damaged_controller_is_refused(damage: dict[str, Json]) -> None:
    space = small_space("cell")
    with pytest.raises(StateError, match="state of 'reinforce' cannot be read"):
        strategy_for("reinforce", space, {}, 0, made(space, 0).dump() | damage)


def test_weights_of_another_size_are_refused() -> None:
    space = small_space("cell")
    with pytest.raises(StateError, match="weights, not all of them finite or not the"):
        strategy_for("reinforce", space, {"hidden": 16}, 0, made(space, 0).dump())


def test_the_published_settings_are_within_reach_and_the_default_state_is_small() -> None:
    space = small_space("cell")
    published = {"learning_rate": 3.5e-4, "hidden": 100, "batch": 20, "entropy": 1e-5, "baseline_decay": 0.95}
    assert len(made(space, 0, **published).ask(2, [])) == 2
    assert len(json.dumps(made(space, 0).dump())) < 200_000


# ---------------------------------------------------------------------------------------------- controllers


def controllers() -> list[Controller]:
    space = small_space("cell")
    assert isinstance(space, Tokenised)
    return [LstmController(space.decisions(), 16, "x"), TableController(space.decisions(), "x")]


@pytest.mark.parametrize("controller", controllers(), ids=["lstm", "table"])
def test_a_sequence_is_judged_as_likely_as_when_it_was_drawn(controller: Controller) -> None:
    drawn = [draw(controller, Random(seed)) for seed in range(10)]
    log_probs, every = judge(controller, torch.tensor([tokens for tokens, _ in drawn]))
    assert log_probs.tolist() == pytest.approx([log_prob for _, log_prob in drawn], abs=1e-4)
    assert [each.shape[1] for each in every] == [len(each.choices) for each in controller.decisions]
    assert all(torch.allclose(each.exp().sum(1), torch.ones(10)) for each in every)


def test_decisions_of_one_kind_and_size_share_their_weights() -> None:
    """Twice as many decisions add nothing but their own shifts."""
    space = small_space("cell")
    assert isinstance(space, Tokenised)
    decisions = space.decisions()
    once, twice = (len(LstmController(decisions * times, 8, "x").weights) for times in (1, 2))
    assert twice - once == sum(len(each.choices) for each in decisions)


def test_the_later_choices_of_the_recurrent_controller_depend_on_the_earlier() -> None:
    (controller, _) = controllers()
    tokens = torch.zeros(2, len(controller.decisions), dtype=torch.int64)
    tokens[1, 0] = 1
    _, every = judge(controller, tokens)
    assert torch.equal(every[0][0], every[0][1])
    assert not torch.equal(every[1][0], every[1][1])


def learner(algorithm: str, learning_rate: float = 0.05, passes: int = 1) -> Learner:
    return Learner(
        controllers()[1], algorithm=algorithm, learning_rate=learning_rate, entropy=0.0, clip=0.2, passes=passes
    )


def test_ppo_gains_nothing_from_a_ratio_beyond_the_clip() -> None:
    now = torch.tensor([0.5, -0.5, 0.1, 0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    gain = learner("ppo").gain(now, torch.zeros(5), advantages)
    (slope,) = torch.autograd.grad(gain.sum(), now)
    ratio = now.detach().exp()
    # Too likely already and good, too unlikely and bad: clipped. Within the clip, or moved the wrong way: not.
    assert gain.tolist() == pytest.approx([1.2, -0.8, float(ratio[2]), -float(ratio[3]), float(ratio[4])])
    assert slope.tolist() == pytest.approx([0.0, 0.0, float(ratio[2]), -float(ratio[3]), float(ratio[4])])


def test_many_passes_of_ppo_move_a_policy_less_than_as_many_of_reinforce() -> None:
    moved = {}
    for algorithm in ("ppo", "reinforce"):
        one = learner(algorithm, learning_rate=0.001, passes=200)
        tokens, log_prob = draw(one.controller, Random(0))
        batch = torch.tensor([tokens])
        one.learn(batch, torch.tensor([log_prob]), torch.tensor([1.0]))
        moved[algorithm] = float(judge(one.controller, batch)[0]) - log_prob
    assert 0.18 < moved["ppo"] < moved["reinforce"] / 5  # log 1.2, and what momentum adds


def test_a_rewarded_sequence_becomes_likelier_and_a_punished_one_less_likely() -> None:
    for sign in (1.0, -1.0):
        one = learner("reinforce")
        tokens, log_prob = draw(one.controller, Random(0))
        batch = torch.tensor([tokens])
        log_probs = [log_prob]
        for _ in range(3):
            one.learn(batch, torch.tensor([log_prob]), torch.tensor([sign]))
            log_probs.append(float(judge(one.controller, batch)[0]))
        assert all(sign * (later - earlier) > 0 for earlier, later in pairwise(log_probs))
