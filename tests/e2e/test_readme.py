"""What README and docs/ show is pasted into a shell beside a service that runs, and does what they say."""

import json
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from search import catalog
from tests.support.pages import checkout, paste, steps
from tests.support.pictures import png, some_digits
from tests.support.service import ROOT, Service, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

FLOWERS = ("rose", "tulip", "daisy")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as service:
        yield service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader's shell stands."""
    return checkout(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def tour(service: Service, folder: Path) -> list[tuple[str, str]]:
    """The lines of the README's tour with what each printed. It leaves the deployment `reader` and seven.png behind,
    where the pages of docs/ go on."""
    lines = steps(ROOT / "README.md", "The tour")
    return list(zip(lines, paste(lines, folder, service), strict=True))


def quickstart() -> list[str]:
    """The lines of the quickstart, with a search of half a minute."""
    lines = steps(ROOT / "docs/quickstart.md")
    short = [line.replace('"minutes": 10', '"minutes": 0.5') for line in lines]
    assert short != lines
    return short


def test_every_line_of_the_tour_works_when_pasted(tour: list[tuple[str, str]]) -> None:
    assert len(tour) > 5
    line, printed = tour[-1]
    reply = json.loads(printed)
    assert "predict" in line
    assert reply["predictions"][0]["label"] in set("0123456789")
    assert len(reply["predictions"][0]["scores"]) == 3
    (followed,) = (output for line, output in tour if "/events" in line)
    assert re.findall(r"^event: (\w+)$", followed, re.MULTILINE)[-1] == "end"
    assert '"state": "succeeded"' in followed


def test_every_line_of_serving_works_when_pasted(service: Service, folder: Path, tour: list[tuple[str, str]]) -> None:
    pasted = steps(ROOT / "docs/serving.md")
    printed = list(zip(pasted, paste(pasted, folder, service), strict=True))
    v1, v2 = ([json.loads(out) for step, out in printed if path in step] for path in ("/predict", '/infer" --'))
    assert [len(reply["predictions"]) for reply in v1] == [1, 2, 1]
    assert all(reply["predictions"][0] == v1[0]["predictions"][0] for reply in v1)
    best = v1[0]["predictions"][0]
    for reply in v2:
        score, _, label = reply["outputs"][0]["data"][0].split(":")
        assert (reply["id"], label) == ("order-7", best["label"])
        assert float(score) == pytest.approx(best["score"], abs=1e-5)
    by_triton, by_http = [out for step, out in printed if step.startswith("python")]
    assert f"files: {v2[0]['outputs'][0]['data'][0]}\npixels: (8, 10)" in by_triton
    assert by_http.startswith("JSON: [1, 10] ")
    (explained,) = (json.loads(output) for line, output in printed if "/explain?" in line)
    assert (explained["label"], explained["predicted"]) == ("1", v1[0]["predictions"][0]["label"])
    (result,) = (json.loads(output) for line, output in printed if line.endswith('"$URL$DONE"'))
    assert len(result["grid"]) == 28
    for name in ("overlay.png", "gradients.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    (sent,) = (json.loads(output) for line, output in printed if "/batch_predictions/data?" in line)
    (batch,) = (json.loads(output) for line, output in printed if "/batch_predictions/$BATCH?wait" in line)
    assert (sent["state"], batch["state"], batch["result"]["errors"]) == ("succeeded", "succeeded", 0)
    assert len((folder / "answers.jsonl").read_text().splitlines()) == batch["result"]["rows"]
    assert len((folder / "answers.csv").read_text().splitlines()) == batch["result"]["rows"] + 1


def test_every_line_of_monitoring_works_when_pasted(
    service: Service, folder: Path, tour: list[tuple[str, str]]
) -> None:
    lines = steps(ROOT / "docs/monitoring.md")
    printed = dict(zip(lines, paste(lines, folder, service), strict=True))
    (listed,) = (json.loads(output) for line, output in printed.items() if "/requests?page_size" in line)
    assert listed["items"][0]["request_id"] == "order-4711"
    one, two = (json.loads(output) for line, output in printed.items() if "/feedback" in line)
    assert (one["matched"], two["matched"], two["pending"]) == (1, 1, [{"request_id": "order-4712", "item": 0}])
    (accuracy,) = (json.loads(output) for line, output in printed.items() if "/accuracy" in line)
    assert accuracy["accuracy"]["count"] == 1
    (stats,) = (json.loads(output) for line, output in printed.items() if "/stats" in line)
    assert stats["requests"] >= 1


def test_every_line_of_evaluation_works_when_pasted(
    service: Service, folder: Path, tour: list[tuple[str, str]]
) -> None:
    lines = steps(ROOT / "docs/evaluation.md")
    printed = dict(zip(lines, paste(lines, folder, service), strict=True))
    (mistakes,) = (json.loads(output) for line, output in printed.items() if "errors?page_size" in line)
    assert len(mistakes["items"]) == min(5, mistakes["total"])
    (listed,) = (json.loads(output) for line, output in printed.items() if line.endswith('/reader/evaluations"'))
    assert [evaluation["split"] for evaluation in listed["items"]] == ["validation", "test"]
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_every_line_of_export_works_when_pasted(
    service: Service, folder: Path, tour: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PORT", str(free.getsockname()[1]))
    lines = steps(ROOT / "docs/export.md")
    printed = list(zip(lines, paste(lines, folder, service), strict=True))
    served = json.loads(tour[-1][1])["predictions"][0]

    (taken,) = (output.splitlines() for line, output in printed if "def take(" in line)
    assert [line.split()[0] for line in taken] == [
        "any-size.onnx", "int8.onnx", "reader.pt2", "safetensors.zip", "python.zip", "docker.zip", "mlflow.zip",
    ]  # fmt: skip
    assert all(float(line.split()[-1]) < 1e-3 for line in taken)
    (by_docker,) = (json.loads(output) for line, output in printed if "/predict?top_k=3" in line)
    (by_command,) = (json.loads(output) for line, output in printed if "predict.py seven.png" in line)
    (by_onnx,) = (output.split() for line, output in printed if '"reader.onnx")' in line)
    (by_module,) = (output.split() for line, output in printed if "import model\n" in line)
    answers = [
        (by_docker["predictions"][0]["label"], by_docker["predictions"][0]["score"]),
        (by_command["label"], by_command["scores"][by_command["label"]]),
        (by_onnx[0], float(by_onnx[1])),
        (by_module[0], float(by_module[1])),
    ]
    for label, score in answers:
        assert (label, score) == (served["label"], pytest.approx(served["score"], abs=1e-3))
    exports = service.get("/v1/models/reader/exports")["items"]
    assert {export["format"] for export in exports} == set(catalog.EXPORTS)
    (inside,) = (export["report"]["preprocessing"] for export in exports if export["options"].get("preprocessing"))
    assert (inside["pictures_from"], inside["max_pixel_difference"]) == ("the data set's files", 0)


def test_every_line_of_the_quickstart_works_when_pasted(service: Service, tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    write_flowers(folder)
    lines = quickstart()
    printed = dict(zip(lines, paste(lines, folder, service), strict=True))
    one, two, three = (json.loads(output) for line, output in printed.items() if "/predict" in line)
    assert [len(reply["predictions"]) for reply in (one, two, three)] == [1, 2, 1]
    assert {prediction["label"] for reply in (one, two, three) for prediction in reply["predictions"]} <= set(FLOWERS)
    assert one["predictions"][0]["score"] == pytest.approx(three["predictions"][0]["score"], abs=1e-3)
    assert (folder / "example.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "flowers.onnx").stat().st_size > 1000


def write_flowers(folder: Path) -> None:
    """flowers.zip, and a rose.jpg and a tulip.png that are not in it: digits in three colours, for want of flowers."""
    pixels, labels = some_digits(80)
    coloured = np.repeat(pixels[..., None], 3, axis=3)
    with zipfile.ZipFile(folder / "flowers.zip", "w") as archive:
        for number, flower in enumerate(FLOWERS):
            tinted = coloured[labels == number].copy()
            tinted[..., number] //= 2
            for place, picture in enumerate(tinted[1:]):
                archive.writestr(f"{flower}/{place:04}.png", png(picture))
            (folder / {"rose": "rose.jpg"}.get(flower, f"{flower}.png")).write_bytes(png(tinted[0]))
        archive.writestr("rose/cut.png", png(pixels[0])[:100])
