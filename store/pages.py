"""Keyset pages: stable while rows come and go, equally fast on page 1 and page 10,000."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from store.errors import RefusedError

T = TypeVar("T")
MAX_PAGE_SIZE = 500


def _may_be_ours(last: Any) -> bool:
    """What Postgres can compare a key with: ids and names are plain ASCII, numbers have 64 bits."""
    return last.isascii() and last.isprintable() if isinstance(last, str) else bool(-(2**63) <= last < 2**63)


def page(
    session: Session,
    statement: Select[T],
    by: InstrumentedAttribute[Any],
    size: int,
    token: str | None,
    *,
    newest_first: bool = False,
) -> tuple[Sequence[T], str | None]:
    """(rows, token of the next page or None), ordered by the unique column `by`. Raises RefusedError for a bad token."""
    if token is not None:
        try:
            last = json.loads(base64.urlsafe_b64decode(token.encode()))
        except (ValueError, binascii.Error, UnicodeError) as error:
            raise RefusedError(f"page_token {token[:40]!r} is none that this service gave out", "page_token") from error
        if type(last) is not by.type.python_type or not _may_be_ours(last):
            raise RefusedError(f"page_token {token[:40]!r} belongs to another list", "page_token")
        statement = statement.where(by < last if newest_first else by > last)
    rows = session.scalars(statement.order_by(by.desc() if newest_first else by).limit(size + 1)).all()
    if len(rows) <= size:
        return rows, None
    rows = rows[:size]
    return rows, base64.urlsafe_b64encode(json.dumps(getattr(rows[-1], by.key)).encode()).decode()
