"""The Open Inference Protocol in the service's OpenAPI document."""

from typing import Any

from pydantic.json_schema import models_json_schema

from serve.oip_schemas import InferRequest, InferResponse, Refusal
from serve.oip_tensors import HEADER

TAG = {
    "name": "open inference protocol",
    "description": "The same models for clients of KServe and Triton: a deployment's name, else a model's, is a model there.",
}
REFUSALS = {
    "400": "The request is wrong: its JSON, its tensor, its binary data, or a picture that cannot be read.",
    "401": "No key, or one that is not known, expired or revoked.",
    "404": "There is nothing of this name or version.",
    "408": "The body came too slowly.",
    "409": "The deployment is undeployed.",
    "413": "The body is too large, or becomes it when unpacked.",
    "415": "The body is packed in a way that is not accepted.",
    "500": "The model cannot be used; `error` says which and why.",
    "503": "Too much is in work, or the database does not answer; Retry-After says when to try again.",
    "504": "The scores were not there within the `timeout` that was asked for.",
}
REQUEST = {
    "id": "order-7",
    "inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgo…"]}],
    "outputs": [{"name": "scores", "parameters": {"classification": 2}}],
}
RESPONSE = {
    "model_name": "flowers",
    "model_version": "7",
    "id": "order-7",
    "parameters": {"model": "flowers@7"},
    "outputs": [
        {"name": "scores", "datatype": "BYTES", "shape": [1, 2], "data": ["0.973000:2:tulip", "0.021000:1:rose"]}
    ],
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
OBJECT = {"type": "object"}
NAMED = {
    "model": ("a deployment's name or id, else a model's name (its newest version), name@version, or id", "string"),
    "version": ("the number of a model version", "string"),
}


def add_to(document: dict[str, Any]) -> None:
    """Adds the operations, their schemas and their tag; a second time changes nothing."""
    kinds = [(InferRequest, "validation"), (InferResponse, "serialization"), (Refusal, "serialization")]
    _, defined = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    document.setdefault("components", {}).setdefault("schemas", {}).update(defined["$defs"])
    tags = document.setdefault("tags", [])
    if TAG not in tags:
        tags.append(TAG)
    found: dict[str, tuple[str, str, str, dict[str, Any]]] = {
        "/v2": ("get", "server_metadata", "Name, version and extensions of the server", {}),
        "/v2/health/live": ("get", "server_live", "Whether the process answers; needs no key", {}),
        "/v2/health/ready": ("get", "server_ready", "Whether models can be loaded; needs no key", {}),
        "/v2/repository/index": ("post", "repository_index", "Every version that can be asked, and its state", {}),
    }
    for versioned, path in (("", "/v2/models/{model}"), ("_version", "/v2/models/{model}/versions/{version}")):
        found |= {
            path: ("get", f"model{versioned}_metadata", "Inputs, outputs, labels and versions of a model", {}),
            f"{path}/ready": ("get", f"model{versioned}_ready", "Loads a model; whether it can be asked", {}),
            f"{path}/config": ("get", f"model{versioned}_configuration", "A model as Triton would configure it", {}),
            f"{path}/infer": ("post", f"infer_with_model{versioned}", "Classify pictures", _inference()),
        }
    for path, (method, name, summary, more) in found.items():
        document.setdefault("paths", {})[path] = {method: _operation(path, name, summary) | more}


def _operation(path: str, name: str, summary: str) -> dict[str, Any]:
    listed = OBJECT if path != "/v2/repository/index" else {"type": "array", "items": OBJECT}
    operation: dict[str, Any] = {
        "tags": [TAG["name"]],
        "summary": summary,
        "operationId": name,
        "security": [] if "/health/" in path else [{"bearer": []}, {"api_key": []}, {"session": []}],
        "parameters": [
            {"name": key, "in": "path", "required": True, "description": what, "schema": {"type": kind}}
            for key, (what, kind) in NAMED.items()
            if f"{{{key}}}" in path
        ],
        "responses": _responses({"application/json": {"schema": listed}}),
    }
    if path == "/v2/repository/index":
        ready = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
        operation["requestBody"] = {"content": {"application/json": {"schema": ready}}}
    return operation


def _inference() -> dict[str, Any]:
    """What is special of inference."""
    header = {"description": "Length of the JSON in bytes, when binary data follow it.", "schema": {"type": "integer"}}
    request = {"schema": {"$ref": "#/components/schemas/InferRequest"}, "example": REQUEST}
    response = {"schema": {"$ref": "#/components/schemas/InferResponse"}, "example": RESPONSE}
    responses = _responses({"application/json": response, "application/octet-stream": BINARY})
    responses["200"]["headers"] = {HEADER: header}
    return {
        "description": (
            f"One input, `images`: UINT8 [N, side, side, channels] as the model's metadata says, or BYTES [N] of picture files "
            f"(base64 in JSON). One output, `scores`: FP32 [N, labels]. Binary data follow the JSON when {HEADER} is sent. "
            "Bodies may be packed as gzip or deflate, either way. The Content-Type is not looked at."
        ),
        "requestBody": {
            "required": True,
            "content": {"application/json": request, "application/octet-stream": BINARY},
        },
        "responses": responses,
    }


def _responses(content: dict[str, Any]) -> dict[str, Any]:
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    return {
        "200": {"description": "So it is.", "content": content},
        **{status: {"description": said, "content": refusal} for status, said in REFUSALS.items()},
    }
