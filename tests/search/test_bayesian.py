"""The Gaussian process and the strategy that asks it."""

from random import Random

import numpy as np
import pytest

from search.candidate import Candidate, Observation
from search.space import Genotype
from search.strategies import estimates_of, strategy_for
from search.surrogates.gaussian import GaussianProcess, expected_improvement, rank_normal
from tests.search.spaces import small_space

SPACE = small_space("nb201")


def convolutions(genotype: Genotype) -> float:
    return genotype.genes_json.count("nor_conv_3x3") / 6


def test_ranks_become_normal_quantiles_and_equal_scores_equal_ones() -> None:
    targets = rank_normal([0.5, 0.9, 0.5, 0.1, 99.0])
    assert targets[0] == targets[2] == pytest.approx(-0.253, abs=1e-3)
    assert targets[3] < targets[0] < targets[1] < targets[4] == pytest.approx(1.282, abs=1e-3)
    assert rank_normal([3.0, 3.0]).tolist() == [0.0, 0.0]


def test_expected_improvement_is_the_mean_of_what_is_gained() -> None:
    mean, deviation = np.array([0.3, -1.0, 2.0]), np.array([0.5, 2.0, 1e-9])
    draws = np.random.default_rng(0).normal(size=(200_000, 1)) * deviation + mean
    assert expected_improvement(mean, deviation, 0.4) == pytest.approx(np.maximum(draws - 0.4, 0).mean(0), rel=0.02)


def test_a_process_learns_a_smooth_function_and_knows_where_it_does_not_know() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (60, 3)).astype(np.float32)
    rows[:, 2] = 7.0  # says nothing
    scores = (np.sin(3 * rows[:, 0]) + rows[:, 1]).tolist()
    process = GaussianProcess.fitted(rows[:40], scores[:40])
    posterior = process.posterior(rows[40:])
    assert np.corrcoef(process.as_scores(posterior.mean), scores[40:])[0, 1] > 0.95
    far = process.posterior(np.array([[9, -9, 7]], np.float32))
    assert far.deviation[0] > 2 * posterior.deviation.mean()


def test_noise_is_recognised() -> None:
    rows = np.random.default_rng(1).uniform(-1, 1, (80, 2)).astype(np.float32)
    clean = rows[:, 0].tolist()
    noisy = (rows[:, 0] + np.random.default_rng(2).normal(0, 1, 80)).tolist()
    assert GaussianProcess.fitted(rows, clean).noise < GaussianProcess.fitted(rows, noisy).noise


def test_what_is_imagined_leaves_means_and_takes_doubt() -> None:
    rows = np.random.default_rng(3).uniform(-1, 1, (30, 2)).astype(np.float32)
    process = GaussianProcess.fitted(rows[:10], rows[:10, 0].tolist())
    posterior = process.posterior(rows[10:])
    mean, spread = posterior.mean.copy(), posterior.spread.copy()
    posterior.imagine(4)
    assert (posterior.mean == mean).all()
    assert (posterior.spread <= spread).all()
    assert posterior.spread[4] < 0.5 * spread[4] + process.noise


def test_equal_scores_and_equal_rows_do_no_harm() -> None:
    rows = np.ones((5, 3), np.float32)
    posterior = GaussianProcess.fitted(rows, [0.5] * 5).posterior(rows)
    assert np.isfinite(posterior.improvement()).all()


def test_it_needs_far_fewer_trials_than_chance() -> None:
    needed = {}
    for name, options in (("bayesian", {"pool": 100}), ("random", {})):
        strategy = strategy_for(name, SPACE, options, 1, None)
        for step in range(120):
            (candidate,) = strategy.ask(1, [])
            score = convolutions(candidate.genotype)
            needed[name] = step
            if score == 1.0:
                break
            strategy.tell([Observation(candidate, score, 1.0, f"trial-{step:04d}")])
    assert needed["bayesian"] < 60
    assert needed["random"] == 119


def test_proposals_of_one_turn_differ_from_each_other_and_from_what_is_under_way() -> None:
    strategy = strategy_for("bayesian", SPACE, {"initial": 5, "pool": 50}, 0, None)
    first = strategy.ask(5, [])
    strategy.tell([Observation(each, convolutions(each.genotype), 1.0, f"t{n}") for n, each in enumerate(first)])
    under_way = [Candidate(SPACE.sample(Random(seed)), each.fidelity) for seed, each in enumerate(first)]
    asked = strategy.ask(4, under_way)
    keys = [SPACE.key(each.genotype) for each in [*asked, *under_way, *first]]
    assert len(set(keys)) == len(keys)
    notes = strategy.notes()
    assert [note.step for note in notes] == sorted({note.step for note in notes})
    assert len(notes) == 4
    assert all(note.data["low"] <= note.data["predicted"] <= note.data["high"] for note in notes)
    assert strategy.notes() == []


def test_estimates_see_through_the_luck_of_one_training() -> None:
    """One poor cell was lucky; the model expects less of it than of its equals in truth."""
    strategy = strategy_for("bayesian", SPACE, {"initial": 60}, 0, None)
    asked, random = strategy.ask(60, []), Random(0)
    assert estimates_of(strategy, [asked[0].genotype]) is None
    scores = [convolutions(each.genotype) + random.gauss(0, 0.1) for each in asked]
    poorest = min(range(60), key=lambda place: convolutions(asked[place].genotype))
    scores[poorest] = 0.75
    strategy.tell([Observation(each, scores[n], 1.0, f"t{n:02d}") for n, each in enumerate(asked)])
    estimates = estimates_of(strategy, [each.genotype for each in asked])
    assert estimates is not None
    assert estimates[poorest] < 0.6
