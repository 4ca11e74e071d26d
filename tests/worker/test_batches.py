"""Batch predictions as a worker runs them: a real network, real digits, real archives; the rows before and after."""

import io
import json
import random
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from api.batch_predictions.results import Stored, stream
from ingest.preprocess import Preprocessing, to_array
from search.runtime import INPUT, OUTPUT
from store import batches, blobs, datasets, deployments, jobs, leases, models
from store.deployments import Target
from store.errors import ConflictError, StaleError
from store.ids import new_id
from store.settings import Settings
from store.states import JobState
from store.tables import BatchPart, BatchPrediction, BlobChunk, Dataset, DoomedObject, Export, Job, Model
from tests.support.linear import LABELS, SIDE, a_digit_reader, digit_reader
from tests.support.pictures import digits_zip, png, some_digits
from worker import batches as running
from worker import jobs as jobs_of_worker
from worker.context import Context

WORKER = "data@here"


@pytest.fixture
def context(settings: Settings, sessions: Any) -> Iterator[Context]:
    context = Context.of(settings.model_copy(update={"heartbeat_s": 0.1}))
    with context.sessions.begin() as session:
        a_digit_reader(session)
    yield context
    context.sessions.kw["bind"].dispose()


def reader(session: Session) -> Model:
    return models.get(session, "reader")


def imported(context: Context, archive: Path, name: str = "digits") -> Dataset:
    """A data set as an import leaves it."""
    key = f"uploads/{name}"
    context.objects.put(key, archive.read_bytes())
    with context.sessions.begin() as session:
        dataset = datasets.create(session, name, "image_classification")
        job = datasets.begin_import(session, dataset, key, {})
    jobs_of_worker.run(context, job.id, WORKER)
    with context.sessions.begin() as session:
        assert jobs.get(session, job.id).state is JobState.SUCCEEDED
        return datasets.get(session, name)


def of_dataset(context: Context, name: str = "digits", split: str | None = None, model: str = "reader") -> str:
    """The id of a queued batch over a data set."""
    with context.sessions.begin() as session:
        version = datasets.require_version(session, datasets.get(session, name))
        source = {"kind": "dataset", "dataset": name, "version": version.number, "split": split}
        return batches.create(session, batches.Answering(models.get(session, model)), source, 3, version=version).id


def of_archive(context: Context, archive: bytes, deployment: str | None = None) -> str:
    """The id of a queued batch over an archive."""
    key = "uploads/pictures"
    context.objects.put(key, archive)
    with context.sessions.begin() as session:
        datasets.doom(session, [key], batches.PART_KEPT_FOR)
        source = {"kind": "upload", "key": key, "size_bytes": len(archive)}
        answering = batches.Answering(reader(session)) if deployment is None else batches.behind(session, deployment)
        return batches.create(session, answering, source, 3, upload_key=key).id


def job_of(session: Session, batch_id: str) -> str:
    return batches.get(session, batch_id).job_id


def run(context: Context, batch_id: str) -> Job:
    """The job of a batch after a worker has taken it once."""
    with context.sessions.begin() as session:
        job_id = job_of(session, batch_id)
    jobs_of_worker.run(context, job_id, WORKER)
    with context.sessions.begin() as session:
        return jobs.get(session, job_id)


