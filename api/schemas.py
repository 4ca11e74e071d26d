"""The pieces that requests and answers of all nouns are made of."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from store.ids import NAME, NAME_RULE
from store.pages import MAX_PAGE_SIZE

T = TypeVar("T")

MAX_WAIT_S = 60.0
REFERENCE_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
MODEL_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(@([1-9][0-9]{0,8}|[A-Za-z][A-Za-z0-9._-]{0,62}))?$"
REFERENCE = re.compile(MODEL_PATTERN)


class Body(BaseModel):
    """What a caller sends: fields that are not known are refused, and nothing is bent into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class View(BaseModel):
    """What a caller is told."""


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _name(value: str) -> str:
    if NAME.fullmatch(value) is None:
        raise ValueError(f"must be {NAME_RULE}")
    return value


def _text(value: str) -> str:
    if "\0" in value or (not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)):
        raise ValueError("must be text that can be stored: no NUL character, no half of a surrogate pair")
    return value


def _reference(value: str) -> str:
    if REFERENCE.fullmatch(value) is None:
        raise ValueError("must be an id or a name")
    return value


def never_null(schema: dict[str, Any]) -> None:
    """For a field that may be left out but not be null: what Pydantic cannot say of an optional field."""
    schema |= schema.pop("anyOf")[0]
    del schema["default"]


Time = Annotated[datetime, AfterValidator(_utc)]
"""RFC 3339, in UTC."""

Name = Annotated[
    str, AfterValidator(_name), Field(min_length=1, max_length=63, json_schema_extra={"pattern": REFERENCE_PATTERN})
]


Reference = Annotated[
    str, AfterValidator(_reference), Field(max_length=127, json_schema_extra={"pattern": MODEL_PATTERN})
]
"""An id or a name, in a body or a query; of a model also name@version or name@alias."""

Text = Annotated[str, AfterValidator(_text), Field(json_schema_extra={"pattern": "^[^\\u0000]*$"})]
"""Anything that Postgres can store."""

DatasetRef = Annotated[str, Path(pattern=REFERENCE_PATTERN, description="The data set's id or name.")]
SearchRef = Annotated[str, Path(pattern=REFERENCE_PATTERN, description="The search's id or name.")]
TrialRef = Annotated[
    str, Path(pattern=REFERENCE_PATTERN, description="The trial's id, or its number within the search.")
]
TrialId = Annotated[str, Field(pattern="^tr_[0-9a-f]{32}$")]
"""In a body."""

ModelRef = Annotated[
    str,
    Path(
        pattern=MODEL_PATTERN,
        description="A version's id, the model's name (its newest version), name@version or name@alias.",
    ),
]
AliasRef = Annotated[
    str, Path(pattern="^[A-Za-z][A-Za-z0-9._-]{0,62}$", description="The alias; it begins with a letter.")
]
EvaluationRef = Annotated[str, Path(pattern="^ev_[0-9a-f]{32}$", description="The evaluation's id.")]
ExportRef = Annotated[str, Path(pattern="^ex_[0-9a-f]{32}$", description="The export's id.")]
ExplanationRef = Annotated[str, Path(pattern="^xp_[0-9a-f]{32}$", description="The explanation's id.")]
DeploymentRef = Annotated[str, Path(pattern=REFERENCE_PATTERN, description="The deployment's id or name.")]
JobRef = Annotated[str, Path(pattern="^jo_[0-9a-f]{32}$", description="The job's id.")]
BatchRef = Annotated[str, Path(pattern="^bp_[0-9a-f]{32}$", description="The batch prediction's id.")]
KeyRef = Annotated[str, Path(pattern="^ke_[0-9a-f]{32}$", description="The key's id.")]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="The version's number.")]

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Hold the answer back until the end is reached, for this many seconds at most.",
    ),
]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="How many items to list at most.")]
PageToken = Annotated[
    str | None, Query(max_length=200, description="The next_page_token of the page before; leave it out to begin.")
]


class Page(View, Generic[T]):
    """Some items of a list, in order, and how to get those that follow."""

    items: list[T]
    next_page_token: str | None = Field(description="Null on the last page.")


class Freed(View):
    """What a deletion gave back."""

    freed_bytes: int = Field(description="Bytes that are free once the next sweep has gone by.")


def example(**values: Any) -> ConfigDict:
    """The configuration of a model with an example in the API's description."""
    return ConfigDict(json_schema_extra={"examples": [values]})


def python_file(source: str, name: str) -> Response:
    """The module as a file to keep."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.py"'}
    return Response(source, media_type="text/x-python", headers=headers)


def link_to(*parts: str) -> str:
    return "/" + "/".join(("v1", *parts))
