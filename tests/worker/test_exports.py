"""Exports by a worker: real networks, converted, loaded in a fresh process and compared."""

import io
import json
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch
import yaml
from sqlalchemy import update

from ingest.preprocess import Preprocessing, squashed
from search.data import Images
from search.exports import FORMATS, export
from search.exports.fresh import FreshError, run_alone
from search.exports.values import Data, DifferenceError, RefusedError, Subject, scores_of
from store import blobs, exports, jobs, models
from store.states import JobState
from store.tables import Dataset, Job, Model
from tests.support.pictures import png
from tests.support.trained import SIDE, trained_digits, trained_model
from worker import jobs as running
from worker.context import Context

pytestmark = pytest.mark.timeout(200)
WORKER = "data@here"


def a_model(context: Context, **changed: bytes) -> Model:
    with context.sessions.begin() as session:
        return trained_model(session, session.query(Dataset).one(), **changed)


def ended(context: Context, model: Model, format: str, **options: Any) -> Job:
    """The job of an export, run to its end in this process."""
    with context.sessions.begin() as session:
        found = models.get(session, model.id)
        job, begun = exports.ask(session, found, format, options)
        assert begun
    running.run(context, job.id, WORKER)
    with context.sessions.begin() as session:
        return jobs.get(session, job.id)


def made(context: Context, job: Job) -> tuple[bytes, dict[str, Any]]:
    """(content, report) of the export that a job made."""
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result is not None
    with context.sessions.begin() as session:
        export = exports.get(session, session.get_one(Model, job.result["model_id"]), job.result["export_id"])
        return blobs.get(session, export.sha256), export.report


def refusal(job: Job) -> str:
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["kind"] == "refused"
    return str(job.error["message"])


def subject(**changed: Any) -> Subject:
    answer = trained_digits()
    values: dict[str, Any] = {
        "name": "digits",
        "version": 1,
        "description": "small",
        "genotype": answer.genotype.to_json(),
        "labels": answer.images.labels,
        "side": SIDE,
        "channels": 1,
        "weights": answer.weights,
        "onnx": answer.onnx,
        "source": answer.source,
    }
    return Subject(**values | changed)


def test_onnx_is_what_is_served(context: Context) -> None:
    content, report = made(context, ended(context, a_model(context), "onnx"))
    assert content == trained_digits().onnx
    assert report["pictures"] == 64
    assert report["max_difference"] <= report["max_difference_accepted"] == 1e-3
    assert report["pictures_from"].startswith("its data set")


def test_int8_is_smaller_in_type_and_nearly_as_right(context: Context) -> None:
    model = a_model(context)
    job = ended(context, model, "onnx-int8", max_accuracy_drop=0.05)
    content, report = made(context, job)
    network = onnx.load_from_string(content)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    for node in network.graph.node:
        if node.op_type == "QuantizeLinear":  # activations: unsigned, one scale for the tensor
            assert (tensors[node.input[2]].dtype, tensors[node.input[2]].shape) == (np.uint8, ())
    weights = [value for name, value in tensors.items() if name.endswith(".weight_quantized")]
    scales = [value for name, value in tensors.items() if name.endswith(".weight_scale")]
    assert len(weights) == 3
    assert all(value.dtype == np.int8 and abs(value.astype(int)).max() <= 64 for value in weights)
    assert [len(value) for value in scales] == [len(value) for value in weights]  # by output channel
    assert not any(node.op_type == "BatchNormalization" for node in network.graph.node)
    assert {prop.key for prop in network.metadata_props} >= {"labels", "genotype"}
    images = trained_digits().images
    targets = images.targets[images.validation]
    accuracy = float((scores_of(content, images.pixels[images.validation]).argmax(1) == targets).mean())
    assert report["accuracy_int8"] == accuracy
    assert report["accuracy_drop"] == report["accuracy"] - accuracy <= 0.05
    assert (report["calibration_pictures"], report["validation_pictures"]) == (256, 50)
    assert 0 < report["max_difference_from_model"] < 0.5
    with context.sessions.begin() as session:
        found = exports.newest_int8(session, model.id)
        assert found is not None
        assert (found.job_id, found.sha256.hex()) == (job.id, (job.result or {})["sha256"])


