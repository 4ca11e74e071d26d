"""Routes of explanations: what in one picture speaks for a label."""

import base64
import binascii
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import Editor, Once, Viewer, Work
from api.explanations.schemas import ExplanationPage, ExplanationWithGrid, NewExplanation
from api.explanations.views import explanation_views, whole_view
from api.jobs.schemas import Job
from api.jobs.views import job_view
from api.routing import Route
from api.runtime import Runtime, runtime_of
from api.schemas import ExplanationRef, Freed, ModelRef, PageSize, PageToken, link_to
from ingest.errors import UnreadableImageError
from ingest.limits import MIB, Limits
from ingest.preprocess import probe
from search.occlusion import Occlusion, OcclusionError
from store import audit, blobs, datasets, explanations, models, tables
from store.pages import page
from web.problems import Fault, ProblemError, invalid

PNG: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A PNG.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}


class PictureRoute(Route):
    """A route whose JSON may carry a picture in base64."""

    body_max_bytes = 32 * MIB


router = APIRouter(prefix="/v1/models/{model}/explanations", tags=["models"], route_class=PictureRoute)


@router.post("", status_code=202)
def create_explanation(
    request: Request, model: ModelRef, new: NewExplanation, work: Work, caller: Editor, _: Once, response: Response
) -> Job:
    """Have one answer of the model explained: which places of the picture speak for the label.

    The job's result has `explanation_id`. `POST /v1/models/{model}/explain` answers at once, by occlusion alone.
    """
    found = models.get(work, model)
    options = checked_options(found, new)
    picture = sent_picture(runtime_of(request), new.picture) if new.picture is not None else example_of(work, new)
    job = explanations.ask(work, found, picture, method=new.method, label=new.label, options=options)
    details = {"model": f"{found.name}@{found.number}", "method": new.method, "job": job.id}
    audit.note(work, caller.id, "explanation.create", found.id, details)
    response.headers["Location"] = link_to("jobs", job.id)
    return job_view(job)


def checked_options(model: tables.Model, new: NewExplanation) -> dict[str, Any]:
    """Of the method. Raises ProblemError (422) for squares that do not fit the model's pictures."""
    if new.method == "occlusion":
        try:
            Occlusion.of(int(model.preprocessing["side"]), **new.options)
        except OcclusionError as error:
            raise invalid([Fault(error.field, str(error), error.value)]) from None
    return new.options


def sent_picture(runtime: Runtime, encoded: str) -> bytes:
    """Raises ProblemError (413, 422) for what its size or its first bytes rule out; the rest the job finds out."""
    limit = runtime.settings.predict_max_bytes
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid([Fault("picture", f"is not base64: {error}", encoded[:40])]) from None
    if len(data) > limit:
        raise ProblemError(413, "content-too-large", f"the picture has {len(data):,} bytes; the limit is {limit:,}")
    try:
        probe(data, Limits(max_pixels=runtime.settings.picture_max_pixels))
    except UnreadableImageError as error:
        raise invalid([Fault("picture", str(error))]) from None
    return data


def example_of(work: Session, new: NewExplanation) -> tables.Example:
    """Raises NotFoundError, ConflictError."""
    assert new.dataset is not None
    assert new.example is not None
    version = datasets.require_version(work, datasets.get(work, new.dataset), new.version)
    return datasets.example(work, version, new.example)


@router.get("")
def list_explanations(
    model: ModelRef, work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None
) -> ExplanationPage:
    """What was explained of this version, newest first, without the numbers of the pixels."""
    found = models.get(work, model)
    statement = select(tables.Explanation).where(tables.Explanation.model_id == found.id)
    rows, following = page(work, statement, tables.Explanation.id, page_size, page_token, newest_first=True)
    return ExplanationPage(items=explanation_views(work, found, rows), next_page_token=following)


@router.get("/{explanation}")
def get_explanation(model: ModelRef, explanation: ExplanationRef, work: Work, _: Viewer) -> ExplanationWithGrid:
    found = models.get(work, model)
    return whole_view(work, found, explanations.get(work, found, explanation))


@router.get("/{explanation}/overlay", response_class=Response, responses=PNG)
def get_explanation_overlay(model: ModelRef, explanation: ExplanationRef, work: Work, _: Viewer) -> Response:
    """The picture in gray; what is warm speaks for the label, what is blue against it."""
    row = explanations.get(work, models.get(work, model), explanation)
    headers = {"ETag": f'"{row.overlay_sha256.hex()}"', **IMMUTABLE}
    return Response(blobs.get(work, row.overlay_sha256), media_type="image/png", headers=headers)


@router.delete("/{explanation}")
def delete_explanation(model: ModelRef, explanation: ExplanationRef, work: Work, caller: Editor) -> Freed:
    found = models.get(work, model)
    row = explanations.get(work, found, explanation)
    details = {"model": f"{found.name}@{found.number}", "method": row.method, "freed_bytes": row.overlay_bytes}
    freed = explanations.delete(work, row)
    audit.note(work, caller.id, "explanation.delete", row.id, details)
    return Freed(freed_bytes=freed)
