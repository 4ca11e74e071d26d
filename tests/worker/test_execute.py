"""Trials as a worker runs them: a real trainer process, real digits, the row before and after."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime
import pytest
import torch
from sqlalchemy import select, update

from search.floor import floor
from search.limits import measured_of
from search.space import Shape
from search.spaces.stages import StagesSpace
from store import blobs, searches, trials
from store.errors import StaleError
from store.states import SearchState, TrialState
from store.tables import DatasetVersion, Event, Model, Search, Trial
from tests.worker.conftest import WORKER, new_search
from tests.worker.test_advance import end_trials
from worker import execute
from worker.advance import take_turn
from worker.context import Context
from worker.engine import served_model

pytestmark = pytest.mark.slow


def floor_trial(context: Context, **values: object) -> str:
    """The queued floor trial of a new search."""
    search_id = new_search(context, **values)
    take_turn(context, search_id)
    return row(context, search_id=search_id).id


def row(context: Context, **where: str) -> Trial:
    with context.sessions() as session:
        return session.scalars(select(Trial).filter_by(**where).order_by(Trial.number).limit(1)).one()


def meanwhile(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def await_points(context: Context, trial_id: str, points: int = 1, *, checkpoint: bool = False) -> None:
    """checkpoint: and one of these."""

    def are_there(trial: Trial) -> bool:
        return len(trial.curve) >= points and not (checkpoint and trial.checkpoint_sha256 is None)

    deadline = time.monotonic() + 60
    while not are_there(row(context, id=trial_id)) and time.monotonic() < deadline:
        time.sleep(0.05)


def cancelled_meanwhile(context: Context, trial_id: str) -> Trial:
    """The trial, run while its search was cancelled."""

    def cancel() -> None:
        await_points(context, trial_id)
        with context.sessions.begin() as session:
            searches.request_cancel(session, searches.get(session, row(context, id=trial_id).search_id))

    canceller = meanwhile(cancel)
    execute.run(context, trial_id, WORKER)
    canceller.join()
    return row(context, id=trial_id)


def long_trial(context: Context) -> str:
    """A floor trial that would take minutes."""
    trial_id = floor_trial(context, budget_trials=None, budget_s=3600.0)
    with context.sessions.begin() as session:
        candidate = dict(row(context, id=trial_id).candidate)
        candidate["fidelity"] = candidate["fidelity"] | {"seconds": 300.0}
        session.execute(update(Trial).where(Trial.id == trial_id).values(candidate=candidate))
    return trial_id


def test_a_trial_becomes_a_model_that_answers(context: Context) -> None:
    trial_id = floor_trial(context)
    execute.run(context, trial_id, WORKER)
    trial = row(context, id=trial_id)
    assert trial.state is TrialState.SUCCEEDED, trial.error
    assert trial.score is not None
    assert trial.checkpoint_sha256 is None
    assert trial.curve[-1]["fraction"] == 1.0
    with context.sessions() as session:
        model = session.scalars(select(Model)).one()
        assert (model.trial_id, model.number) == (trial_id, 1)
        assert model.parity < 1e-3
        assert trial.cost is not None
        assert trial.cost["size_bytes"] == model.size_bytes
        assert trial.cost["latency_ms"] > 0
        assert session.get_one(Search, trial.search_id).model_id == model.id
        assert f"\nMIRROR = {(trial.metrics or {})['mirror_at_test']} " in model.source
        runtime = onnxruntime.InferenceSession(blobs.get(session, model.onnx_sha256))
        again = served_model(model, blobs.get(session, model.weights_sha256))
        kinds = set(session.scalars(select(Event.kind).where(Event.stream == trial.search_id)))
    (scores,) = runtime.run(None, {"images": np.zeros((3, 28, 28, 1), np.uint8)})
    assert scores.shape == (3, 10)
    assert np.allclose(again(torch.zeros((3, 28, 28, 1), dtype=torch.uint8)).detach(), scores, atol=1e-4)
    assert kinds == {"search", "trial", "progress", "model"}


def test_a_trial_whose_hint_comes_twice_and_whose_result_comes_late_is_trained_once(context: Context) -> None:
    trial_id = floor_trial(context)
    execute.run(context, trial_id, WORKER)
    before = row(context, id=trial_id)
    execute.run(context, trial_id, WORKER)
    late = execute._Run(
        trial_id=trial_id, search_id=before.search_id, version=DatasetVersion(), attempt=before.attempt, order={},
        deadline_s=None, curve=[], seconds_before=0.0, claimed_at=0.0,
    )  # fmt: skip
    with pytest.raises(StaleError):
        execute._settle(context, late, execute._End(TrialState.FAILED, {"kind": "bug", "message": "late"}))
    after = row(context, id=trial_id)
    assert (after.state, after.score, after.attempt, after.error) == (before.state, before.score, 1, None)
    with context.sessions() as session:
        assert len(session.scalars(select(Model)).all()) == 1
        ends = select(Event).where(Event.kind == "trial", Event.payload["state"].astext == "succeeded")
        assert len(session.scalars(ends).all()) == 1


def test_the_next_turn_follows_by_itself(context: Context) -> None:
    trial_id = floor_trial(context)
    execute.run(context, trial_id, WORKER)
    with context.sessions() as session:
        assert len(trials.of_search(session, row(context, id=trial_id).search_id)) > 1


def test_a_killed_trainer_sends_the_trial_back_with_its_checkpoint(context: Context) -> None:
    trial_id = long_trial(context)

    def kill() -> None:
        deadline = time.monotonic() + 60
        while row(context, id=trial_id).checkpoint_sha256 is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(execute._warm[0].pid, signal.SIGKILL)

    killer = meanwhile(kill)
    execute.run(context, trial_id, WORKER)
    killer.join()
    trial = row(context, id=trial_id)
    assert (trial.state, trial.losses) == (TrialState.QUEUED, 1)
    assert trial.checkpoint_sha256 is not None
    assert trial.error is not None
    assert "SIGKILL" in trial.error["message"]


def test_a_trial_that_kills_its_trainer_again_and_again_fails(context: Context) -> None:
    trial_id = long_trial(context)
    with context.sessions.begin() as session:
        session.execute(update(Trial).values(losses=context.settings.max_attempts - 1))
    killer = meanwhile(lambda: (await_points(context, trial_id), os.kill(execute._warm[0].pid, signal.SIGKILL))[0])
    execute.run(context, trial_id, WORKER)
    killer.join()
    assert row(context, id=trial_id).state is TrialState.FAILED


def test_a_trial_whose_pictures_cannot_be_reached_is_tried_again_and_in_the_end_says_what_is_missing(
    context: Context,
) -> None:
    trial_id = floor_trial(context)
    with context.sessions.begin() as session:
        version = session.scalars(select(DatasetVersion)).one()
        version.images_key += "-lost"
    for attempt in range(1, context.settings.max_attempts):
        execute.run(context, trial_id, WORKER)
        trial = row(context, id=trial_id)
        assert (trial.state, trial.losses) == (TrialState.QUEUED, attempt)
    execute.run(context, trial_id, WORKER)
    trial = row(context, id=trial_id)
    assert trial.state is TrialState.FAILED
    assert trial.error is not None
    assert trial.error["kind"] == "data_unreachable"
    assert f"{version.images_key} is missing" in trial.error["message"]


def test_a_cancelled_trial_ends_at_its_next_word(context: Context) -> None:
    trial_id = long_trial(context)
    trial = cancelled_meanwhile(context, trial_id)
    assert trial.state is TrialState.PRUNED
    assert trial.error == {"kind": "cancelled", "message": "its search was cancelled"}
    with context.sessions() as session:
        assert session.get_one(Search, trial.search_id).state is SearchState.CANCELLED


def test_a_paused_trial_goes_back_with_a_checkpoint_and_no_loss(context: Context) -> None:
    trial_id = long_trial(context)

    def pause() -> None:
        await_points(context, trial_id)
        with context.sessions.begin() as session:
            searches.pause(session, searches.get(session, row(context, id=trial_id).search_id))

    pauser = meanwhile(pause)
    execute.run(context, trial_id, WORKER)
    pauser.join()
    trial = row(context, id=trial_id)
    assert (trial.state, trial.losses, trial.error) == (TrialState.QUEUED, 0, None)
    assert trial.checkpoint_sha256 is not None


def test_a_trial_past_its_deadline_is_killed(context: Context) -> None:
    trial_id = long_trial(context)
    context = Context(
        context.settings.model_copy(update={"trial_overrun_s": 0.001}),
        context.sessions,
        context.objects,
        context.cache,
    )
    with context.sessions.begin() as session:
        candidate = dict(row(context, id=trial_id).candidate)
        candidate["fidelity"] = candidate["fidelity"] | {"seconds": 0.01}
        session.execute(update(Trial).where(Trial.id == trial_id).values(candidate=candidate))
    # The trainer must be killed for it: frozen, it says nothing and heeds nothing.
    execute.warm_up(context, WORKER)
    os.kill(execute._warm[0].pid, signal.SIGSTOP)
    execute.run(context, trial_id, WORKER)
    trial = row(context, id=trial_id)
    assert trial.state is TrialState.FAILED
    assert trial.error is not None
    assert trial.error["kind"] == "deadline"


def test_an_impossible_genotype_fails_its_trial_alone(context: Context) -> None:
    trial_id = floor_trial(context)
    with context.sessions.begin() as session:
        candidate = dict(row(context, id=trial_id).candidate)
        candidate["genotype"] = {"version": 1, "space": "stages", "genes": {"stages": "no"}}
        session.execute(update(Trial).where(Trial.id == trial_id).values(candidate=candidate))
    execute.run(context, trial_id, WORKER)
    trial = row(context, id=trial_id)
    assert trial.state is TrialState.FAILED
    assert trial.error is not None
    assert trial.error["kind"] == "invalid_genotype"
    assert execute._warm[0].is_alive()


def test_a_child_is_trained_from_its_parents_weights(context: Context) -> None:
    parent_id = floor_trial(context)
    execute.run(context, parent_id, WORKER)
    parent = row(context, id=parent_id)
    scores = []
    for warm_start_id in (None, parent_id):
        with context.sessions.begin() as session:
            child = trials.insert(
                session,
                session.get_one(Search, parent.search_id),
                purpose="explore",
                candidate=parent.candidate | {"fidelity": {"epochs": 0.3}, "parent": parent_id, "inherit": True},
                key="child",
                seed=7,
                warm_start_id=warm_start_id,
                cost=None,
            )
        execute.run(context, child.id, WORKER)
        scores.append(row(context, id=child.id).score or 0.0)
    assert scores[1] > scores[0]


def test_a_network_that_is_too_slow_is_refused_before_training_and_never_becomes_the_model(context: Context) -> None:
    shape = Shape(1, 28, 10)
    slow = StagesSpace(shape, flops=400_000_000).centre.to_genotype()
    quick = floor(shape, 400, flops_per_s=20e9, seconds=60)
    latency = {each: measured_of(StagesSpace(shape), each, []).latency_ms for each in (slow, quick)}
    limit_ms = (latency[slow] * latency[quick]) ** 0.5  # far from both
    search_id = new_search(
        context,
        strategy="fixed",
        budget_trials=3,
        seeds=[searches.seed(slow.to_json())],
        limits={"max_latency_ms": limit_ms},
    )
    take_turn(context, search_id)
    while queued := ended(context, search_id, TrialState.QUEUED):
        execute.run(context, queued[0].id, WORKER)
    (refused,) = ended(context, search_id, TrialState.FAILED)
    assert refused.error is not None
    assert refused.error["kind"] == "over_limit"
    assert f"max_latency_ms: {limit_ms:g}; this network has " in refused.error["message"]
    assert refused.candidate["genotype"] == slow.to_json()
    assert not refused.curve
    kept = ended(context, search_id, TrialState.SUCCEEDED)
    assert [trial.purpose for trial in kept] == ["floor", "final"]
    assert all(trial.cost is not None and trial.cost["latency_ms"] <= limit_ms for trial in kept)
    with context.sessions() as session:
        assert {model.trial_id for model in session.scalars(select(Model))} <= {trial.id for trial in kept}
        assert session.get_one(Search, search_id).model_id is not None


def ended(context: Context, search_id: str, state: TrialState) -> Sequence[Trial]:
    with context.sessions() as session:
        return trials.of_search(session, search_id, state)


def test_a_zombie_writes_nothing(context: Context) -> None:
    trial_id = long_trial(context)

    def usurp() -> None:
        await_points(context, trial_id)
        with context.sessions.begin() as session:
            session.execute(update(Trial).where(Trial.id == trial_id).values(attempt=Trial.attempt + 1, worker="other"))

    usurper = meanwhile(usurp)
    execute.run(context, trial_id, WORKER)
    usurper.join()
    trial = row(context, id=trial_id)
    assert (trial.state, trial.attempt, trial.worker, trial.score) == (TrialState.RUNNING, 2, "other", None)


def supernet_trial(context: Context, seconds: float) -> str:
    """Queued shared weights of a small space, the floor's training taken as done."""
    space = {"channels": 4, "side": 8}
    search_id = new_search(context, space="nb201", space_options=space, strategy="enas", budget_trials=6)
    take_turn(context, search_id)
    end_trials(context, search_id, TrialState.SUCCEEDED, score=0.5, seconds=1.0)
    take_turn(context, search_id)
    trial = row(context, search_id=search_id, purpose="supernet")
    with context.sessions.begin() as session:
        fidelity = trial.candidate["fidelity"] | {"seconds": seconds, "epochs": None}
        candidate = trial.candidate | {"fidelity": fidelity}
        session.execute(update(Trial).where(Trial.id == trial.id).values(candidate=candidate))
    return trial.id


