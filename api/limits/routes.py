"""What may be asked for: sizes, budgets, and the choices a search has. What forms are built from."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from api.datasets.schemas import Task
from api.deps import AnyKey
from api.routing import JSON_MAX_BYTES, Route
from api.runtime import runtime_of
from api.schemas import MAX_WAIT_S, View
from api.searches.schemas import MINUTES_MAX, MINUTES_MIN, TRIALS_MAX, TRIALS_MIN
from search import catalog
from store.pages import MAX_PAGE_SIZE

router = APIRouter(prefix="/v1/limits", tags=["operation"], route_class=Route)


class Option(View):
    name: str
    type: Literal["integer", "number", "boolean", "choice"]
    default: Any
    explanation: str
    minimum: float | None
    maximum: float | None
    choices: list[str] | None


class Choice(View):
    name: str
    explanation: str
    options: list[Option]
    spaces: list[str] | None = Field(description="Of a strategy: the spaces it can search.")


class Range(View):
    minimum: float
    maximum: float


class SearchChoices(View):
    minutes: Range
    trials: Range
    objectives: list[Choice]
    spaces: list[Choice]
    strategies: list[Choice]
    limits: list[Option] = Field(description="What `limits` of a search takes; nothing is limited by default.")
    proxy: list[Option] = Field(description="What `proxy` of a search takes.")
    default_objective: str
    default_space: str
    default_strategy: str


class Limits(View):
    tasks: list[Task]
    upload_max_bytes: int
    unpacked_max_bytes: int
    archive_max_entries: int
    picture_max_pixels: int
    predict_max_bytes: int
    json_max_bytes: int
    requests_per_minute: int = Field(description="Per key.")
    page_size_max: int
    wait_max_s: float
    search: SearchChoices
    exports: list[Choice] = Field(description="The formats that a model can be had in.")


def options(entry: catalog.Entry) -> list[Option]:
    return [
        Option(
            name=option.name,
            type=option.type,
            default=option.default,
            explanation=option.explanation,
            minimum=option.minimum if option.type in {"integer", "number"} else None,
            maximum=option.maximum if option.type in {"integer", "number"} else None,
            choices=list(option.choices) or None,
        )
        for option in entry.options
    ]


def choice(entry: catalog.Entry) -> Choice:
    return Choice(
        name=entry.name,
        explanation=entry.explanation,
        options=options(entry),
        spaces=list(entry.spaces) or None,
    )


@router.get("")
def get_limits(request: Request, _: AnyKey) -> Limits:
    settings = runtime_of(request).settings
    return Limits(
        tasks=["image_classification"],
        upload_max_bytes=settings.upload_max_bytes,
        unpacked_max_bytes=settings.unpacked_max_bytes,
        archive_max_entries=settings.archive_max_entries,
        picture_max_pixels=settings.picture_max_pixels,
        predict_max_bytes=settings.predict_max_bytes,
        json_max_bytes=JSON_MAX_BYTES,
        requests_per_minute=settings.requests_per_minute,
        page_size_max=MAX_PAGE_SIZE,
        wait_max_s=MAX_WAIT_S,
        search=SearchChoices(
            minutes=Range(minimum=MINUTES_MIN, maximum=MINUTES_MAX),
            trials=Range(minimum=TRIALS_MIN, maximum=TRIALS_MAX),
            objectives=[choice(entry) for entry in catalog.OBJECTIVES.values()],
            spaces=[choice(entry) for entry in catalog.SPACES.values()],
            strategies=[choice(entry) for entry in catalog.STRATEGIES.values()],
            limits=options(catalog.LIMITS),
            proxy=options(catalog.PROXY),
            default_objective=catalog.DEFAULT_OBJECTIVE,
            default_space=catalog.DEFAULT_SPACE,
            default_strategy=catalog.DEFAULT_STRATEGY,
        ),
        exports=[choice(entry) for entry in catalog.EXPORTS.values()],
    )
