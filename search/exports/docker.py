"""A Docker build context that serves the model: ONNX Runtime behind FastAPI, and nothing of this package."""

import json
from collections.abc import Mapping
from typing import Any

from search.exports.folders import folder_of, requirements
from search.exports.values import Data, Made, Subject
from search.source import preprocessing_source

_SERVER = '''"""Answers POST /predict with a picture as the body: uvicorn server:app"""

import io
import json
import struct
import warnings
from pathlib import Path

import onnxruntime
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image

import preprocessing

HERE = Path(__file__).parent
MODEL = json.loads((HERE / "model.json").read_text("utf-8"))
LABELS = MODEL["labels"]  # in the order of the scores
MAX_BODY_BYTES = 16 * 1024 * 1024
# Pillow warns above the first and refuses above twice as many pixels; a warning is a refusal here.
Image.MAX_IMAGE_PIXELS = 50_000_000
warnings.simplefilter("error", Image.DecompressionBombWarning)
# What decoders throw at damaged files.
UNREADABLE = (
    OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, EOFError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)

session = onnxruntime.InferenceSession(
    str(HERE / "model.onnx"),
    providers=[
        name
        for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
        if name in onnxruntime.get_available_providers()
    ],
)
app = FastAPI(title=MODEL["name"], version=str(MODEL["version"]), description=MODEL["description"])


def scores(images):
    """uint8 (N, side, side, channels) to float32 (N, labels); rows sum to one."""
    return session.run(["scores"], {"images": images})[0]


def classify(body, top_k):
    try:
        picture = preprocessing.pixels(io.BytesIO(body))
    except UNREADABLE as error:
        raise HTTPException(422, f"the body is no picture that can be read: {error}") from None
    ranked = sorted(zip(LABELS, scores(picture[None])[0].tolist()), key=lambda pair: -pair[1])
    best = [{"label": label, "score": score} for label, score in ranked[:top_k]]
    return {"predictions": [{**best[0], "scores": best}], "model": {"name": MODEL["name"], "version": MODEL["version"]}}


@app.post("/predict")
async def predict(request: Request, top_k: int = Query(5, ge=1)):
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a picture may have {MAX_BODY_BYTES} bytes at most")
    return await run_in_threadpool(classify, body, top_k)


@app.get("/model")
def describe():
    return MODEL


@app.get("/healthz")
def healthz():
    return {"status": "ok"}
'''
_DOCKERFILE = """FROM python:3.12-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
USER nobody
EXPOSE 8080
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz')"]
CMD ["uvicorn", "server:app", "--host", "0.0.0.0", "--port", "8080"]
"""
_README = """# {name}, version {version}

```bash
docker build -t {tag} .
docker run --rm -p 8080:8080 {tag}
curl --data-binary @picture.jpg 'http://127.0.0.1:8080/predict?top_k=3'
```

Without Docker: `pip install -r requirements.txt && uvicorn server:app --port 8080`. `GET /model` lists the labels.
"""


def docker(subject: Subject, _: Data | None, __: Mapping[str, Any]) -> Made:
    """Dockerfile, server, preprocessing and the ONNX file that is served here, zipped."""
    about = {
        "name": subject.name,
        "version": subject.version,
        "description": subject.description,
        "labels": list(subject.labels),
    }
    files: dict[str, bytes | str] = {
        "Dockerfile": _DOCKERFILE,
        "README.md": _README.format(name=subject.name, version=subject.version, tag=subject.stem.lower()),
        "model.json": json.dumps(about, ensure_ascii=False, indent=1) + "\n",
        "model.onnx": subject.onnx,
        "preprocessing.py": preprocessing_source(packed_side=subject.side, channels=subject.channels),
        "requirements.txt": requirements("fastapi", "numpy", "onnxruntime", "pillow", "uvicorn"),
        "server.py": _SERVER,
    }
    return folder_of(f"{subject.stem}-docker", files, "from server import scores as answers\n")
