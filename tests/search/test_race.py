"""The schedule, on simulated workers: trials of random length, failures, kills, several devices, changed budgets."""

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from search.candidate import Candidate, Fidelity, Proxy, Purpose
from search.oneshot import Shortlisted
from search.race import (
    EXPLORE_EPOCHS,
    SUPERNET_EPOCHS,
    Budget,
    Done,
    Turn,
    Work,
    finalists,
    observations,
    plan,
    rungs_for,
    schedule,
)
from search.space import Genotype, Json, Space
from search.strategies import Strategy, strategy_for
from search.strategies.history import WHOLE
from search.train import Point
from tests.search.spaces import small_space

FLOOR = small_space("stages").sample(Random("floor"))


def curve_of(seconds: float, epochs: float, pictures: int, score: float) -> tuple[Point, ...]:
    return tuple(
        Point(share, share * epochs, share * seconds, 1.0, share * score, epochs * pictures / seconds)
        for share in (0.25, 0.5, 0.75, 1.0)
    )


@dataclass
class Simulation:
    """Workers that do what `plan` says. rate: training pictures per second; pictures: in an epoch.

    failures: chance that a trial fails somewhere on the way. start_s: mean of what a trial takes beyond its seconds.
    """

    budget: Budget
    pictures: int = 4000
    rate: float = 1000.0
    devices: int = 1
    failures: float = 0.0
    start_s: float = 0.6
    seed: int = 0
    space: Space = field(default_factory=lambda: small_space("stages"))
    strategy_name: str = "race"
    options: dict[str, Any] = field(default_factory=dict)
    seeds: Sequence[Candidate] = ()
    proxy: Proxy = field(default_factory=Proxy)
    now: float = 0.0
    done: list[Done] = field(default_factory=list)
    going: list[tuple[float, int, Work, bool, float]] = field(default_factory=list)
    idle_s: float = 0.0
    log: list[tuple[float, Work]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(f"simulation/{self.seed}")
        if self.strategy_name == "race" and not self.options:
            self.options = {"pool": 20}
        self.strategy = strategy_for(self.strategy_name, self.space, self.options, self.seed, None)

    def turn(self, slots: int | None = None) -> Turn:
        # Each turn starts from the dump, as a worker does.
        self.strategy = strategy_for(self.strategy_name, self.space, self.options, self.seed, self.strategy.dump())
        return plan(
            self.space,
            self.strategy,
            FLOOR,
            self.budget,
            spent_s=self.now,
            done=self.done,
            running=[work for _, _, work, _, _ in sorted(self.going, key=lambda each: each[1])],
            slots=self.devices - len(self.going) if slots is None else slots,
            devices=self.devices,
            seed=self.seed,
            seeds=self.seeds,
            proxy=self.proxy,
        )

    def start(self, turn: Turn) -> None:
        for work in turn.work:
            fidelity = work.candidate.fidelity
            lasts_s = fidelity.seconds or (fidelity.epochs or 0) * self.pictures / self.rate
            fails = self.random.random() < self.failures
            took_s = self.random.random() * lasts_s if fails else lasts_s + self.start_s * self.random.uniform(0.5, 1.5)
            heapq.heappush(self.going, (self.now + took_s, len(self.log), work, fails, self.now))
            self.log.append((self.now, work))

    def end_one(self) -> None:
        ends, number, work, failed, began = heapq.heappop(self.going)
        self.idle_s += (self.devices - len(self.going) - 1) * (ends - self.now)
        self.now = max(self.now, ends)
        seconds = work.candidate.fidelity.seconds or (ends - began)
        epochs = work.candidate.fidelity.epochs or seconds * self.rate / self.pictures
        score = self.score(work)
        report = self.report() if work.purpose is Purpose.SUPERNET and not failed else None
        done = Done(
            work.purpose,
            work.candidate,
            None if failed else score,
            self.now - began,
            f"trial-{number:05d}",
            "failed" if failed else "succeeded",
            () if failed else curve_of(seconds, epochs, self.pictures, score),
            report=report,
        )
        self.done.append(done)
        self.strategy.tell(observations(self.space, [done]))

    def report(self) -> dict[str, Json]:
        shortlist = [Shortlisted(self.space.sample(Random(f"shared/{number}")), 0.5) for number in range(6)]
        return {"shortlist": [each.to_json() for each in shortlist], "steps": []}

    def score(self, work: Work) -> float:
        return 0.5 + 0.4 * Random(work.candidate.genotype.digest()).random()

    def run(self) -> "Simulation":
        while True:
            turn = self.turn()
            assert len(self.log) < 3000
            assert len(turn.work) + len(self.going) <= self.devices or self.budget.trials is not None
            if turn.finished:
                assert not turn.work
                assert not self.going
                return self
            self.start(turn)
            self.end_one()

    def of(self, purpose: Purpose) -> list[Work]:
        return [work for _, work in self.log if work.purpose is purpose]


GRID = list(
    itertools.product(
        (30.0, 60.0, 120.0, 300.0, 600.0, 3600.0),
        ((4_000, 3_000.0), (1_800, 250.0), (45_000, 300.0), (45_000, 900.0), (45_000, 40_000.0)),
        (1, 3),
    )
)


@pytest.mark.parametrize(("seconds", "speed", "devices"), GRID)
def test_a_budget_in_seconds_is_kept_and_used(seconds: float, speed: tuple[int, float], devices: int) -> None:
    done = Simulation(Budget(seconds=seconds), *speed, devices=devices).run()
    division = schedule(seconds, done.done, devices)
    assert done.log[0][1].purpose is Purpose.FLOOR
    assert done.log[0][1].candidate.genotype == FLOOR
    assert len(done.of(Purpose.FLOOR)) == 1
    assert done.of(Purpose.FINAL)
    assert done.log[-1][1].purpose is Purpose.FINAL
    assert done.now <= division.end_s + 1.0 <= seconds
    assert done.now >= 0.93 * division.end_s - 2.0
    assert done.idle_s <= 0.02 * done.now * devices + 3.0
    # Candidates had equal seconds; on several devices the first ones start beside the floor, its pace still unknown.
    lengths = {work.candidate.fidelity.seconds for work in done.of(Purpose.EXPLORE)[devices - 1 :]}
    assert len(lengths) <= 1


@pytest.mark.parametrize("strategy", ["race", "random", "local", "evolution"])
@pytest.mark.parametrize("space", ["stages", "cell"])
def test_any_strategy_on_any_space_is_scheduled(strategy: str, space: str) -> None:
    done = Simulation(Budget(seconds=600), strategy_name=strategy, space=small_space(space)).run()
    assert len({work.candidate.genotype for work in done.of(Purpose.EXPLORE)}) == len(done.of(Purpose.EXPLORE)) > 3


def test_where_passes_over_the_data_are_dear_one_training_gets_the_time() -> None:
    slow = Simulation(Budget(seconds=600), pictures=45_000, rate=300).run()
    assert not slow.of(Purpose.EXPLORE)
    (final,) = slow.of(Purpose.FINAL)
    assert final.candidate.genotype == FLOOR
    assert (final.candidate.fidelity.seconds or 0) > 500


def test_where_they_are_cheap_many_candidates_and_a_shortlist_are_trained() -> None:
    fast = Simulation(Budget(seconds=3600), pictures=45_000, rate=40_000).run()
    assert len(fast.of(Purpose.EXPLORE)) > 60
    finals = fast.of(Purpose.FINAL)
    assert len({work.candidate.genotype for work in finals}) == len(finals) == 3
    assert sum(work.candidate.fidelity.seconds or 0 for work in finals) > 0.25 * 3600


def test_a_few_minutes_on_a_processor_go_mostly_to_the_final() -> None:
    done = Simulation(Budget(seconds=300), pictures=1_800, rate=250).run()
    spent = {
        purpose: sum(work.candidate.fidelity.seconds or 0 for work in done.of(purpose)) / 300 for purpose in Purpose
    }
    assert spent[Purpose.FLOOR] == pytest.approx(0.1, abs=0.03)
    assert spent[Purpose.EXPLORE] == pytest.approx(0.2, abs=0.06)
    assert spent[Purpose.FINAL] == pytest.approx(0.67, abs=0.06)


def test_the_floor_is_deployable_within_the_first_minute() -> None:
    for seconds in (30, 600, 86_400):
        assert schedule(seconds, [], devices=1).floor_s < 58


def test_the_best_candidate_is_trained_to_the_end() -> None:
    done = Simulation(Budget(seconds=600)).run()
    (final,) = done.of(Purpose.FINAL)
    raced = [each for each in done.done if each.purpose is not Purpose.FINAL]
    assert final.candidate.genotype == max(raced, key=lambda each: each.score or 0).candidate.genotype


def test_a_final_of_few_epochs_starts_from_what_its_architecture_has_learned() -> None:
    slow = Simulation(Budget(seconds=600), pictures=45_000, rate=300).run()
    assert slow.of(Purpose.FINAL)[0].warm_start == slow.done[0].trial
    quick = Simulation(Budget(seconds=600)).run()  # 58 epochs
    assert quick.of(Purpose.FINAL)[0].warm_start is None


def test_a_child_that_inherits_starts_from_its_parent_and_a_final_of_it_does_not() -> None:
    options = {"population": 3, "inherit": True}
    run = Simulation(
        Budget(trials=14), space=small_space("cell"), strategy_name="evolution", options=options, seed=1
    ).run()
    candidates = run.of(Purpose.EXPLORE)
    assert [work.warm_start for work in candidates] == [work.candidate.parent for work in candidates]
    assert any(work.warm_start for work in candidates)
    assert not any(work.candidate.inherit for work in run.of(Purpose.FINAL))


def test_two_finals_at_once_of_one_architecture_do_not_start_from_the_same_weights() -> None:
    slow = Simulation(Budget(seconds=120), pictures=45_000, rate=300, devices=6).run()
    starts = [work.warm_start for work in slow.of(Purpose.FINAL)]
    assert len(starts) == 6
    assert len(set(starts) - {None}) == len([start for start in starts if start is not None])


def test_the_floor_races_against_the_candidates_on_equal_terms() -> None:
    done = Simulation(Budget(seconds=3600)).run()  # candidates get twice the floor's 55 s
    again = [work for work in done.of(Purpose.EXPLORE) if work.candidate.genotype == FLOOR]
    assert len(again) == 1
    assert done.of(Purpose.EXPLORE)[0] is again[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("seconds", [120.0, 600.0, 1800.0])
def test_failures_cost_no_more_than_their_time(seconds: float, devices: int, seed: int) -> None:
    done = Simulation(Budget(seconds=seconds), devices=devices, failures=0.3, seed=seed).run()
    division = schedule(seconds, done.done, devices)
    assert done.now <= division.end_s + 1.0
    assert done.of(Purpose.FINAL)
    if any(each.purpose is Purpose.FINAL and each.state == "succeeded" for each in done.done):
        assert done.now >= 0.9 * division.end_s - 12


def test_a_final_that_fails_early_is_followed_by_another_of_the_next_best() -> None:
    simulation = Simulation(Budget(seconds=600))
    while not simulation.of(Purpose.FINAL):
        simulation.start(simulation.turn())
        if not simulation.of(Purpose.FINAL):
            simulation.end_one()
    ((ends, number, work, _, began),) = simulation.going
    simulation.going = [(began + 5.0, number, work, True, began)]
    assert ends > began + 100
    simulation.end_one()
    simulation.run()
    first, second = simulation.of(Purpose.FINAL)
    assert first.candidate.genotype != second.candidate.genotype
    assert (second.candidate.fidelity.seconds or 0) > (first.candidate.fidelity.seconds or 0) - 8


@pytest.mark.parametrize("devices", [1, 4])
def test_a_search_in_which_everything_fails_ends(devices: int) -> None:
    done = Simulation(Budget(seconds=3600), devices=devices, failures=1.0).run()
    assert len(done.log) < 20
    assert all(each.state == "failed" for each in done.done)
    assert len(done.of(Purpose.FLOOR)) == 2


def test_a_failed_floor_is_tried_once_more_with_another_seed() -> None:
    simulation = Simulation(Budget(seconds=600), failures=1.0)
    simulation.start(simulation.turn())
    simulation.end_one()
    (again,) = simulation.turn().work
    assert again.purpose is Purpose.FLOOR
    assert again.seed != simulation.log[0][1].seed


def test_a_killed_candidate_that_took_twice_its_time_shortens_the_final_alone() -> None:
    simulation = Simulation(Budget(seconds=300))
    for _ in range(3):
        simulation.start(simulation.turn())
        ((ends, number, work, failed, began),) = simulation.going
        simulation.going = [(ends + (ends - began) * (number == 1), number, work, failed, began)]
        simulation.end_one()
    simulation.run()
    assert simulation.now <= schedule(300, simulation.done, 1).end_s + 1.0


@pytest.mark.parametrize("seconds", [700.0, 1200.0, 3600.0])
@pytest.mark.parametrize("ended", [False, True])
def test_an_extended_search_goes_on_and_ends_with_a_final(seconds: float, ended: bool) -> None:
    """Extended in the middle of its final, or when it had already ended."""
    simulation = Simulation(Budget(seconds=600))
    while not simulation.of(Purpose.FINAL):
        simulation.start(simulation.turn())
        if not simulation.of(Purpose.FINAL):
            simulation.end_one()
    if ended:
        simulation.run()
    simulation.budget = Budget(seconds=seconds)
    if not ended:
        simulation.end_one()
    before = len(simulation.log)
    simulation.run()
    assert simulation.log[before:]
    assert simulation.log[-1][1].purpose is Purpose.FINAL
    assert len(simulation.of(Purpose.FLOOR)) == 1
    end_s = schedule(seconds, simulation.done, 1).end_s
    assert 0.93 * end_s < simulation.now <= end_s + 1.0
    if seconds == 700:  # too little for candidates: the final's own network is trained on
        assert simulation.log[-1][1].candidate.genotype == simulation.of(Purpose.FINAL)[0].candidate.genotype
        assert simulation.log[-1][1].warm_start in [d.trial for d in simulation.done if d.purpose is Purpose.FINAL]


def test_candidates_of_an_extended_search_compare_with_those_before() -> None:
    simulation = Simulation(Budget(seconds=600)).run()
    simulation.budget = Budget(seconds=1200)
    simulation.run()
    assert len({work.candidate.fidelity for work in simulation.of(Purpose.EXPLORE)}) == 1


def test_a_pause_changes_nothing_since_only_worked_time_counts() -> None:
    one, other = Simulation(Budget(seconds=300)), Simulation(Budget(seconds=300))
    one.start(one.turn())
    one.end_one()
    other.start(other.turn())
    other.end_one()
    assert one.turn(slots=0) == Turn([], finished=False)  # as while paused: nothing is started
    assert one.turn() == other.turn()


def test_without_a_free_slot_nothing_is_planned() -> None:
    simulation = Simulation(Budget(seconds=300))
    assert simulation.turn(slots=0) == Turn([], finished=False)
    simulation.now = 299.0
    assert simulation.turn(slots=0) == Turn([], finished=True)


def test_the_plan_is_a_function_of_its_arguments() -> None:
    simulation = Simulation(Budget(seconds=600), devices=2)
    for _ in range(4):
        simulation.start(simulation.turn())
        simulation.end_one()
    state = simulation.strategy.dump()
    first = simulation.turn()
    simulation.strategy = strategy_for("race", simulation.space, {}, 0, state)
    assert simulation.turn() == first
    assert first.work


def test_a_candidate_far_too_slow_for_its_time_is_refused_before_training() -> None:
    class Grower:
        """Proposes networks of a thousand and of one times the floor's arithmetic, in turn."""

        def __init__(self, strategy: Strategy, space: Space) -> None:
            self.inner, self.space, self.told, self.asked = strategy, space, list[str](), 0

        def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
            self.asked += 1
            (candidate,) = self.inner.ask(1, pending)
            if self.asked % 2:
                return [replace(candidate, genotype=Genotype.of(self.space.name, candidate.genotype.genes | HUGE))]
            return [candidate]

        def tell(self, seen: Sequence[object]) -> None:
            self.told += [str(each) for each in seen]

        def dump(self) -> dict[str, object]:
            return {}

        def load(self, state: object) -> None: ...

    stages = [{"width": 512, "depth": 4, "kernel": 5, "block": "plain"}] * 2
    HUGE = {"stages": stages}
    space = small_space("stages")
    grower = Grower(strategy_for("random", space, {}, 0, None), space)
    simulation = Simulation(Budget(seconds=300), pictures=1_800, rate=250)
    simulation.start(simulation.turn())
    simulation.end_one()
    turn = plan(
        space, grower, FLOOR, Budget(seconds=300), spent_s=simulation.now, done=simulation.done, running=[], slots=1,
        devices=1, seed=0,
    )  # fmt: skip
    assert turn.work[0].purpose is Purpose.EXPLORE
    assert turn.work[0].candidate.genotype.genes["stages"] != stages
    assert len(grower.told) == 1


# ------------------------------------------------------------------------------------- budgets in trials


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 9, 20])
@pytest.mark.parametrize("devices", [1, 3])
def test_a_budget_in_trials_counts_all_of_them(trials: int, devices: int) -> None:
    done = Simulation(Budget(trials=trials), devices=devices).run()
    assert len(done.log) == trials
    assert done.log[0][1].purpose is Purpose.FLOOR
    assert len(done.of(Purpose.FINAL)) == (1 if trials > 1 else 0)
    assert trials == 1 or done.log[-1][1].purpose is Purpose.FINAL
    assert all(work.candidate.fidelity.seconds is None for _, work in done.log)
    assert len({work.seed for _, work in done.log}) == trials


