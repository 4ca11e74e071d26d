"""What deployments answered, on the wire: the log, feedback, drift, traffic."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from api.schemas import Body, Page, Text, Time, View, example
from web.requests import REQUEST_ID

FEEDBACK_MOST = 1000
Verdict = Literal["none", "moderate", "major"]
Window = Literal["1h", "24h", "7d"]


class LabelScore(View):
    label: str
    score: float


class LoggedRequest(View):
    """One picture of a request, and what was answered."""

    id: str
    request_id: str
    item: int = Field(description="The picture's place in its request, from 0.")
    at: Time
    model_id: str
    model: str = Field(description="name@version")
    label: str
    score: float
    scores: list[LabelScore] = Field(description="The best few, best first.")
    statistics: dict[str, float] = Field(
        description="Mean and deviation of each channel and sharpness, of full scale, as the network saw it; aspect "
        "ratio and megapixels as it was sent. Empty where it was not measured."
    )
    latency_ms: float = Field(description="Of the whole request.")
    sha256: str = Field(description="Of the picture as it was sent.")
    feedback: Literal["right", "wrong"] | None = Field(description="Null when nobody has said.")
    true_label: str | None = Field(description="As feedback has it; null also for none of the model's labels.")
    picture: str | None = Field(description="Where the picture is, when it was kept.")


class LoggedRequestPage(Page[LoggedRequest]):
    pass


class NewFeedback(Body):
    """What a picture that was asked about shows."""

    model_config = example(request_id="3f0c7c1be2a94e0f8a3d6e5b4c2a1908", label="tulip")

    request_id: str = Field(
        pattern=f"^{REQUEST_ID.pattern}$", description="As the answer had it, or as your X-Request-ID said."
    )
    label: Annotated[Text, Field(max_length=1000)] | None = Field(
        description="One of the model's labels; null for none of them."
    )
    item: Annotated[int, Field(ge=0, le=32767)] = Field(0, description="The picture's place in its request, from 0.")


def _listed(value: object) -> object:
    return [value] if isinstance(value, dict) else value


SomeFeedback = Annotated[
    list[NewFeedback],
    Field(min_length=1, max_length=FEEDBACK_MOST),
    BeforeValidator(
        _listed,
        json_schema_input_type=NewFeedback
        | Annotated[list[NewFeedback], Field(min_length=1, max_length=FEEDBACK_MOST)],
    ),
]
"""One, or a list."""


class Place(View):
    request_id: str
    item: int


class FeedbackReply(View):
    matched: int = Field(description="How many name requests that the log holds.")
    pending: list[Place] = Field(
        description="Those that it does not hold: younger than a second or two, outside the sample, or mistyped. They "
        "count as soon as the log holds them."
    )


class Proportion(View):
    count: int
    right: int
    value: float
    low: float = Field(description="Lower end of the Wilson interval at 95 %.")
    high: float


class LabelAccuracy(View):
    label: str | None = Field(description="The true one; null for pictures of none of the model's labels.")
    answered: int = Field(description="How often the model answered so, right or wrong.")
    right: Proportion | None = Field(description="Of the pictures that really show it; null when there is none.")


class ModelAccuracy(View):
    model_id: str
    model: str
    accuracy: Proportion
    labels: list[LabelAccuracy]
    confusion: list[list[int]] = Field(description="Rows: true labels, columns: answers, in the order of `labels`.")


class Accuracy(View):
    window: Window
    accuracy: Proportion | None = Field(description="Null without feedback on requests of the window.")
    pending: int = Field(description="Feedback of any age on requests that the log does not hold.")
    models: list[ModelAccuracy]


class LabelComparison(View):
    counts: dict[str, int] = Field(description="What the live answers are compared with, pictures by label.")
    psi: float = Field(description="Population stability index.")
    jensen_shannon: float = Field(description="Distance of the distributions, 0 to 1.")
    p_value: float = Field(description="Chi-square test: how often chance alone makes such a difference.")
    verdict: Verdict


class ValueComparison(View):
    reference_mean: float
    live_mean: float
    psi: float = Field(description="Population stability index over the deciles of the reference.")
    ks: float = Field(description="Largest difference of the two distributions, 0 to 1 (Kolmogorov-Smirnov).")
    p_value: float = Field(description="Of the two-sample test.")
    verdict: Verdict


class ModelDrift(View):
    model_id: str
    model: str
    pictures: int = Field(description="Logged pictures that these numbers rest on.")
    verdict: Verdict | None = Field(description="The worst of those below; null when there is none, `reason` says why.")
    reason: str | None
    answers: dict[str, int] = Field(description="Live answers by label.")
    validation: LabelComparison | None = Field(description="Live answers against the model's answers on validation.")
    training: LabelComparison | None = Field(
        description="Live answers against the labels of training pictures. Of no weight in the verdict: a model that "
        "confuses two labels differs from these by itself."
    )
    confidence: ValueComparison | None = Field(description="Highest scores, against those on validation.")
    inputs: dict[str, ValueComparison] = Field(
        description="Statistics of pictures, against those of training pictures."
    )


class Thresholds(View):
    pictures: int = Field(description="With fewer, nothing is said.")
    moderate: float = Field(description="From this index on a drift is moderate,")
    major: float = Field(description="from this one on major,")
    p_value: float = Field(description="unless chance makes such a difference more often than this.")


class Drift(View):
    window: Window
    logged: int = Field(description="Pictures in the log; of more than 10,000 an even sample is compared.")
    verdict: Verdict | None = Field(description="The worst of all models that answered often enough.")
    thresholds: Thresholds
    models: list[ModelDrift]


class Latency(View):
    p50: float | None
    p95: float | None
    p99: float | None


class Traffic(View):
    requests: int
    refused: int = Field(description="4xx: what was sent could not be answered.")
    failed: int = Field(description="5xx: the service did not manage.")
    latency_ms: Latency = Field(description="Of answered requests, right within a tenth; null when there was none.")


class Stretch(Traffic):
    at: Time = Field(description="When it begins.")


class Stats(Traffic):
    """All requests, whatever the log's sample; minutes under way grow for a second or two."""

    window: Window
    width_s: int = Field(description="Length of each stretch.")
    stretches: list[Stretch] = Field(description="Oldest first; the last one has not ended.")
