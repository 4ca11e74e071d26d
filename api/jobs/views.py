"""Rows of jobs as what callers are told."""

from sqlalchemy.orm import Session

from api.jobs.schemas import Job, JobError
from api.schemas import link_to
from store import jobs, tables
from store.states import is_final


def job_view(job: tables.Job) -> Job:
    here = link_to("jobs", job.id)
    links = {"self": here, "events": f"{here}/events"}
    if job.kind == "import":
        links["report"] = f"{here}/report"
    if job.dataset_id is not None:
        links["dataset"] = link_to("datasets", job.dataset_id)
    if job.kind == "evaluation" and job.result is not None:
        links["evaluation"] = link_to("models", job.result["model_id"], "evaluations", job.result["evaluation_id"])
    if job.kind == "explanation" and job.result is not None:
        links["explanation"] = link_to("models", job.result["model_id"], "explanations", job.result["explanation_id"])
    if job.kind == "batch_prediction":
        links["batch_prediction"] = link_to("batch_predictions", job.payload["batch_id"])
    error = None
    if job.error is not None:
        # A traceback is for the log and the operator, not for every reader of a job.
        error = JobError(kind=str(job.error.get("kind", "bug")), message=str(job.error.get("message", "")))
    return Job(
        id=job.id,
        kind=job.kind,
        state=job.state.value,
        dataset_id=job.dataset_id,
        progress=job.progress,
        result=job.result,
        error=error,
        cancel_requested=job.cancel_requested_at is not None,
        attempt=job.attempt,
        worker=job.worker,
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        links=links,
    )


def final_state(session: Session, job_id: str) -> str | None:
    """Its state once nothing follows any more. Raises NotFoundError."""
    state = jobs.get(session, job_id).state
    return state.value if is_final(state) else None


def is_over(session: Session, job_id: str) -> bool:
    """Raises NotFoundError."""
    return final_state(session, job_id) is not None