@pytest.mark.parametrize("strategy", ["race", "random", "local", "evolution"])
def test_a_budget_in_trials_gives_the_same_on_any_workers(strategy: str) -> None:
    """Other devices, speeds and orders of results; the same trials with the same seeds."""
    one, other = (
        Simulation(Budget(trials=18), strategy_name=strategy, devices=devices, rate=rate, start_s=start_s).run()
        for devices, rate, start_s in ((1, 1000.0, 0.0), (5, 70.0, 300.0))
    )
    assert [work for _, work in one.log] == [work for _, work in other.log]


def test_failures_count_as_trials_and_the_search_ends() -> None:
    for seed in range(5):
        done = Simulation(Budget(trials=12), failures=0.4, seed=seed).run()
        assert len(done.log) == 12
    assert len(Simulation(Budget(trials=12), failures=1.0).run().log) == 12


def test_more_trials_go_on_where_the_search_ended() -> None:
    simulation = Simulation(Budget(trials=6)).run()
    simulation.budget = Budget(trials=10)
    simulation.run()
    purposes = [work.purpose for _, work in simulation.log]
    explore, final = Purpose.EXPLORE, Purpose.FINAL
    assert purposes == [Purpose.FLOOR, *[explore] * 4, final, *[explore] * 3, final]


