"""Turns of a search, each one transaction."""

import ast
from random import Random
from typing import Any

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from search.candidate import Purpose
from search.space import Shape
from search.spaces import space_for
from store import blobs, jobs, searches, trials, workers
from store.states import JobState, SearchState, TrialState
from store.tables import Evaluation, Event, Job, Search, SearchNote, Trial, Worker
from tests.worker.conftest import WORKER, new_search
from worker import advance, beginning
from worker.advance import take_turn
from worker.context import Context
from worker.engine import handicap, limited


def search_of(context: Context, search_id: str) -> Search:
    with context.sessions() as session:
        return session.get_one(Search, search_id)


def error_of(context: Context, search_id: str) -> str:
    """Why the search failed."""
    search = search_of(context, search_id)
    assert search.state is SearchState.FAILED
    assert search.error is not None
    return search.error


def trials_of(context: Context, search_id: str) -> list[Trial]:
    with context.sessions() as session:
        return list(trials.of_search(session, search_id))


def end_trials(context: Context, search_id: str, to: TrialState, **values: object) -> None:
    """As a worker would: claim and settle whatever is queued."""
    with context.sessions.begin() as session:
        for trial in trials.of_search(session, search_id, TrialState.QUEUED):
            held = trials.claim(session, trial.id, WORKER, 15)
            assert held is not None
            trials.settle(session, trial.id, held.attempt, to, **values)


def test_a_search_waits_for_a_worker_that_knows_its_speed(context: Context) -> None:
    with context.sessions.begin() as session:
        session.query(Worker).delete()
    search_id = new_search(context)
    take_turn(context, search_id)
    assert search_of(context, search_id).state is SearchState.QUEUED
    assert not trials_of(context, search_id)


def test_the_first_turn_plans_the_floor(context: Context) -> None:
    search_id = new_search(context)
    take_turn(context, search_id)
    assert search_of(context, search_id).state is SearchState.RUNNING
    (trial,) = trials_of(context, search_id)
    assert (trial.purpose, trial.state) == ("floor", TrialState.QUEUED)
    assert trial.candidate["genotype"] == search_of(context, search_id).floor
    assert trial.cost is not None
    assert trial.cost["params"] > 0
    with context.sessions() as session:
        source = session.scalar(select(Trial.network_source))
    assert source is not None
    ast.parse(source)


