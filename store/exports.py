"""Exports: models in formats that others read, each made once by a job and kept as a blob."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import blobs, jobs, models
from store.errors import ConflictError, NotFoundError, RefusedError
from store.ids import new_id
from store.states import JobState, is_final
from store.tables import Export, Job, Model

INT8 = "onnx-int8"


@dataclass(frozen=True, slots=True)
class File:
    """What a conversion made. report: how it was compared with the model."""

    content: bytes
    name: str
    media_type: str
    report: Mapping[str, Any]


def ask(session: Session, model: Model, format: str, options: Mapping[str, Any]) -> tuple[Job, bool]:
    """The job that makes, or made, an export, and whether it was begun just now: the same is not made twice.

    options: whole, with the defaults of those that were not given. A job that failed is no reason not to try again.
    """
    session.refresh(model, with_for_update=True)  # of two who ask at once the second finds the first one's job
    made = find(session, model.id, format, options)
    if made is not None:
        return jobs.get(session, made.job_id), False
    payload = {
        "model_id": model.id,
        "model": f"{model.name}@{model.number}",
        "format": format,
        "options": dict(options),
    }
    working = session.scalars(
        select(Job)
        .where(Job.kind == "export", Job.payload == payload)
        .where(Job.state.in_([state for state in JobState if not is_final(state)]), Job.cancel_requested_at.is_(None))
        .order_by(Job.id)
        .limit(1)
    ).one_or_none()
    return (jobs.create(session, "export", payload), True) if working is None else (working, False)


def keep(session: Session, job: Job, model: Model, file: File) -> Export:
    """Write what a job of `ask` made; the caller holds the model's row and ends the job in the same transaction.

    Where another job was first (one had been asked to cancel and ended all the same) its export stays the one.
    """
    made = find(session, model.id, job.payload["format"], job.payload["options"])
    if made is not None:
        return made
    export = Export(
        id=new_id("export"),
        model_id=model.id,
        job_id=job.id,
        format=job.payload["format"],
        options=job.payload["options"],
        sha256=blobs.put(session, file.content),
        size_bytes=len(file.content),
        file_name=file.name,
        media_type=file.media_type,
        report=dict(file.report),
    )
    session.add(export)
    session.flush()
    session.refresh(export)
    return export


def find(session: Session, model_id: str, format: str, options: Mapping[str, Any]) -> Export | None:
    return session.scalars(
        select(Export).where(Export.model_id == model_id, Export.format == format, Export.options == dict(options))
    ).one_or_none()


def get(session: Session, model: Model, export_id: str) -> Export:
    """Raises NotFoundError, also for an export of another model."""
    export = session.get(Export, export_id)
    if export is None or export.model_id != model.id:
        raise NotFoundError("export", f"{export_id} of {model.name}@{model.number}")
    return export


def newest_int8(session: Session, model_id: str) -> Export | None:
    """The int8 file that a deployment of `precision: int8` serves: inputs and outputs as of the model's own ONNX file.

    Its `sha256` names the blob, its `size_bytes` what it takes in memory. There is a row only for an export that
    succeeded: compared in a fresh process, and within the drop of accuracy that was asked for. None: make one with
    POST /v1/models/{model}/exports {"format": "onnx-int8"}.
    """
    return session.scalars(
        select(Export).where(Export.model_id == model_id, Export.format == INT8).order_by(Export.id.desc()).limit(1)
    ).one_or_none()


def require_int8(session: Session, model: Model, field: str) -> None:
    """Raises RefusedError, naming the call that makes one, when the model has no int8 file. Until the transaction ends it keeps it."""
    session.refresh(model, with_for_update={"read": True})
    if newest_int8(session, model.id) is None:
        spoken = f"{model.name}@{model.number}"
        raise RefusedError(
            f"precision int8 serves the newest export of the format {INT8}, and model {spoken} has none; "
            f'POST /v1/models/{spoken}/exports {{"format": "{INT8}"}} makes one',
            field,
        )


def delete(session: Session, export: Export) -> int:
    """Delete an export; returns the bytes freed at the next sweep.

    Raises ConflictError for the int8 file that deployments serve, naming them.
    """
    if export.format == INT8:
        model = session.get_one(Model, export.model_id, with_for_update=True)
        newest = newest_int8(session, model.id)
        names = models.deployments_of(session, [model], precision="int8").get(model.id)
        if names and newest is not None and newest.id == export.id:
            raise ConflictError(
                f"export {export.id} is what model {model.name}@{model.number} answers {models.listed('deployment', names)} "
                "with, by precision int8; point that elsewhere or to fp32 first"
            )
    freed = export.size_bytes
    session.delete(export)
    session.flush()
    return freed
