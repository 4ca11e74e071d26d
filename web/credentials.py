"""Who asks: the API key of a request, and what is said to one without a good key."""

from starlette.datastructures import Headers

from store.keys import Role
from web.problems import ProblemError

HOW = "send one as 'Authorization: Bearer nw_…' or 'X-API-Key: nw_…'"


def secret_of(headers: Headers) -> str:
    """The secret that a request carries. Raises ProblemError (401) when it carries none."""
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _unauthorized(f"the Authorization header has another form than 'Bearer <key>'; {HOW}")
        return secret.strip()
    secret = headers.get("x-api-key", "").strip()
    if not secret:
        raise _unauthorized(f"this needs an API key; {HOW}")
    return secret


def unknown_key() -> ProblemError:
    """401 for a secret that opens nothing; which of the reasons it is, is not told."""
    return _unauthorized("this API key is not known here, or it has expired or been revoked")


def too_weak(role: Role, needed: Role) -> ProblemError:
    """403 for a good key whose role may not do this."""
    return ProblemError(403, "forbidden", f"this needs a key with the role {needed.value}; yours has {role.value}")


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="netwright"'})