def test_a_space_with_nothing_left_to_try_ends_in_a_final_before_the_trials_are_spent() -> None:
    space = small_space("cell")
    space.blocks = 1  # type: ignore[attr-defined]  # the cell space's
    space.ops = ("identity",)  # type: ignore[attr-defined]
    for budget in (Budget(trials=50), Budget(seconds=3600)):
        done = Simulation(budget, space=space).run()
        assert done.log[-1][1].purpose is Purpose.FINAL
        assert 1 < len(done.of(Purpose.EXPLORE)) < 15


# ------------------------------------------------------------------------------------- values


def done_at(fidelity: Fidelity, purpose: Purpose = Purpose.EXPLORE, state: str = "succeeded") -> Done:
    curve = curve_of(10, 5, 1000, 0.5)
    return Done(purpose, Candidate(FLOOR, fidelity), 0.5, 10.0, "trial-1", state, curve)  # type: ignore[arg-type]


def test_a_strategy_is_told_of_candidates_and_of_a_floor_in_its_space() -> None:
    done = [
        done_at(Fidelity(seconds=30), Purpose.FLOOR),
        done_at(Fidelity(seconds=30), Purpose.FINAL),
        done_at(Fidelity(seconds=30), state="pruned"),
    ]
    told = observations(small_space("stages"), done)
    assert [each.score for each in told] == [0.5, None]
    assert observations(small_space("cell"), done) == []


