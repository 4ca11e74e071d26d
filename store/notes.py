"""Notes: what the strategy of a search learned on the way."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import events
from store.tables import SearchNote


def put(session: Session, search_id: str, kind: str, step: int, data: Mapping[str, Any]) -> None:
    """Keep a note and tell the followers that it is there. The caller holds the search's row.

    One of that kind and step takes the place of the one before: a strategy whose state is rebuilt learns everything
    once more. Nothing happens when it says the same.
    """
    last = select(func.coalesce(func.max(SearchNote.number), 0)).where(SearchNote.search_id == search_id)
    wanted = insert(SearchNote).values(
        search_id=search_id, number=last.scalar_subquery() + 1, kind=kind, step=step, data=dict(data)
    )
    number = session.scalar(
        wanted.on_conflict_do_update(
            index_elements=["search_id", "kind", "step"],
            set_={"data": wanted.excluded.data, "at": func.clock_timestamp()},
            where=SearchNote.data.is_distinct_from(wanted.excluded.data),
        ).returning(SearchNote.number)
    )
    if number is not None:
        events.append(session, search_id, "note", {"number": number, "kind": kind, "step": step})
