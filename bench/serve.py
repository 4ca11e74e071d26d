"""Predictions over HTTP beside what one would write instead, on the same ONNX file, by the same client, in one run.

    python -m bench.serve [--sides 32 128] [--concurrency 1 8 32 128] [--seconds 8] [--rounds 1] [--json FILE]
    python -m bench.serve --soak 200000

netwright       `netwright serve` as a user runs it: Postgres, a deployment, a key, the picture's checks, metrics.
netwright-form  the same process, asked with a form.
plain           FastAPI as its documentation has it: `async def predict(file: UploadFile)`, Pillow, `session.run`.
threaded        the same as `def`: FastAPI runs it in a thread.
bare            FastAPI with as little as one can write: `async def` that reads the body itself, no form, no `UploadFile`.
litserve        LitServe with batches of up to 32.
raw             no HTTP, no decoding: `session.run` in a loop, the ceiling.

The network is a `stages` network of about 0.3 million parameters, untrained; the picture one PNG of 32×32 or one JPEG of
128×128, with the network's own preprocessing everywhere. It comes as the body (netwright, bare), as a form (netwright-form, plain,
threaded) or as base64 in JSON (litserve, which is fastest so). The client is wrk, on the same cores as the server. Servers run one
at a time. `--soak` sends that many requests to netwright alone and looks at its memory meanwhile.
"""

import argparse
import base64
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from bench.ingest import machine, tree_bytes

SERVERS = ("netwright", "netwright-form", "plain", "threaded", "bare", "litserve")
BOUNDARY = "----------------------------a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
FLOPS = {32: 20_000_000, 128: 25_000_000}  # give 0.3 million parameters
LABELS = tuple(f"label {number}" for number in range(10))
BATCH_MAX = 32
WARM_UP_S = 2
NO_WRK = "wrk is missing: `apt-get install wrk`, `brew install wrk` or https://github.com/wg/wrk"
ROOT = Path(__file__).parents[1]

LUA = """
local file = assert(io.open("{body}", "rb"))
wrk.method, wrk.body = "POST", file:read("*all")
file:close()
wrk.headers["Content-Type"] = "{kind}"
wrk.headers["Authorization"] = "Bearer {key}"
function done(summary, latency, requests)
  local wrong = summary.errors
  io.write(string.format(
    'found {{"requests": %d, "microseconds": %d, "p50_us": %.1f, "p99_us": %.1f, "worst_us": %.1f, "errors": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    wrong.connect + wrong.read + wrong.write + wrong.status + wrong.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured against: a server's URL, and the request that it gets."""

    url: str
    body: bytes
    kind: str
    key: str
    pid: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of wrk. Times in milliseconds, memory in MiB."""

    server: str
    side: int
    concurrency: int
    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    errors: int
    memory_before: float
    memory_after: float


# ---------------------------------------------------------------------------------------------- what is served


def network(side: int) -> tuple[bytes, int]:
    """(the ONNX file, its parameters)."""
    from search.export import untrained_onnx
    from search.space import Shape
    from search.spaces.stages import StagesSpace, cost_of, reference

    shape = Shape(3, side, len(LABELS))
    genes = reference(shape, FLOPS[side])
    return untrained_onnx(StagesSpace(shape), genes.to_genotype(), LABELS), cost_of(genes, shape).params


def picture(side: int) -> bytes:
    """A picture with structure and some noise, as a file of the size that such pictures have."""
    random = np.random.default_rng(0)
    blots = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.clip(np.asarray(blots, np.int16) + random.integers(-8, 9, (side, side, 3)), 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noisy).save(sink, "PNG" if side <= 32 else "JPEG", quality=90)
    return sink.getvalue()


def form_of(data: bytes) -> bytes:
    """The picture as `file` of a form."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def prepared(data: bytes, side: int) -> Any:
    from ingest.preprocess import Preprocessing, to_array

    return to_array(data, Preprocessing(side, 3))


def answer(scores: Any) -> dict[str, Any]:
    best = np.argsort(-scores)[:5]
    return {"predictions": [{"label": LABELS[place], "score": float(scores[place])} for place in best]}


def run_fastapi(server: str, onnx: Path, side: int, port: int) -> None:
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI, Request, UploadFile

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    app = FastAPI()

    def predict(data: bytes) -> dict[str, Any]:
        (scores,) = session.run(["scores"], {"images": prepared(data, side)[None]})
        return answer(scores[0])

    if server == "threaded":

        @app.post("/predict")
        def in_thread(file: UploadFile) -> dict[str, Any]:
            return predict(file.file.read())

    elif server == "plain":

        @app.post("/predict")
        async def form(file: UploadFile) -> dict[str, Any]:
            return predict(await file.read())

    else:

        @app.post("/predict")
        async def body(request: Request) -> dict[str, Any]:
            return predict(await request.body())

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def run_litserve(onnx: Path, side: int, port: int) -> None:
    import litserve

    from bench.serve_litserve import Classify

    api = Classify(onnx, side, max_batch_size=BATCH_MAX, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, access_log=False)