@pytest.mark.parametrize(("seconds", "trials"), [(None, None), (10.0, 3), (0, None), (math.nan, None), (None, 0)])
def test_a_budget_is_one_positive_number(seconds: float | None, trials: int | None) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget(seconds=seconds, trials=trials)


@pytest.mark.parametrize(
    "values",
    [{}, {"seconds": 1, "epochs": 1}, {"seconds": 0}, {"epochs": math.inf}, {"seconds": 1, "fraction": 0},
     {"seconds": 1, "fraction": 1.5}, {"seconds": 1, "side": 0}],
)  # fmt: skip
def test_a_fidelity_is_one_positive_length(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"fidelity|fraction|side"):
        Fidelity(**values)  # type: ignore[arg-type]


def test_a_candidate_survives_json() -> None:
    candidate = Candidate(FLOOR, Fidelity(epochs=2.5, side=24, fraction=0.5), "trial-9")
    assert Candidate.from_json(candidate.to_json()) == candidate


def given(count: int) -> list[Candidate]:
    return [Candidate(small_space("stages").sample(Random(f"seed/{number}")), WHOLE) for number in range(count)]


@pytest.mark.parametrize("budget", [Budget(trials=12), Budget(seconds=600)])
@pytest.mark.parametrize("strategy", ["race", "random", "fixed"])
def test_given_architectures_come_first_and_are_told(budget: Budget, strategy: str) -> None:
    seeds = given(5)
    done = Simulation(budget, seeds=seeds, strategy_name=strategy).run()
    explored = [work.candidate.genotype for work in done.of(Purpose.EXPLORE) if work.candidate.genotype != FLOOR]
    assert explored[:5] == [seed.genotype for seed in seeds]
    assert len(set(explored)) == len(explored)
    assert (len(explored) == 5) == (strategy == "fixed")
    assert {done.space.key(seed.genotype) for seed in seeds} <= set(done.strategy.dump()["keys"])


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("speed", [(4_000, 3_000.0), (1_800, 250.0), (45_000, 900.0)])
def test_given_architectures_are_tried_where_time_is_short_as_well(speed: tuple[int, float], devices: int) -> None:
    done = Simulation(Budget(seconds=300), *speed, devices=devices, strategy_name="fixed", seeds=given(2)).run()
    assert {seed.genotype for seed in given(2)} <= {work.candidate.genotype for work in done.of(Purpose.EXPLORE)}
    assert done.of(Purpose.FINAL)
    assert done.now <= 300


