"""The API's own description: what FastAPI derives from the routes, made whole for readers and code generators."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

TAGS = [
    {"name": "datasets", "description": "Labelled pictures, in frozen versions."},
    {"name": "searches", "description": "The search for the best network for a data set, and its trials."},
    {"name": "models", "description": "Trained networks, in numbered versions under a name."},
    {"name": "deployments", "description": "Names that answer predictions, and the models behind them."},
    {"name": "batch predictions", "description": "A model's answers to many pictures at once, as files."},
    {"name": "jobs", "description": "Every other slow thing: imports, evaluations, exports."},
    {"name": "operation", "description": "Keys, workers, usage, limits, audit, health."},
]

EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, each with id, event and data (JSON); the last one is `end`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "Everything was told before and nothing will follow."},
}

PYTHON: dict[int | str, dict[str, Any]] = {
    200: {"description": "A Python module.", "content": {"text/x-python": {"schema": {"type": "string"}}}}
}

SUMMARIES = {
    "304": "What If-None-Match names is still so.",
    "400": "The body is not valid JSON.",
    "401": "No key, or one that is not known, expired or revoked.",
    "403": "The key's role may not do this, or a page of another site may have sent it.",
    "404": "There is nothing of this name.",
    "406": "The answer is a stream of events, which the caller does not accept.",
    "409": "Not possible in the present state, or a name that is taken.",
    "412": "The resource is no longer what If-Match names.",
    "413": "The body is too large.",
    "415": "The body must be JSON.",
    "422": "A field, a parameter or their combination is wrong; `errors` names each.",
    "429": "Too many requests with this key; Retry-After says when there is room.",
    "500": "A fault of the service; its log has the cause under the request id.",
    "503": "The database or the object store does not answer; Retry-After says when to try again.",
    "507": "The disk is full; nothing was kept.",
}


class FaultView(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="Path of the field, e.g. budget.minutes.")
    value: Any = Field(None, description="What was sent, shortened.")
    message: str = Field(description="What is wrong with it and what is accepted.")


class Problem(BaseModel):
    """RFC 9457 problem details: the one shape of every refusal."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FaultView] | None = None


def operation_id(route: APIRoute) -> str:
    """The function's name: what a generated client calls its method."""
    return route.name


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=TAGS,
        )
        schemas = document["components"]["schemas"]
        for left_over in ("HTTPValidationError", "ValidationError"):
            schemas.pop(left_over, None)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= problem.pop("$defs") | {"Problem": problem}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                operation["responses"] |= refusals(path, method, operation)
                operation["responses"] = dict(sorted(operation["responses"].items()))
        app.openapi_schema = document
    return app.openapi_schema


def refusals(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """The responses that a route may give beside its own, by what it takes."""
    named = {parameter["name"] for parameter in operation.get("parameters", ())}
    statuses = {"422", "500", "503"}
    if operation.get("security") or path == "/v1/session":
        statuses |= {"401", "403", "429"}
    if "{" in path or named & {"dataset", "search"}:
        statuses.add("404")
    if method != "get":
        statuses |= {"404", "409", "413"}
    if path.startswith("/v1/datasets/{dataset}/") and "version" in named:
        statuses.add("409")  # it has none yet
    if "If-Match" in named or "if-match" in named:
        statuses.add("412")
    body = operation.get("requestBody", {}).get("content", {})
    if "application/json" in body:
        statuses |= {"400", "415"}
    elif body:
        statuses.add("507")
    if path.endswith("/events"):
        statuses.add("406")
    if not operation.get("security") and not body:
        statuses -= {"422"}
    found = {
        status: {
            "description": SUMMARIES[status],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
    if method == "get" and "application/json" in operation["responses"].get("200", {}).get("content", {}):
        found["304"] = {"description": SUMMARIES["304"]}
    if "422" in operation["responses"] and "422" not in found:
        del operation["responses"]["422"]
    return found
