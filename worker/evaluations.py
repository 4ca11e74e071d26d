"""A model on a split, as it will answer: the stored ONNX file, the packed pictures, scikit-free figures of the engine."""

import numpy as np
import onnxruntime
import structlog

from search.data import Images, Split
from search.evaluate import evaluation_of
from search.runtime import INPUT, OUTPUT
from store import blobs, searches
from store.database import hint
from store.ids import new_id
from store.queue import Hint, Task
from store.tables import DatasetVersion, Evaluation, Job, Model
from worker.context import Context
from worker.data import materialise
from worker.held import Held, RefusedJobError

log = structlog.get_logger()

BATCH = 256


def run(context: Context, job: Job, held: Held) -> None:
    """Evaluate `payload.model_id` on `payload.split`; for a search's winner, its hand-over follows.

    The time counts as worked on the search: a budget includes its last step.
    """
    split = Split[job.payload["split"].upper()]
    search_id = job.payload.get("search_id")
    with context.sessions.begin() as session:
        model = session.get(Model, job.payload["model_id"])
        if model is None:
            raise RefusedJobError(f"model {job.payload['model_id']} was deleted before it was evaluated")
        if model.version_id is None:
            raise RefusedJobError(f"the data set that model {model.id} was trained on was deleted")
        version = session.get_one(DatasetVersion, model.version_id)
        onnx = blobs.get(session, model.onnx_sha256)
        if search_id is not None:
            searches.tick(session, search_id)
    images = Images.open(materialise(context, version), model.labels)
    rows = images.rows(split)
    runtime = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    scores = np.empty((len(rows), len(model.labels)), np.float32)
    for start in range(0, len(rows), BATCH):
        batch = np.ascontiguousarray(images.pixels[rows[start : start + BATCH]])
        (scores[start : start + BATCH],) = runtime.run([OUTPUT], {INPUT: batch})
        held.report(examples=start + len(batch), total=len(rows))
    figures = evaluation_of(scores, images.targets[rows], images.labels, rows).to_json()
    with context.sessions.begin() as session:
        session.add(
            Evaluation(
                id=new_id("evaluation"),
                model_id=model.id,
                version_id=version.id,
                split=job.payload["split"],
                example_count=len(rows),
                metrics=figures["metrics"],
                per_label=figures["labels"],
                confusion=figures["confusion"],
            )
        )
        held.finish(session, {"model_id": model.id, "split": job.payload["split"], "metrics": figures["metrics"]})
        if search_id is not None:
            searches.tick(session, search_id)
            hint(session, Hint(Task.ADVANCE, search_id))
