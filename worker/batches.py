"""A batch prediction from claim to end: rows from its source, answers from its model, parts that are written once.

A part is an object and, in one transaction that the attempt must still hold, the row that names it. Whoever takes the
batch up again goes on behind the last of them: nothing is answered twice, nothing is left out.
"""

import gzip
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ingest.errors import ImportRefusedError, ReportLine
from ingest.manifest import Split
from ingest.preprocess import Preprocessing
from store import batches, blobs, datasets, exports
from store.batches import NewPart
from store.errors import CorruptBlobError
from store.tables import BatchPart, BatchPrediction, DatasetVersion, Example, Job, Model
from store.uris import Allowed
from worker import rows as sources
from worker.answers import Answered, Answers, UnusableModelError
from worker.context import Context
from worker.data import materialise
from worker.fetch import Fetcher
from worker.held import Held, RefusedJobError, ShutdownError
from worker.imports import limits_of
from worker.rows import Rows

log = structlog.get_logger()

PART_ROWS = 2048
GIVES_WAY_AFTER_S = 20.0  # to other jobs: a search that ends waits for its evaluation, a data set for its import
_SCORE_DECIMALS = 6
_NOTES_KEPT = 20
_GZIP_LEVEL = 3


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a batch asks for, read once, and what of it is answered already."""

    batch: BatchPrediction
    model: Model
    preprocessing: Preprocessing
    onnx: bytes
    version: DatasetVersion | None
    parts: int
    done: int
    errors: int
    total: int | None

    @property
    def unknown(self) -> list[str]:
        """Labels of the data set that the model does not know."""
        known = set(self.model.labels)
        return [] if self.version is None else [label for label in self.version.labels if label not in known]


def run(context: Context, job: Job, held: Held) -> None:
    """Answer what is not answered yet. The last part and the end of the job are one transaction."""
    with context.sessions.begin() as session:
        asked = _read(session, job.payload["batch_id"])
    folder = context.cache / "batches" / f"{job.id}-{job.attempt}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _Running(context, held, asked, folder).run()
    except ImportRefusedError as error:
        raise RefusedJobError(str(error)) from error
    except UnusableModelError as error:
        raise RefusedJobError(f"the model {_spoken(asked.model)} cannot be used: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(session: Session, batch_id: str) -> _Asked:
    batch = batches.get(session, batch_id)
    model = None if batch.model_id is None else session.get(Model, batch.model_id)
    if model is None:
        raise RefusedJobError(f"the model {batch.model_name}@{batch.model_number} was deleted before it could answer")
    version, total = None, batch.source.get("count")
    if batch.source["kind"] == "dataset":
        version = None if batch.version_id is None else session.get(DatasetVersion, batch.version_id)
        if version is None:
            raise RefusedJobError(f"the data set {batch.source['dataset']} was deleted before it was read")
        counted = select(func.count()).where(Example.version_id == version.id)
        split = _split(batch)
        total = session.scalar(counted if split is None else counted.where(Example.split == split))
    try:
        preprocessing = Preprocessing.from_json(model.preprocessing)
        onnx = blobs.get(session, _file(session, batch, model))
    except (CorruptBlobError, ValueError) as error:
        raise RefusedJobError(f"the model {_spoken(model)} cannot be used: {error}") from error
    written = batches.parts(session, batch.id)
    done, errors = sum(part.rows for part in written), sum(part.errors for part in written)
    return _Asked(batch, model, preprocessing, onnx, version, len(written), done, errors, total)


def _file(session: Session, batch: BatchPrediction, model: Model) -> bytes:
    """The SHA-256 of the ONNX file that answers."""
    if batch.precision == "fp32":
        return model.onnx_sha256
    int8 = exports.newest_int8(session, model.id)
    if int8 is None:
        raise RefusedJobError(
            f"the {exports.INT8} export of the model {_spoken(model)} was deleted before it could answer"
        )
    return int8.sha256


def _split(batch: BatchPrediction) -> int | None:
    name = batch.source["split"]
    return None if name is None else Split[name.upper()].value


def _spoken(model: Model) -> str:
    return f"{model.name}@{model.number}"


@dataclass(slots=True)
class _Part:
    """Rows that are answered and not written yet."""

    lines: list[str] = field(default_factory=list)
    errors: int = 0
    correct: int = 0
    labels: Counter[str] = field(default_factory=Counter)


class _Running:
    """One attempt at a batch."""

    def __init__(self, context: Context, held: Held, asked: _Asked, folder: Path) -> None:
        self._context, self._held, self._asked, self._folder = context, held, asked, folder
        self._spoken = [json.dumps(label) for label in asked.model.labels]
        self._part, self._number = _Part(), asked.parts
        self._done, self._errors, self._read = asked.done, asked.errors, 0.0
        self._began = self._part_began = time.monotonic()
        self._notes: list[str] = []

    def run(self) -> None:
        asked = self._asked
        packed = None
        if asked.version is not None and asked.version.preprocessing == asked.model.preprocessing:
            packed = np.load(materialise(self._context, asked.version) / "images.npy", mmap_mode="r")
        limits = limits_of(self._context.settings)
        labels, top_k = len(asked.model.labels), asked.batch.top_k
        with (
            Answers(asked.onnx, asked.preprocessing, labels, top_k, self._folder, limits, packed) as answers,
            closing(self._rows(packed is not None)) as rows,
        ):
            for answered in answers.of(rows):
                self._take(answered)
                self._tell()
                late = time.monotonic() - self._part_began > self._context.settings.checkpoint_s
                if len(self._part.lines) >= PART_ROWS or late:
                    self._write()
        self._end()

    def _rows(self, packed: bool) -> Rows:
        asked, context = self._asked, self._context
        source, folder, cache = asked.batch.source, self._folder, context.cache / "objects"
        match source["kind"]:
            case "dataset":
                version = asked.version
                assert version is not None
                return sources.of_examples(
                    context.sessions, context.objects, version.id, version.labels, _split(asked.batch), version.shard_keys,
                    folder, cache, asked.done, packed=packed,
                )  # fmt: skip
            case "upload":
                archive = context.objects.fetch(source["key"], folder / "upload")
                return sources.of_archive(archive, limits_of(context.settings), folder, asked.done, self._note)
            case _:
                settings = context.settings
                allowed = Allowed.parse(settings.batch_sources)
                fetcher = Fetcher(allowed, settings.predict_max_bytes, settings.s3_endpoint)
                return sources.of_uris(source["uris"], fetcher, folder, asked.done, self._tell)

    def _note(self, line: ReportLine) -> None:
        if len(self._notes) < _NOTES_KEPT:
            self._notes.append(f"{line.path} {line.reason}: {line.action}")

    def _take(self, answered: Answered) -> None:
        """Write the rows down as lines, and count them."""
        part, names = self._part, self._asked.model.labels
        tops, scores = answered.order.tolist(), np.round(answered.scores.astype(np.float64), _SCORE_DECIMALS).tolist()
        for row, top, score, reason in zip(answered.rows, tops, scores, answered.reasons, strict=True):
            number = self._done
            self._done += 1
            head = json.dumps({"row": number} | row.names)[:-1]
            if reason is not None:
                part.errors += 1
                part.lines.append(f'{head}, "error": {json.dumps(reason)}}}\n')
                continue
            label = names[top[0]]
            part.labels[label] += 1
            part.correct += row.names.get("true_label") == label
            best = ", ".join(
                f'{{"label": {self._spoken[place]}, "score": {value}}}' for place, value in zip(top, score, strict=True)
            )
            part.lines.append(f'{head}, "label": {self._spoken[top[0]]}, "score": {score[0]}, "top": [{best}]}}\n')
        if (read := answered.rows[-1].read) is not None:
            self._read = read

    def _tell(self) -> None:
        """Progress for the followers; raises what is to end the job."""
        self._held.report(**self._progress())

    def _progress(self) -> dict[str, Any]:
        asked, seconds = self._asked, time.monotonic() - self._began
        total = asked.total
        return {
            "stage": "predicting",
            "done": self._done,
            "total": total,
            "fraction": round(self._done / max(1, total) if total is not None else self._read, 3),
            "errors": self._errors + self._part.errors,
            "pictures_per_s": round((self._done - asked.done) / max(seconds, 1e-3), 1),
        }

    def _store(self) -> NewPart:
        """Write the object of the next part. Nothing names it yet, and it is doomed until something does."""
        part, now = self._part, time.monotonic()
        body = gzip.compress("".join(part.lines).encode(), _GZIP_LEVEL, mtime=0)
        key = f"batches/{self._asked.batch.id}/{self._number:06d}-{self._held.attempt}.jsonl.gz"
        with self._context.sessions.begin() as session:
            datasets.doom(session, [key], batches.PART_KEPT_FOR)
        self._context.objects.put(key, body)
        new = NewPart(key, len(body), len(part.lines), part.errors, part.correct, part.labels, now - self._part_began)
        self._part, self._part_began = _Part(), now
        self._errors += part.errors
        return new

    def _name(self, session: Session, part: NewPart) -> None:
        lease_s = self._context.settings.lease_s
        batches.add_part(session, self._asked.batch, self._held.attempt, lease_s, self._number, part, self._progress())

    def _write(self) -> None:
        """Keep what is answered; give way when other jobs wait, since nothing is lost by it."""
        part = self._store()
        with self._context.sessions.begin() as session:
            self._name(session, part)
            others = batches.others_wait(session)
        self._number += 1
        if others and time.monotonic() - self._began > GIVES_WAY_AFTER_S:
            log.info("batch.gives_way", batch=self._asked.batch.id, rows=self._done)
            raise ShutdownError(self._held.job_id)

    def _end(self) -> None:
        part = self._store() if self._part.lines else None
        with self._context.sessions.begin() as session:
            if part is not None:
                self._name(session, part)
            written = batches.parts(session, self._asked.batch.id)
            self._held.finish(session, _summary(self._asked, written, self._notes))


def _summary(asked: _Asked, parts: Sequence[BatchPart], notes: Sequence[str]) -> Mapping[str, Any]:
    """What is said of the batch as a whole."""
    rows, errors = sum(part.rows for part in parts), sum(part.errors for part in parts)
    seconds = sum(part.seconds for part in parts)
    labels: Counter[str] = Counter()
    for part in parts:
        labels.update(part.labels)
    accuracy, why_none = None, None
    if asked.version is None:
        why_none = "the source has no labels"
    elif asked.unknown:
        some = ", ".join(repr(label) for label in asked.unknown[:10])
        why_none = f"the model does not know {len(asked.unknown)} of the data set's labels: {some}"
    elif rows == errors:
        why_none = "no picture was answered"
    else:
        accuracy = round(sum(part.correct for part in parts) / (rows - errors), 6)
    return {
        "rows": rows,
        "predicted": rows - errors,
        "errors": errors,
        "labels": {label: labels[label] for label in asked.model.labels},
        "accuracy": accuracy,
        "no_accuracy_because": why_none,
        "seconds": round(seconds, 3),
        "pictures_per_s": round(rows / seconds, 1) if seconds else None,
        "size_bytes": sum(part.size_bytes for part in parts),
        "notes": list(notes),
    }
