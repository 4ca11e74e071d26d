"""Routes of jobs: how the slow things stand."""

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import Editor, Once, Viewer, Work
from api.events import LastEventId, follow
from api.jobs.schemas import Job, JobPage, ReportLine, ReportPage
from api.jobs.views import final_state, is_over, job_view
from api.openapi import EVENT_STREAM
from api.routing import Route
from api.runtime import runtime_of
from api.schemas import JobRef, PageSize, PageToken, Reference, Wait
from store import audit, datasets, jobs, tables
from store.pages import page
from store.states import JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)


@router.get("")
def list_jobs(
    work: Work,
    _: Viewer,
    state: JobState | None = None,
    kind: Literal["import", "evaluation", "export", "batch_prediction", "reference", "explanation"] | None = None,
    dataset: Annotated[Reference | None, Query(description="Only those of this data set.")] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> JobPage:
    """All jobs, newest first."""
    statement = select(tables.Job)
    if state is not None:
        statement = statement.where(tables.Job.state == state)
    if kind is not None:
        statement = statement.where(tables.Job.kind == kind)
    if dataset is not None:
        statement = statement.where(tables.Job.dataset_id == datasets.get(work, dataset).id)
    rows, following = page(work, statement, tables.Job.id, page_size, page_token, newest_first=True)
    return JobPage(items=[job_view(row) for row in rows], next_page_token=following)


@router.get("/{job}")
async def get_job(request: Request, job: JobRef, _: Viewer, wait: Wait = 0) -> Job:
    """A job as it stands; with `?wait=30` as it stands at its end, or in 30 seconds."""
    runtime = runtime_of(request)
    await runtime.until(partial(is_over, job_id=job), wait, request)

    def read(session: Session) -> Job:
        return job_view(jobs.get(session, job))

    return await runtime.transact(read)


@router.get("/{job}/events", response_class=Response, responses=EVENT_STREAM)
async def follow_job(request: Request, job: JobRef, _: Viewer, last_event_id: LastEventId = None) -> Response:
    """Follow a job: `curl -N`. Kinds: job, progress, and at last end."""
    return await follow(request, job, partial(final_state, job_id=job), last_event_id)


@router.get("/{job}/report")
def list_job_report(
    job: JobRef, work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None
) -> ReportPage:
    """What became of each item of an import that was refused or mended."""
    found = jobs.get(work, job)
    statement = select(tables.ReportLine).where(tables.ReportLine.job_id == found.id)
    rows, following = page(work, statement, tables.ReportLine.ordinal, page_size, page_token)
    lines = [ReportLine(path=row.path, reason=row.reason, action=row.action) for row in rows]
    return ReportPage(items=lines, next_page_token=following)


@router.post("/{job}/cancel", status_code=202)
def cancel_job(job: JobRef, work: Work, caller: Editor, _: Once) -> Job:
    """Ask for its end: at once when it is queued, within seconds when it runs."""
    found = jobs.request_cancel(work, job)
    audit.note(work, caller.id, "job.cancel", found.id)
    return job_view(found)
