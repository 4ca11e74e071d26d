"""Batch predictions on the wire."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from api.datasets.schemas import SplitName
from api.jobs.schemas import JobError
from api.schemas import Body, Page, Reference, Text, Time, View, example, never_null
from store.uris import MAX_URI_CHARACTERS

DEFAULT_TOP_K, MAX_TOP_K = 5, 100
MAX_URIS = 10_000

TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K)]
Uri = Annotated[Text, Field(min_length=1, max_length=MAX_URI_CHARACTERS)]


class NewSource(Body):
    """The pictures: `dataset`, its originals, or `uris`. An archive is sent with PUT /v1/batch_predictions/data."""

    model_config = example(dataset="flowers", split="test")

    dataset: Reference | None = Field(None, json_schema_extra=never_null, description="All examples of this data set.")
    version: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = Field(
        None, json_schema_extra=never_null, description="Of the data set; its newest when left out."
    )
    split: SplitName | None = Field(None, json_schema_extra=never_null, description="Only the examples of this part.")
    uris: Annotated[list[Uri] | None, Field(min_length=1, max_length=MAX_URIS)] = Field(
        None,
        json_schema_extra=never_null,
        description="Addresses of pictures: http, https, s3, gs, az or file, of places that the operator lists.",
    )

    @model_validator(mode="after")
    def one(self) -> "NewSource":
        if (self.dataset is None) == (self.uris is None):
            raise ValueError("give one of dataset and uris")
        if self.uris is not None and (self.split is not None or self.version is not None):
            raise ValueError("version and split belong to dataset; a list of uris has none")
        return self


class NewBatchPrediction(Body):
    model_config = example(model="flowers-1", source={"dataset": "flowers", "split": "test"}, top_k=3)

    model: Reference | None = Field(
        None, json_schema_extra=never_null, description="A model's name (its newest version), name@version, or an id."
    )
    deployment: Reference | None = Field(
        None, json_schema_extra=never_null, description="In place of `model`: a deployment with one target."
    )
    source: NewSource
    top_k: TopK = Field(DEFAULT_TOP_K, description="How many labels to list for each picture, the best first.")

    @model_validator(mode="after")
    def one(self) -> "NewBatchPrediction":
        if (self.model is None) == (self.deployment is None):
            raise ValueError("give one of model and deployment")
        return self


class Source(View):
    kind: Literal["dataset", "upload", "uris"]
    dataset: str | None = Field(description="The name it had.")
    version: int | None
    split: SplitName | None = Field(description="Null: all of it.")
    size_bytes: int | None = Field(description="Of an upload.")
    count: int | None = Field(description="Of addresses.")


class Summary(View):
    """What is said of the batch as a whole."""

    rows: int
    predicted: int = Field(description="Rows with a label.")
    errors: int = Field(description="Rows with a reason why there is none.")
    labels: dict[str, int] = Field(description="Rows by predicted label.")
    accuracy: float | None = Field(description="Where the data set says the true labels, and the model knows them all.")
    no_accuracy_because: str | None
    seconds: float = Field(description="Of work.")
    pictures_per_s: float | None
    size_bytes: int = Field(description="Of the stored results.")
    notes: list[str] = Field(description="What else the archive had, and what was mended in reading it.")


class BatchPrediction(View):
    model_config = example(
        id="bp_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        job="jo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        state="running",
        model="flowers-1",
        model_version=3,
        model_id="mo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        precision="fp32",
        deployment=None,
        source={
            "kind": "dataset",
            "dataset": "flowers",
            "version": 1,
            "split": "test",
            "size_bytes": None,
            "count": None,
        },
        top_k=3,
        rows=2048,
        errors=0,
        progress={"stage": "predicting", "done": 2304, "total": 3670, "fraction": 0.628, "pictures_per_s": 2911.4},
        result=None,
        error=None,
        cancel_requested=False,
        created_at="2026-01-31T12:00:00Z",
        started_at="2026-01-31T12:00:01Z",
        ended_at=None,
        links={"self": "/v1/batch_predictions/bp_0197c1d2e3f47a5b8c6d7e8f90a1b2c3"},
    )

    id: str
    job: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    model: str
    model_version: int
    model_id: str | None = Field(description="Null once the model is deleted.")
    precision: Literal["fp32", "int8"] = Field(description="Of the file that answers, as the deployment's target says.")
    deployment: str | None = Field(description="The deployment that was named in place of a model.")
    source: Source
    top_k: int
    rows: int = Field(description="Written so far; whoever takes the batch up again goes on behind them.")
    errors: int = Field(description="Of these rows.")
    progress: dict[str, Any]
    result: Summary | None
    error: JobError | None
    cancel_requested: bool
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    links: dict[str, str]


class BatchPredictionPage(Page[BatchPrediction]):
    pass
