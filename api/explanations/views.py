"""Rows of explanations as what callers are told."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from api.explanations.schemas import Explanation, ExplanationWithGrid
from api.schemas import link_to
from store import models, tables


def explanation_views(session: Session, model: tables.Model, found: Sequence[tables.Explanation]) -> list[Explanation]:
    """Without their grids."""
    return [Explanation(**values) for values in _told(session, model, found)]


def whole_view(session: Session, model: tables.Model, explanation: tables.Explanation) -> ExplanationWithGrid:
    (values,) = _told(session, model, [explanation])
    return ExplanationWithGrid(**values, grid=explanation.grid)


def _told(session: Session, model: tables.Model, found: Sequence[tables.Explanation]) -> list[dict[str, Any]]:
    of = f"{model.name}@{model.number}"
    sources = models.datasets_of(session, found)
    told = []
    for row in found:
        here = link_to("models", of, "explanations", row.id)
        dataset, number = sources.get(row.version_id or "", (None, None))
        links = {
            "self": here,
            "overlay": f"{here}/overlay",
            "model": link_to("models", of),
            "job": link_to("jobs", row.job_id),
        }
        if dataset is not None:
            links["example"] = f"{link_to('datasets', dataset, 'examples', str(row.example))}?version={number}"
        told.append(
            {
                "id": row.id,
                "model": model.name,
                "version": model.number,
                "dataset": dataset,
                "dataset_version": number,
                "example": row.example,
                "method": row.method,
                "label": row.label,
                "score": row.score,
                "predicted": row.predicted,
                "predicted_score": row.predicted_score,
                "delta": row.delta,
                "details": row.details,
                "job": row.job_id,
                "created_at": row.created_at,
                "links": links,
            }
        )
    return told
