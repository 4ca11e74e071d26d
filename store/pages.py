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
S = TypeVar("S")
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
        last = _read(token, by.type.python_type)
        statement = statement.where(by < last if newest_first else by > last)
    rows = session.scalars(statement.order_by(by.desc() if newest_first else by).limit(size + 1)).all()
    if len(rows) <= size:
        return rows, None
    rows = rows[:size]
    return rows, _written(getattr(rows[-1], by.key))


def part(items: Sequence[S], size: int, token: str | None) -> tuple[Sequence[S], str | None]:
    """Like `page`, of items that never change, by their position. Raises RefusedError for a bad token."""
    start = 0 if token is None else _read(token, int)
    if not 0 <= start <= len(items):
        raise _of_another_list(str(token))
    following = start + size
    return items[start:following], _written(following) if following < len(items) else None


def _read(token: str, kind: type) -> Any:
    try:
        last = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, binascii.Error, UnicodeError) as error:
        raise RefusedError(f"page_token {token[:40]!r} is none that this service gave out", "page_token") from error
    if type(last) is not kind or not _may_be_ours(last):
        raise _of_another_list(token)
    return last


def _written(last: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode()


def _of_another_list(token: str) -> RefusedError:
    return RefusedError(f"page_token {token[:40]!r} belongs to another list", "page_token")
