"""One picture's prediction is explained: `search/explain.py` does the work, this keeps job, rows and blobs."""

from typing import Any

import structlog
from sqlalchemy.orm import Session

from ingest.errors import UnreadableImageError
from ingest.limits import Limits
from ingest.overlay import LONGEST_PX, overlay
from ingest.preprocess import Preprocessing, preview, to_array
from search.occlusion import OcclusionError
from store import blobs, datasets, explanations
from store.errors import CorruptBlobError
from store.tables import DatasetVersion, Job, Model
from worker.context import Context
from worker.engine import served_model
from worker.held import Held, RefusedJobError

log = structlog.get_logger()

DIGITS = 5  # of a number in the grid: more says nothing about a picture


def run(context: Context, job: Job, held: Held) -> None:
    """Explain what `payload.model_id` says of one picture. The row, its blob and the end of the job are one transaction."""
    # Here alone: Captum takes a second and matplotlib with it, which no other job should wait for.
    from search.explain import NoLayerError, explain

    payload = job.payload
    with context.sessions.begin() as session:
        model = _model(session, payload)
        try:
            weights = blobs.get(session, model.weights_sha256)
        except CorruptBlobError as error:
            raise RefusedJobError(
                f"model {payload['model']} cannot be explained, its file is damaged: {error}"
            ) from error
        data = _picture(context, session, job)
    limits = Limits(max_pixels=context.settings.picture_max_pixels)
    try:
        packed = to_array(data, Preprocessing.from_json(model.preprocessing), limits)
        shown = preview(data, LONGEST_PX, limits)
    except UnreadableImageError as error:
        raise RefusedJobError(f"the picture {error}") from error
    held.report(stage="explaining", method=payload["method"])
    label = None if payload["label"] is None else model.labels.index(payload["label"])
    try:
        explained = explain(served_model(model, weights), packed, payload["method"], label, payload["options"])
    except (OcclusionError, NoLayerError) as error:
        raise RefusedJobError(str(error)) from error
    held.report(stage="drawing", method=payload["method"])
    found = explained.found
    made = explanations.Made(
        label=model.labels[explained.label],
        score=explained.score,
        predicted=model.labels[explained.predicted],
        predicted_score=explained.predicted_score,
        grid=[[_rounded(value) for value in row] for row in found.heat.tolist()],
        delta=found.delta,
        details=found.details,
        overlay=overlay(shown, found.heat, found.smooth_px, found.full_from),
    )
    with context.sessions.begin() as session:
        kept = explanations.keep(session, job, _model(session, payload), made)
        result: dict[str, Any] = {"explanation_id": kept.id}
        result |= {name: getattr(kept, name) for name in ("model_id", "method", "label", "score", "predicted", "delta")}
        held.finish(session, result)
    log.info("model.explained", model=payload["model_id"], method=payload["method"], explanation=kept.id)


def _model(session: Session, payload: dict[str, Any]) -> Model:
    """The model, which stays until the transaction has ended."""
    model = session.get(Model, payload["model_id"], with_for_update=explanations.KEPT)
    if model is None:
        raise RefusedJobError(f"model {payload['model']} ({payload['model_id']}) was deleted before it was explained")
    return model


def _picture(context: Context, session: Session, job: Job) -> bytes:
    if job.input_sha256 is not None:
        return blobs.get(session, job.input_sha256)
    version = session.get(DatasetVersion, job.payload["version_id"])
    if version is None:
        raise RefusedJobError(f"the data set of example {job.payload['example']} was deleted before it was explained")
    return datasets.original(context.objects, version, datasets.example(session, version, job.payload["example"]))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
