"""Jobs on the wire."""

from typing import Any, Literal

from pydantic import Field

from api.schemas import Page, Time, View, example


class JobError(View):
    kind: str = Field(description="refused: the input cannot be used; bug: a fault of the service; worker_lost.")
    message: str


class Job(View):
    model_config = example(
        id="jo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        kind="import",
        state="running",
        dataset_id="ds_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        progress={"stage": "decoding", "done": 1200, "total": 3670},
        result=None,
        error=None,
        cancel_requested=False,
        attempt=1,
        worker="worker@host",
        created_at="2026-01-31T12:00:00Z",
        started_at="2026-01-31T12:00:01Z",
        ended_at=None,
        links={"self": "/v1/jobs/jo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3"},
    )

    id: str
    kind: Literal["import", "evaluation", "export", "batch_prediction", "reference", "explanation"]
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    dataset_id: str | None
    progress: dict[str, Any]
    result: dict[str, Any] | None = Field(description="Of an import: version, examples, labels, report_lines, …")
    error: JobError | None
    cancel_requested: bool
    attempt: int
    worker: str | None
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    links: dict[str, str]


class JobPage(Page[Job]):
    pass


class ReportLine(View):
    """One item of an upload that was refused or mended."""

    path: str
    reason: str
    action: str


class ReportPage(Page[ReportLine]):
    pass