def test_a_given_architecture_that_failed_is_not_tried_again() -> None:
    done = Simulation(Budget(trials=12), failures=0.5, strategy_name="fixed", seeds=given(6), seed=2).run()
    assert any(each.state == "failed" for each in done.done if each.purpose is Purpose.EXPLORE)
    assert len(done.of(Purpose.EXPLORE)) == 6


def test_of_many_scores_the_estimates_choose_what_is_trained_to_the_end() -> None:
    """One network scored highest once, while those that are like it scored low."""
    space, strategy = small_space("nb201"), strategy_for("bayesian", small_space("nb201"), {"initial": 8}, 0, None)
    networks = [space.sample(Random(f"network/{number}")) for number in range(40)]
    lucky, length = 21, Fidelity(epochs=EXPLORE_EPOCHS)
    done = [Done(Purpose.FLOOR, Candidate(FLOOR, length), 0.5, 31.0, "floor", "succeeded", ())]
    for number, network in enumerate(networks):
        score = 0.82 if number == lucky else 0.5 + 0.05 * network.genes["cell"].count("nor_conv")
        done.append(Done(Purpose.EXPLORE, Candidate(network, length), score, 31.0, f"t{number:03d}", "succeeded", ()))
    strategy.tell(observations(space, done))
    budget = Budget(trials=len(done) + 1)
    turn = plan(space, strategy, FLOOR, budget, spent_s=0.0, done=done, running=[], slots=1, devices=1, seed=0)
    (final,) = turn.work
    assert final.purpose is Purpose.FINAL
    assert final.candidate.genotype != networks[lucky]
    assert final.candidate.genotype.genes["cell"].count("nor_conv") == 4


