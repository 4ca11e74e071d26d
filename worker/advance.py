"""One turn of a search, in one transaction: tell the strategy what ended, ask what is next, write it down.

A crash anywhere rolls the turn back, and the sweep has it taken again: nothing is told twice, nothing asked twice.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from search.candidate import Purpose
from search.race import Done, Work, finalists, observations, plan
from search.space import InvalidGenotypeError, Space
from search.strategies import StateError, Strategy, strategy_for
from search.supernet import describe_supernet, supernet_cost
from search.surrogates.ranks import rank_correlation
from store import evaluations, notes, searches, trials, workers
from store.database import hint
from store.queue import Hint, Task
from store.states import JobState, SearchState, TrialState, is_final
from store.tables import DatasetVersion, Evaluation, Job, Search, Trial
from worker.beginning import Settlement, UnfitSearchError, floor_of, seeds_of, settle
from worker.context import Context
from worker.engine import budget_of, done_of, proxy_of, searched_space, shape_of, space_of, work_of

log = structlog.get_logger()

MAX_FAILED_TURNS = 5
REBUILT_AFTER = 2  # failed turns in a row: state that can be read may be wrong none the less
KEPT_WEIGHTS = 5  # of the best trials of a search, for what starts from them
MAX_GAP_S = 1.0  # between the end of a trial and the turn that follows: worked time, too
ENDED = (TrialState.SUCCEEDED, TrialState.FAILED, TrialState.PRUNED)
UNFINISHED = (TrialState.QUEUED, TrialState.RUNNING)


def take_turn(context: Context, search_id: str) -> None:
    """Move the search on as far as it can be moved now.

    A bug in a turn must not take it for ever: after MAX_FAILED_TURNS in a row the search fails, with its best model.
    """
    try:
        _take_turn(context, search_id)
    except DBAPIError:
        raise
    except Exception as error:
        log.exception("search.turn_failed", search=search_id)
        with context.sessions.begin() as session:
            search = session.get_one(Search, search_id, with_for_update=True)
            search.failed_turns += 1
            if search.failed_turns >= MAX_FAILED_TURNS and not is_final(search.state):
                searches.end(session, search, f"its turns fail: {type(error).__name__}: {error}")


def _take_turn(context: Context, search_id: str) -> None:
    settled = _settled(context, search_id)
    with context.sessions.begin() as session:
        search = session.scalars(select(Search).where(Search.id == search_id).with_for_update()).one_or_none()
        if search is None or is_final(search.state):
            return
        # Here and not where a trial ends well: which weights a new round finds depends on the scores alone, not on which
        # trial of the last round was the last to end, and how.
        trials.drop_weights_below(session, search.id, KEPT_WEIGHTS)
        if search.cancel_requested_at is not None:
            _cancel(session, search)
        elif search.state is SearchState.FINISHING:
            _finish(session, search)
        elif search.state in (SearchState.QUEUED, SearchState.RUNNING):
            _go_on(session, search, settled)
        search.failed_turns = 0


def _settled(context: Context, search_id: str) -> Settlement | UnfitSearchError | None:
    """What a search begins with, or why it cannot; None when it has begun, or when no worker has measured itself yet.

    Outside the turn's transaction: a cancel or an extension must not wait for it.
    """
    with context.sessions.begin() as session:
        search = session.get(Search, search_id)
        if search is None or search.floor is not None or search.state not in (SearchState.QUEUED, SearchState.RUNNING):
            return None
        speed = workers.flops_per_s(session)
        if speed is None:
            return None  # a worker that comes will wake this search
        devices = workers.trial_devices(session)
        version = session.get_one(DatasetVersion, search.version_id)
        session.expunge_all()
    try:
        return settle(search, version, speed, devices)
    except UnfitSearchError as error:
        return error


def _cancel(session: Session, search: Search) -> None:
    for trial in trials.of_search(session, search.id, TrialState.QUEUED):
        trials.withdraw(session, trial, {"kind": "cancelled", "message": "its search was cancelled"})
    if not trials.of_search(session, search.id, TrialState.RUNNING):
        searches.move(session, search, SearchState.CANCELLED)
        log.info("search.cancelled", search=search.id)


def _go_on(session: Session, search: Search, settled: Settlement | UnfitSearchError | None) -> None:
    if search.floor is None:
        if settled is None:
            return
        if isinstance(settled, UnfitSearchError):
            searches.end(session, search, str(settled))
            return
        settled.write(search)
        session.flush()
    if workers.flops_per_s(session) is None:
        return  # none is there; it will wake this search
    version = session.get_one(DatasetVersion, search.version_id)
    if search.state is SearchState.QUEUED:
        searches.move(session, search, SearchState.RUNNING, started_at=func.clock_timestamp())
    spent_s, _ = searches.tick(session, search.id, MAX_GAP_S)
    floor_genotype = floor_of(search)
    space = searched_space(search, shape_of(version), floor_genotype)
    ended = trials.of_search(session, search.id, *ENDED)
    strategy = _strategy(search, space, ended)
    running = trials.of_search(session, search.id, *UNFINISHED)
    devices = workers.trial_devices(session)
    done = [done_of(trial) for trial in ended]
    turn = plan(
        space,
        strategy,
        floor_genotype,
        budget_of(search),
        spent_s=spent_s,
        done=done,
        running=[work_of(trial) for trial in running],
        slots=max(0, devices - len(running)),
        devices=devices,
        seed=search.seed,
        seeds=seeds_of(search),
        proxy=proxy_of(search),
    )
    for work in turn.work:
        _insert(session, search, version, work)
    for note in strategy.notes():
        notes.put(session, search.id, note.kind, note.step, note.data)
    _note_finalists(session, search, done)
    search.strategy_state = strategy.dump()
    session.flush()
    if turn.finished:
        _begin_finish(session, search, ended)


def _note_finalists(session: Session, search: Search, done: Sequence[Done]) -> None:
    """How well the scores of candidates foretold those of the finals."""
    pairs = finalists(done)
    if pairs:
        short, long = ([each.score or 0.0 for each in side] for side in zip(*pairs, strict=True))
        data = {
            "trials": [each.trial for each, _ in pairs],
            "finals": [final.trial for _, final in pairs],
            "candidate_scores": short,
            "final_scores": long,
            "rank_correlation": rank_correlation(short, long),
        }
        notes.put(session, search.id, "finalists", len(pairs), data)


def _strategy(search: Search, space: Space, ended: Any) -> Strategy:
    """The strategy as it stood, told what ended since.

    State that cannot be read, or with which turns have failed, is rebuilt by telling it everything.
    """
    untold = [trial for trial in ended if trial.told_at is None]
    try:
        if search.failed_turns >= REBUILT_AFTER:
            raise StateError(f"{search.failed_turns} turns with it have failed")
        strategy = strategy_for(search.strategy, space, search.strategy_options, search.seed, search.strategy_state)
        strategy.tell(observations(space, [done_of(trial) for trial in untold], proxy_of(search)))
    except StateError as error:
        log.warning("search.state_rebuilt", search=search.id, reason=str(error))
        strategy = strategy_for(search.strategy, space, search.strategy_options, search.seed, None)
        strategy.tell(observations(space, [done_of(trial) for trial in ended], proxy_of(search)))
    for trial in untold:
        trial.told_at = func.clock_timestamp()
    return strategy


def _insert(session: Session, search: Search, version: DatasetVersion, work: Work) -> None:
    genotype = work.candidate.genotype
    space = space_of(genotype, shape_of(version), search.space, search.space_options)
    try:
        source = None
        if work.purpose is Purpose.SUPERNET:
            cost, key = supernet_cost(space), genotype.digest()
            description = describe_supernet(genotype, cost)
        else:
            cost, key, source = space.cost(genotype), space.key(genotype), space.to_python(genotype)
            description = space.describe(genotype)
        described: dict[str, Any] = asdict(cost) | {"description": description}
    except InvalidGenotypeError:
        # The training refuses it with the reason; the strategy hears of it like of any other failure.
        described, key, source = {}, genotype.digest(), None
    trial = trials.insert(
        session,
        search,
        purpose=work.purpose.value,
        candidate=work.candidate.to_json(),
        key=key,
        seed=work.seed,
        warm_start_id=_kept(session, work.warm_start),
        cost=described,
        network_source=source,
    )
    log.info("trial.planned", search=search.id, trial=trial.id, purpose=trial.purpose)


def _kept(session: Session, trial_id: str | None) -> str | None:
    """The trial to start from, if its weights are still there; from now on they stay until the new trial has ended."""
    source = None if trial_id is None else session.get(Trial, trial_id)
    return None if source is None or source.weights_sha256 is None else source.id


def _begin_finish(session: Session, search: Search, ended: Any) -> None:
    if search.model_id is None:
        reasons = [trial.error["message"] for trial in ended if trial.error is not None]
        floor_failed = next((t for t in ended if t.purpose == Purpose.FLOOR.value and t.error is not None), None)
        reason = floor_failed.error["message"] if floor_failed is not None else (reasons[0] if reasons else "none ran")
        searches.move(
            session,
            search,
            SearchState.FAILED,
            error=f"none of its {len(ended)} trials trained a network; the first reason: {reason}",
        )
        return
    searches.move(session, search, SearchState.FINISHING)
    evaluations.request_last(session, search.model_id, search.version_id, search.id)


def _finish(session: Session, search: Search) -> None:
    """Hand over once the test pictures have been looked at, once."""
    assert search.model_id is not None
    evaluated = session.scalars(
        select(Evaluation.id).where(
            Evaluation.model_id == search.model_id,
            Evaluation.version_id == search.version_id,
            Evaluation.split == "test",
        )
    ).first()
    if evaluated is not None:
        searches.move(session, search, SearchState.SUCCEEDED)
        log.info("search.succeeded", search=search.id, model=search.model_id)
        return
    job = session.scalars(
        select(Job)
        .where(Job.kind == "evaluation", Job.payload["search_id"].astext == search.id)
        .order_by(Job.id.desc())
        .limit(1)
    ).one_or_none()
    if job is None or (job.state is JobState.CANCELLED and search.cancel_requested_at is None):
        evaluations.request_last(session, search.model_id, search.version_id, search.id)
    elif job.state is JobState.FAILED:
        reason = (job.error or {}).get("message", "no reason was recorded")
        searches.move(
            session,
            search,
            SearchState.FAILED,
            error=f"the best model stands, but its evaluation on the test pictures failed: {reason}",
        )
    elif job.state is JobState.QUEUED:
        hint(session, Hint(Task.JOB, job.id))
