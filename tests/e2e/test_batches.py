"""A batch prediction over HTTP: a searched model, a real worker that is killed on the way, each row exactly once."""

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_crashes import kill
from tests.support.pictures import digits_zip, png, some_digits
from tests.support.service import Service, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COPIES = 4  # of 5,000 digits


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a model that a search made, quick to notice deaths, and one folder that may be fetched from."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "seven.png").write_bytes(png(some_digits(per_class=1, first=400)[0][7]))
    quick = {"lease_s": "2", "sweep_s": "0.5", "heartbeat_s": "0.2", "checkpoint_s": "0.5"}
    with running_service(batch_sources=f"file://{folder}/", **quick) as service:
        archive = digits_zip(tmp_path_factory.mktemp("data") / "digits.zip", per_class=60)
        assert service.upload("digits", archive)["state"] == "succeeded"
        service.post("/v1/searches", {"name": "reader", "dataset": "digits", "budget": {"trials": 1}, "seed": 7})
        assert service.ended("/v1/searches/reader")["state"] == "succeeded"
        service.post("/v1/deployments", {"name": "reader", "targets": [{"model": "reader"}]})
        yield service


def rows_of(service: Service, batch: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.http.get(batch["links"]["jsonl"]).text.splitlines()]


def test_the_test_split_is_answered_as_the_evaluation_says(service: Service) -> None:
    asked = {"deployment": "reader", "source": {"dataset": "digits", "split": "test"}, "top_k": 3}
    made = service.post("/v1/batch_predictions", asked)
    batch = service.get(f"/v1/batch_predictions/{made['id']}", wait=60)
    assert batch["state"] == "succeeded", batch
    evaluation = service.get("/v1/models/reader/evaluation")
    assert batch["result"]["rows"] == evaluation["examples"]
    assert batch["result"]["accuracy"] == pytest.approx(evaluation["metrics"]["accuracy"], abs=1e-6)
    rows = rows_of(service, batch)
    example = rows[0]["example"]
    picture = service.http.get(f"/v1/datasets/digits/examples/{example}/content").content
    answer = service.http.post("/v1/deployments/reader/predict", params={"top_k": 1}, content=picture).json()
    (best,) = answer["predictions"]
    assert (best["label"], best["score"]) == (rows[0]["label"], pytest.approx(rows[0]["score"], abs=1e-5))
    table = list(csv.reader(io.StringIO(service.http.get(batch["links"]["csv"]).text, newline="")))
    assert [row[4] for row in table[1:]] == [row["label"] for row in rows]


def test_a_killed_worker_loses_no_row_and_writes_none_twice(service: Service) -> None:
    pixels, _ = some_digits(per_class=500)
    pictures = [png(picture) for picture in pixels]
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for copy in range(COPIES):
            for place, picture in enumerate(pictures):
                archive.writestr(f"{copy}/{place:04d}.png", picture)
        archive.writestr("last/words.txt", b"no picture")
    sent = service.http.put("/v1/batch_predictions/data", params={"model": "reader"}, content=sink.getvalue())
    assert sent.status_code == 202, sent.text
    here = sent.json()["links"]["self"]
    seen = service.until(here, lambda row: row["rows"] > 0)
    assert seen["state"] == "running", "the batch was over before its worker could be killed"
    kill(service.processes("netwright worker", "--queue data"))
    batch = service.ended(here)
    assert batch["state"] == "succeeded", batch
    assert service.get(batch["links"]["job"])["attempt"] == 2
    rows = rows_of(service, batch)
    assert len(rows) == batch["rows"] == batch["result"]["rows"] == COPIES * 5000 + 1
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert set(Counter(row["path"] for row in rows).values()) == {1}
    answers: dict[str, set[tuple[str, float]]] = {}
    for row in rows[:-1]:
        answers.setdefault(row["path"][2:], set()).add((row["label"], round(row["score"], 4)))
    assert set(map(len, answers.values())) == {1}, "the same picture was answered differently before and after"
    assert "is not a picture" in rows[-1]["error"]
    assert service.http.delete(here).json()["freed_bytes"] == batch["result"]["size_bytes"]
    kept = service.home / "objects" / "batches" / batch["id"]
    service.until("/v1/batch_predictions", lambda _: not any(kept.glob("*")))  # the sweep has gone by


def test_addresses_are_fetched_from_where_the_operator_says(service: Service) -> None:
    folder = service.environment["NETWRIGHT_BATCH_SOURCES"]
    asked = {"model": "reader", "source": {"uris": [f"{folder}seven.png", f"{folder}none.png"]}}
    batch = service.ended(service.post("/v1/batch_predictions", asked)["links"]["self"])
    assert (batch["state"], batch["result"]["predicted"], batch["result"]["errors"]) == ("succeeded", 1, 1)
    good, missing = rows_of(service, batch)
    assert good["uri"] == f"{folder}seven.png"
    assert good["label"] in {str(digit) for digit in range(10)}
    assert "could not be read" in missing["error"]


def test_a_running_batch_holds_its_model_and_is_cancelled(service: Service, tmp_path: Path) -> None:
    pixels, _ = some_digits(per_class=500)
    archive = tmp_path / "digits.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for place, picture in enumerate(pixels.repeat(4, axis=0)):
            packed.writestr(f"{place:05d}.png", png(picture))
    content = archive.read_bytes()
    sent = service.http.put("/v1/batch_predictions/data", params={"model": "reader"}, content=content).json()
    refused = service.http.delete("/v1/models/reader")
    assert refused.status_code == 409
    assert service.post(f"{sent['links']['self']}/cancel")["cancel_requested"]
    assert service.ended(sent["links"]["self"])["state"] == "cancelled"
    assert len(rows_of(service, sent)) < len(pixels) * 4
