"""The request log: what deployments answered, picture by picture, as far as their samples reach."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, Select, cast, delete, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.errors import NotFoundError
from store.tables import Deployment, DoomedObject, Feedback, LogEntry, TrafficMinute

COMPARED_MOST = 10_000  # pictures of one deployment that a comparison looks at

# A jump from deployment to deployment along the primary key, however many rows each has.
_LOGGED = """
WITH RECURSIVE logged AS (
    (SELECT deployment_id FROM {table} ORDER BY deployment_id LIMIT 1)
    UNION ALL
    SELECT (SELECT deployment_id FROM {table} WHERE deployment_id > logged.deployment_id ORDER BY deployment_id LIMIT 1)
    FROM logged WHERE logged.deployment_id IS NOT NULL
)
SELECT logged.deployment_id, clock_timestamp() - make_interval(days => deployments.log_retention_days::int)
FROM logged LEFT JOIN deployments ON deployments.id = logged.deployment_id
WHERE logged.deployment_id IS NOT NULL
"""


def append(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write entries, given as columns of `LogEntry`; those that are there already stay as they are."""
    if rows:
        session.execute(insert(LogEntry).on_conflict_do_nothing(), [dict(row) for row in rows])


def entries(
    deployment: Deployment,
    *,
    label: str | None = None,
    since: datetime | None = None,
    max_score: float | None = None,
    request_id: str | None = None,
) -> Select[LogEntry]:
    """The entries of a deployment, to be paged by `LogEntry.id`."""
    statement = select(LogEntry).where(LogEntry.deployment_id == deployment.id)
    if label is not None:
        statement = statement.where(LogEntry.label == label)
    if since is not None:
        statement = statement.where(LogEntry.at >= since)
    if max_score is not None:
        statement = statement.where(LogEntry.score <= max_score)
    if request_id is not None:
        statement = statement.where(LogEntry.request_id == request_id)
    return statement


def get(session: Session, deployment: Deployment, entry_id: str) -> LogEntry:
    """Raises NotFoundError."""
    entry = session.get(LogEntry, (deployment.id, entry_id))
    if entry is None:
        raise NotFoundError("logged request", entry_id)
    return entry


def sample(session: Session, deployment: Deployment, span: timedelta) -> tuple[int, Sequence[LogEntry]]:
    """(how many there are, at most COMPARED_MOST of them) of the last `span`, spread evenly over it."""
    recent = (LogEntry.deployment_id == deployment.id, LogEntry.at >= func.clock_timestamp() - span)
    count = session.scalar(select(func.count()).where(*recent)) or 0
    statement = select(LogEntry).where(*recent)
    if count > COMPARED_MOST:
        statement = statement.where(func.hashtext(LogEntry.id) % -(-count // COMPARED_MOST) == 0)
    return count, session.scalars(statement.limit(2 * COMPARED_MOST)).all()


def expire(session: Session, at_once: int) -> int:
    """Delete what is older than its deployment keeps, or whose deployment is gone: at most `at_once` rows of a kind.

    Pictures of deleted entries go with the sweep of objects. Returns how many entries were deleted.
    """
    deleted = 0
    for deployment_id, before in session.execute(text(_LOGGED.format(table=LogEntry.__tablename__))).all():
        old = select(LogEntry.deployment_id, LogEntry.id).where(LogEntry.deployment_id == deployment_id)
        if before is not None:
            old = old.where(LogEntry.at < before).order_by(LogEntry.at)
        gone = session.execute(
            delete(LogEntry)
            .where(tuple_(LogEntry.deployment_id, LogEntry.id).in_(old.limit(at_once - deleted)))
            .returning(LogEntry.picture_key)
        ).all()
        deleted += len(gone)
        if keys := [{"key": key} for (key,) in gone if key is not None]:
            session.execute(insert(DoomedObject).on_conflict_do_nothing(), keys)
        if deleted >= at_once:
            break
    for deployment_id, before in session.execute(text(_LOGGED.format(table=TrafficMinute.__tablename__))).all():
        key = (TrafficMinute.deployment_id, TrafficMinute.minute, TrafficMinute.process)
        over = select(*key).where(TrafficMinute.deployment_id == deployment_id)
        if before is not None:
            over = over.where(TrafficMinute.minute < before)
        session.execute(delete(TrafficMinute).where(tuple_(*key).in_(over.limit(at_once))))
    kept_for = func.make_interval(0, 0, 0, cast(Deployment.log_retention_days, Integer))
    for deployment_id, before in session.execute(select(Deployment.id, func.clock_timestamp() - kept_for)).all():
        session.execute(delete(Feedback).where(Feedback.deployment_id == deployment_id, Feedback.at < before))
    return deleted