def test_int8_that_loses_more_than_is_allowed_is_refused_with_both_figures() -> None:
    """Calibrated on black pictures it clips everything that is brighter."""
    answer = trained_digits()
    images = answer.images
    pixels = images.pixels.copy()
    pixels[images.train] = 0
    dark = Images.of(pixels, scores_of(answer.onnx, pixels).argmax(1), images.splits, images.labels)
    said = (
        r"loses 0\.\d+ of its accuracy \(1\.0000 to 0\.\d+ on 50 validation pictures\); max_accuracy_drop allows 0\.2"
    )
    with pytest.raises(RefusedError, match=said):
        export(subject(), Data(dark), "onnx-int8", {"max_accuracy_drop": 0.2})


def test_a_model_without_its_data_is_compared_on_random_pictures_and_not_quantised(context: Context) -> None:
    model = a_model(context)
    with context.sessions.begin() as session:
        session.execute(update(Model).values(search_id=None))
        dataset = session.query(Dataset).one()
        search = models.get(session, model.id)
        assert search.version_id is not None
        session.execute(update(Model).values(version_id=None))
        assert dataset.versions
    _, report = made(context, ended(context, model, "onnx"))
    assert report["pictures_from"] == "random, as its data set was deleted"
    assert report["max_difference"] <= 1e-3
    assert "data set that it was trained on was deleted" in refusal(ended(context, model, "onnx-int8"))


def test_a_model_that_is_deleted_meanwhile_is_refused_by_name(context: Context) -> None:
    model = a_model(context)
    with context.sessions.begin() as session:
        job, _ = exports.ask(session, session.get_one(Model, model.id), "onnx", {})
        session.delete(session.get_one(Model, model.id))
    running.run(context, job.id, WORKER)
    with context.sessions.begin() as session:
        assert "digits-net@1" in refusal(jobs.get(session, job.id))


@pytest.mark.parametrize("damaged", ["weights", "onnx"])
def test_a_damaged_file_is_refused_and_named(context: Context, damaged: str) -> None:
    model = a_model(context)
    digest = getattr(model, f"{damaged}_sha256")
    with context.sessions.begin() as session:
        session.connection().exec_driver_sql(
            "UPDATE blob_chunks SET data = set_byte(data, 9, 0) WHERE sha256 = %s", (digest,)
        )
    said = refusal(ended(context, model, "onnx"))
    assert "digits-net@1" in said
    assert digest.hex() in said


def test_a_fresh_process_has_none_of_our_packages(tmp_path: Path) -> None:
    run_alone("import numpy, onnxruntime, torch", tmp_path)
    for name in ("search.export", "netwright", "ingest", "store.blobs"):
        with pytest.raises(FreshError, match="is not to be had"):
            run_alone(f"import {name}", tmp_path)


def test_pictures_of_any_size_are_resized_inside_as_for_the_training(context: Context) -> None:
    job = ended(context, a_model(context), "onnx", preprocessing=True)
    content, report = made(context, job)
    assert report["max_difference"] <= 1e-3
    assert report["preprocessing"]["max_pixel_difference"] == 0
    assert report["preprocessing"]["max_score_difference"] <= 1e-3
    assert report["preprocessing"]["pictures_from"] == "the data set's files"
    answer = trained_digits()
    large = np.random.default_rng(1).integers(0, 256, (2, 300, 170, 1), np.uint8)
    small = np.stack([squashed(picture, Preprocessing(SIDE, 1)) for picture in large])
    np.testing.assert_allclose(scores_of(content, large), scores_of(answer.onnx, small), atol=1e-5)
    assert {prop.key for prop in onnx.load_from_string(content).metadata_props} >= {"labels", "genotype"}


