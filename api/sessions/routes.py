"""Routes of browsers' sessions: sign in with a key, see who one is, sign out."""

from datetime import datetime

from fastapi import APIRouter, Header, Request, Response

from api.deps import AnyKey, PublicWork, Work
from api.routing import Route
from api.sessions.schemas import Identity, SignIn
from store import audit, browser_sessions, keys
from web.credentials import COOKIE, KEY, refuse_other_sites, session_token, unknown_key
from web.problems import Fault, invalid

router = APIRouter(prefix="/v1/session", tags=["operation"], route_class=Route)


@router.post("", status_code=201)
def sign_in(
    new: SignIn, request: Request, work: PublicWork, response: Response, idempotency_key: str | None = Header(None)
) -> Identity:
    """Sign a browser in: the answer sets a cookie that stands for the key, for a week or as long as the key lasts."""
    if idempotency_key is not None:
        message = "is not accepted here: the answer holds a secret, and is not kept. Leave it out"
        raise invalid([Fault("Idempotency-Key", message, idempotency_key)])
    refuse_other_sites(request.headers)
    key = keys.authenticate(work, new.key) if KEY.fullmatch(new.key) else None
    if key is None:
        raise unknown_key()
    token, expires_at = browser_sessions.begin(work, key)
    audit.note(work, key.id, "session.begin", key.id)
    set_cookie(response, request, token, expires_at)
    response.headers["Cache-Control"] = "no-store"
    return Identity.model_validate({"key": key.id, "name": key.name, "role": key.role, "expires_at": expires_at})


@router.get("")
def who_am_i(caller: AnyKey) -> Identity:
    """The key behind this request, its role, and how long it lasts."""
    fields = {"key": caller.id, "name": caller.name, "role": caller.role.value, "expires_at": caller.expires_at}
    return Identity.model_validate(fields)


@router.delete("", status_code=204)
def sign_out(request: Request, work: Work, caller: AnyKey, response: Response) -> None:
    """End the browser's session; its cookie opens nothing any more. A key itself stays as it is."""
    token = session_token(request.headers)
    if caller.by_session and token is not None:
        browser_sessions.end(work, token)
        audit.note(work, caller.id, "session.end", caller.id)
    response.delete_cookie(COOKIE, path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict")


def set_cookie(response: Response, request: Request, token: str, expires_at: datetime) -> None:
    response.set_cookie(
        COOKIE,
        token,
        expires=expires_at,
        path="/",
        secure=request.url.scheme == "https",  # behind a proxy: what X-Forwarded-Proto says
        httponly=True,
        samesite="strict",
    )
