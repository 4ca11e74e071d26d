"""Evaluations on the wire."""

from typing import Annotated, Literal

from pydantic import Field

from api.schemas import Body, Page, Reference, Time, View, example

Part = Literal["train", "validation", "test", "all"]


class NewEvaluation(Body):
    model_config = example(dataset="flowers", split="test", unknown_labels="ignore")

    dataset: Reference = Field(description="The data set's id or name: the model's own or any other.")
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="Of the data set; the newest when left out."
    )
    split: Part = Field("test", description="The part of the data set, or all of it.")
    unknown_labels: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="What to do with pictures whose labels the model does not know (labels are matched by name): refuse "
        "the evaluation, or leave them out and count them.",
    )


class Interval(View):
    """Percentile bootstrap: 95 of 100 resamples of the pictures lie within."""

    low: float
    high: float
    resamples: int


class LabelFigures(View):
    """One label against all others; null where nothing defines a figure."""

    label: str
    support: int = Field(description="Pictures that carry the label.")
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None = Field(description="Area under the precision-recall curve.")
    auc_roc: float | None


class Bin(View):
    """Answers about as sure as each other; of a calibrated model sureness and accuracy are alike."""

    low: float
    high: float
    count: int
    sureness: float | None = Field(description="Mean score of these answers.")
    accuracy: float | None = Field(description="Share of them that is right.")


class Slice(View):
    """Pictures that are alike in one respect."""

    by: str = Field(
        description="size (the longer side, in pixels), label, format, import (the version they came with) or training "
        "(whether the model was trained on them)."
    )
    value: str
    count: int
    metrics: dict[str, float]


class Skipped(View):
    unknown_labels: dict[str, int] = Field(description="Pictures left out, by the label that the model does not know.")
    unreadable: int = Field(description="Pictures that could not be decoded at the model's size.")


class EvaluationSummary(View):
    id: str
    model: str
    version: int
    dataset: str | None = Field(description="The name of the data set; null once that is deleted.")
    dataset_version: int | None
    own: bool = Field(description="Whether it is of the version of the data set that the model was trained on.")
    split: Part
    examples: int
    skipped: Skipped
    trained_on: int | None = Field(
        description="How many of the pictures the model was trained on: 0 for an honest figure; null once what it was "
        "trained on is deleted."
    )
    metrics: dict[str, float | None] = Field(description="Null where nothing defines one.")
    created_at: Time
    links: dict[str, str]


class EvaluationPage(Page[EvaluationSummary]):
    pass


class Evaluation(EvaluationSummary):
    intervals: dict[str, Interval] = Field(description="Of each metric that is defined and can be resampled.")
    per_label: list[LabelFigures]
    reliability: list[Bin] = Field(description="15 bins of sureness; empty without pictures.")
    slices: list[Slice]


class Confusion(View):
    labels: list[str]
    matrix: list[list[int]] = Field(description="Rows: the true label, columns: the predicted one.")
    links: dict[str, str]


class Threshold(View):
    """What comes of calling a label whenever its score reaches the threshold; null where nothing defines a figure."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    false_positive_rate: float | None


class Curve(View):
    """recall against precision is the PR curve, false_positive_rate against recall the ROC curve."""

    label: str | None = Field(description="Null: of all labels together (micro-averaged).")
    auc_pr: float | None = Field(description="Exact; of all labels together their mean.")
    auc_roc: float | None
    thresholds: list[Threshold]


class Guess(View):
    label: str
    score: float


class Mistake(View):
    example: int = Field(description="The example's number in the version of the data set.")
    true: str
    predicted: str
    score: float = Field(description="Of the predicted label: how sure the model was.")
    true_score: float
    top: list[Guess] = Field(description="The labels with the highest scores, the best first.")
    links: dict[str, str] = Field(description="The example, its picture and a thumbnail.")


class MistakePage(Page[Mistake]):
    total: int = Field(description="Of all pages.")