def test_nobody_waits_for_the_row_while_a_search_is_settled(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = new_search(context, limits={"max_size_mb": 1.0})  # networks are measured

    def settle(*given: Any) -> Any:
        with context.sessions.begin() as session:
            searches.request_cancel(session, session.scalars(select(Search).with_for_update(nowait=True)).one())
        return beginning.settle(*given)

    monkeypatch.setattr(advance, "settle", settle)
    take_turn(context, search_id)
    assert search_of(context, search_id).state is SearchState.CANCELLED
    assert not trials_of(context, search_id)


def test_a_turn_taken_twice_changes_nothing(context: Context) -> None:
    search_id = new_search(context)
    take_turn(context, search_id)
    before = [trial.id for trial in trials_of(context, search_id)]
    take_turn(context, search_id)
    assert [trial.id for trial in trials_of(context, search_id)] == before


def test_a_crash_in_a_turn_leaves_it_to_be_taken_again(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = new_search(context)
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)

    def crash(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(advance.trials, "insert", crash)
        take_turn(context, search_id)
    (floor,) = trials_of(context, search_id)
    assert floor.told_at is None
    assert search_of(context, search_id).failed_turns == 1
    take_turn(context, search_id)
    floor, *more = trials_of(context, search_id)
    assert floor.told_at is not None
    assert more
    assert search_of(context, search_id).failed_turns == 0


def test_a_bug_in_every_turn_ends_the_search_and_is_named(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = new_search(context)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(advance, "plan", crash)
    for _ in range(advance.MAX_FAILED_TURNS):
        take_turn(context, search_id)
    search = search_of(context, search_id)
    assert (search.state, search.error) == (SearchState.FAILED, "its turns fail: RuntimeError: a bug")


def test_a_state_that_cannot_be_read_is_rebuilt_by_replay(context: Context) -> None:
    search_id = new_search(context, strategy="evolution", budget_trials=20)
    for _ in range(3):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    whole = search_of(context, search_id).strategy_state
    with context.sessions.begin() as session:
        session.execute(update(Search).values(strategy_state={"not": "ours"}))
    with capture_logs() as logged:
        take_turn(context, search_id)
    (line,) = [line for line in logged if line["event"] == "search.state_rebuilt"]
    assert line["search"] == search_id
    assert "needed: version 1 of 'evolution'" in line["reason"]
    rebuilt = search_of(context, search_id).strategy_state
    assert whole is not None
    assert rebuilt is not None
    assert rebuilt.keys() == whole.keys()


def test_a_state_that_can_be_read_and_fails_turn_after_turn_is_rebuilt_as_well(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = new_search(context, strategy="evolution", budget_trials=20)
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)

    def fail_with_state(*arguments: Any) -> Any:
        if arguments[-1] is not None:
            raise IndexError("a number in it names nothing")
        return made(*arguments)

    made = advance.strategy_for
    with monkeypatch.context() as patched:
        patched.setattr(advance, "strategy_for", fail_with_state)
        for _ in range(advance.REBUILT_AFTER + 1):
            take_turn(context, search_id)
    assert search_of(context, search_id).failed_turns == 0
    assert len(trials_of(context, search_id)) > 1


def test_a_search_of_one_architecture_ends_before_its_trials_are_spent(context: Context) -> None:
    search_id = new_search(
        context, space="nb201", strategy="fixed", seeds=[searches.seed(genotype("nb201"))], budget_trials=50
    )
    for _ in range(10):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    assert [trial.purpose for trial in trials_of(context, search_id)] == ["floor", "explore", "final"]
    assert search_of(context, search_id).ended_at is not None  # failed: there is no model, since nothing was trained


def test_a_result_is_told_once(context: Context) -> None:
    search_id = new_search(context)
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    before = trials_of(context, search_id)[0].told_at
    take_turn(context, search_id)
    assert trials_of(context, search_id)[0].told_at == before is not None


LEARNING = {"space": "nb201", "strategy": "reinforce", "strategy_options": {"batch": 2}, "budget_trials": 20}


def notes_of(context: Context, search_id: str) -> list[SearchNote]:
    with context.sessions() as session:
        found = select(SearchNote).where(SearchNote.search_id == search_id).order_by(SearchNote.number)
        return list(session.scalars(found))


def test_what_a_strategy_learns_is_kept_and_followers_hear_of_it(context: Context) -> None:
    search_id = new_search(context, **LEARNING)
    for _ in range(4):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    notes = notes_of(context, search_id)
    assert [(note.number, note.kind, note.step) for note in notes] == [
        (step, "controller", step) for step in range(1, len(notes) + 1)
    ]
    assert len(notes) >= 4
    assert notes[0].data["children"] == 2
    with context.sessions() as session:
        heard = session.scalars(
            select(Event.payload).where(Event.stream == search_id, Event.kind == "note").order_by(Event.number)
        ).all()
    assert heard == [{"number": note.number, "kind": note.kind, "step": note.step} for note in notes]


def test_a_turn_that_rolls_back_keeps_no_note_and_the_next_one_all(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = new_search(context, **LEARNING)
    for _ in range(2):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)

    def put_and_crash(*note: Any) -> None:
        put(*note)
        raise MemoryError

    put = advance.notes.put
    with monkeypatch.context() as patched:
        patched.setattr(advance.notes, "put", put_and_crash)
        take_turn(context, search_id)
    assert search_of(context, search_id).failed_turns == 1
    assert notes_of(context, search_id) == []
    take_turn(context, search_id)
    assert [note.step for note in notes_of(context, search_id)] == [1, 2]


def test_notes_are_not_doubled_when_a_lost_state_is_rebuilt(context: Context) -> None:
    search_id = new_search(context, **LEARNING)
    for turn in range(5):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5 + turn / 10, seconds=1.0)
    before = notes_of(context, search_id)
    for state in ({"not": "ours"}, {"version": 1, "strategy": "reinforce"}, {"keys": [[[]]]}):
        with context.sessions.begin() as session:
            session.execute(update(Search).values(strategy_state=state))
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=0.7, seconds=1.0)
    after = notes_of(context, search_id)
    assert len(after) > len(before)
    assert len({(note.kind, note.step) for note in after}) == len(after)
    learned = [note.step for note in after if note.kind == "controller"]
    assert learned == list(range(1, len(learned) + 1))
    assert search_of(context, search_id).failed_turns == 0


def test_a_search_whose_every_trial_fails_says_why(context: Context) -> None:
    search_id = new_search(context)
    for _ in range(20):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.FAILED, error={"kind": "diverged", "message": "the loss is NaN"})
        if search_of(context, search_id).state is SearchState.FAILED:
            break
    assert "the loss is NaN" in error_of(context, search_id)