def run_raw(onnx: Path, side: int) -> None:
    """Prints pictures per second by (threads, pictures at a time)."""
    import onnxruntime

    from search.runtime import session_options

    one = prepared(picture(side), side)
    found = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        session = onnxruntime.InferenceSession(onnx, session_options(threads), providers=["CPUExecutionProvider"])
        for count in (1, 8, BATCH_MAX):
            images = np.stack([one] * count)
            session.run(None, {"images": images})
            began, done = time.perf_counter(), 0
            while (took := time.perf_counter() - began) < WARM_UP_S:
                session.run(None, {"images": images})
                done += count
            found[f"{threads}×{count}"] = round(done / took)
    print(json.dumps(found))


# ---------------------------------------------------------------------------------------------- who serves


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def process(command: list[str], ready: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, from its first answer at `ready` to its end."""
    said = tempfile.TemporaryFile()  # noqa: SIM115  # of the server; read only when it does not come up
    running = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, process_group=0, stdout=said, stderr=said
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(ready, timeout=5):
                    break
            except OSError:
                if running.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise SystemExit(
                        f"{' '.join(command)} does not answer at {ready}:\n{said.read().decode()}"
                    ) from None
                time.sleep(0.1)
        yield running
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        said.close()


@contextmanager
def other(server: str, onnx: Path, side: int) -> Iterator[Asked]:
    port = free_port()
    command = [sys.executable, "-m", "bench.serve", "--run", server, "--onnx", str(onnx), "--sides", str(side)]
    base = f"http://127.0.0.1:{port}"
    data, kind = picture(side), "application/octet-stream"
    if server in ("plain", "threaded"):
        data, kind = form_of(data), FORM
    elif server == "litserve":
        data, kind = json.dumps({"image": base64.b64encode(data).decode()}).encode(), "application/json"
    ready = base + ("/health" if server == "litserve" else "/openapi.json")
    with process([*command, "--port", str(port)], ready) as running:
        yield Asked(f"{base}/predict", data, kind, secrets.token_hex(8), running.pid)


@contextmanager
def ours(onnx: Path, side: int) -> Iterator[Asked]:
    """`netwright serve` on a Postgres of its own, with the model deployed."""
    from ingest.preprocess import Preprocessing
    from netwright import engines
    from store import blobs, deployments, keys, migrate
    from store.database import engine_for, sessions_for
    from store.deployments import Target
    from store.ids import new_id
    from store.keys import Role
    from store.tables import Model

    document = onnx.read_bytes()
    with engines.temporary() as running:
        migrate.upgrade(running.database_url)
        engine = engine_for(running.database_url)
        with sessions_for(engine).begin() as session:
            digest = blobs.put(session, document)
            model = Model(
                id=new_id("model"), name="bench", number=1, genotype={}, description="", source="",
                preprocessing=Preprocessing(side, 3).to_json(), labels=list(LABELS), metrics={}, weights_sha256=digest,
                onnx_sha256=digest, parity=0.0, params=0, flops=0, size_bytes=len(document), lineage={},
            )  # fmt: skip
            session.add(model)
            session.flush()
            deployments.create(session, "bench", [Target(model.id)])
            key = keys.create_key(session, "bench", Role.PREDICTOR, None)[1]
        engine.dispose()
        port = free_port()
        base = f"http://127.0.0.1:{port}"
        environment = {"NETWRIGHT_DATABASE_URL": running.database_url, "NETWRIGHT_PORT": str(port)}
        environment |= {"NETWRIGHT_LOG_LEVEL": "WARNING"}
        with process([sys.executable, "-m", "netwright", "serve"], f"{base}/healthz", **environment) as serving:
            url = f"{base}/v1/deployments/bench/predict"
            yield Asked(url, picture(side), "application/octet-stream", key, serving.pid)


@contextmanager
def served(server: str, onnx: Path, side: int) -> Iterator[Asked]:
    if server == "netwright":
        with ours(onnx, side) as asked:
            yield asked
    elif server == "netwright-form":
        with ours(onnx, side) as asked:
            yield replace(asked, body=form_of(asked.body), kind=FORM)
    else:
        with other(server, onnx, side) as asked:
            yield asked


# ---------------------------------------------------------------------------------------------- who asks


def wrk(asked: Asked, concurrency: int, seconds: float) -> dict[str, Any]:
    """One run of wrk, one thread of it."""
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "post.lua"
        body.write_bytes(asked.body)
        script.write_text(LUA.format(body=body, kind=asked.kind, key=asked.key))
        command = [
            "wrk",
            "-t1",
            f"-c{concurrency}",
            f"-d{seconds:g}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
            asked.url,
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in said.splitlines() if line.startswith("found "))
    found: dict[str, Any] = json.loads(line.removeprefix("found "))
    return found


def measured(server: str, asked: Asked, side: int, concurrency: int, seconds: float) -> Figures:
    wrk(asked, concurrency, WARM_UP_S)
    before = tree_bytes(asked.pid)
    found = wrk(asked, concurrency, seconds)
    return Figures(
        server=server,
        side=side,
        concurrency=concurrency,
        requests=found["requests"],
        per_s=round(1e6 * found["requests"] / found["microseconds"], 1),
        p50_ms=round(found["p50_us"] / 1000, 3),
        p99_ms=round(found["p99_us"] / 1000, 3),
        worst_ms=round(found["worst_us"] / 1000, 3),
        errors=found["errors"],
        memory_before=round(before / 2**20, 1),
        memory_after=round(tree_bytes(asked.pid) / 2**20, 1),
    )


def middle(rounds: list[Figures]) -> Figures:
    """Of several runs of one thing: the medians, and the sum of what went wrong."""
    fields = {name: median(getattr(one, name) for one in rounds) for name in ("per_s", "p50_ms", "p99_ms", "worst_ms")}
    first, last = rounds[0], rounds[-1]
    return Figures(
        server=first.server, side=first.side, concurrency=first.concurrency,
        requests=sum(one.requests for one in rounds), errors=sum(one.errors for one in rounds),
        memory_before=first.memory_before, memory_after=last.memory_after, **fields,
    )  # fmt: skip


def verdicts(found: dict[tuple[str, int], Figures]) -> list[str]:
    """How each of ours stands against each of the others, by concurrency."""
    lines = []
    for (server, concurrency), own in found.items():
        if not server.startswith("netwright"):
            continue
        for (other_server, at), one in found.items():
            if at == concurrency and not other_server.startswith("netwright"):
                lines.append(
                    f"  {server} at {concurrency}: {own.per_s / one.per_s:.2f} × {other_server}, p50 {own.p50_ms:.2f} against "
                    f"{one.p50_ms:.2f} ms, p99 {own.p99_ms:.1f} against {one.p99_ms:.1f} ms"
                )
    return lines


def soak(asked: Asked, total: int) -> list[dict[str, Any]]:
    """Memory while `total` requests are answered, 32 at a time."""
    wrk(asked, 32, WARM_UP_S)
    rows: list[dict[str, Any]] = []
    done, errors = 0, 0
    while done < total:
        found = wrk(asked, 32, 10)
        done, errors = done + found["requests"], errors + found["errors"]
        rows.append({"requests": done, "errors": errors, "memory_mib": round(tree_bytes(asked.pid) / 2**20, 1)})
        print(f"  {done:9,} requests, {errors} errors, {rows[-1]['memory_mib']} MiB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sides", type=int, nargs="+", choices=list(FLOPS), default=list(FLOPS))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--seconds", type=float, default=8, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--soak", type=int, help="requests")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", choices=(*SERVERS, "raw"), help=argparse.SUPPRESS)
    parser.add_argument("--onnx", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run == "raw":
        run_raw(arguments.onnx, arguments.sides[0])
    elif arguments.run == "litserve":
        run_litserve(arguments.onnx, arguments.sides[0], arguments.port)
    elif arguments.run:
        run_fastapi(arguments.run, arguments.onnx, arguments.sides[0], arguments.port)
    elif shutil.which("wrk") is None:
        raise SystemExit(NO_WRK)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    names = ("onnxruntime", "uvicorn", "fastapi", "litserve", "numpy")
    facts = machine() | {name: version(name) for name in names}
    print(facts, flush=True)
    whole: dict[str, Any] = {"machine": facts, "rounds": [], "raw": {}, "soak": {}}
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as folder:
            onnx = Path(folder) / "network.onnx"
            document, params = network(side)
            onnx.write_bytes(document)
            size = len(picture(side))
            print(f"\n{side}×{side}, a picture of {size:,} bytes, a network of {params:,} parameters", flush=True)
            if arguments.soak:
                with ours(onnx, side) as asked:
                    whole["soak"][side] = soak(asked, arguments.soak)
                continue
            command = [sys.executable, "-m", "bench.serve", "--run", "raw", "--onnx", str(onnx), "--sides", str(side)]
            raw = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
            whole["raw"][side] = raw
            print(f"  raw, pictures/s by threads × batch: {raw}", flush=True)
            print(
                f"  {'server':15}{'at':>5}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'worst':>9}{'errors':>8}{'MiB':>14}"
            )
            rounds: dict[tuple[str, int], list[Figures]] = {}
            for _ in range(arguments.rounds):
                for server in arguments.servers:
                    with served(server, onnx, side) as asked:
                        for concurrency in arguments.concurrency:
                            one = measured(server, asked, side, concurrency, arguments.seconds)
                            rounds.setdefault((server, concurrency), []).append(one)
                            whole["rounds"].append(asdict(one))
                            show(one)
            found = {key: middle(several) for key, several in rounds.items()}
            if arguments.rounds > 1:
                print("  medians")
                for one in found.values():
                    show(one)
            print("\n".join(verdicts(found)), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(whole, indent=1))


def show(one: Figures) -> None:
    print(
        f"  {one.server:15}{one.concurrency:5}{one.per_s:12,.0f}{one.p50_ms:9.2f}{one.p99_ms:9.2f}{one.worst_ms:9.1f}"
        f"{one.errors:8}{one.memory_before:8.0f}→{one.memory_after:.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
