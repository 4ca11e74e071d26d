"""A model becomes a file in another format: `search/exports/` does the work, this keeps job, rows and blobs."""

import structlog

from search.data import Images
from search.exports import export
from search.exports.values import Data, RefusedError, Subject
from store import blobs, exports
from store.errors import CorruptBlobError
from store.tables import DatasetVersion, Job, Model
from worker.context import Context
from worker.data import materialise
from worker.held import Held, RefusedJobError

log = structlog.get_logger()


def run(context: Context, job: Job, held: Held) -> None:
    """Export `payload.model_id` as `payload.format`. The blob, its row and the end of the job are one transaction."""
    payload = job.payload
    deleted = RefusedJobError(f"model {payload['model']} ({payload['model_id']}) was deleted before it was exported")
    with context.sessions.begin() as session:
        model = session.get(Model, payload["model_id"])
        if model is None:
            raise deleted
        version = None if model.version_id is None else session.get(DatasetVersion, model.version_id)
        try:
            weights, onnx = blobs.get(session, model.weights_sha256), blobs.get(session, model.onnx_sha256)
        except CorruptBlobError as error:
            raise RefusedJobError(
                f"model {payload['model']} cannot be exported, its file is damaged: {error}"
            ) from error
        subject = Subject(
            name=model.name,
            version=model.number,
            description=model.description,
            genotype=model.genotype,
            labels=model.labels,
            side=int(model.preprocessing["side"]),
            channels=int(model.preprocessing["channels"]),
            weights=weights,
            onnx=onnx,
            source=model.source,
        )
    held.report(stage="converting", format=payload["format"])
    data = None if version is None else _data(context, version, subject)
    try:
        made = export(subject, data, payload["format"], payload["options"])
    except RefusedError as error:
        raise RefusedJobError(str(error)) from error
    held.report(stage="storing", format=payload["format"])
    with context.sessions.begin() as session:
        model = session.get(Model, payload["model_id"], with_for_update={"key_share": True})
        if model is None:
            raise deleted
        kept = exports.keep(session, job, model, exports.File(made.content, made.name, made.media_type, made.report))
        held.finish(
            session,
            {
                "export_id": kept.id,
                "model_id": model.id,
                "format": kept.format,
                "sha256": kept.sha256.hex(),
                "size_bytes": kept.size_bytes,
                "max_difference": kept.report["max_difference"],
            },
        )
    log.info("model.exported", model=payload["model_id"], format=payload["format"], size_bytes=len(made.content))


def _data(context: Context, version: DatasetVersion, subject: Subject) -> Data:
    return Data(Images.open(materialise(context, version), subject.labels))
