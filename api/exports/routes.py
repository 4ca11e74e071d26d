"""Routes of exports: a model in a format that others read."""

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import Editor, Once, Viewer, Work
from api.downloads import BINARY, Download, send
from api.exports.schemas import Export, ExportPage, NewExport
from api.exports.views import export_view
from api.jobs.schemas import Job
from api.jobs.views import job_view
from api.routing import Route
from api.runtime import runtime_of
from api.schemas import ExportRef, Freed, ModelRef, PageSize, PageToken, link_to
from search import catalog
from store import audit, exports, models, tables
from store.pages import page

router = APIRouter(prefix="/v1/models/{model}/exports", tags=["models"], route_class=Route)


@router.post("", status_code=202)
def create_export(model: ModelRef, new: NewExport, work: Work, caller: Editor, _: Once, response: Response) -> Job:
    """Have the model written in another format. The job's result has `export_id`.

    What was made before is not made again: then the answer is the job that made it. Each export is loaded in a fresh
    process without Netwright and asked about 64 pictures; one that answers otherwise than the model fails its job.
    """
    options = catalog.entry(catalog.EXPORTS, new.format, "format").resolve(new.options)
    found = models.get(work, model)
    job, begun = exports.ask(work, found, new.format, options)
    if begun:
        details = {"model": f"{found.name}@{found.number}", "format": new.format, "options": options, "job": job.id}
        audit.note(work, caller.id, "export.create", found.id, details)
    response.headers["Location"] = link_to("jobs", job.id)
    return job_view(job)


@router.get("")
def list_exports(
    model: ModelRef, work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None
) -> ExportPage:
    """What there is of this version in other formats, newest first."""
    found = models.get(work, model)
    statement = select(tables.Export).where(tables.Export.model_id == found.id)
    rows, following = page(work, statement, tables.Export.id, page_size, page_token, newest_first=True)
    return ExportPage(items=[export_view(found, row) for row in rows], next_page_token=following)


@router.get("/{export}")
def get_export(model: ModelRef, export: ExportRef, work: Work, _: Viewer) -> Export:
    found = models.get(work, model)
    return export_view(found, exports.get(work, found, export))


@router.get("/{export}/content", response_class=Response, responses=BINARY)
async def download_export(request: Request, model: ModelRef, export: ExportRef, _: Viewer) -> Response:
    """The file. A `Range` is honoured, so that a download that broke off can be taken up again."""

    def find(session: Session) -> Download:
        row = exports.get(session, models.get(session, model), export)
        return Download(row.sha256, row.size_bytes, row.file_name, row.media_type)

    runtime = runtime_of(request)
    return send(request, await runtime.transact(find))


@router.delete("/{export}")
def delete_export(model: ModelRef, export: ExportRef, work: Work, caller: Editor) -> Freed:
    """Delete the file; the model stays."""
    found = models.get(work, model)
    row = exports.get(work, found, export)
    details = {"model": f"{found.name}@{found.number}", "format": row.format, "freed_bytes": row.size_bytes}
    freed = exports.delete(work, row)
    audit.note(work, caller.id, "export.delete", row.id, details)
    return Freed(freed_bytes=freed)
