"""Searches and their trials on the wire."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from api.schemas import Body, Name, Page, Reference, Time, TrialId, View, example, never_null
from search import catalog

OBJECTIVES: list[JsonValue] = list(catalog.OBJECTIVES)
SPACES: list[JsonValue] = list(catalog.SPACES)
STRATEGIES: list[JsonValue] = list(catalog.STRATEGIES)
SECONDS, TRIALS = catalog.BUDGET.options
MINUTES_MIN, MINUTES_MAX = SECONDS.minimum / 60, SECONDS.maximum / 60
TRIALS_MIN, TRIALS_MAX = int(TRIALS.minimum), int(TRIALS.maximum)
BUDGET_SCHEMA: dict[str, JsonValue] = {
    "oneOf": [{"required": ["minutes"]}, {"required": ["trials"]}],
    "examples": [{"minutes": 10}, {"trials": 20}],
}


FrontCost = Literal["params", "flops", "seconds", "size_bytes", "latency_ms"]


class Budget(Body):
    """What a search may spend: minutes of wall-clock, final training included, or trainings (then repeatable)."""

    model_config = ConfigDict(json_schema_extra=BUDGET_SCHEMA)

    minutes: Annotated[float | None, Field(ge=MINUTES_MIN, le=MINUTES_MAX, allow_inf_nan=False)] = Field(
        None, json_schema_extra=never_null
    )
    trials: Annotated[int | None, Field(ge=TRIALS_MIN, le=TRIALS_MAX)] = Field(None, json_schema_extra=never_null)

    @model_validator(mode="after")
    def one_unit(self) -> "Budget":
        if len(self.model_fields_set) != 1 or (self.minutes is None and self.trials is None):
            given = "both" if len(self.model_fields_set) == 2 else "neither"
            raise ValueError(
                f"give exactly one of minutes ({MINUTES_MIN:g} to {MINUTES_MAX:g}) and trials ({TRIALS_MIN} to "
                f"{TRIALS_MAX}), not {given}"
            )
        return self

    @property
    def seconds(self) -> float | None:
        return None if self.minutes is None else self.minutes * 60


PARAMS, FLOPS, SIZE, LATENCY = catalog.LIMITS.options
FRACTION, SIDE = catalog.PROXY.options


def ranged(option: catalog.Option) -> Any:
    return Field(
        option.default,
        ge=int(option.minimum) if option.type == "integer" else option.minimum,
        le=int(option.maximum) if option.type == "integer" else option.maximum,
        allow_inf_nan=None if option.type == "integer" else False,
        description=option.explanation,
    )


class SearchLimits(Body):
    """What a network may have at most, whatever its score; a limit that is left out or null is none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_params": 200_000, "max_latency_ms": 5}]})

    max_params: int | None = ranged(PARAMS)
    max_flops: int | None = ranged(FLOPS)
    max_size_mb: float | None = ranged(SIZE)
    max_latency_ms: float | None = ranged(LATENCY)


