"""A model becomes a file in another format: `search/exports/` does the work, this keeps job, rows and blobs."""

import numpy as np
import structlog
from sqlalchemy import select

from ingest.preprocess import decode
from search.data import Images
from search.exports import compared_rows, export
from search.exports.values import Data, RefusedError, Subject
from store import blobs, datasets, exports
from store.errors import CorruptBlobError
from store.tables import DatasetVersion, Example, Job, Model
from worker.context import Context
from worker.data import materialise
from worker.held import Held, RefusedJobError
from worker.imports import limits_of

log = structlog.get_logger()

ORIGINAL_PIXELS = 32 << 20  # of all files that one export decodes for comparison: some 100 MB of memory


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
    """The pictures of the version: packed ones all, and of those that are compared the files, decoded."""
    images = Images.open(materialise(context, version), subject.labels)
    numbers = [int(number) for number in compared_rows(images)]
    with context.sessions.begin() as session:
        examples = {
            example.number: example
            for example in session.scalars(
                select(Example).where(Example.version_id == version.id, Example.number.in_(numbers))
            )
        }
    originals, packed, pixels = [], [], 0
    for example in (examples[number] for number in numbers if number in examples):
        pixels += example.width * example.height
        if pixels > ORIGINAL_PIXELS:
            break
        file = datasets.original(context.objects, version, example)
        image = np.asarray(decode(file, subject.channels, limits_of(context.settings)), np.uint8)
        originals.append(image.reshape(*image.shape[:2], subject.channels))
        packed.append(images.pixels[example.number])
    return Data(images, originals, packed)
