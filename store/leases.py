"""Claim, renew, settle, expire: how trials and jobs are held by one worker at a time.

A claim raises `attempt` and sets `lease_until`; every later write names the attempt, so the write of a worker that
lost its lease (frozen, partitioned, thought dead) is refused. All times are the database's.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, func, select, true, update
from sqlalchemy.orm import Session

from store.errors import StaleError
from store.states import JobState, TrialState, sources
from store.tables import Job, Trial

Leased = TypeVar("Leased", Job, Trial)
LeasedState = JobState | TrialState


def _ago(seconds: float) -> ColumnElement[datetime]:
    return func.clock_timestamp() - timedelta(seconds=seconds)


def _state(table: type[Leased], value: str) -> LeasedState:
    return TrialState(value) if table is Trial else JobState(value)


def claim(
    session: Session,
    table: type[Leased],
    row_id: str,
    worker: str,
    lease_s: float,
    when: ColumnElement[bool] | None = None,
) -> Leased | None:
    """Take a queued row; None when it is not queued (any more), locked by another claim, or `when` does not hold."""
    found = session.scalar(
        select(table.id)
        .where(table.id == row_id, table.state == _state(table, "queued"), true() if when is None else when)
        .with_for_update(skip_locked=True, of=table)
    )
    if found is None:
        return None
    return session.scalars(
        update(table)
        .where(table.id == row_id)
        .values(
            state=_state(table, "running"),
            attempt=table.attempt + 1,
            worker=worker,
            lease_until=_ago(-lease_s),
            started_at=func.coalesce(table.started_at, func.clock_timestamp()),
        )
        .returning(table)
        .execution_options(populate_existing=True)
    ).one()


def renew(session: Session, table: type[Leased], row_id: str, attempt: int, lease_s: float, **values: Any) -> None:
    """Extend the lease and write progress. Raises StaleError when the attempt no longer holds it."""
    kept = session.scalar(
        update(table)
        .where(table.id == row_id, table.attempt == attempt, table.state == _state(table, "running"))
        .values(lease_until=_ago(-lease_s), **values)
        .returning(table.id)
        .execution_options(synchronize_session=False)
    )
    if kept is None:
        raise StaleError(f"{row_id} is no longer held by attempt {attempt}")


def settle(session: Session, table: type[Leased], row_id: str, attempt: int, to: LeasedState, **values: Any) -> None:
    """Move a held row on: to its end, or back to the queue. Raises StaleError for an attempt that lost its lease."""
    if not (to is TrialState.QUEUED or to is JobState.QUEUED):
        values["ended_at"] = func.clock_timestamp()
    moved = session.scalar(
        update(table)
        .where(table.id == row_id, table.attempt == attempt, table.state == _state(table, "running"))
        .where(table.state.in_(sources(to)))
        .values(state=to, lease_until=None, hinted_at=func.clock_timestamp(), **values)
        .returning(table.id)
        .execution_options(synchronize_session=False)
    )
    if moved is None:
        raise StaleError(f"{row_id} cannot become {to} in attempt {attempt}: another attempt holds it or it has ended")


def expire(
    session: Session, table: type[Leased], max_losses: int, grace_s: float
) -> tuple[Sequence[Leased], Sequence[Leased]]:
    """Rows whose lease ran out: (back in the queue, failed after `max_losses` lost workers).

    While Postgres itself was down nobody could renew: after its start workers get `grace_s` to do so.
    """
    up_long_enough = func.pg_postmaster_start_time() < _ago(grace_s)
    dead = select(table.id).where(
        table.state == _state(table, "running"), table.lease_until < func.clock_timestamp(), up_long_enough
    )
    chosen = dead.with_for_update(skip_locked=True)
    again = session.scalars(
        update(table)
        .where(table.id.in_(chosen), table.losses + 1 < max_losses)
        .values(
            state=_state(table, "queued"),
            losses=table.losses + 1,
            lease_until=None,
            hinted_at=_ago(3600),  # so that the sweep sends its hint at once
        )
        .returning(table)
        .execution_options(synchronize_session=False)
    ).all()
    error = {
        "kind": "worker_lost",
        "message": f"its worker died {max_losses} times while running it; see the worker's log for why",
    }
    failed = session.scalars(
        update(table)
        .where(table.id.in_(chosen), table.losses + 1 >= max_losses)
        .values(
            state=_state(table, "failed"),
            losses=table.losses + 1,
            lease_until=None,
            error=error,
            ended_at=func.clock_timestamp(),
        )
        .returning(table)
        .execution_options(synchronize_session=False)
    ).all()
    return again, failed


def unhinted(
    session: Session,
    table: type[Leased],
    older_than_s: float,
    limit: int = 100,
    when: ColumnElement[bool] | None = None,
) -> Sequence[str]:
    """Ids of queued rows whose last hint is older than that; marks them as hinted now."""
    waiting = (
        select(table.id)
        .where(table.state == _state(table, "queued"), table.hinted_at < _ago(older_than_s))
        .where(true() if when is None else when)
        .order_by(table.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(
        update(table)
        .where(table.id.in_(waiting))
        .values(hinted_at=func.clock_timestamp())
        .returning(table.id)
        .execution_options(synchronize_session=False)
    ).all()
