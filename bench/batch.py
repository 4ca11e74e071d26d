"""Batch predictions beside the raw ONNX Runtime loop on the same pictures and the same ONNX file, in one run.

    python -m bench.batch [--sides 32 128] [--pictures 20000 4000] [--rounds 3] [--json FILE]

threads    session.run in a loop over decoded pictures in memory, on all cores, 64 at a time: the usual raw loop.
lanes      the same with a loop for each core, on one thread each, all at once: what ONNX Runtime can do at best here.
data set   the job over a data set whose packed pictures are what the model takes.
archive    the job over the archive: unpacked, each picture decoded by processes of their own, the same preprocessing.
decoding   session.run on all cores, 64 at a time, over pictures that Pillow decodes in the same loop: what one would write.

A job is what a worker does from claim to end, on a real Postgres and object folder: model read and opened, processes started,
rows written down, packed and stored, parts and progress in the database. The network is that of bench.serve, untrained; the pictures are
PNGs of 32×32 or JPEGs of 128×128, each another. Everything in turn, in each round.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from pydantic import SecretStr

from bench.ingest import machine
from bench.serve import LABELS, network
from ingest.preprocess import Preprocessing, to_array
from netwright import engines
from search.runtime import INPUT, OUTPUT, cores, session_options
from store import batches, blobs, datasets, jobs, migrate
from store.ids import new_id
from store.settings import Settings
from store.states import JobState
from store.tables import Model
from worker import jobs as worker
from worker.answers import BATCH
from worker.context import Context

WAYS = ("threads", "lanes", "data set", "archive", "decoding")
MINE = ("data set", "archive")


def pictures(side: int, count: int) -> dict[str, bytes]:
    """Files in folders of labels, with structure and some noise."""
    random = np.random.default_rng(0)
    made = {}
    for number in range(count):
        blots = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        noise = random.integers(-8, 9, (side, side, 3))
        sink = io.BytesIO()
        noisy = np.clip(np.asarray(blots, np.int16) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(sink, "PNG" if side <= 32 else "JPEG", quality=90)
        made[f"{LABELS[number % len(LABELS)]}/{number:06d}"] = sink.getvalue()
    return made


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


class Bench:
    """A model, a data set and an archive of the same pictures, in a service of the benchmark's own."""

    def __init__(self, context: Context, side: int, count: int) -> None:
        self.context, self.preprocessing = context, Preprocessing(side, 3)
        files = pictures(side, count)
        self.files = list(files.values())
        self.archive = zipped(files)
        self.onnx, self.params = network(side)
        with context.sessions.begin() as session:
            self.model = Model(
                id=new_id("model"), name=f"network-{side}", number=1, genotype={},
                description="", source="", preprocessing=self.preprocessing.to_json(), labels=list(LABELS), metrics={},
                weights_sha256=blobs.put(session, b""), onnx_sha256=blobs.put(session, self.onnx), parity=0.0,
                params=self.params, flops=0, size_bytes=len(self.onnx), lineage={},
            )  # fmt: skip
            session.add(self.model)
        self.dataset = f"pictures-{side}"
        context.objects.put("uploads/data", self.archive)
        with context.sessions.begin() as session:
            dataset = datasets.create(session, self.dataset, "image_classification")
            job = datasets.begin_import(session, dataset, "uploads/data", {"max_side": side})
        worker.run(context, job.id, "bench")
        with context.sessions.begin() as session:
            version = datasets.require_version(session, datasets.get(session, self.dataset))
            assert version.preprocessing == self.preprocessing.to_json(), version.preprocessing
            assert version.example_count == count
            self.version = version
            images = context.objects.fetch(version.images_key, context.cache)
        self.pixels: NDArray[np.uint8] = np.load(images)

    def run(self, way: str) -> float:
        """Pictures per second."""
        ways: dict[str, Callable[[], None]] = {
            "threads": self._threads, "lanes": self._lanes, "decoding": self._decoding,
            "data set": lambda: self._job({"kind": "dataset", "dataset": self.dataset, "version": 1, "split": None}),
            "archive": lambda: self._job({"kind": "upload", "key": "uploads/sent", "size_bytes": len(self.archive)}),
        }  # fmt: skip
        began = time.perf_counter()
        ways[way]()
        return len(self.files) / (time.perf_counter() - began)

    def _session(self, threads: int) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self.onnx, session_options(threads), providers=["CPUExecutionProvider"])

    def _threads(self) -> None:
        session = self._session(cores())
        for start in range(0, len(self.pixels), BATCH):
            session.run([OUTPUT], {INPUT: self.pixels[start : start + BATCH]})

    def _lanes(self) -> None:
        session = self._session(1)

        def answer(start: int) -> None:
            session.run([OUTPUT], {INPUT: self.pixels[start : start + BATCH]})

        with ThreadPoolExecutor(cores()) as lanes:
            list(lanes.map(answer, range(0, len(self.pixels), BATCH)))

    def _decoding(self) -> None:
        session = self._session(cores())
        for start in range(0, len(self.files), BATCH):
            decoded = [to_array(data, self.preprocessing) for data in self.files[start : start + BATCH]]
            session.run([OUTPUT], {INPUT: np.stack(decoded)})

    def _job(self, source: dict[str, Any]) -> None:
        sent = source["kind"] == "upload"
        with self.context.sessions.begin() as session:
            if sent:
                self.context.objects.put(source["key"], self.archive)
            key, version = (source["key"], None) if sent else (None, self.version)
            batch = batches.create(session, batches.Answering(self.model), source, 5, version=version, upload_key=key)
        worker.run(self.context, batch.job_id, "bench")
        with self.context.sessions.begin() as session:
            job = jobs.get(session, batch.job_id)
            assert job.state is JobState.SUCCEEDED, job.error
            assert job.result is not None
            assert (job.result["rows"], job.result["errors"]) == (len(self.files), 0)


def measured(bench: Bench, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:  # once beforehand: libraries loaded, files in memory
        bench.run(way)
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(round(bench.run(way), 1))
    return found


def table(side: int, count: int, params: int, found: dict[str, list[float]]) -> Sequence[str]:
    medians = {way: statistics.median(each) for way, each in found.items()}
    lines = [f"{side}×{side}, {count:,} pictures, {params:,} parameters, n = {len(found['lanes'])}"]
    for way in WAYS:
        shares = [
            f"{statistics.median(a / b for a, b in zip(found[way], found[raw], strict=True)):.2f}" for raw in WAYS[:2]
        ]
        lines.append(
            f"  {way:10}{medians[way]:10,.0f} pictures/s  best {max(found[way]):10,.0f}"
            + (f"  of threads {shares[0]}, of lanes {shares[1]}" if way not in WAYS[:2] else "")
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 128], choices=[32, 128])
    parser.add_argument("--pictures", type=int, nargs="+", default=[20_000, 4_000], help="for each side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts = machine() | {"onnxruntime": onnxruntime.__version__}
    print(facts)
    everything = {}
    with engines.temporary(durable=True) as servers, tempfile.TemporaryDirectory() as home:
        migrate.upgrade(servers.database_url)
        settings = Settings(
            home=Path(home), database_url=SecretStr(servers.database_url), redis_url=SecretStr(servers.redis_url)
        )
        context = Context.of(settings)
        for side, count in zip(arguments.sides, arguments.pictures, strict=True):
            bench = Bench(context, side, count)
            everything[side] = measured(bench, arguments.rounds)
            print("\n".join(table(side, count, bench.params, everything[side])), flush=True)
        context.sessions.kw["bind"].dispose()
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "pictures_per_s": everything}, indent=1))


if __name__ == "__main__":
    main()
