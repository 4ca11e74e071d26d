"""A model directory that `mlflow.pyfunc.load_model` and `mlflow.onnx.load_model` load; written without MLflow.

The layout is that of MLflow's ONNX flavor (https://mlflow.org/docs/latest/ml/model): an MLmodel file in YAML beside the
ONNX file that is served here.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version as installed
from typing import Any

from search.exports.folders import folder_of, listed, requirements
from search.exports.onnx_files import PROGRAM
from search.exports.values import Data, Made, Subject

MLFLOW_VERSION = "3.0.0"  # whose format it is
_MLMODEL = """flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: {onnx}
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: {python}
metadata: {metadata}
mlflow_version: {mlflow}
model_size_bytes: {size}
model_uuid: {uuid}
signature:
  inputs: '{inputs}'
  outputs: '{outputs}'
  params: null
"""
_PYTHON_ENV = """python: {python}
build_dependencies:
- pip
dependencies:
- -r requirements.txt
"""


def mlflow(subject: Subject, _: Data | None, __: Mapping[str, Any]) -> Made:
    """The directory, zipped. Labels are in labels.json and in the metadata."""
    python = platform.python_version()
    digest = hashlib.sha256(subject.onnx).hexdigest()
    mlmodel = _MLMODEL.format(
        onnx=installed("onnx"),
        python=python,
        metadata=json.dumps(
            {"labels": list(subject.labels), "name": subject.name, "version": subject.version}, ensure_ascii=False
        ),
        mlflow=MLFLOW_VERSION,
        size=len(subject.onnx),
        uuid=digest[:32],
        inputs=_tensor("uint8", -1, subject.side, subject.side, subject.channels),
        outputs=_tensor("float32", -1, len(subject.labels)),
    )
    files: dict[str, bytes | str] = {
        "MLmodel": mlmodel,
        "model.onnx": subject.onnx,
        "labels.json": listed(subject.labels),
        "python_env.yaml": _PYTHON_ENV.format(python=python),
        "requirements.txt": f"mlflow>={MLFLOW_VERSION}\n" + requirements("numpy", "onnx", "onnxruntime"),
    }
    folder = f"{subject.stem}-mlflow"
    return folder_of(folder, files, PROGRAM.format(name=f"{folder}/model.onnx"))


def _tensor(dtype: str, *shape: int) -> str:
    """One unnamed tensor in MLflow's schema, so that `predict` takes an array."""
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}])
