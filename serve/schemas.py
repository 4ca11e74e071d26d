"""The JSON of predictions: what may be asked, and what is answered."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_INSTANCES = 128
DEFAULT_TOP_K = 5
MAX_TOP_K = 1000


class Base64Picture(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    b64: str = Field(description="the bytes of a picture file in base64")


class Instance(BaseModel):
    """One picture, as `{"b64": "…"}` or `{"image": {"b64": "…"}}`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    b64: str | None = Field(None, description="the bytes of a picture file in base64")
    image: Base64Picture | None = None

    @model_validator(mode="after")
    def is_one_picture(self) -> "Instance":
        if (self.b64 is None) == (self.image is None):
            raise ValueError('give one picture, as {"b64": "…"} or as {"image": {"b64": "…"}}')
        return self

    @property
    def encoded(self) -> str:
        if self.image is not None:
            return self.image.b64
        assert self.b64 is not None
        return self.b64


class PredictRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    instances: list[Instance] = Field(min_length=1, max_length=MAX_INSTANCES)
    top_k: int = Field(DEFAULT_TOP_K, ge=1, le=MAX_TOP_K, description="how many labels to list for each picture")


class LabelScore(BaseModel):
    label: str
    score: float = Field(ge=0, le=1)


class Prediction(BaseModel):
    label: str = Field(description="the label with the highest score")
    score: float = Field(ge=0, le=1)
    scores: list[LabelScore] = Field(description="the `top_k` highest, best first")


class AnsweringModel(BaseModel):
    id: str
    name: str
    version: int


class PredictReply(BaseModel):
    predictions: list[Prediction] = Field(description="one for each picture, in their order")
    model: AnsweringModel
    deployment: str | None = Field(description="null when a model was asked directly")
    request_id: str
    latency_ms: float = Field(description="from the last byte of the request to the answer")


class ExplainOptions(BaseModel):
    """How a picture is covered, piece by piece; all may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: str | None = Field(None, max_length=1000, description="what to explain; the predicted label when left out")
    patch: int | None = Field(
        None, ge=1, description="side of the covering square in pixels of the packed picture; a sixth of its side"
    )
    stride: int | None = Field(None, ge=1, description="pixels from one square to the next; half a patch")
    fill: Literal["mean", "blur"] = Field(
        "mean", description="what covers: the picture's mean colour, or the picture blurred, which keeps its colours"
    )


class ExplainRequest(Instance, ExplainOptions):
    """One picture, as `{"b64": "…"}` or `{"image": {"b64": "…"}}`, and how it is covered."""


class ExplainReply(BaseModel):
    label: str = Field(description="what was explained")
    score: float = Field(ge=0, le=1, description="of `label` for the whole picture")
    predicted: str = Field(description="the label with the highest score")
    method: Literal["occlusion"]
    side: int = Field(description="pixels on a side of the packed picture, which is what the network sees")
    patch: int
    stride: int = Field(description="pixels on a side of a cell of `grid`")
    fill: Literal["mean", "blur"]
    grid: list[list[float]] = Field(
        description="rows of cells from the top, each from the left: how far the score drops, on average, when a square "
        "covers that place; below zero where it rises"
    )
    overlay: str = Field(description="PNG in base64: the picture in gray; warm speaks for the label, blue against it")
    model: AnsweringModel
    deployment: str | None = Field(description="null when a model was asked directly")
    request_id: str
    latency_ms: float = Field(description="from the last byte of the request to the answer")
