"""A job in this process's hands: its lease, its progress, and whether it is to stop."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from store import jobs
from store.errors import StaleError
from store.states import JobState
from worker import presence
from worker.context import Context

log = structlog.get_logger()


class CancelledError(Exception):
    """The user asked for the job's end."""


class ShutdownError(Exception):
    """The job goes back to the queue: the worker is to stop, or the job lets others go first."""


class RefusedJobError(Exception):
    """What was asked cannot be done; the message is for the user."""


class Held:
    """Renews the lease from a thread while the job works, on a connection of its own."""

    def __init__(self, context: Context, job_id: str, attempt: int) -> None:
        self.job_id, self.attempt = job_id, attempt
        self._context = context
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._news: Mapping[str, Any] | None = None
        self._stop: Exception | None = None
        self._thread = threading.Thread(target=self._beat, name=f"lease-{job_id}", daemon=True)

    def __enter__(self) -> "Held":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def report(self, **progress: Any) -> None:
        """Progress for the followers, written with the next heartbeat. Raises what is to end the job, if anything."""
        with self._lock:
            self._news = progress
        if self._stop is not None:
            raise self._stop

    def finish(self, session: Session, result: Mapping[str, Any]) -> None:
        """End the job as succeeded, in the transaction that writes what it made. Raises StaleError."""
        jobs.finish(session, self.job_id, self.attempt, JobState.SUCCEEDED, result=result)

    def _beat(self) -> None:
        settings = self._context.settings
        while not self._ended.wait(settings.heartbeat_s):
            with self._lock:
                news, self._news = self._news, None
            try:
                with self._context.sessions.begin() as session:
                    if jobs.progress(session, self.job_id, self.attempt, settings.lease_s, news):
                        self._stop = CancelledError(self.job_id)
            except StaleError as error:
                if not self._ended.is_set():
                    self._stop = error
                return
            except DBAPIError as error:
                log.warning("job.beat_failed", job=self.job_id, reason=str(error.orig))
            if presence.stopping.is_set():
                self._stop = ShutdownError(self.job_id)