def test_finals_of_a_fixed_skeleton_grow_with_the_time() -> None:
    def final(seconds: float) -> tuple[Work, Simulation]:
        quick = {"pictures": 4_000, "rate": 20_000, "strategy_name": "random"}
        done = Simulation(Budget(seconds=seconds), space=small_space("cell"), **quick).run()
        return done.of(Purpose.FINAL)[0], done

    work, done = final(1200.0)
    (origin,) = [each for each in done.done if each.trial == work.candidate.parent]
    cost = {name: done.space.cost(each.candidate.genotype).flops for name, each in (("small", origin), ("final", work))}
    assert cost["final"] > 2 * cost["small"]
    assert work.warm_start is None
    genes, grown = origin.candidate.genotype.genes, work.candidate.genotype.genes
    assert (genes["normal"], genes["reduction"]) == (grown["normal"], grown["reduction"])
    work, done = final(60.0)
    assert work.candidate.genotype in {
        each.candidate.genotype for each in done.done if each.trial == work.candidate.parent
    }


def test_a_final_whose_larger_skeleton_is_beyond_the_limits_is_trained_as_it_was_tried() -> None:
    quick = {"pictures": 4_000, "rate": 20_000, "strategy_name": "random"}
    simulation = Simulation(Budget(seconds=3600), space=small_space("cell"), **quick)
    while not simulation.of(Purpose.FINAL):
        simulation.start(simulation.turn())
        if not simulation.of(Purpose.FINAL):
            simulation.end_one()
    simulation.going = [(began, number, work, True, began) for _, number, work, _, began in simulation.going]
    simulation.end_one()
    simulation.done[-1] = replace(simulation.done[-1], over_limit=True)
    (refused,) = simulation.of(Purpose.FINAL)
    simulation.run()
    again = simulation.of(Purpose.FINAL)[1].candidate
    tried = next(each.candidate for each in simulation.done if each.trial == refused.candidate.parent)
    assert refused.candidate.genotype != tried.genotype == again.genotype


@pytest.mark.parametrize("devices", [1, 3])
def test_candidates_beyond_the_limits_do_not_end_the_exploring(devices: int) -> None:
    simulation = Simulation(Budget(seconds=600), devices=devices, strategy_name="random")
    simulation.start(simulation.turn())
    simulation.end_one()
    while len(simulation.of(Purpose.EXPLORE)) < 12:
        simulation.start(simulation.turn())
        simulation.going = [(began + 1, number, work, True, began) for _, number, work, _, began in simulation.going]
        simulation.end_one()
        simulation.done[-1] = replace(simulation.done[-1], over_limit=True)
    assert not simulation.of(Purpose.FINAL)


def test_a_shortlist_that_grows_is_still_trained_once_each() -> None:
    quick = {"pictures": 4_000, "rate": 20_000, "strategy_name": "random"}
    done = Simulation(Budget(seconds=3600), space=small_space("cell"), **quick).run()
    finals = done.of(Purpose.FINAL)
    assert len({work.candidate.parent for work in finals}) == len(finals) == 3


@pytest.mark.parametrize(
    ("seconds", "devices", "rungs"), [(300.0, 1, 1), (3600.0, 1, 2), (86_400.0, 1, 3), (3600.0, 8, 3)]
)
def test_candidates_are_halved_where_there_is_time_for_many(seconds: float, devices: int, rungs: int) -> None:
    assert rungs_for(Budget(seconds=seconds), pictures=10_000, epoch_s=5.0, devices=devices, eta=3) == rungs


def test_a_budget_in_trials_is_not_halved() -> None:
    assert rungs_for(Budget(trials=1000), pictures=10_000, epoch_s=5.0, devices=1, eta=3) == 1


@pytest.mark.parametrize("eta", [2, 3])
def test_short_trainings_of_lower_rungs_do_not_shorten_candidates(eta: int) -> None:
    done = Simulation(Budget(seconds=3600), strategy_name="random", options={"rungs": 3, "eta": eta}).run()
    lengths = {(work.candidate.fidelity.rung, work.candidate.fidelity.seconds) for work in done.of(Purpose.EXPLORE)}
    assert len(lengths) == 3
    whole = dict(lengths)[1.0]
    assert whole is not None
    assert {(rung, round(whole * rung, 1)) for rung, _ in lengths} == lengths


@pytest.mark.parametrize("budget", [Budget(trials=14), Budget(seconds=900)])
def test_candidates_are_compared_on_the_proxy_and_finals_see_everything(budget: Budget) -> None:
    done = Simulation(budget, proxy=Proxy(fraction=0.25, side=12)).run()
    assert {(w.candidate.fidelity.fraction, w.candidate.fidelity.side) for w in done.of(Purpose.EXPLORE)} == {
        (0.25, 12)
    }
    whole = [*done.of(Purpose.FLOOR), *done.of(Purpose.FINAL)]
    assert {(work.candidate.fidelity.fraction, work.candidate.fidelity.side) for work in whole} == {(1.0, None)}
    assert done.of(Purpose.EXPLORE)[0].candidate.genotype == FLOOR  # beside its own, whole training: an equal race
    explored = [each for each in done.done if each.purpose is Purpose.EXPLORE]
    best = max(explored, key=lambda each: each.score or 0.0)
    assert done.of(Purpose.FINAL)[0].candidate.genotype == best.candidate.genotype


