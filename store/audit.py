"""Who changed what, and the answers that repeated requests get again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.errors import ConflictError
from store.tables import AuditEntry, IdempotentReply

REPLIES_KEPT_FOR = timedelta(days=1)


def note(
    session: Session, api_key_id: str | None, action: str, target: str, details: Mapping[str, Any] | None = None
) -> None:
    """One line of the audit, in the transaction of the change itself."""
    session.add(AuditEntry(api_key_id=api_key_id, action=action, target=target, details=dict(details or {})))


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class ReusedKeyError(ConflictError):
    """An Idempotency-Key came back with another request."""


def begin_once(session: Session, api_key_id: str, key: str, request: bytes) -> Reply | None:
    """The stored reply to this request, or None when the caller is to answer it and `remember` the reply.

    `request` is whatever tells requests apart: method, path, body. Two at once take turns: the second waits until the
    first transaction ends. Raises ReusedKeyError when the key was used for another request.
    """
    digest = hashlib.sha256(request).digest()
    session.execute(
        delete(IdempotentReply).where(IdempotentReply.created_at < func.clock_timestamp() - REPLIES_KEPT_FOR)
    )
    fresh = session.scalar(
        insert(IdempotentReply)
        .values(api_key_id=api_key_id, idempotency_key=key, request_digest=digest)
        .on_conflict_do_nothing()
        .returning(IdempotentReply.idempotency_key)
    )
    if fresh is not None:
        return None
    row = session.scalars(
        select(IdempotentReply).where(IdempotentReply.api_key_id == api_key_id, IdempotentReply.idempotency_key == key)
    ).one()
    if row.request_digest != digest:
        raise ReusedKeyError(
            f"Idempotency-Key {key!r} was used for another request within the last day; use a new key for a new request"
        )
    if row.status is None or row.body is None:
        raise ConflictError(f"the request with Idempotency-Key {key!r} is still being answered; try again in a second")
    return Reply(row.status, dict(row.headers or {}), row.body)


def remember(session: Session, api_key_id: str, key: str, reply: Reply) -> None:
    """Keep the reply of a request that `begin_once` let through, in the same transaction."""
    row = session.get_one(IdempotentReply, (api_key_id, key))
    row.status, row.headers, row.body = reply.status, dict(reply.headers), reply.body
    session.flush()
