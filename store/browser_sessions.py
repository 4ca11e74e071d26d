"""Browsers that signed in: a random token in their cookie, its digest kept, an end, a key that it stands for."""

import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from store import keys
from store.tables import ApiKey, BrowserSession

PREFIX = "nws_"
LASTS = timedelta(days=7)


def begin(session: Session, key: ApiKey) -> tuple[str, datetime]:
    """A new session's token, which nobody can read again, and its end: in a week, or with the key if that is sooner.

    Sweeps away what has expired, of everybody.
    """
    now = session.scalars(select(func.clock_timestamp())).one()
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= now))
    token = PREFIX + secrets.token_urlsafe(32)
    expires_at = now + LASTS if key.expires_at is None else min(now + LASTS, key.expires_at)
    session.add(BrowserSession(digest=keys.digest(token), api_key_id=key.id, expires_at=expires_at))
    session.flush()
    return token, expires_at


def authenticate(session: Session, token: str) -> tuple[ApiKey, datetime] | None:
    """The key that `token` stands for and the session's end, while both live; notes when the key was used."""
    found = session.execute(
        select(BrowserSession.api_key_id, BrowserSession.expires_at).where(
            BrowserSession.digest == keys.digest(token), BrowserSession.expires_at > func.clock_timestamp()
        )
    ).one_or_none()
    if found is None:
        return None
    key = keys.live_key(session, ApiKey.id == found.api_key_id)
    return None if key is None else (key, found.expires_at)


def end(session: Session, token: str) -> None:
    """The token opens nothing from now on."""
    session.execute(delete(BrowserSession).where(BrowserSession.digest == keys.digest(token)))