def test_finalists_stand_beside_what_foretold_them() -> None:
    done = Simulation(Budget(seconds=3600), strategy_name="random", rate=20_000).run().done
    pairs = finalists(done)
    assert len(pairs) == len([each for each in done if each.purpose is Purpose.FINAL]) == 3
    assert all(one.candidate.genotype == final.candidate.genotype for one, final in pairs)
    assert {one.purpose for one, _ in pairs} <= {Purpose.EXPLORE, Purpose.FLOOR}


@pytest.mark.parametrize(("seconds", "speed", "devices"), GRID[::3])
def test_shared_weights_are_trained_once_and_leave_the_rest_of_the_budget_as_it_is(
    seconds: float, speed: tuple[int, float], devices: int
) -> None:
    done = Simulation(
        Budget(seconds=seconds), *speed, devices=devices, strategy_name="enas", space=small_space("nb201")
    ).run()
    division = schedule(seconds, done.done, devices)
    assert len(done.of(Purpose.FLOOR)) == 1
    assert done.log[-1][1].purpose is Purpose.FINAL
    assert 0.93 * division.end_s - 2.0 <= done.now <= division.end_s + 1.0 <= seconds
    supernets = done.of(Purpose.SUPERNET)
    assert len(supernets) <= 1
    if supernets:
        length_s = supernets[0].candidate.fidelity.seconds or 0.0
        assert length_s >= (division.explore_s or math.inf)
        assert done.of(Purpose.EXPLORE)
    assert all(work.candidate.genotype.space != "supernet" for work in done.of(Purpose.FINAL))


def test_half_of_the_time_for_candidates_goes_to_the_shared_weights() -> None:
    done = Simulation(Budget(seconds=600), strategy_name="enas", space=small_space("nb201")).run()
    (began, supernet), *_ = [(at, work) for at, work in done.log if work.purpose is Purpose.SUPERNET]
    window_s = schedule(600, done.done, 1).explore_until_s - began
    assert supernet.candidate.fidelity.seconds == pytest.approx(window_s / 2, abs=0.1)
    explored = [work.candidate for work in done.of(Purpose.EXPLORE) if work.candidate.genotype != FLOOR]
    shortlist = [each["genotype"] for each in done.report()["shortlist"]]
    assert [each.genotype.to_json() for each in explored] == shortlist[: len(explored)]
    assert len(explored) > 2


def test_shared_weights_count_neither_as_a_network_nor_as_a_measure_of_pace() -> None:
    done = Simulation(Budget(seconds=600), strategy_name="enas", space=small_space("nb201")).run()
    networks = [each for each in done.done if each.purpose is not Purpose.SUPERNET]
    (supernet,) = [each for each in done.done if each.purpose is Purpose.SUPERNET]
    slow = replace(supernet, seconds=500.0, score=1.0, curve=curve_of(100.0, 1.0, 4_000, 1.0))
    assert schedule(600, [slow, *networks], 1) == schedule(600, networks, 1)
    alone = Done(Purpose.FLOOR, Candidate(FLOOR, Fidelity(seconds=44)), None, 1.0, "t0", "failed")
    turn = plan(
        done.space,
        done.strategy,
        FLOOR,
        Budget(seconds=600),
        spent_s=590.0,
        done=[alone, replace(alone, trial="t1"), slow],
        running=[],
        slots=1,
        devices=1,
        seed=0,
    )
    assert all(work.candidate.genotype.space != "supernet" for work in turn.work)


def test_weights_that_cannot_be_trained_are_tried_twice() -> None:
    done = Simulation(Budget(seconds=600), failures=1.0, strategy_name="enas", space=small_space("nb201"), seed=1).run()
    assert len(done.of(Purpose.SUPERNET)) <= 2
    assert done.now <= 600


@pytest.mark.parametrize(
    ("trials", "expected"), [(2, 0), (3, 0), (4, 1), (12, 1)], ids=["two", "three", "four", "twelve"]
)
def test_a_budget_in_trials_has_room_for_what_the_weights_lead_to(trials: int, expected: int) -> None:
    done = Simulation(Budget(trials=trials), strategy_name="enas", space=small_space("nb201")).run()
    supernets = done.of(Purpose.SUPERNET)
    assert len(supernets) == expected
    assert [work.candidate.fidelity.epochs for work in supernets] == [SUPERNET_EPOCHS / 2] * expected
    assert len(done.log) == trials
    assert len(done.of(Purpose.FINAL)) == 1


def test_a_strategy_hears_of_shared_weights_and_of_no_final() -> None:
    done = Simulation(Budget(trials=8), strategy_name="enas", space=small_space("nb201")).run()
    told = observations(done.space, done.done)
    (supernet,) = [each for each in told if each.candidate.genotype.space == "supernet"]
    assert supernet.report == done.report()
    assert len(told) == 6  # all but the floor, of another space, and the final


