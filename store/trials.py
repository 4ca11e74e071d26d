"""Trials: one genotype at one fidelity, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session

from store import events, leases
from store.database import hint
from store.errors import NotFoundError
from store.ids import is_id, new_id
from store.queue import Hint, Task
from store.states import SearchState, TrialState
from store.tables import Search, Trial


def insert(
    session: Session,
    search: Search,
    *,
    purpose: str,
    candidate: Mapping[str, Any],
    key: str,
    seed: int,
    warm_start_id: str | None,
    cost: Mapping[str, Any] | None,
    network_source: str | None = None,
) -> Trial:
    """A queued trial; a worker is woken once this transaction commits. The caller holds the search's row."""
    last = session.scalar(select(func.max(Trial.number)).where(Trial.search_id == search.id)) or 0
    trial = Trial(
        id=new_id("trial"),
        search_id=search.id,
        number=last + 1,
        purpose=purpose,
        candidate=dict(candidate),
        key=key,
        seed=seed,
        warm_start_id=warm_start_id,
        state=TrialState.QUEUED,
        cost=None if cost is None else dict(cost),
        network_source=network_source,
    )
    session.add(trial)
    session.flush()
    session.refresh(trial)
    record(session, trial)
    hint(session, Hint(Task.TRIAL, trial.id))
    return trial


def get(session: Session, search: Search, reference: str) -> Trial:
    """By id, or by its number in the search. Raises NotFoundError."""
    statement = select(Trial).where(Trial.search_id == search.id)
    if is_id("trial", reference):
        statement = statement.where(Trial.id == reference)
    elif reference.isascii() and reference.isdigit() and len(reference) < 10:
        statement = statement.where(Trial.number == int(reference))
    else:
        raise NotFoundError("trial", reference)
    trial = session.scalars(statement).one_or_none()
    if trial is None:
        raise NotFoundError("trial", reference)
    return trial


def of_search(session: Session, search_id: str, *states: TrialState) -> Sequence[Trial]:
    """The trials of a search in those states (all when none is named), in order."""
    statement = select(Trial).where(Trial.search_id == search_id).order_by(Trial.number)
    if states:
        statement = statement.where(Trial.state.in_(states))
    return session.scalars(statement).all()


def record(session: Session, trial: Trial) -> None:
    """Tell the followers of the search how the trial stands."""
    events.append(
        session,
        trial.search_id,
        "trial",
        {
            "id": trial.id,
            "number": trial.number,
            "purpose": trial.purpose,
            "state": trial.state.value,
            "score": trial.score,
            "seconds": trial.seconds,
            "error": None if trial.error is None else trial.error.get("message"),
        },
    )


def may_begin() -> ColumnElement[bool]:
    """A trial whose search is running and not about to be cancelled."""
    return exists().where(
        Search.id == Trial.search_id, Search.state == SearchState.RUNNING, Search.cancel_requested_at.is_(None)
    )


def claim(session: Session, trial_id: str, worker: str, lease_s: float) -> Trial | None:
    """Take a queued trial whose search is running; None when there is nothing to do."""
    trial = leases.claim(session, Trial, trial_id, worker, lease_s, may_begin())
    if trial is not None:
        record(session, trial)
    return trial


def settle(session: Session, trial_id: str, attempt: int, to: TrialState, **values: Any) -> Trial:
    """End a held trial or send it back to the queue; its merit is its score unless another is given.

    Raises StaleError for an attempt that lost its lease.
    """
    if "score" in values:
        values = {"merit": values["score"]} | values
    leases.settle(session, Trial, trial_id, attempt, to, **values)
    trial = session.get_one(Trial, trial_id, populate_existing=True)
    record(session, trial)
    return trial


def best(session: Session, search_id: str) -> Trial | None:
    """The succeeded trial with the highest merit, the earlier one of equals. Shared weights are no network to ship."""
    return session.scalars(
        select(Trial)
        .where(Trial.search_id == search_id, Trial.state == TrialState.SUCCEEDED, Trial.purpose != "supernet")
        .order_by(Trial.merit.desc(), Trial.number)
        .limit(1)
    ).one_or_none()


def drop_weights_below(session: Session, search_id: str, kept: int) -> None:
    """Forget the weights of all but the floor, the best `kept` trials and those that a planned trial starts from; the
    sweep frees the bytes. The caller holds the search's row."""
    ranked = (
        select(Trial.id)
        .where(Trial.search_id == search_id, Trial.weights_sha256.is_not(None), Trial.purpose != "floor")
        .order_by(Trial.merit.desc(), Trial.number)
        .offset(kept)
    )
    needed = select(Trial.warm_start_id).where(
        Trial.search_id == search_id,
        Trial.warm_start_id.is_not(None),
        Trial.state.in_((TrialState.QUEUED, TrialState.RUNNING)),
    )
    session.execute(
        update(Trial)
        .where(Trial.id.in_(ranked), Trial.id.not_in(needed))
        .values(weights_sha256=None)
        .execution_options(synchronize_session=False)
    )


def withdraw(session: Session, trial: Trial, reason: Mapping[str, Any]) -> None:
    """End a queued trial that is not to run any more; nothing happens when a worker has claimed it meanwhile."""
    withdrawn = session.scalar(
        update(Trial)
        .where(Trial.id == trial.id, Trial.state == TrialState.QUEUED)
        .values(state=TrialState.PRUNED, error=dict(reason), ended_at=func.clock_timestamp(), checkpoint_sha256=None)
        .returning(Trial.id)
        .execution_options(synchronize_session=False)
    )
    session.refresh(trial)
    if withdrawn is not None:
        record(session, trial)