def test_a_cancelled_search_withdraws_what_is_queued(context: Context) -> None:
    search_id = new_search(context)
    take_turn(context, search_id)
    with context.sessions.begin() as session:
        searches.request_cancel(session, searches.get(session, search_id))
    take_turn(context, search_id)
    assert search_of(context, search_id).state is SearchState.CANCELLED
    assert [trial.state for trial in trials_of(context, search_id)] == [TrialState.PRUNED]


def test_a_paused_search_plans_nothing(context: Context) -> None:
    search_id = new_search(context)
    with context.sessions.begin() as session:
        searches.pause(session, searches.get(session, search_id))
    take_turn(context, search_id)
    assert not trials_of(context, search_id)


def finishing(context: Context) -> str:
    search_id = new_search(context)
    with context.sessions.begin() as session:
        search = searches.get(session, search_id)
        searches.move(session, search, SearchState.RUNNING)
        searches.move(session, search, SearchState.FINISHING, model_id="mo_x")
    take_turn(context, search_id)
    return search_id


def test_the_hand_over_waits_for_the_one_look_at_the_test_pictures(context: Context) -> None:
    search_id = finishing(context)
    take_turn(context, search_id)
    with context.sessions() as session:
        (job,) = session.scalars(select(Job).where(Job.kind == "evaluation"))
    version_id = search_of(context, search_id).version_id
    assert job.payload == {"model_id": "mo_x", "version_id": version_id, "split": "test", "search_id": search_id}
    assert search_of(context, search_id).state is SearchState.FINISHING
    with context.sessions() as session:
        assert session.scalars(select(Evaluation)).all() == []


def test_a_failed_evaluation_fails_the_search_and_names_the_reason(context: Context) -> None:
    search_id = finishing(context)
    with context.sessions.begin() as session:
        (job,) = session.scalars(select(Job).where(Job.kind == "evaluation"))
        session.execute(update(Job).values(state=JobState.RUNNING, attempt=1, lease_until=job.created_at))
        jobs.finish(session, job.id, 1, JobState.FAILED, error={"kind": "bug", "message": "no such file"})
    take_turn(context, search_id)
    assert "no such file" in error_of(context, search_id)


def test_a_plan_is_made_for_the_devices_that_are_there(context: Context) -> None:
    with context.sessions.begin() as session:
        workers.describe(session, "trial@there", ["trial"], {"flops_per_s": 10e9})
    search_id = new_search(context, budget_trials=10)
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    assert len([trial for trial in trials_of(context, search_id) if trial.state is TrialState.QUEUED]) >= 2