def test_shared_weights_are_not_trained_for_nothing_behind_given_architectures() -> None:
    nb201 = small_space("nb201")
    seeds = [Candidate(nb201.sample(Random(f"seed/{number}")), WHOLE) for number in range(3)]
    for trials, expected in ((6, 0), (7, 1)):
        done = Simulation(Budget(trials=trials), strategy_name="enas", space=nb201, seeds=seeds).run()
        assert len(done.of(Purpose.SUPERNET)) == expected
        assert len(done.log) == trials


def test_shared_weights_that_were_refused_are_asked_for_again_when_there_is_more_time() -> None:
    simulation = Simulation(Budget(seconds=60), strategy_name="enas", space=small_space("nb201")).run()
    assert not simulation.of(Purpose.SUPERNET)
    assert not [note for note in simulation.strategy.notes() if note.kind == "supernet_failed"]
    simulation.budget = Budget(seconds=1800)
    assert len(simulation.run().of(Purpose.SUPERNET)) == 1


@pytest.mark.parametrize(("rungs", "eta"), [(4, 10), (5, 10), (5, 4)])
def test_however_many_rungs_were_asked_for_each_training_has_a_length(rungs: int, eta: int) -> None:
    done = Simulation(Budget(seconds=120), strategy_name="random", options={"rungs": rungs, "eta": eta}).run()
    lengths = [work.candidate.fidelity.seconds or 0.0 for work in done.of(Purpose.EXPLORE)]
    assert min(lengths) >= 1.0
    assert done.of(Purpose.FINAL)


def over_the_limits(simulation: Simulation) -> None:
    """All that is going ends at once: it has more than the search allows."""
    count = len(simulation.going)
    simulation.going = [(simulation.now, number, work, True, at) for _, number, work, _, at in simulation.going]
    for _ in range(count):
        simulation.end_one()
        simulation.done[-1] = replace(simulation.done[-1], over_limit=True)


def until_finals(simulation: Simulation) -> Simulation:
    while not simulation.of(Purpose.FINAL):
        simulation.start(simulation.turn())
        if not simulation.of(Purpose.FINAL):
            simulation.end_one()
    while any(work.purpose is not Purpose.FINAL for _, _, work, _, _ in simulation.going):
        simulation.end_one()
        simulation.start(simulation.turn())
    return simulation


def test_many_finals_whose_larger_skeletons_are_beyond_the_limits_are_all_trained_as_they_were_tried() -> None:
    quick = {"pictures": 4_000, "rate": 20_000, "strategy_name": "random", "devices": 4}
    simulation = until_finals(Simulation(Budget(seconds=3600), space=small_space("cell"), **quick))
    refused = len(simulation.of(Purpose.FINAL))
    over_the_limits(simulation)
    finals = simulation.run().of(Purpose.FINAL)
    tried = {each.trial: each.candidate.genotype for each in simulation.done}
    assert refused >= 4
    assert len(finals) > refused
    assert all(work.candidate.genotype == tried[work.candidate.parent or ""] for work in finals[refused:])


def test_a_final_that_is_beyond_the_limits_as_it_was_tried_makes_way_for_the_next_best() -> None:
    simulation = until_finals(Simulation(Budget(seconds=600)))
    over_the_limits(simulation)
    first, second, *_ = simulation.run().of(Purpose.FINAL)
    assert first.candidate.genotype != second.candidate.genotype


def test_a_final_grows_by_what_it_will_see_and_not_by_what_a_proxy_showed() -> None:
    """Workers as quick on a tenth of the pictures, of which they pass over ten times as many."""

    class Proxied(Simulation):
        def end_one(self) -> None:
            super().end_one()
            last = self.done[-1]
            share = last.candidate.fidelity.fraction
            curve = tuple(replace(point, epoch=point.epoch / share) for point in last.curve)
            self.done[-1] = replace(last, curve=curve)

    quick = {"pictures": 4_000, "rate": 20_000, "strategy_name": "random", "space": small_space("cell")}
    lengths = {}
    for fraction in (1.0, 0.1):
        done = Proxied(Budget(seconds=1200.0), proxy=Proxy(fraction), **quick).run()
        final = done.of(Purpose.FINAL)[0].candidate
        origin = next(each.candidate for each in done.done if each.trial == final.parent)
        growth = done.space.cost(final.genotype).flops / done.space.cost(origin.genotype).flops
        lengths[fraction] = growth / (final.fidelity.seconds or 1.0)
    assert lengths[0.1] == pytest.approx(lengths[1.0], rel=0.5)


def test_the_floors_own_training_is_not_told_beside_those_on_a_proxy() -> None:
    floor = done_at(Fidelity(epochs=5), Purpose.FLOOR)
    again = done_at(Fidelity(epochs=5, fraction=0.5))
    space = small_space("stages")
    assert len(observations(space, [floor, again])) == 2
    assert [each.candidate for each in observations(space, [floor, again], Proxy(0.5))] == [again.candidate]
