"""API keys: a random secret shown once, its digest kept, a role, an expiry."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from store.errors import ConflictError, NotFoundError
from store.ids import new_id
from store.tables import ApiKey

PREFIX = "nw_"
USED_EVERY = timedelta(minutes=1)  # last_used_at is not written more often than this


class Role(StrEnum):
    """What a key may do; each role may do what those after it may."""

    ADMIN = "admin"  # keys, audit, everything
    EDITOR = "editor"  # data sets, searches, models, deployments
    VIEWER = "viewer"  # read everything but keys, and predict
    PREDICTOR = "predictor"  # predict only

    def covers(self, needed: "Role") -> bool:
        order = list(Role)
        return order.index(self) <= order.index(needed)


def digest(secret: str) -> bytes:
    # The secret has 256 random bits: a slow hash would protect nothing more.
    return hashlib.sha256(secret.encode()).digest()


def create_key(session: Session, name: str, role: Role, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    """A new key and its secret, which nobody can read again."""
    secret = PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        name=name,
        role=role.value,
        digest=digest(secret),
        hint=secret[: len(PREFIX) + 4],
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, secret


def authenticate(session: Session, secret: str) -> ApiKey | None:
    """The key of `secret` if it is known, not revoked and not expired; notes when it was used."""
    return live_key(session, ApiKey.digest == digest(secret))


def live_key(session: Session, which: ColumnElement[bool]) -> ApiKey | None:
    """The one key of which `which` holds, if it is not revoked and not expired; notes when it was used."""
    unused = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.clock_timestamp() - USED_EVERY)
    found = session.execute(
        select(ApiKey, unused).where(
            which,
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.clock_timestamp()),
        )
    ).one_or_none()
    if found is None:
        return None
    key, to_be_noted = found
    if to_be_noted:
        session.execute(
            update(ApiKey)
            .where(ApiKey.id == key.id)
            .values(last_used_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )
    return key


def list_keys(session: Session) -> Sequence[ApiKey]:
    return session.scalars(select(ApiKey).order_by(ApiKey.id)).all()


def revoke_key(session: Session, key_id: str) -> ApiKey:
    """Raises NotFoundError; refuses to revoke the last admin key, which would lock everybody out (ConflictError)."""
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFoundError("key", key_id)
    live_admins = session.scalars(
        select(ApiKey.id)
        .where(
            ApiKey.role == Role.ADMIN.value,
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.clock_timestamp()),
        )
        .with_for_update()
    ).all()
    if list(live_admins) == [key_id]:
        raise ConflictError(f"{key_id} is the last admin key; create another one before revoking it")
    if key.revoked_at is None:
        key.revoked_at = session.scalar(select(func.clock_timestamp()))
        session.flush()
    return key
