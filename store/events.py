"""The append-only log that followers read, numbered per stream without gaps."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store.tables import Event


def append(session: Session, stream: str, kind: str, payload: Mapping[str, Any]) -> int:
    """Add an event to `stream` (a search's or a job's id) and return its number, from 1.

    Writers of one stream take turns until their transactions end, so a reader never sees number 8 before 7.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:stream, 1))"), {"stream": stream})
    last = session.scalar(select(func.max(Event.number)).where(Event.stream == stream)) or 0
    session.add(Event(stream=stream, number=last + 1, kind=kind, payload=dict(payload)))
    session.flush()
    return last + 1


def after(session: Session, stream: str, number: int, limit: int = 500) -> Sequence[Event]:
    """The events of `stream` that follow `number`, oldest first."""
    return session.scalars(
        select(Event).where(Event.stream == stream, Event.number > number).order_by(Event.number).limit(limit)
    ).all()
