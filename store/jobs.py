"""Jobs: imports, evaluations and other slow things that are no search."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import case, exists, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import events, leases
from store.database import hint
from store.errors import ConflictError, NotFoundError
from store.ids import new_id
from store.queue import Hint, Task
from store.states import DatasetState, JobState, is_final
from store.tables import Dataset, DatasetVersion, DoomedObject, Job


def create(
    session: Session,
    kind: str,
    payload: Mapping[str, Any],
    dataset_id: str | None = None,
    input_sha256: bytes | None = None,
) -> Job:
    """A queued job; a worker is woken once this transaction commits. input_sha256: a blob that is kept until it ends."""
    job = Job(
        id=new_id("job"),
        kind=kind,
        payload=dict(payload),
        dataset_id=dataset_id,
        input_sha256=input_sha256,
        state=JobState.QUEUED,
    )
    session.add(job)
    session.flush()
    session.refresh(job)
    record(session, job)
    hint(session, Hint(Task.JOB, job.id))
    return job


def get(session: Session, job_id: str) -> Job:
    """Raises NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError("job", job_id)
    return job


def record(session: Session, job: Job) -> None:
    """Tell the followers of the job how it stands."""
    events.append(
        session,
        job.id,
        "job",
        {"state": job.state.value, "progress": job.progress, "result": job.result, "error": job.error},
    )


def progress(session: Session, job_id: str, attempt: int, lease_s: float, values: Mapping[str, Any] | None) -> bool:
    """Keep the lease, write progress if there is any new; returns whether a cancel was asked for. Raises StaleError."""
    if values is None:
        leases.renew(session, Job, job_id, attempt, lease_s)
    else:
        leases.renew(session, Job, job_id, attempt, lease_s, progress=dict(values))
        events.append(session, job_id, "progress", values)
    return session.get_one(Job, job_id, populate_existing=True).cancel_requested_at is not None


def finish(
    session: Session,
    job_id: str,
    attempt: int,
    to: JobState,
    *,
    result: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
) -> Job:
    """End a held job. Raises StaleError for an attempt that lost its lease."""
    leases.settle(
        session,
        Job,
        job_id,
        attempt,
        to,
        result=None if result is None else dict(result),
        error=None if error is None else dict(error),
    )
    job = session.get_one(Job, job_id, populate_existing=True)
    ended(session, job)
    return job


def ended(session: Session, job: Job) -> None:
    """What follows when a job has ended in any way: followers hear of it, a data set and what it needed are let go."""
    record(session, job)
    session.execute(update(Job).where(Job.id == job.id, Job.input_sha256.is_not(None)).values(input_sha256=None))
    if (upload_key := job.payload.get("upload_key")) is not None:
        due = {"due_at": func.clock_timestamp()}
        session.execute(
            insert(DoomedObject).values(key=upload_key, **due).on_conflict_do_update(index_elements=["key"], set_=due)
        )
    if job.kind == "import" and job.dataset_id is not None:
        has_version = exists().where(DatasetVersion.dataset_id == job.dataset_id)
        session.execute(
            update(Dataset)
            .where(Dataset.id == job.dataset_id, Dataset.state == DatasetState.IMPORTING)
            .values(
                state=case((has_version, DatasetState.READY), else_=DatasetState.FAILED),
                revision=Dataset.revision + 1,
                updated_at=func.clock_timestamp(),
            )
        )


def request_cancel(session: Session, job_id: str) -> Job:
    """Ask for the end of a job: at once when it is queued, at the next heartbeat when it runs.

    Raises ConflictError for a job that has ended.
    """
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise NotFoundError("job", job_id)
    if is_final(job.state):
        raise ConflictError(f"job {job_id} has already {job.state}; only a queued or running job can be cancelled")
    if job.cancel_requested_at is None:
        session.execute(update(Job).where(Job.id == job_id).values(cancel_requested_at=func.clock_timestamp()))
    if job.state is JobState.QUEUED:
        session.execute(
            update(Job)
            .where(Job.id == job_id, Job.state == JobState.QUEUED)
            .values(state=JobState.CANCELLED, ended_at=func.clock_timestamp())
        )
    session.refresh(job)
    if is_final(job.state):
        ended(session, job)
    return job
