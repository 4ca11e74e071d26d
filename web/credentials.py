"""Who asks: the API key of a request, or a browser's cookie that stands for one, and what is said without either."""

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from sqlalchemy.orm import Session
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from store import browser_sessions, keys
from store.keys import Role
from store.tables import ApiKey
from web.problems import ProblemError

COOKIE = "netwright_session"
HOW = "send one as 'Authorization: Bearer nw_…' or 'X-API-Key: nw_…'"
KEY = re.compile(re.escape(keys.PREFIX) + r"[A-Za-z0-9_-]{43}")
TOKEN = re.compile(re.escape(browser_sessions.PREFIX) + r"[A-Za-z0-9_-]{43}")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request shows: the secret of a key, or the token of a browser's session."""

    secret: str
    is_session: bool


def credential_of(headers: Headers, method: str) -> Credential:
    """What a request carries; a header goes before the cookie.

    Raises ProblemError: 401 when it carries none, or none that could be good; 403 when another site may have had a
    browser send it (`refuse_forged`).
    """
    secret = _header_secret(headers)
    if secret is not None:
        if not KEY.fullmatch(secret):
            raise unknown_key()
        return Credential(secret, is_session=False)
    token = session_token(headers)
    if token is None:
        raise _unauthorized(f"this needs an API key; {HOW}")
    if method not in SAFE_METHODS:
        refuse_forged(headers)
    return Credential(token, is_session=True)


def authenticate(session: Session, credential: Credential) -> tuple[ApiKey, datetime | None] | None:
    """The key behind a credential and when it ceases to open anything; None when it does not now."""
    if credential.is_session:
        return browser_sessions.authenticate(session, credential.secret)
    key = keys.authenticate(session, credential.secret)
    return None if key is None else (key, key.expires_at)


def session_token(headers: Headers) -> str | None:
    """The token of the cookie, if there is one of its form."""
    token = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return token if TOKEN.fullmatch(token) else None


def refuse_forged(headers: Headers) -> None:
    """Raises ProblemError (403) for a change that a page of another site may have sent in the user's name.

    A browser sends the cookie by itself, so more is asked than the cookie. `X-Requested-With` is a header that no form
    can set, and no script of another site without a leave (CORS) that is never given.
    """
    refuse_other_sites(headers)
    if not headers.get("x-requested-with"):
        raise _forged("a change with the session's cookie needs the header X-Requested-With, with any value")


def refuse_other_sites(headers: Headers) -> None:
    """Raises ProblemError (403) when the browser says that a page of another site sends this."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise _forged(f"the browser says that a page of another site sends this (Sec-Fetch-Site: {site[:40]})")
        return
    origin = headers.get("origin")  # browsers leave Sec-Fetch-Site out over plain HTTP
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise _forged(f"a page of {origin[:100]} sends this, which is not this server")


def _header_secret(headers: Headers) -> str | None:
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unauthorized(f"the Authorization header has another form than 'Bearer <key>'; {HOW}")
        return secret.strip()
    return headers.get("x-api-key", "").strip() or None


def unknown_key() -> ProblemError:
    """401 for a secret that opens nothing; which of the reasons it is, is not told."""
    return _unauthorized("this API key is not known here, or it has expired or been revoked")


def too_weak(role: Role, needed: Role) -> ProblemError:
    """403 for a good key whose role may not do this."""
    return ProblemError(403, "forbidden", f"this needs a key with the role {needed.value}; yours has {role.value}")


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="netwright"'})


def _forged(detail: str) -> ProblemError:
    return ProblemError(403, "cross-site", detail)