class Proxy(Body):
    """A smaller task on which candidates are compared; what is trained to the end sees everything."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"fraction": 0.25, "side": 16}]})

    fraction: float = ranged(FRACTION)
    side: int | None = ranged(SIDE)


class Genotype(Body):
    """An architecture as …/trials/{trial}/architecture gives it, changed or not."""

    version: Literal[1]
    space: str = Field(description="That of the search.")
    genes: dict[str, Any] = Field(description="What they may be is the space's matter; the search's first turn checks.")


class NewSearch(Body):
    model_config = example(
        dataset="flowers", budget={"minutes": 10}, objective="accuracy", strategy="race", space="stages", seed=0
    )

    dataset: Reference = Field(description="Its id or name.")
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(None, description="The newest when left out.")
    name: Name | None = Field(None, description="Also of the model that comes of it; made up when left out.")
    budget: Budget
    objective: str = Field(catalog.DEFAULT_OBJECTIVE, json_schema_extra={"enum": OBJECTIVES})
    space: str = Field(catalog.DEFAULT_SPACE, json_schema_extra={"enum": SPACES})
    space_options: dict[str, Any] = Field({}, description="/v1/limits lists what each space takes.")
    strategy: str = Field(catalog.DEFAULT_STRATEGY, json_schema_extra={"enum": STRATEGIES})
    strategy_options: dict[str, Any] = Field({}, description="/v1/limits lists what each strategy takes.")
    limits: SearchLimits = Field(
        SearchLimits(), description="Hard limits: no network beyond them is trained to its end."
    )
    proxy: Proxy = Field(Proxy(), description="A smaller task on which candidates are compared.")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    seeds: Annotated[list[Genotype], Field(max_length=catalog.MAX_SEEDS)] = Field(
        [], description="Architectures to begin with, in this order; `fixed` trains nothing else."
    )
    from_trial: TrialId | None = Field(
        None,
        description="A trial of any search over any data set, to begin with its architecture; sized anew for this data.",
    )


class BudgetView(View):
    """One of the two is null."""

    minutes: float | None
    trials: int | None


class ProxyView(View):
    """What candidates are compared on; fraction 1 and side null are the whole task."""

    fraction: float = 1.0
    side: int | None = None


class LimitsView(View):
    """Null where there is no limit."""

    max_params: int | None
    max_flops: int | None
    max_size_mb: float | None
    max_latency_ms: float | None


class DatasetOf(View):
    id: str
    name: str
    version: int


class ModelOf(View):
    id: str
    name: str
    version: int
    link: str


class Scored(View):
    trial: str
    number: int
    purpose: str
    score: float | None = Field(description="The objective on the validation split; higher is better.")
    description: str | None = Field(description="The architecture in words.")


class Best(Scored):
    model: ModelOf | None = Field(description="What it became; deployable at once, also while the search goes on.")


class TrialCounts(View):
    queued: int
    running: int
    succeeded: int
    failed: int
    pruned: int


class Search(View):
    id: str
    name: str
    dataset: DatasetOf
    state: Literal["queued", "running", "paused", "finishing", "succeeded", "failed", "cancelled"]
    objective: str
    space: str
    space_options: dict[str, Any]
    strategy: str
    strategy_options: dict[str, Any]
    limits: LimitsView
    proxy: ProxyView
    seed: int
    seeds: int = Field(description="How many architectures it was given to begin with.")
    from_trial: str | None = Field(description="The trial whose architecture is one of these.")
    budget: BudgetView
    spent_s: float = Field(description="Seconds worked: pauses and outages do not count.")
    trials: TrialCounts
    best: Best | None = Field(description="The best so far; null until the floor has trained.")
    floor: Scored | None = Field(description="The fixed network that every search must beat.")
    model: ModelOf | None
    cancel_requested: bool
    error: str | None
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    links: dict[str, str]


class SearchPage(Page[Search]):
    pass


Purpose = Literal["floor", "supernet", "explore", "final"]


class TrialError(View):
    kind: str
    message: str


class Fidelity(View):
    """What one training may cost: seconds or epochs, the share of the pictures, and of a full candidate's length."""

    seconds: float | None = None
    epochs: float | None = None
    side: int | None = None
    fraction: float = 1.0
    rung: float = 1.0


class Trial(View):
    id: str
    number: int
    purpose: Purpose = Field(description="supernet: weights that all networks of the space share (strategy `enas`).")
    state: Literal["queued", "running", "succeeded", "failed", "pruned"]
    description: str | None = Field(description="The architecture in words.")
    genotype: dict[str, Any]
    fidelity: Fidelity
    parent: str | None = Field(
        description="The trial whose architecture this one was made from, or whose shared weights pointed to it."
    )
    score: float | None = Field(description="The objective on the validation split; higher is better.")
    metrics: dict[str, Any] | None
    cost: dict[str, Any] | None = Field(
        description="params, flops and activations of the architecture; once trained size_bytes of its ONNX file and "
        "latency_ms of one picture in ONNX Runtime, as the server runs it, on the worker's machine."
    )
    seconds: float | None = Field(description="Of training.")
    seed: int
    attempt: int
    worker: str | None
    error: TrialError | None
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    links: dict[str, str]


class TrialPage(Page[Trial]):
    pass


class Architecture(View):
    trial: str
    description: str | None
    genotype: dict[str, Any]
    cost: dict[str, Any] | None


class Curve(View):
    """How a training went, point by point."""

    trial: str
    state: str
    points: list[dict[str, Any]] = Field(
        description="fraction (of the schedule, 0 to 1), epoch, seconds, train_loss, score, images_per_s."
    )


class SharedScore(View):
    genotype: dict[str, Any]
    shared_score: float


class SupernetReport(View):
    """What weights that all networks of a space share say of it."""

    of: str = Field(description="The space.")
    form: Literal["repaired", "published"]
    shortlist: list[SharedScore] = Field(description="The best with shared weights, the best first.")
    scored: int = Field(description="How many architectures were scored with shared weights.")
    sampled: tuple[list[float], list[float]] = Field(
        description="Deciles, from the least to the largest, of the shared scores of uniform draws, and of those that the "
        "search or the controller led to; empty where there were none."
    )
    steps: list[dict[str, Any]] = Field(
        description="As the notes of kind `supernet`: step, score, entropy, preferences."
    )
    seconds: float


class TrialReport(View):
    trial: str
    state: str
    report: SupernetReport | None


class Note(View):
    """Something the strategy learned. kind and step together name it."""

    number: int = Field(description="Its place in the order of all notes.")
    kind: str
    step: int = Field(description="Where in the search, as the strategy counts: an update, a level, a proposal.")
    data: dict[str, Any] = Field(description="By kind and strategy, as the description of this route says.")
    at: Time


class NotePage(Page[Note]):
    pass


class FrontPoint(View):
    trial: str
    number: int
    purpose: str
    description: str | None
    score: float
    cost: float


class Front(View):
    """The trials that no other beats in both score and cost, cheapest first."""

    cost: FrontCost
    items: list[FrontPoint]