def test_an_export_that_answers_otherwise_fails() -> None:
    """Whatever the reason: here, the head of another network in the file that is served."""
    answer = trained_digits()
    network = onnx.load_from_string(answer.onnx)
    for tensor in network.graph.initializer:
        if tensor.name.endswith("head.weight"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    with pytest.raises(DifferenceError, match="differ from the model's by up to"):
        export(subject(onnx=network.SerializeToString()), Data(answer.images), "safetensors", {})


ODD_LABELS = ["naïve 猫", "it's", 'a "hen"', "back\\slash", "{brace}", "🌷", ": #", "null", "8", "%s"]


@pytest.mark.parametrize("format", ["safetensors", "python", "docker", "mlflow"])
def test_a_folder_is_packed_alike_each_time_and_answers_as_the_model(format: str, tmp_path: Path) -> None:
    answer = trained_digits()
    source = answer.source.replace(
        "\n".join(f'    "{digit}",' for digit in range(10)), "\n".join(f"    {label!r}," for label in ODD_LABELS)
    )
    asked = subject(labels=ODD_LABELS, source=source)
    made = export(asked, Data(answer.images), format, {})
    assert made.report["max_difference"] < 1e-5
    assert made.content == FORMATS[format](asked, None, {}).content
    with zipfile.ZipFile(io.BytesIO(made.content)) as archive:
        archive.extractall(tmp_path)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        (folder,) = {tmp_path / name.partition("/")[0] for name in archive.namelist()}
    assert made.name == f"{folder.name}.zip"
    if format == "mlflow":
        about = yaml.safe_load((folder / "MLmodel").read_text("utf-8"))
        assert about["metadata"]["labels"] == ODD_LABELS
    if format in {"python", "mlflow"}:
        assert json.loads((folder / "labels.json").read_text("utf-8")) == ODD_LABELS
    if format == "safetensors":
        about = json.loads((folder / "genotype.json").read_text("utf-8"))
        assert (about["labels"], about["genotype"]) == (ODD_LABELS, answer.genotype.to_json())


@pytest.mark.slow
def test_a_torch_program_takes_any_number_of_pictures(context: Context, tmp_path: Path) -> None:
    content, report = made(context, ended(context, a_model(context), "pt2"))
    assert report["max_difference"] < 1e-5
    (tmp_path / "model.pt2").write_bytes(content)
    assert str(tmp_path.parent).encode() not in content
    about = {"labels.json": "", "genotype.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=about).module()
    assert json.loads(about["labels.json"]) == [str(digit) for digit in range(10)]
    images = trained_digits().images
    for count in (1, 5):
        pictures = np.ascontiguousarray(images.pixels[:count])
        scores = program(torch.from_numpy(pictures)).detach().numpy()
        np.testing.assert_allclose(scores, scores_of(trained_digits().onnx, pictures), atol=1e-5)


def test_the_exported_server_answers_pictures_and_refuses_what_is_none(tmp_path: Path) -> None:
    answer = trained_digits()
    made = export(subject(), Data(answer.images), "docker", {})
    zipfile.ZipFile(io.BytesIO(made.content)).extractall(tmp_path)
    assert "COPY requirements.txt" in (tmp_path / "digits-1-docker/Dockerfile").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-I", "-m", "uvicorn", "server:app", "--app-dir", ".", "--port", str(port)],
        cwd=tmp_path / "digits-1-docker",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=8)) as http:
            assert http.get("/healthz").json() == {"status": "ok"}
            assert http.get("/model").json()["labels"] == list(answer.images.labels)
            picture = png(answer.images.pixels[7, :, :, 0])
            reply = http.post("/predict?top_k=3", content=picture).json()
            (expected,) = scores_of(answer.onnx, answer.images.pixels[7:8])
            (prediction,) = reply["predictions"]
            assert reply["model"] == {"name": "digits", "version": 1}
            assert prediction["label"] == str(expected.argmax())
            assert [score["score"] for score in prediction["scores"]] == pytest.approx(
                sorted(expected)[:-4:-1], abs=1e-6
            )
            for body, status in ((b"", 422), (b"no picture", 422), (picture[:60], 422), (bytes((16 << 20) + 1), 413)):
                refused = http.post("/predict", content=body)
                assert refused.status_code == status
                assert "picture" in refused.json()["detail"]
            assert http.post("/predict?top_k=0", content=picture).status_code == 422
    finally:
        server.terminate()
        server.wait(10)
