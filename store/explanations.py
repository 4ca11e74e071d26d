"""Explanations: what in one picture speaks for a label, made by a job; numbers in the row, the drawn picture as a blob."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from store import blobs, jobs
from store.errors import NotFoundError, RefusedError
from store.ids import new_id
from store.tables import DatasetVersion, Example, Explanation, Job, Model

METHODS = ("integrated_gradients", "grad_cam", "occlusion")
LABELS_LISTED = 50
KEPT = {"read": True, "key_share": True}  # a row that is not to be deleted before the transaction has ended


@dataclass(frozen=True, slots=True)
class Made:
    """What a method found. grid: a number for each packed pixel, rows from the top. overlay: a PNG."""

    label: str
    score: float
    predicted: str
    predicted_score: float
    grid: list[list[float]]
    delta: float | None
    details: Mapping[str, Any]
    overlay: bytes


def ask(
    session: Session,
    model: Model,
    picture: bytes | Example,
    *,
    method: str,
    label: str | None,
    options: Mapping[str, Any],
) -> Job:
    """The job that explains the model's answer for `picture`: a file's bytes, or an example of a data set.

    label: what to explain; the predicted one without. options: of the method. Raises RefusedError for a label that the
    model does not know.
    """
    if label is not None and label not in model.labels:
        listed = ", ".join(model.labels[:LABELS_LISTED]) + (", …" if len(model.labels) > LABELS_LISTED else "")
        raise RefusedError(
            f"the model {model.name}@{model.number} knows no label {label[:100]!r}; it knows {listed}", "label"
        )
    payload: dict[str, Any] = {
        "model_id": model.id,
        "model": f"{model.name}@{model.number}",
        "method": method,
        "label": label,
        "options": dict(options),
    }
    if isinstance(picture, Example):
        payload |= {"version_id": picture.version_id, "example": picture.number}
        return jobs.create(session, "explanation", payload)
    return jobs.create(session, "explanation", payload, input_sha256=blobs.put(session, picture))


def keep(session: Session, job: Job, model: Model, made: Made) -> Explanation:
    """Write what a job of `ask` made; the caller ends the job in the same transaction."""
    version_id = job.payload.get("version_id")
    version = None if version_id is None else session.get(DatasetVersion, version_id, with_for_update=KEPT)
    explanation = Explanation(
        id=new_id("explanation"),
        model_id=model.id,
        job_id=job.id,
        version_id=None if version is None else version.id,
        example=job.payload.get("example"),
        method=job.payload["method"],
        label=made.label,
        score=made.score,
        predicted=made.predicted,
        predicted_score=made.predicted_score,
        grid=made.grid,
        delta=made.delta,
        details=dict(made.details),
        overlay_sha256=blobs.put(session, made.overlay),
        overlay_bytes=len(made.overlay),
    )
    session.add(explanation)
    session.flush()
    return explanation


def get(session: Session, model: Model, explanation_id: str) -> Explanation:
    """Raises NotFoundError, also for an explanation of another model."""
    explanation = session.get(Explanation, explanation_id)
    if explanation is None or explanation.model_id != model.id:
        raise NotFoundError("explanation", f"{explanation_id} of {model.name}@{model.number}")
    return explanation


def delete(session: Session, explanation: Explanation) -> int:
    """Delete an explanation; returns the bytes freed at the next sweep."""
    freed = explanation.overlay_bytes
    session.delete(explanation)
    session.flush()
    return freed
