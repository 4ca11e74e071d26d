"""Routes of batch predictions: ask a model about many pictures, read the answers."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload
from starlette.responses import StreamingResponse

from api.batch_predictions.results import MEDIA_TYPES, Format, Stored, stream, takes_gzip
from api.batch_predictions.schemas import (
    DEFAULT_TOP_K,
    MAX_TOP_K,
    BatchPrediction,
    BatchPredictionPage,
    NewBatchPrediction,
    NewSource,
)
from api.batch_predictions.views import batch_views
from api.datasets import uploads
from api.datasets.schemas import SPLITS
from api.deps import Editor, Once, Viewer, Work
from api.jobs.views import is_over
from api.routing import Route, StreamedRoute
from api.runtime import runtime_of
from api.schemas import BatchRef, Freed, PageSize, PageToken, Reference, Wait, link_to
from store import audit, batches, datasets, jobs, models, tables
from store.errors import ConflictError
from store.pages import page
from store.settings import Settings
from store.states import JobState, is_final
from store.uris import Allowed, UriRefusedError
from web.problems import Fault, invalid

router = APIRouter(prefix="/v1/batch_predictions", tags=["batch predictions"], route_class=Route)
streamed = APIRouter(prefix="/v1/batch_predictions", tags=["batch predictions"], route_class=StreamedRoute)

FAULTS_TOLD = 20
TOP_K = "How many labels to list for each picture, the best first."
RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One line for each row, in order: of JSON, or of a table with a header.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}},
            "text/csv": {"schema": {"type": "string"}},
        },
    },
    409: {
        "description": "It has not ended.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    },
}


@router.post("", status_code=202)
def create_batch_prediction(
    request: Request, new: NewBatchPrediction, work: Work, caller: Editor, _: Once, response: Response
) -> BatchPrediction:
    """Ask a model about all pictures of a data set, of one split of it, or at a list of addresses.

    A data set's pictures are asked about as they were uploaded. Addresses have to be of places that the operator lists
    (NETWRIGHT_BATCH_SOURCES; by default there are none). The model cannot be deleted before the batch has ended.
    """
    answering = chosen(work, new.model, new.deployment)
    source, version = read_source(work, new.source, runtime_of(request).settings)
    batch = batches.create(work, answering, source, new.top_k, version=version)
    noted(work, caller.id, batch)
    response.headers["Location"] = link_to("batch_predictions", batch.id)
    return batch_views(work, [batch])[0]


def chosen(session: Session, model: str | None, deployment: str | None) -> batches.Answering:
    """Raises NotFoundError, and ConflictError for a deployment that does not answer with one model."""
    if model is not None:
        return batches.Answering(models.get(session, model))
    assert deployment is not None
    return batches.behind(session, deployment)


def read_source(
    session: Session, source: NewSource, settings: Settings
) -> tuple[Mapping[str, Any], tables.DatasetVersion | None]:
    """Raises NotFoundError, ConflictError, ProblemError (422 with each address that may not be fetched, the first few)."""
    if source.uris is not None:
        check_uris(source.uris, Allowed.parse(settings.batch_sources))
        return {"kind": "uris", "uris": source.uris, "count": len(source.uris)}, None
    assert source.dataset is not None
    dataset = datasets.get(session, source.dataset)
    version = datasets.require_version(session, dataset, source.version)
    split = None if source.split is None else SPLITS.index(source.split)
    if split is not None and not sum(
        count for (_, at), count in datasets.label_counts(session, version).items() if at == split
    ):
        raise invalid([Fault("source.split", f"data set {dataset.name!r} has no examples in this part", source.split)])
    return {"kind": "dataset", "dataset": dataset.name, "version": version.number, "split": source.split}, version


def check_uris(uris: list[str], allowed: Allowed) -> None:
    faults = []
    for place, uri in enumerate(uris):
        try:
            allowed.check(uri)
        except UriRefusedError as error:
            faults.append(Fault(f"source.uris[{place}]", f"the address {error}", uri))
            if len(faults) == FAULTS_TOLD:
                break
    if faults:
        raise invalid(faults)


def noted(session: Session, caller_id: str, batch: tables.BatchPrediction) -> None:
    source = {name: value for name, value in batch.source.items() if name not in ("uris", "key")}
    details = {"model": f"{batch.model_name}@{batch.model_number}", "deployment": batch.deployment, "source": source}
    audit.note(session, caller_id, "batch_prediction.create", batch.id, details)


@streamed.put(
    "/data",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "zip, tar, tar.gz, tar.xz or tar.bz2 of pictures, in any folders or none.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_batch_prediction_data(
    request: Request,
    response: Response,
    caller: Editor,
    model: Annotated[Reference | None, Query(description="A model's name, name@version, or an id.")] = None,
    deployment: Annotated[Reference | None, Query(description="In place of `model`.")] = None,
    top_k: Annotated[int, Query(ge=1, le=MAX_TOP_K, description=TOP_K)] = DEFAULT_TOP_K,
    wait: Wait = 0,
) -> BatchPrediction:
    """Ask a model about an archive of pictures: `curl -T pictures.zip '…/v1/batch_predictions/data?model=flowers'`.

    Every file of the archive becomes a row; one that is no picture, or may not be read, a row that says why. The body is
    streamed and may be chunked; when it is cut off, nothing is kept. The archive is deleted when the batch has ended.
    """
    if (model is None) == (deployment is None):
        given = "both" if model is not None else "neither"
        raise invalid([Fault("model", f"give one of model and deployment; this request has {given}", model)])
    runtime = runtime_of(request)
    uploads.check_declared(request, runtime)

    def known(session: Session) -> None:
        chosen(session, model, deployment)

    await runtime.transact(known)

    def begin(session: Session, key: str, size: int) -> BatchPrediction:
        source = {"kind": "upload", "key": key, "size_bytes": size}
        answering = chosen(session, model, deployment)
        batch = batches.create(session, answering, source, top_k, upload_key=key)
        noted(session, caller.id, batch)
        return batch_views(session, [batch])[0]

    async with uploads.received(request, runtime) as (key, size):
        batch = await runtime.transact(partial(begin, key=key, size=size))
    await runtime.until(partial(is_over, job_id=batch.job), wait, request)
    response.headers["Location"] = link_to("batch_predictions", batch.id)
    return await runtime.transact(partial(read, batch_id=batch.id)) if wait else batch


def read(session: Session, batch_id: str) -> BatchPrediction:
    """Raises NotFoundError."""
    return batch_views(session, [batches.get(session, batch_id)])[0]


@router.get("")
def list_batch_predictions(
    work: Work,
    _: Viewer,
    state: JobState | None = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> BatchPredictionPage:
    """All batch predictions, newest first."""
    statement = select(tables.BatchPrediction).options(joinedload(tables.BatchPrediction.job))
    if state is not None:
        statement = statement.join(tables.Job).where(tables.Job.state == state)
    rows, following = page(work, statement, tables.BatchPrediction.id, page_size, page_token, newest_first=True)
    return BatchPredictionPage(items=batch_views(work, rows), next_page_token=following)


@router.get("/{batch}")
async def get_batch_prediction(request: Request, batch: BatchRef, _: Viewer, wait: Wait = 0) -> BatchPrediction:
    """A batch as it stands; with `?wait=30` as it stands at its end, or in 30 seconds."""
    runtime = runtime_of(request)

    def over(session: Session) -> bool:
        return is_final(batches.get(session, batch).job.state)

    await runtime.until(over, wait, request)
    return await runtime.transact(partial(read, batch_id=batch))


@router.get("/{batch}/results", response_class=Response, responses=RESULTS)
async def get_batch_prediction_results(
    request: Request,
    batch: BatchRef,
    _: Viewer,
    format: Annotated[Format, Query(description="jsonl: a line of JSON for each row. csv: a table.")] = "jsonl",
) -> Response:
    """The answers of a batch that has ended, in order; of one that failed or was cancelled, those that it had.

    A row says what was asked about (`example` and `path` of a data set with its `true_label`, `path` in the archive, or
    `uri`), and `label`, `score` and `top`, or `error`. A text that a spreadsheet would take for a formula has a `'` before
    it in the table. Packed with gzip for those who accept it.
    """
    runtime = runtime_of(request)

    def find(session: Session) -> Stored:
        found = batches.get(session, batch)
        if not is_final(found.job.state):
            raise ConflictError(
                f"batch prediction {batch} is {found.job.state}; its results can be read when it has ended"
            )
        keys = [part.object_key for part in batches.parts(session, batch)]
        return Stored(keys, found.source["kind"], found.top_k)

    stored = await runtime.transact(find)
    packed = takes_gzip(request.headers.get("accept-encoding"))
    headers = {"Vary": "Accept-Encoding", "Content-Disposition": f'attachment; filename="{batch}.{format}"'}
    if packed:
        headers["Content-Encoding"] = "gzip"
    body = stream(runtime.objects, stored, format, packed=packed)
    return StreamingResponse(body, media_type=MEDIA_TYPES[format], headers=headers)


@router.post("/{batch}/cancel", status_code=202)
def cancel_batch_prediction(batch: BatchRef, work: Work, caller: Editor, _: Once) -> BatchPrediction:
    """Ask for its end: at once when it is queued, within seconds when it runs. What is answered stays to be read."""
    found = batches.get(work, batch)
    jobs.request_cancel(work, found.job_id)
    audit.note(work, caller.id, "batch_prediction.cancel", found.id)
    return batch_views(work, [found])[0]


@router.delete("/{batch}")
def delete_batch_prediction(batch: BatchRef, work: Work, caller: Editor) -> Freed:
    """Delete a batch that has ended, with its results and its job."""
    found = batches.get(work, batch)
    freed = batches.delete(work, found)
    audit.note(work, caller.id, "batch_prediction.delete", found.id, {"freed_bytes": freed})
    return Freed(freed_bytes=freed)
