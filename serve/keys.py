"""Who may ask for predictions: API keys, remembered for a moment."""

from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.datastructures import Headers

from serve.fresh import Fresh
from store import keys
from store.database import Sessions
from store.keys import Role
from web import credentials
from web.credentials import Credential


@dataclass(frozen=True, slots=True)
class Caller:
    key_id: str
    role: Role
    expires_at: datetime | None


class Keys:
    """Checks keys. A revocation is in force within a second."""

    def __init__(self, sessions: Sessions, executor: Executor) -> None:
        self._sessions = sessions
        self._known: Fresh[bytes, Caller | None] = Fresh(executor)

    async def check(self, headers: Headers, method: str) -> Caller:
        """Whoever holds the key, or signed in with it, that these headers carry. Raises ProblemError 401 or 403."""
        credential = credentials.credential_of(headers, method)
        # by digest, so that no secret stays in memory
        caller = await self._known.get(keys.digest(credential.secret), lambda: self._read(credential))
        if caller is None or (caller.expires_at is not None and caller.expires_at <= datetime.now(UTC)):
            raise credentials.unknown_key()
        if not caller.role.covers(Role.PREDICTOR):
            raise credentials.too_weak(caller.role, Role.PREDICTOR)
        return caller

    def _read(self, credential: Credential) -> Caller | None:
        with self._sessions.begin() as session:
            found = credentials.authenticate(session, credential)
            if found is None:
                return None
            key, expires_at = found
            return Caller(key.id, Role(key.role), expires_at)