@pytest.mark.parametrize(
    ("purpose", "objective", "expected"),
    [(Purpose.FINAL, "accuracy", 0.02), (Purpose.EXPLORE, "accuracy", 0.0), (Purpose.FINAL, "log_loss", 0.0)],
)
def test_a_final_gives_way_only_to_more_than_noise(purpose: Purpose, objective: str, expected: float) -> None:
    assert handicap(purpose, objective, 0.9, 225) == pytest.approx(expected)


def genotype(space: str = "cell", number: int = 0) -> dict[str, Any]:
    return space_for(space, Shape(1, 28, 10), {}).sample(Random(number)).to_json()


def test_a_child_starts_from_its_parent_as_long_as_the_weights_are_kept(context: Context) -> None:
    options = {"population": 2, "sample": 2, "inherit": True}
    search_id = new_search(
        context, space="cell", strategy="evolution", strategy_options=options, budget_trials=20, seed=1
    )
    for score in (0.5, 0.6):
        take_turn(context, search_id)
        with context.sessions.begin() as session:
            weights = blobs.put(session, b"weights")
        end_trials(context, search_id, TrialState.SUCCEEDED, score=score, merit=score, weights_sha256=weights)
    take_turn(context, search_id)
    children = [trial for trial in trials_of(context, search_id) if trial.state is TrialState.QUEUED]
    assert {trial.warm_start_id for trial in children} == {trial.candidate["parent"] for trial in children} != {None}
    with context.sessions.begin() as session:
        trials.drop_weights_below(session, search_id, 0)
    kept = {trial.id for trial in trials_of(context, search_id) if trial.weights_sha256 is not None}
    assert kept == {trial.warm_start_id for trial in children} | {trials_of(context, search_id)[0].id}  # the floor
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.7, merit=0.7)
    take_turn(context, search_id)
    children = [trial for trial in trials_of(context, search_id) if trial.state is TrialState.QUEUED]
    assert all(trial.candidate["parent"] is not None for trial in children)
    assert {trial.warm_start_id for trial in children} == {None}  # their parents' are not


@pytest.mark.parametrize("last", [TrialState.FAILED, TrialState.SUCCEEDED])
def test_which_weights_are_kept_depends_on_scores_not_on_which_trial_ended_last(
    context: Context, last: TrialState
) -> None:
    options = {"population": 2, "sample": 2, "inherit": True}
    search_id = new_search(
        context, space="cell", strategy="evolution", strategy_options=options, budget_trials=20, seed=1
    )
    with context.sessions.begin() as session:
        weights = blobs.put(session, b"weights")
    for score in (0.5, 0.6):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=score, merit=score, weights_sha256=weights)
    take_turn(context, search_id)
    *first, end = [trial.id for trial in trials_of(context, search_id) if trial.state is TrialState.QUEUED]
    ways: list[tuple[str, TrialState, dict[str, Any]]] = [
        (each, TrialState.SUCCEEDED, {"score": 0.8, "weights_sha256": weights}) for each in first
    ]
    ways.insert(
        len(ways) if last is TrialState.FAILED else 0,
        (end, TrialState.FAILED, {"error": {"kind": "diverged", "message": "NaN"}}),
    )
    for each, state, values in ways:
        with context.sessions.begin() as session:
            held = trials.claim(session, each, WORKER, 15)
            assert held is not None
            trials.settle(session, each, held.attempt, state, **values)
        take_turn(context, search_id)
    after = trials_of(context, search_id)
    needed = {trial.warm_start_id for trial in after if trial.state is TrialState.QUEUED}
    ranked = sorted(
        (t for t in after if t.score is not None and t.purpose != "floor"), key=lambda t: (-t.score, t.number)
    )
    kept = {trial.id for trial in after if trial.weights_sha256 is not None and trial.purpose != "floor"}
    assert kept == {trial.id for trial in ranked[:5]}
    assert needed - {None} <= kept


def test_limits_that_are_not_settled_yet_bound_the_space_themselves() -> None:
    space = space_for("nb201", Shape(1, 28, 10), {})
    costs = sorted(space.cost(space.sample(Random(number))).params for number in range(20))
    inside = limited(space, {"max_params": costs[10]})
    assert max(space.cost(inside.sample(Random(number))).params for number in range(20)) <= costs[10]


