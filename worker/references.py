"""What a deployed model learnt on, in numbers: measured once, so that nobody else has to open the packed pictures."""

from collections import Counter

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray
from sqlalchemy import select

from ingest.statistics import appearance, format_of
from search.data import Images
from search.runtime import INPUT, OUTPUT
from store import blobs, references
from store.tables import DatasetVersion, Example, Job, Model
from worker.context import Context
from worker.data import materialise
from worker.held import Held, RefusedJobError

log = structlog.get_logger()

BATCH = 256
SAMPLE = 1000  # pictures; a distribution estimated from so many is off by 0.04 at most, 19 times of 20
VALIDATED = 5000  # validation pictures that the model answers, at most
_DIGITS = 5


def run(context: Context, job: Job, held: Held) -> None:
    """Measure `payload.model_id` on the data set version that it was trained on."""
    with context.sessions.begin() as session:
        model = session.get(Model, job.payload["model_id"])
        if model is None:
            raise RefusedJobError(f"model {job.payload['model_id']} was deleted before it was measured")
        if model.version_id is None:
            raise RefusedJobError(
                f"the data set that model {model.name}@{model.number} was trained on was deleted, or is not of this service"
            )
        version = session.get_one(DatasetVersion, model.version_id)
        onnx = blobs.get(session, model.onnx_sha256)
    images = Images.open(materialise(context, version), model.labels)
    drawn = _evenly(images.train, SAMPLE)
    inputs = {name: values.tolist() for name, values in appearance(images.pixels[drawn]).items()}
    with context.sessions.begin() as session:
        of_files = select(Example.width, Example.height).where(
            Example.version_id == version.id, Example.number.in_(drawn.tolist())
        )
        formats = [format_of(width, height) for width, height in session.execute(of_files)]
    for name in formats[0] if formats else ():
        inputs[name] = [one[name] for one in formats]
    scores = _answers(onnx, images, _evenly(images.validation, VALIDATED), held)
    answers = Counter(scores.argmax(1).tolist())
    measured = references.Measured(
        training_labels=_by_label(Counter(images.targets[images.train].tolist()), images.labels),
        validation_labels=_by_label(answers, images.labels),
        confidences=_rounded(scores.max(1)[_evenly(np.arange(len(scores)), SAMPLE)].tolist()),
        inputs={name: _rounded(values) for name, values in inputs.items()},
    )
    with context.sessions.begin() as session:
        references.put(session, model.id, measured)
        held.finish(session, {"model_id": model.id, "training": len(drawn), "validation": len(scores)})


def _answers(onnx: bytes, images: Images, rows: NDArray[np.int64], held: Held) -> NDArray[np.float32]:
    """The model's scores (N, classes) as it will serve them."""
    runtime = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    scores = np.empty((len(rows), len(images.labels)), np.float32)
    for start in range(0, len(rows), BATCH):
        batch = np.ascontiguousarray(images.pixels[rows[start : start + BATCH]])
        (scores[start : start + BATCH],) = runtime.run([OUTPUT], {INPUT: batch})
        held.report(examples=start + len(batch), total=len(rows))
    return scores


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the rows, spread over all of them: data sets are stored label by label."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _by_label(counts: Counter[int], labels: tuple[str, ...]) -> dict[str, int]:
    return {label: counts[place] for place, label in enumerate(labels)}


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
