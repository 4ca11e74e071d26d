"""Explanations on the wire."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from api.schemas import Body, Page, Reference, Text, Time, View, example

Method = Literal["integrated_gradients", "grad_cam", "occlusion"]


class NewExplanation(Body):
    """An example of a data set, or a picture of your own."""

    model_config = Body.model_config | example(dataset="flowers", example=17, method="grad_cam", label="tulip")

    dataset: Reference | None = Field(None, description="Of the example.")
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="Of the data set; the newest when left out."
    )
    example: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Its place in the version, as `GET /v1/datasets/{dataset}/examples` lists it."
    )
    picture: str | None = Field(None, description="A picture file of your own, in base64.")
    method: Method = Field(
        description="integrated_gradients: how much each pixel adds to the score, on the way from a picture in the training's "
        "mean colour. grad_cam: where the last layer with an extent in space answers for the label. occlusion: how far "
        "the score drops when a place is covered."
    )
    label: Annotated[Text, Field(max_length=1000)] | None = Field(
        None, description="What to explain; the predicted label when left out."
    )
    patch: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="Of occlusion: side of the covering square in pixels of the packed picture; a sixth of its side.",
    )
    stride: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Of occlusion: pixels from one square to the next; half a patch."
    )
    fill: Literal["mean", "blur"] | None = Field(
        None,
        description="Of occlusion: what covers, the picture's mean colour (unless told otherwise) or the picture blurred.",
    )

    @model_validator(mode="after")
    def names_one_picture(self) -> "NewExplanation":
        if (self.picture is None) == (self.example is None):
            raise ValueError("give one picture: dataset and example, or picture")
        if (self.dataset is None) != (self.example is None) or (self.version is not None and self.dataset is None):
            raise ValueError("dataset and example belong together, and version to them")
        if self.method != "occlusion" and self.options:
            raise ValueError(f"{', '.join(self.options)}: of the method occlusion alone, not of {self.method}")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Those of the method that were given."""
        given = {"patch": self.patch, "stride": self.stride, "fill": self.fill}
        return {name: value for name, value in given.items() if value is not None}


class Explanation(View):
    model_config = example(
        id="xp_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        model="flowers",
        version=3,
        dataset="flowers",
        dataset_version=1,
        example=17,
        method="integrated_gradients",
        label="tulip",
        score=0.973,
        predicted="tulip",
        predicted_score=0.973,
        delta=0.0004,
        details={"steps": 128, "baseline_score": 0.201},
        job="jo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        created_at="2026-01-31T12:00:00Z",
        links={"overlay": "/v1/models/flowers@3/explanations/xp_0197c1d2e3f47a5b8c6d7e8f90a1b2c3/overlay"},
    )

    id: str
    model: str
    version: int
    dataset: str | None = Field(
        description="The name of the data set that the picture is an example of; null for a picture that was sent, and "
        "once the data set is deleted."
    )
    dataset_version: int | None
    example: int | None
    method: Method
    label: str = Field(description="What was explained.")
    score: float = Field(ge=0, le=1, description="Of `label`.")
    predicted: str = Field(description="The label with the highest score.")
    predicted_score: float = Field(ge=0, le=1)
    delta: float | None = Field(
        description="Of integrated_gradients, which promises that the grid adds up to `score` less `baseline_score`: what the "
        "sum has too much. Null for the other methods."
    )
    details: dict[str, Any] = Field(
        description="Of integrated_gradients: steps of the integral, and baseline_score, of the picture in the mean colour. "
        "Of grad_cam: layer, and layer_size, its rows and columns. Of occlusion: patch, stride, fill."
    )
    job: str = Field(description="The id of the job that made it.")
    created_at: Time
    links: dict[str, str]


class ExplanationWithGrid(Explanation):
    grid: list[list[float]] = Field(
        description="A number for each pixel of the packed picture, which is what the network sees: rows from the top, each from "
        "the left. Above zero speaks for the label, below zero against it. Of integrated_gradients and occlusion in units "
        "of the score; of grad_cam between 0 and 1."
    )


class ExplanationPage(Page[Explanation]):
    pass