def test_seeds_are_the_first_candidates(context: Context) -> None:
    seeds = [searches.seed(genotype(number=number)) for number in range(2)]
    search_id = new_search(context, space="cell", seeds=seeds, budget_trials=6)
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    explored = [trial for trial in trials_of(context, search_id) if trial.purpose == "explore"]
    assert [trial.candidate["genotype"] for trial in explored[:2]] == [seed["genotype"] for seed in seeds]
    assert len(explored) == 4


def test_an_illegal_seed_fails_the_search_before_any_training(context: Context) -> None:
    wrong = genotype()
    wrong["genes"]["normal"][0]["inputs"][1] = 9
    search_id = new_search(context, space="cell", seeds=[searches.seed(genotype()), searches.seed(wrong)])
    take_turn(context, search_id)
    error = error_of(context, search_id)
    assert "seed 2 " in error
    assert "normal[0].inputs[1] is 9; possible: 0 (the cell before the last), 1 (the last cell)" in error
    assert trials_of(context, search_id) == []


@pytest.mark.parametrize("space", ["stages", "cell"])
def test_limits_that_no_network_meets_end_the_search_before_any_training(context: Context, space: str) -> None:
    search_id = new_search(context, space=space, limits={"max_params": 200})
    take_turn(context, search_id)
    assert "limits.max_params: 200; the smallest " in error_of(context, search_id)
    assert trials_of(context, search_id) == []


def test_a_time_that_no_network_keeps_ends_the_search_before_any_training(context: Context) -> None:
    search_id = new_search(context, limits={"max_latency_ms": 0.0001})
    take_turn(context, search_id)
    assert "max_latency_ms: 0.0001; the smallest floor that was found has " in error_of(context, search_id)


def test_a_seed_beyond_the_limits_is_refused_with_its_size(context: Context) -> None:
    search_id = new_search(context, space="cell", seeds=[searches.seed(genotype())], limits={"max_params": 50_000})
    take_turn(context, search_id)
    assert "seed 1 is not one that this search can train: max_params: 50,000; this network has " in error_of(
        context, search_id
    )


def test_an_architecture_from_other_data_is_sized_to_the_limits(context: Context) -> None:
    larger = space_for("cell", Shape(3, 64, 100), {"filters": 64, "side": 64}).sample(Random(0)).to_json()
    seeds = [searches.seed(larger, "tr_other", refit=True)]
    search_id = new_search(context, space="cell", strategy="fixed", seeds=seeds, limits={"max_params": 50_000})
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    (carried,) = [trial for trial in trials_of(context, search_id) if trial.purpose == "explore"]
    assert carried.cost is not None
    assert 10_000 < carried.cost["params"] <= 50_000
    assert carried.candidate["genotype"]["genes"]["normal"] == larger["genes"]["normal"]


def test_every_trial_of_a_limited_search_is_planned_inside(context: Context) -> None:
    limits = {"max_params": 100_000, "max_flops": 5_000_000, "max_size_mb": 0.5}
    search_id = new_search(context, space="cell", budget_trials=12, limits=limits)
    for _ in range(5):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    costs = [trial.cost or {} for trial in trials_of(context, search_id)]
    assert len(costs) == 12
    assert all(cost["params"] <= 100_000 and cost["flops"] <= 5_000_000 for cost in costs)


def test_an_architecture_from_other_data_is_sized_for_this(context: Context) -> None:
    larger = space_for("cell", Shape(3, 64, 100), {"filters": 64, "side": 64}).sample(Random(0)).to_json()
    search_id = new_search(
        context, space="cell", strategy="fixed", seeds=[searches.seed(larger, "tr_other", refit=True)]
    )
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    (carried,) = [trial for trial in trials_of(context, search_id) if trial.purpose == "explore"]
    genes = carried.candidate["genotype"]["genes"]
    assert {name: genes[name] for name in ("normal", "reduction")} == {
        name: larger["genes"][name] for name in ("normal", "reduction")
    }
    assert genes["skeleton"]["side"] == 28
    assert carried.candidate["parent"] == "tr_other"


