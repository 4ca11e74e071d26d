"""The JSON of predictions: what may be asked, and what is answered."""

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
