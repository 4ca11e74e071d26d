"""Predictions in the service's OpenAPI document, which the API writes and the composition completes."""

from typing import Any

from pydantic.json_schema import models_json_schema

from serve import oip_openapi
from serve.schemas import (
    DEFAULT_TOP_K,
    MAX_TOP_K,
    ExplainOptions,
    ExplainReply,
    ExplainRequest,
    PredictReply,
    PredictRequest,
)

BINARY = {"schema": {"type": "string", "format": "binary"}}
REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Yours, or one is made.",
    "schema": {"type": "string"},
}
REFUSALS = {
    "400": "The body is not valid JSON.",
    "401": "No key, or one that is not known, expired or revoked.",
    "404": "There is nothing of this name.",
    "408": "The body came too slowly.",
    "409": "The deployment is undeployed.",
    "413": "The body is too large.",
    "415": "The body is of a type that is not accepted.",
    "422": "No picture, one that cannot be read, or a wrong field; `errors` names each.",
    "500": "The model cannot be used; `detail` says which and why.",
    "503": "Too much is in work, or the database does not answer; Retry-After says when to try again.",
}
REPLY = {
    "predictions": [
        {
            "label": "tulip",
            "score": 0.973,
            "scores": [{"label": "tulip", "score": 0.973}, {"label": "rose", "score": 0.021}],
        }
    ],
    "model": {"id": "mo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3", "name": "flowers", "version": 7},
    "deployment": "flowers",
    "request_id": "3f0c7c1be2a94e0f8a3d6e5b4c2a1908",
    "latency_ms": 1.4,
}

EXPLAINED = {
    "label": "tulip",
    "score": 0.973,
    "predicted": "tulip",
    "method": "occlusion",
    "side": 32,
    "patch": 16,
    "stride": 16,
    "fill": "mean",
    "grid": [[0.012, 0.604], [-0.002, 0.031]],
    "overlay": "iVBORw0KGgo…",
    **{name: REPLY[name] for name in ("model", "deployment", "request_id")},
    "latency_ms": 42.7,
}


def add_to(document: dict[str, Any]) -> None:
    """Adds the operations to predict and to explain, the Open Inference Protocol, and their schemas. `document` has the schema
    Problem and the security schemes `bearer`, `api_key` and `session`."""
    oip_openapi.add_to(document)
    kinds = [
        (PredictRequest, "validation"), (PredictReply, "serialization"),
        (ExplainRequest, "validation"), (ExplainReply, "serialization"),
    ]  # fmt: skip
    _, defined = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    document.setdefault("components", {}).setdefault("schemas", {}).update(defined["$defs"])
    for noun, parameter, what in (
        ("deployments", "deployment", "the deployment's name or id"),
        ("models", "model", "the model's name (its newest version), name@version, name@alias, or id"),
    ):
        paths = document.setdefault("paths", {})
        paths[f"/v1/{noun}/{{{parameter}}}/predict"] = {"post": _predict(noun, parameter, what)}
        paths[f"/v1/{noun}/{{{parameter}}}/explain"] = {"post": _explain(noun, parameter, what)}


def _refusals() -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": said, "content": problem} for status, said in REFUSALS.items()}


def _predict(noun: str, parameter: str, what: str) -> dict[str, Any]:
    return {
        "tags": [noun],
        "summary": f"Classify pictures with a {parameter}",
        "description": (
            "One picture as the body (its content says what it is), several as files of a form, or base64 in JSON. "
            "With several targets, the request id decides which model answers: the same id, the same model."
        ),
        "operationId": f"predict_with_{parameter}",
        "security": [{"bearer": []}, {"api_key": []}, {"session": []}],
        "parameters": [
            {"name": parameter, "in": "path", "required": True, "description": what, "schema": {"type": "string"}},
            {
                "name": "top_k",
                "in": "query",
                "description": "How many labels to list for each picture; in JSON, a field of the body.",
                "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K},
            },
            REQUEST_ID,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": BINARY,
                "application/octet-stream": BINARY,
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": {"type": "string", "format": "binary"}, "top_k": {"type": "integer"}},
                        "required": ["image"],
                    }
                },
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/PredictRequest"},
                    "example": {"instances": [{"b64": "iVBORw0KGgo…"}], "top_k": 2},
                },
            },
        },
        "responses": {
            "200": {
                "description": "What the model says of each picture, in their order.",
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/PredictReply"},
                        "example": REPLY,
                    }
                },
            },
            **_refusals(),
        },
    }


def _explain(noun: str, parameter: str, what: str) -> dict[str, Any]:
    options = ExplainOptions.model_json_schema()["properties"]
    fields = {name: {key: value for key, value in field.items() if key != "title"} for name, field in options.items()}
    return {
        "tags": [noun],
        "summary": f"Explain what a {parameter} says of a picture",
        "description": (
            "Which places of one picture a label's score hangs on: squares of it are covered one after the other, and the "
            "drop of the score is noted (occlusion, Zeiler and Fergus 2014, arXiv:1311.2901). It takes about a hundred "
            "predictions; those of other requests go first. With `Accept: image/png` the answer is the picture alone."
        ),
        "operationId": f"explain_with_{parameter}",
        "security": [{"bearer": []}, {"api_key": []}, {"session": []}],
        "parameters": [
            {"name": parameter, "in": "path", "required": True, "description": what, "schema": {"type": "string"}},
            *(
                {
                    "name": name,
                    "in": "query",
                    "description": f"{field['description']}; in JSON and in a form, a field of the body".capitalize()
                    + ".",
                    "schema": {key: value for key, value in field.items() if key != "description"},
                }
                for name, field in fields.items()
            ),
            REQUEST_ID,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": BINARY,
                "application/octet-stream": BINARY,
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": {"type": "string", "format": "binary"}, **fields},
                        "required": ["image"],
                    }
                },
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ExplainRequest"},
                    "example": {"b64": "iVBORw0KGgo…", "label": "tulip"},
                },
            },
        },
        "responses": {
            "200": {
                "description": "What speaks for the label and against it, as numbers and as a picture over the picture.",
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/ExplainReply"},
                        "example": EXPLAINED,
                    },
                    "image/png": BINARY,
                },
            },
            **_refusals(),
        },
    }
