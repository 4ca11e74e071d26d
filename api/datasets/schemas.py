"""Data sets on the wire."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from api.schemas import Body, Name, Page, Text, Time, View, example

Task = Literal["image_classification"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")  # a split's number is its place here


class NewDataset(Body):
    model_config = example(name="flowers", task="image_classification", description="Twelve kinds, from the garden")

    name: Name
    task: Task = "image_classification"
    description: Text = Field("", max_length=2000)


class DatasetPatch(Body):
    """What to change; a field left out stays as it is."""

    model_config = example(description="Twelve kinds, from the garden and the park")

    description: Text = Field(max_length=2000)


class VersionSummary(View):
    """A frozen state of the data set: what a search saw stays what it saw."""

    number: int
    content_hash: str = Field(description="SHA-256 over examples, labels and splits.")
    examples: int
    labels: list[str]
    size_bytes: int
    channels: int | None = Field(description="1: all pictures are gray; 3: colour.")
    side: int | None = Field(description="Pixels on a side of the packed pictures that are trained on.")
    created_at: Time


class Dataset(View):
    model_config = example(
        id="ds_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        name="flowers",
        task="image_classification",
        description="",
        state="ready",
        version={
            "number": 1,
            "content_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "examples": 3670,
            "labels": ["daisy", "rose"],
            "size_bytes": 228813984,
            "channels": 3,
            "side": 128,
            "created_at": "2026-01-31T12:00:00Z",
        },
        created_at="2026-01-31T11:59:00Z",
        updated_at="2026-01-31T12:00:00Z",
        links={"self": "/v1/datasets/flowers"},
    )

    id: str
    name: str
    task: str
    description: str
    state: Literal["empty", "importing", "ready", "failed"]
    version: VersionSummary | None = Field(description="The newest version; null until an import has succeeded.")
    created_at: Time
    updated_at: Time
    links: dict[str, str]


class DatasetPage(Page[Dataset]):
    pass


class VersionPage(Page[VersionSummary]):
    pass


class SplitCounts(View):
    train: int
    validation: int
    test: int


class LabelStats(SplitCounts):
    label: str
    total: int


class Span(View):
    """Of a measure of the uploaded pictures."""

    minimum: int
    median: int
    maximum: int


class DatasetStats(View):
    version: int
    examples: int
    splits: SplitCounts
    labels: list[LabelStats]
    width: Span
    height: Span
    formats: dict[str, int] = Field(description="How many pictures came in which format.")
    imported: dict[str, Any] = Field(description="What the import counted: files seen, refused, mended, merged.")


class Label(View):
    number: int
    name: str
    examples: int


class LabelList(View):
    version: int
    items: list[Label]


class Finding(View):
    kind: str
    severity: Literal["info", "warning", "error"]
    message: str
    labels: list[str]
    examples: list[int] = Field(description="Numbers of the first few examples it is about.")


class FindingList(View):
    version: int
    items: list[Finding]


class Example(View):
    number: int
    path: str = Field(description="Where it lay in the upload.")
    label: str
    split: SplitName
    sha256: str
    phash: str = Field(description="Perceptual hash, 64 bits: similar pictures differ in few of them.")
    width: int
    height: int
    size_bytes: int
    format: str
    links: dict[str, str]


class ExamplePage(Page[Example]):
    pass


class Fractions(Body):
    """Shares of the examples; they add up to 1."""

    train: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.8
    validation: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.1

    @model_validator(mode="after")
    def whole(self) -> "Fractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test add up to {total:g}; they must add up to 1")
        return self


class NewSplit(Body):
    """Divide the examples of the newest version anew; near-copies of a picture stay on one side."""

    model_config = example(fractions={"train": 0.7, "validation": 0.15, "test": 0.15}, seed=1)

    fractions: Fractions = Fractions()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
