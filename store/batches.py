"""Batch predictions: a model's answers to many pictures, in parts that are written once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from store import datasets, deployments, jobs, leases
from store.errors import ConflictError, NotFoundError
from store.ids import new_id
from store.states import DeploymentState, JobState, is_final
from store.tables import BatchPart, BatchPrediction, DatasetVersion, Job, Model

KIND = "batch_prediction"
PART_KEPT_FOR = timedelta(hours=1)  # between its object and the row that names it lie moments
WAITS_AFTER = timedelta(seconds=2)  # another worker would have taken the job by then


@dataclass(frozen=True, slots=True)
class NewPart:
    """Rows that were answered. labels: predicted label → rows. seconds: that the work on them took."""

    object_key: str
    size_bytes: int
    rows: int
    errors: int
    correct: int
    labels: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers: a model and the precision of its file. deployment: the name that stood for it."""

    model: Model
    precision: str = "fp32"
    deployment: str | None = None


def behind(session: Session, deployment: str) -> Answering:
    """The model behind a deployment.

    Raises NotFoundError; ConflictError for one that is undeployed or splits its requests: a batch has one model.
    """
    found = deployments.get(session, deployment)
    if found.state is not DeploymentState.DEPLOYED:
        raise ConflictError(
            f"the deployment {found.name!r} is undeployed and answers nothing; deploy it, or name a model instead"
        )
    if len(found.targets) > 1:
        names = ", ".join(f"{target.model.name}@{target.model.number}" for target in found.targets)
        raise ConflictError(
            f"the deployment {found.name!r} splits its requests among {names}; name one of them as `model`: "
            "one network answers a whole batch"
        )
    (target,) = found.targets
    return Answering(target.model, target.precision, found.name)


def create(
    session: Session,
    answering: Answering,
    source: Mapping[str, Any],
    top_k: int,
    *,
    version: DatasetVersion | None = None,
    upload_key: str | None = None,
) -> BatchPrediction:
    """A queued batch. An upload becomes the job's: it is deleted when that has ended.

    The model cannot be deleted before: a row that names it is in this transaction, which a deletion waits for.
    """
    batch_id = new_id("batch")
    payload = {"batch_id": batch_id} | ({} if upload_key is None else {"upload_key": upload_key})
    job = jobs.create(session, KIND, payload)
    batch = BatchPrediction(
        id=batch_id,
        job_id=job.id,
        model_id=answering.model.id,
        model_name=answering.model.name,
        model_number=answering.model.number,
        precision=answering.precision,
        deployment=answering.deployment,
        version_id=None if version is None else version.id,
        source=dict(source),
        top_k=top_k,
    )
    session.add(batch)
    if upload_key is not None:
        datasets.spare(session, [upload_key])
    session.flush()
    session.refresh(batch)
    return batch


def get(session: Session, batch_id: str) -> BatchPrediction:
    """Raises NotFoundError."""
    batch = session.get(BatchPrediction, batch_id)
    if batch is None:
        raise NotFoundError("batch prediction", batch_id)
    return batch


def parts(session: Session, batch_id: str) -> Sequence[BatchPart]:
    """What is written of the answers, in order."""
    return session.scalars(select(BatchPart).where(BatchPart.batch_id == batch_id).order_by(BatchPart.number)).all()


def counts(session: Session, batch_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(rows, errors among them) that are written of each batch that has any."""
    found = session.execute(
        select(BatchPart.batch_id, func.sum(BatchPart.rows), func.sum(BatchPart.errors))
        .where(BatchPart.batch_id.in_(batch_ids))
        .group_by(BatchPart.batch_id)
    )
    return {batch_id: (int(rows), int(errors)) for batch_id, rows, errors in found}


def add_part(
    session: Session,
    batch: BatchPrediction,
    attempt: int,
    lease_s: float,
    number: int,
    part: NewPart,
    progress: Mapping[str, Any],
) -> None:
    """Name a part that lies in the object store. Raises StaleError for an attempt that lost its lease."""
    leases.renew(session, Job, batch.job_id, attempt, lease_s, progress=dict(progress))
    session.add(
        BatchPart(
            batch_id=batch.id,
            number=number,
            object_key=part.object_key,
            size_bytes=part.size_bytes,
            rows=part.rows,
            errors=part.errors,
            correct=part.correct,
            labels=dict(part.labels),
            seconds=part.seconds,
        )
    )
    datasets.spare(session, [part.object_key])
    session.flush()


def others_wait(session: Session) -> bool:
    """Whether a job of another kind has been in the queue for longer than it takes an idle worker to begin it."""
    ago = func.clock_timestamp() - WAITS_AFTER
    waiting = exists().where(Job.state == JobState.QUEUED, Job.kind != KIND, Job.created_at < ago)
    return bool(session.scalar(select(waiting)))


def delete(session: Session, batch: BatchPrediction) -> int:
    """Delete a batch that has ended, with its job and its answers; returns the bytes freed at the next sweep.

    Raises ConflictError for one that has not.
    """
    session.refresh(batch, with_for_update=True)
    job = session.get_one(Job, batch.job_id, with_for_update=True)
    if not is_final(job.state):
        raise ConflictError(
            f"batch prediction {batch.id} is {job.state}; cancel it, or wait for its end, and delete it then"
        )
    written = parts(session, batch.id)
    freed = sum(part.size_bytes for part in written)
    datasets.doom(session, [part.object_key for part in written])
    session.delete(batch)
    session.flush()
    session.delete(job)
    session.flush()
    return freed