def test_shared_weights_go_on_at_their_checkpoint_after_a_kill_and_end_with_a_report(context: Context) -> None:
    trial_id = supernet_trial(context, seconds=10.0)

    def kill() -> None:
        await_points(context, trial_id, points=2, checkpoint=True)
        os.kill(execute._warm[0].pid, signal.SIGKILL)

    killer = meanwhile(kill)
    execute.run(context, trial_id, WORKER)
    killer.join()
    killed = row(context, id=trial_id)
    assert (killed.state, killed.losses, killed.report) == (TrialState.QUEUED, 1, None)
    assert killed.checkpoint_sha256 is not None
    execute.run(context, trial_id, WORKER)
    trial = row(context, id=trial_id)
    assert trial.state is TrialState.SUCCEEDED, trial.error
    assert (trial.attempt, trial.checkpoint_sha256, trial.weights_sha256) == (2, None, None)
    assert trial.curve[: len(killed.curve)] == killed.curve
    assert trial.report is not None
    assert trial.score == trial.report["shortlist"][0]["shared_score"]
    with context.sessions() as session:
        assert session.scalars(select(Model)).all() == []
        explored = [each for each in trials.of_search(session, trial.search_id) if each.purpose == "explore"]
    assert explored[0].candidate["genotype"] == trial.report["shortlist"][0]["genotype"]


def test_shared_weights_are_cancelled_like_any_other_trial(context: Context) -> None:
    trial_id = supernet_trial(context, seconds=300.0)
    trial = cancelled_meanwhile(context, trial_id)
    assert (trial.state, trial.report) == (TrialState.PRUNED, None)
