"""What was lost is found in the rows: expired leases, messages that never arrived, objects that nothing names.

Every worker's main process runs it every few seconds; one at a time does.
"""

from datetime import timedelta

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from store import blobs, jobs, leases, references, requests, searches, trials, workers
from store.database import Sessions, hint, try_lock
from store.objects import Objects, ObjectsError
from store.queue import Hint, Task
from store.settings import Settings
from store.states import TrialState
from store.tables import DoomedObject, Job, Trial

log = structlog.get_logger()

# A message takes milliseconds; one that has not been heeded for this long is taken for lost.
HINT_AGAIN_AFTER_S = 5.0
OBJECTS_AT_ONCE = 100
REQUESTS_AT_ONCE = 5000
LOCK = "netwright.sweep"


def run(sessions: Sessions, objects: Objects, settings: Settings) -> None:
    """One sweep, in a transaction per concern so that none keeps another from being mended."""
    for mend in (_expired, _unheard, _unnamed_blobs, _unmeasured, _old_requests):
        with sessions.begin() as session:
            if not try_lock(session, LOCK):
                return
            mend(session, settings)
    with sessions.begin() as session:
        if try_lock(session, LOCK):
            _doomed_objects(session, objects)


def _expired(session: Session, settings: Settings) -> None:
    again, failed = leases.expire(session, Trial, settings.max_attempts, settings.lease_s)
    for trial in (*again, *failed):
        log.warning("trial.lease_expired", trial=trial.id, attempt=trial.attempt, state=trial.state.value)
        trials.record(session, trial)
        hint(session, Hint(Task.ADVANCE, trial.search_id))
    requeued, ended = leases.expire(session, Job, settings.max_attempts, settings.lease_s)
    for job in requeued:
        log.warning("job.lease_expired", job=job.id, attempt=job.attempt)
        jobs.record(session, job)
    for job in ended:
        log.error("job.given_up", job=job.id, attempt=job.attempt)
        jobs.ended(session, job)


def _unheard(session: Session, _: Settings) -> None:
    running = session.scalar(select(func.count()).where(Trial.state == TrialState.RUNNING)) or 0
    idle = workers.trial_devices(session) - running
    if idle > 0:  # else the message is not lost, it waits for its turn
        for trial_id in leases.unhinted(session, Trial, HINT_AGAIN_AFTER_S, idle, trials.may_begin()):
            hint(session, Hint(Task.TRIAL, trial_id))
    for job_id in leases.unhinted(session, Job, HINT_AGAIN_AFTER_S):
        hint(session, Hint(Task.JOB, job_id))
    for search_id in searches.unheeded(session, HINT_AGAIN_AFTER_S):
        hint(session, Hint(Task.ADVANCE, search_id))


def _unnamed_blobs(session: Session, _: Settings) -> None:
    if freed := blobs.collect(session):
        log.info("blobs.collected", bytes=freed)


def _unmeasured(session: Session, _: Settings) -> None:
    for model_id in references.want(session):
        log.info("reference.wanted", model=model_id)


def _old_requests(session: Session, _: Settings) -> None:
    if deleted := requests.expire(session, REQUESTS_AT_ONCE):
        log.info("requests.expired", count=deleted)


def _doomed_objects(session: Session, objects: Objects) -> None:
    due = session.scalars(
        select(DoomedObject.key)
        .where(DoomedObject.due_at < func.clock_timestamp())
        .limit(OBJECTS_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    for key in due:
        try:
            objects.delete([key])
        except ObjectsError as error:
            log.warning("object.not_deleted", key=key, reason=str(error))
            session.execute(
                update(DoomedObject)
                .where(DoomedObject.key == key)
                .values(due_at=func.clock_timestamp() + timedelta(minutes=10))
            )
        else:
            session.execute(delete(DoomedObject).where(DoomedObject.key == key))
