"""A model on pictures, as it will answer: the stored ONNX file, and pictures prepared as it was trained on."""

import importlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray

from ingest.errors import UnreadableImageError
from ingest.preprocess import Preprocessing, to_array
from search.answers import Answers, Curves
from search.runtime import INPUT, OUTPUT, session_options, threads
from store import blobs, evaluations, searches
from store.database import hint
from store.queue import Hint, Task
from store.tables import DatasetVersion, Job, Model
from worker.context import Context
from worker.held import Held, RefusedJobError
from worker.imports import limits_of

log = structlog.get_logger()

BATCH = 256
LARGE_PIXELS = 8_000_000  # decoded one at a time: they take up to 4 bytes a pixel, several times over
SIZES = (32, 64, 128, 256, 512, 1024)  # pixels; the slices by size end here
_large = threading.Lock()


def warm_up() -> None:
    """Load what makes the figures, in the background: it takes seconds, which the end of the first search has not."""
    threading.Thread(target=importlib.import_module, args=("search.figures",), name="figures", daemon=True).start()


def run(context: Context, job: Job, held: Held) -> None:
    """Evaluate `payload.model_id` on `payload.split` of `payload.version_id`; for a search's winner, its hand-over follows.

    The time counts as worked on the search: a budget includes its last step. Pictures with labels that the model does not
    know are left out and counted, as are those that cannot be decoded at the model's size.
    """
    split, search_id = job.payload["split"], job.payload.get("search_id")
    with context.sessions.begin() as session:
        model = session.get(Model, job.payload["model_id"])
        if model is None:
            raise RefusedJobError(f"model {job.payload['model_id']} was deleted before it was evaluated")
        version = session.get(DatasetVersion, job.payload["version_id"])
        if version is None:
            raise RefusedJobError(f"the data that model {model.id} was to be evaluated on was deleted")
        pictures = evaluations.pictures(session, version, split)
        came_with = evaluations.came_with(session, version)
        trained_on = evaluations.trained_on(session, model)
        onnx = blobs.get(session, model.onnx_sha256)
        if search_id is not None:
            searches.tick(session, search_id)
    places = {label: place for place, label in enumerate(model.labels)}
    target_of = [places.get(label) for label in version.labels]
    known = [picture for picture in pictures if target_of[picture.label] is not None]
    scores, readable = _answered(context, held, model, version, onnx, known)
    seen = [picture for picture, good in zip(known, readable, strict=True) if good]
    scores = scores[readable]
    numbers = np.array([picture.number for picture in seen], np.int64)
    targets = np.array([target_of[picture.label] for picture in seen], np.int64)
    familiar = None if trained_on is None else [picture.sha256 in trained_on for picture in seen]
    figures = _figures(targets, scores, model.labels, _groups(version, seen, came_with, familiar))
    skipped = {
        "unknown_labels": _counts([version.labels[p.label] for p in pictures if target_of[p.label] is None]),
        "unreadable": len(known) - len(seen),
    }
    with context.sessions.begin() as session:
        evaluation = evaluations.add(
            session,
            model,
            version,
            split,
            figures
            | {
                "example_count": len(seen),
                "skipped": skipped,
                "trained_on": None if familiar is None else sum(familiar),
            },
            curves=blobs.put(session, Curves.of(targets, scores).to_bytes()),
            answers=blobs.put(session, Answers.of(numbers, targets, scores).to_bytes()),
        )
        result = {"evaluation_id": evaluation.id, "model_id": model.id, "split": split, "metrics": figures["metrics"]}
        held.finish(session, result)
        if search_id is not None:
            searches.tick(session, search_id)
            hint(session, Hint(Task.ADVANCE, search_id))


def _groups(
    version: DatasetVersion,
    pictures: Sequence[evaluations.Picture],
    came_with: Mapping[bytes, int],
    familiar: Sequence[bool] | None,
) -> dict[str, NDArray[np.str_]]:
    """What the pictures are sliced by: by what → value of each picture, (N,)."""
    groups = {
        "size": [_size_of(picture.width, picture.height) for picture in pictures],
        "label": [version.labels[picture.label] for picture in pictures],
        "format": [picture.format for picture in pictures],
        "import": [f"version {came_with[picture.sha256]}" for picture in pictures],
    }
    if familiar is not None:
        groups["training"] = ["trained on" if each else "new" for each in familiar]
    return {by: np.array(values, str) for by, values in groups.items()}


def _figures(
    targets: NDArray[np.int64], scores: NDArray[np.float32], labels: Sequence[str], groups: dict[str, NDArray[np.str_]]
) -> dict[str, Any]:
    from search.figures import figures_of, slices_of  # seconds to load: not before a worker says that it is there

    slices = [asdict(each) for each in slices_of(targets, scores, groups)]
    return figures_of(targets, scores, labels).to_json() | {"slices": slices}


def _answered(
    context: Context,
    held: Held,
    model: Model,
    version: DatasetVersion,
    onnx: bytes,
    pictures: Sequence[evaluations.Picture],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores (N, labels) of the model, and which of the pictures could be decoded (N,)."""
    runtime = onnxruntime.InferenceSession(onnx, session_options(threads()), providers=["CPUExecutionProvider"])
    scores = np.zeros((len(pictures), len(model.labels)), np.float32)
    readable = np.zeros(len(pictures), bool)
    done = 0
    for batch, good in _batches(context, model, version, pictures):
        rows = slice(done, done + len(good))
        if good.any():
            (scores[rows],) = runtime.run([OUTPUT], {INPUT: batch})
        readable[rows] = good
        done += len(good)
        held.report(examples=done, total=len(pictures))
    return scores, readable


def _batches(
    context: Context, model: Model, version: DatasetVersion, pictures: Sequence[evaluations.Picture]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """The pictures as the model was trained to see them, and which of them could be decoded.

    Those that are packed in this way are read; others are made from the originals, as serving makes them.
    """
    parts = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    if version.preprocessing == model.preprocessing:
        packed = np.load(context.objects.fetch(version.images_key, context.cache / "objects"), mmap_mode="r")
        for part in parts:
            yield np.ascontiguousarray(packed[[picture.number for picture in part]]), np.ones(len(part), bool)
        return
    preprocessing, limits = Preprocessing.from_json(model.preprocessing), limits_of(context.settings)
    shards = [context.objects.fetch(key, context.cache / "objects") for key in version.shard_keys]
    files = [os.open(path, os.O_RDONLY) for path in shards]

    def decoded(picture: evaluations.Picture) -> NDArray[np.uint8] | None:
        data = os.pread(files[picture.shard], picture.length, picture.offset)
        try:
            if picture.width * picture.height <= LARGE_PIXELS:
                return to_array(data, preprocessing, limits)
            with _large:
                return to_array(data, preprocessing, limits)
        except UnreadableImageError as error:
            log.warning("evaluation.unreadable", version=version.id, example=picture.number, reason=str(error))
            return None

    try:
        with ThreadPoolExecutor(threads()) as pool:
            for part in parts:
                arrays = list(pool.map(decoded, part))
                empty = np.zeros((preprocessing.side, preprocessing.side, preprocessing.channels), np.uint8)
                batch = np.stack([empty if array is None else array for array in arrays])
                yield batch, np.array([array is not None for array in arrays])
    finally:
        for file in files:
            os.close(file)


def _size_of(width: int, height: int) -> str:
    """The range that the longer side is in, named so that names sort by size."""
    longer, low = max(width, height), 1
    for high in SIZES:
        if longer <= high:
            return f"{low:04}-{high:04}"
        low = high + 1
    return f"{low:04}+"


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