def answers(context: Context, batch_id: str) -> list[dict[str, Any]]:
    with context.sessions.begin() as session:
        kind = batches.get(session, batch_id).source["kind"]
        keys = [part.object_key for part in batches.parts(session, batch_id)]
    text = b"".join(stream(context.objects, Stored(keys, kind, 3), "jsonl", packed=False))
    return [json.loads(line) for line in text.splitlines()]


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def test_an_archive_is_answered_as_onnx_runtime_answers_its_pictures(context: Context) -> None:
    pixels, labels = some_digits(per_class=15, first=300)
    files = {f"{place:04d}.png": png(picture) for place, picture in enumerate(pixels)}
    batch_id = of_archive(context, zipped(files))
    job = run(context, batch_id)
    assert job.state is JobState.SUCCEEDED, job.error
    rows = answers(context, batch_id)
    assert [(row["row"], row["path"]) for row in rows] == list(enumerate(files))
    session = onnxruntime.InferenceSession(digit_reader(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(
        [OUTPUT], {INPUT: np.stack([to_array(one, Preprocessing(SIDE, 1)) for one in files.values()])}
    )
    assert [row["label"] for row in rows] == [LABELS[place] for place in scores.argmax(1)]
    assert np.allclose([row["score"] for row in rows], scores.max(1), atol=2e-6)
    assert all(
        [best["score"] for best in row["top"]] == sorted((b["score"] for b in row["top"]), reverse=True) for row in rows
    )
    assert {len(row["top"]) for row in rows} == {3}
    assert job.result is not None
    assert (job.result["rows"], job.result["errors"], job.result["accuracy"]) == (150, 0, None)
    assert job.result["no_accuracy_because"] == "the source has no labels"
    assert sum(job.result["labels"].values()) == 150
    assert np.mean(scores.argmax(1) == labels) > 0.7, "the network of the test reads nothing"


def test_a_data_set_is_answered_the_same_from_packed_pictures_and_from_originals(
    context: Context, tmp_path: Path
) -> None:
    archive = digits_zip(tmp_path / "digits.zip", per_class=30, first=300)
    imported(context, archive)
    with context.sessions.begin() as session:
        a_digit_reader(session, "large", side=2 * SIDE)
    batch_id = of_dataset(context)
    packed = run(context, batch_id)
    assert packed.result is not None, packed.error
    rows = answers(context, batch_id)
    assert [row["example"] for row in rows] == list(range(len(rows)))
    right = [row["true_label"] == row["label"] for row in rows]
    assert packed.result["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    by_path = {row["path"]: row for row in rows}
    sent = of_archive(context, archive.read_bytes())
    run(context, sent)
    for row in answers(context, sent):
        if row["path"] in by_path:  # the import takes copies together
            assert (row["label"], row["score"]) == (by_path[row["path"]]["label"], by_path[row["path"]]["score"])
    original = of_dataset(context, model="large")
    decoded = run(context, original)
    assert decoded.result is not None, decoded.error
    assert decoded.result["errors"] == 0
    assert [row["path"] for row in answers(context, original)] == [row["path"] for row in rows]
    assert decoded.result["accuracy"] == pytest.approx(packed.result["accuracy"], abs=0.05)


def test_one_split_of_a_data_set_is_answered(context: Context, tmp_path: Path) -> None:
    imported(context, digits_zip(tmp_path / "digits.zip", per_class=20))
    batch_id = of_dataset(context, split="validation")
    job = run(context, batch_id)
    assert job.result is not None
    assert 0 < job.result["rows"] < 100
    assert len(answers(context, batch_id)) == job.result["rows"] == job.progress["total"]


def test_labels_that_the_model_does_not_know_cost_the_accuracy_alone(context: Context, tmp_path: Path) -> None:
    imported(context, digits_zip(tmp_path / "digits.zip", per_class=10))
    with context.sessions.begin() as session:
        a_digit_reader(session, "odd", labels=["zero", *LABELS[1:]])
    batch_id = of_dataset(context, model="odd")
    job = run(context, batch_id)
    assert job.result is not None
    assert (job.result["accuracy"], job.result["errors"]) == (None, 0)
    assert job.result["no_accuracy_because"] == "the model does not know 1 of the data set's labels: '0'"
    assert {row["true_label"] for row in answers(context, batch_id)} == set(LABELS)


def test_what_cannot_be_read_is_a_row_with_its_reason(context: Context) -> None:
    digit = png(some_digits(per_class=1)[0][0])
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, data in [
            ("good.png", digit), ("cut.png", digit[: len(digit) // 2]), ("words.txt", b"no picture"), ("empty.png", b""),
            ("../climbs.png", digit), ("/absolute.png", digit), (".hidden", b"x"), ("deep/good.png", digit),
            ("=cmd|' /C calc'!A0.png", digit),
        ]:  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    batch_id = of_archive(context, sink.getvalue())
    job = run(context, batch_id)
    assert job.result is not None, job.error
    rows = answers(context, batch_id)
    assert [row["row"] for row in rows] == list(range(11))
    assert [row["path"] for row in rows if "label" in row] == ["good.png", "deep/good.png", "=cmd|' /C calc'!A0.png"]
    reasons = {row["path"]: row["error"] for row in rows if "error" in row}
    assert "is damaged or cut short" in reasons["cut.png"]
    assert "is not a picture" in reasons["words.txt"]
    assert "is empty" in reasons["empty.png"]
    assert "climbs out" in reasons["../climbs.png"]
    assert "absolute" in reasons["/absolute.png"]
    assert reasons["link.png"] == reasons["hard.png"] == "is a link"
    assert reasons["pipe.png"] == "is a device or a pipe"
    assert (job.result["predicted"], job.result["errors"]) == (3, 8)
    assert job.result["notes"] == [".hidden 1 hidden files or leftovers of a file manager: passed over"]


def test_a_large_archive_is_written_in_parts_and_leaves_no_scratch(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PART_ROWS", 100)
    monkeypatch.setattr("ingest.files.SHARD_BYTES", 20_000)  # so that shards are let go on the way
    pixels, _ = some_digits(per_class=40)
    batch_id = of_archive(context, zipped({f"{place}.png": png(one) for place, one in enumerate(pixels)}))
    job = run(context, batch_id)
    assert job.result is not None, job.error
    with context.sessions.begin() as session:
        parts = batches.parts(session, batch_id)
        assert session.scalars(select(DoomedObject.key)).all() == ["uploads/pictures"]
    assert len(parts) > 2
    assert sum(part.rows for part in parts) == 400
    assert sum(part.size_bytes for part in parts) == job.result["size_bytes"]
    assert [row["path"] for row in answers(context, batch_id)] == [f"{place}.png" for place in range(400)]
    assert list((context.cache / "batches").iterdir()) == []


def test_a_batch_goes_on_behind_its_last_part(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker gives way to another job again and again, as if it were killed after each part."""
    monkeypatch.setattr(running, "PART_ROWS", 64)
    monkeypatch.setattr(running, "GIVES_WAY_AFTER_S", 0.0)
    imported(context, digits_zip(tmp_path / "digits.zip", per_class=20))
    with context.sessions.begin() as session:
        other = jobs.create(session, "evaluation", {})
        session.execute(update(Job).where(Job.id == other.id).values(created_at=Job.created_at - batches.WAITS_AFTER))
    batch_id = of_dataset(context)
    states = []
    while not states or states[-1] == "queued":
        job = run(context, batch_id)
        states.append(job.state.value)
        with context.sessions.begin() as session:
            rows, _ = batches.counts(session, [batch_id])[batch_id]
        assert rows == len(answers(context, batch_id))
    assert states[-1] == "succeeded"
    assert len(states) > 2
    assert job.losses == 0
    assert job.result is not None
    assert [row["row"] for row in answers(context, batch_id)] == list(range(job.result["rows"]))
    assert [row["example"] for row in answers(context, batch_id)] == list(range(job.result["rows"]))


def test_a_zombie_writes_no_part(context: Context) -> None:
    batch_id = of_archive(context, zipped({"a.png": png(some_digits(per_class=1)[0][0])}))
    part = batches.NewPart("batches/x", 1, 1, 0, 0, {}, 1.0)
    with context.sessions.begin() as session:
        batch = batches.get(session, batch_id)
        first = leases.claim(session, Job, batch.job_id, WORKER, 30)
        assert first is not None
        leases.settle(session, Job, batch.job_id, first.attempt, JobState.QUEUED)
        second = leases.claim(session, Job, batch.job_id, WORKER, 30)
        assert second is not None
        with pytest.raises(StaleError):
            batches.add_part(session, batch, 1, 30.0, 0, part, {})
        batches.add_part(session, batch, 2, 30.0, 0, part, {})
        assert session.scalars(select(BatchPart.number)).all() == [0]


def test_a_cancelled_batch_keeps_what_it_had(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PART_ROWS", 64)
    pixels, _ = some_digits(per_class=100)
    batch_id = of_archive(context, zipped({f"{place}.png": png(one) for place, one in enumerate(pixels)}))
    write = running._Running._write

    def written_and_cancelled(self: Any) -> None:
        write(self)
        with context.sessions.begin() as session:
            jobs.request_cancel(session, job_of(session, batch_id))
        while self._held._stop is None:  # its heartbeat has not seen it yet
            time.sleep(0.01)

    monkeypatch.setattr(running._Running, "_write", written_and_cancelled)
    job = run(context, batch_id)
    assert (job.state, job.result) == (JobState.CANCELLED, None)
    assert [row["row"] for row in answers(context, batch_id)] == list(range(64))
    assert job.progress["done"] >= 64


@pytest.mark.parametrize("harm", ["chunk", "row"])
def test_a_model_whose_file_is_damaged_is_named(context: Context, harm: str) -> None:
    batch_id = of_archive(context, zipped({"a.png": png(some_digits(per_class=1)[0][0])}))
    with context.sessions.begin() as session:
        digest = reader(session).onnx_sha256
        if harm == "chunk":
            session.execute(update(BlobChunk).where(BlobChunk.sha256 == digest).values(data=b"other bytes"))
        else:
            session.execute(delete(BlobChunk).where(BlobChunk.sha256 == digest))
    job = run(context, batch_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["kind"] == "refused"
    assert job.error["message"].startswith("the model reader@1 cannot be used: blob ")


def test_a_model_that_answers_a_batch_is_not_deleted_before_its_end(context: Context) -> None:
    batch_id = of_archive(context, zipped({"a.png": png(some_digits(per_class=1)[0][0])}))
    with context.sessions.begin() as session, pytest.raises(ConflictError, match=batch_id):
        models.delete(session, reader(session))
    assert run(context, batch_id).state is JobState.SUCCEEDED
    with context.sessions.begin() as session:
        models.delete(session, reader(session))
        batch = session.get_one(BatchPrediction, batch_id, populate_existing=True)
        assert (batch.model_id, batch.model_name, batch.model_number) == (None, "reader", 1)
    assert len(answers(context, batch_id)) == 1


def test_a_model_that_is_gone_all_the_same_fails_the_batch_and_is_named(context: Context) -> None:
    batch_id = of_archive(context, zipped({"a.png": png(some_digits(per_class=1)[0][0])}))
    with context.sessions.begin() as session:
        session.execute(delete(Model))
    job = run(context, batch_id)
    assert job.error is not None
    assert job.error["message"] == "the model reader@1 was deleted before it could answer"


def test_a_data_set_that_a_batch_reads_is_not_deleted_before_its_end(context: Context, tmp_path: Path) -> None:
    imported(context, digits_zip(tmp_path / "digits.zip", per_class=10))
    batch_id = of_dataset(context)
    with context.sessions.begin() as session, pytest.raises(ConflictError, match=batch_id):
        datasets.delete(session, datasets.get(session, "digits"))
    rows = run(context, batch_id).result["rows"]  # type: ignore[index]  # it has succeeded
    with context.sessions.begin() as session:
        datasets.delete(session, datasets.get(session, "digits"))
    assert len(answers(context, batch_id)) == rows


def bomb() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for place in range(3):
            archive.writestr(f"{place}.png", bytes(40 << 20))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (lambda: zipped({}), "The archive is empty"),
        (lambda: b"words", "The upload is"),
        (lambda: zipped({"a.png": b"x" * 1000})[:-30], "no directory at its end"),
        (bomb, "decompression bomb"),
        (lambda: random.Random(0).randbytes(5000), "The upload is"),
    ],
)
def test_an_archive_that_is_refused_as_a_whole_fails_the_batch_with_the_reason(
    context: Context, archive: Any, said: str
) -> None:
    batch_id = of_archive(context, archive())
    job = run(context, batch_id)
    assert job.error is not None
    assert job.error["kind"] == "refused"
    assert said in job.error["message"]
    with context.sessions.begin() as session:
        assert "uploads/pictures" in session.scalars(select(DoomedObject.key)).all()


def test_deleting_a_batch_says_what_it_frees_and_dooms_its_parts(context: Context) -> None:
    batch_id = of_archive(context, zipped({"a.png": png(some_digits(per_class=1)[0][0])}))
    with context.sessions.begin() as session, pytest.raises(ConflictError, match="is queued"):
        batches.delete(session, batches.get(session, batch_id))
    job = run(context, batch_id)
    with context.sessions.begin() as session:
        (part,) = batches.parts(session, batch_id)
        assert batches.delete(session, batches.get(session, batch_id)) == part.size_bytes > 0
        assert part.object_key in session.scalars(select(DoomedObject.key)).all()
        assert session.get(Job, job.id) is None


def test_a_deployment_in_int8_answers_with_its_int8_file(context: Context) -> None:
    network = onnx.load_from_string(digit_reader())
    (bias,) = (value for value in network.graph.initializer if value.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.eye(10, dtype=np.float32)[3] * 1000, "bias"))  # tells the files apart
    with context.sessions.begin() as session:
        model = reader(session)
        session.add(
            Export(
                id=new_id("export"), model_id=model.id, job_id=jobs.create(session, "export", {}).id, format="onnx-int8",
                options={}, sha256=blobs.put(session, network.SerializeToString()), size_bytes=1, file_name="x",
                media_type="x", report={},
            )
        )  # fmt: skip
        deployments.create(session, "reader", [Target("reader", precision="int8")])
    asked = [
        of_archive(context, zipped({"a.png": png(some_digits(per_class=1)[0][0])}), deployment="reader") for _ in "ab"
    ]
    assert run(context, asked[0]).state is JobState.SUCCEEDED
    assert [row["label"] for row in answers(context, asked[0])] == ["3"]
    with context.sessions.begin() as session:
        session.execute(delete(Export))
    job = run(context, asked[1])
    assert job.error is not None
    assert job.error["message"] == "the onnx-int8 export of the model reader@1 was deleted before it could answer"
