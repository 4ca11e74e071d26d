"""Rows of batch predictions as what callers are told."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.batch_predictions.schemas import BatchPrediction, Source, Summary
from api.jobs.views import job_view
from api.schemas import link_to
from store import batches, tables


def batch_views(session: Session, found: Sequence[tables.BatchPrediction]) -> list[BatchPrediction]:
    counts = batches.counts(session, [batch.id for batch in found])
    return [batch_view(batch, *counts.get(batch.id, (0, 0))) for batch in found]


def batch_view(batch: tables.BatchPrediction, rows: int, errors: int) -> BatchPrediction:
    here, job = link_to("batch_predictions", batch.id), job_view(batch.job)
    links = {
        "self": here,
        "job": job.links["self"],
        "events": job.links["events"],
        "jsonl": f"{here}/results?format=jsonl",
        "csv": f"{here}/results?format=csv",
        "model": link_to("models", f"{batch.model_name}@{batch.model_number}"),
    }
    source = batch.source
    return BatchPrediction(
        id=batch.id,
        job=job.id,
        state=job.state,
        model=batch.model_name,
        model_version=batch.model_number,
        model_id=batch.model_id,
        precision=batch.precision,
        deployment=batch.deployment,
        source=Source(
            kind=source["kind"],
            dataset=source.get("dataset"),
            version=source.get("version"),
            split=source.get("split"),
            size_bytes=source.get("size_bytes"),
            count=source.get("count"),
        ),
        top_k=batch.top_k,
        rows=rows,
        errors=errors,
        progress=job.progress,
        result=None if job.result is None else Summary.model_validate(job.result),
        error=job.error,
        cancel_requested=job.cancel_requested,
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        links=links,
    )