def test_how_candidates_are_halved_is_settled_at_the_first_turn(context: Context) -> None:
    searches_of = {
        seconds: new_search(
            context, strategy="race", strategy_options={"rungs": 0, "eta": 3}, budget_s=seconds, budget_trials=None
        )
        for seconds in (60.0, 86_400.0)
    }
    rungs = {}
    for seconds, search_id in searches_of.items():
        take_turn(context, search_id)
        rungs[seconds] = search_of(context, search_id).strategy_options["rungs"]
    assert rungs[60.0] == 1
    assert rungs[86_400.0] > 1


def test_how_well_candidates_foretold_the_final_is_noted(context: Context) -> None:
    search_id = new_search(context, proxy={"fraction": 0.5, "side": None}, budget_trials=5)
    for score in (0.5, 0.6, 0.7, 0.8):
        take_turn(context, search_id)
        end_trials(context, search_id, TrialState.SUCCEEDED, score=score, seconds=1.0)
    take_turn(context, search_id)
    ended = {trial.id: trial for trial in trials_of(context, search_id)}
    with context.sessions() as session:
        note = session.scalars(select(SearchNote).where(SearchNote.kind == "finalists")).one()
    (origin,), (final,) = note.data["trials"], note.data["finals"]
    assert ended[origin].candidate["fidelity"]["fraction"] == 0.5
    assert ended[final].candidate["fidelity"]["fraction"] == 1.0
    assert (note.data["candidate_scores"], note.data["final_scores"]) == ([ended[origin].score], [ended[final].score])
    assert note.data["rank_correlation"] is None


def test_shared_weights_are_planned_described_and_lead_to_their_shortlist(context: Context) -> None:
    space = {"channels": 4, "side": 8}
    search_id = new_search(context, space="nb201", space_options=space, strategy="enas", budget_trials=8)
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    supernet = trials_of(context, search_id)[-1]
    assert (supernet.purpose, supernet.state) == ("supernet", TrialState.QUEUED)
    assert supernet.cost is not None
    assert supernet.cost["params"] > 0
    assert supernet.cost["description"].startswith("The shared weights of all networks of space nb201, repaired form")
    take_turn(context, search_id)
    assert len(trials_of(context, search_id)) == 2
    shortlist = [{"genotype": genotype("nb201", number), "shared_score": 0.5} for number in (1, 2, 3)]
    report = {"shortlist": shortlist, "steps": [{"step": 1, "score": 0.4}]}
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.99, seconds=1.0, report=report)
    take_turn(context, search_id)
    explored = [trial for trial in trials_of(context, search_id) if trial.purpose == "explore"]
    assert [trial.candidate["genotype"] for trial in explored[:3]] == [each["genotype"] for each in shortlist]
    assert [trial.candidate["parent"] for trial in explored[:3]] == [supernet.id] * 3
    with context.sessions() as session:
        kinds = session.scalars(select(SearchNote.kind).where(SearchNote.search_id == search_id)).all()
    assert kinds == ["supernet"]


def test_shared_weights_alone_are_no_model(context: Context) -> None:
    search_id = new_search(context, space="nb201", strategy="enas", budget_trials=6)
    for _ in range(10):
        take_turn(context, search_id)
        with context.sessions() as session:
            queued = trials.of_search(session, search_id, TrialState.QUEUED)
        if any(trial.purpose == "supernet" for trial in queued):
            report = {"shortlist": [], "steps": []}
            end_trials(context, search_id, TrialState.SUCCEEDED, score=0.99, seconds=1.0, report=report)
        else:
            end_trials(context, search_id, TrialState.FAILED, error={"kind": "diverged", "message": "the loss is NaN"})
    assert "the loss is NaN" in error_of(context, search_id)
