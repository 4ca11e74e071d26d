"""Rows of exports as what callers are told."""

from api.exports.schemas import Export
from api.schemas import link_to
from store import tables


def export_view(model: tables.Model, export: tables.Export) -> Export:
    of = f"{model.name}@{model.number}"
    here = link_to("models", of, "exports", export.id)
    return Export(
        id=export.id,
        model=model.name,
        version=model.number,
        format=export.format,
        options=export.options,
        sha256=export.sha256.hex(),
        size_bytes=export.size_bytes,
        file_name=export.file_name,
        media_type=export.media_type,
        report=export.report,
        job=export.job_id,
        created_at=export.created_at,
        links={
            "self": here,
            "content": f"{here}/content",
            "model": link_to("models", of),
            "job": link_to("jobs", export.job_id),
        },
    )
