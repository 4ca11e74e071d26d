"""Routes of API keys: make one, see them, revoke one. For admins."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Header, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import Admin, Work
from api.keys.schemas import Key, KeyPage, KeyWithSecret, NewKey
from api.routing import Route
from api.schemas import KeyRef, PageSize, PageToken, link_to
from store import audit, keys, tables
from store.database import now
from store.errors import NotFoundError
from store.keys import Role
from store.pages import page
from web.problems import Fault, invalid

router = APIRouter(prefix="/v1/keys", tags=["operation"], route_class=Route)

LASTS_AT_MOST = timedelta(days=3653)


def key_fields(key: tables.ApiKey, moment: datetime) -> dict[str, object]:
    state = "active"
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= moment:
        state = "expired"
    shown = ("id", "name", "role", "hint", "created_at", "expires_at", "revoked_at", "last_used_at")
    return {name: getattr(key, name) for name in shown} | {"state": state}


@router.post("", status_code=201)
def create_key(
    new: NewKey, work: Work, caller: Admin, response: Response, idempotency_key: str | None = Header(None)
) -> KeyWithSecret:
    """Make a key. Its secret is in this answer and nowhere else, so the answer cannot be had again."""
    if idempotency_key is not None:
        message = "is not accepted here: the answer holds a secret, and is not kept. Leave it out"
        raise invalid([Fault("Idempotency-Key", message, idempotency_key)])
    if new.expires_at is not None:
        check_expiry(work, new.expires_at)
    key, secret = keys.create_key(work, new.name, Role(new.role), new.expires_at)
    work.refresh(key)
    audit.note(work, caller.id, "key.create", key.id, {"name": key.name, "role": key.role})
    response.headers.update({"Location": link_to("keys", key.id), "Cache-Control": "no-store"})
    return KeyWithSecret.model_validate(key_fields(key, now(work)) | {"secret": secret})


def check_expiry(work: Session, expires_at: datetime) -> None:
    moment = now(work)
    if not moment < expires_at <= moment + LASTS_AT_MOST:
        latest = (moment + LASTS_AT_MOST).astimezone(UTC).date()
        message = f"must lie in the future and not after {latest}; leave it out for a key that does not expire"
        raise invalid([Fault("expires_at", message, expires_at.isoformat())])


@router.get("")
def list_keys(work: Work, _: Admin, page_size: PageSize = 50, page_token: PageToken = None) -> KeyPage:
    """All keys, newest first, without their secrets."""
    rows, following = page(work, select(tables.ApiKey), tables.ApiKey.id, page_size, page_token, newest_first=True)
    moment = now(work)
    return KeyPage(items=[Key.model_validate(key_fields(row, moment)) for row in rows], next_page_token=following)


@router.get("/{key}")
def get_key(key: KeyRef, work: Work, _: Admin) -> Key:
    found = work.get(tables.ApiKey, key)
    if found is None:
        raise NotFoundError("key", key)
    return Key.model_validate(key_fields(found, now(work)))


@router.delete("/{key}", status_code=204)
def revoke_key(key: KeyRef, work: Work, caller: Admin) -> None:
    """Revoke a key, from the next request on. The last admin key stays."""
    found = keys.revoke_key(work, key)
    audit.note(work, caller.id, "key.revoke", found.id, {"name": found.name, "role": found.role})
