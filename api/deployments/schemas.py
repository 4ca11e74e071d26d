"""Deployments on the wire."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from api.schemas import Body, Name, Page, Reference, Time, View, example, never_null


class NewTarget(Body):
    """A model and its share of the requests.

    A model's name, name@version and a version's id are fixed now: a later version does not take over by itself. An alias
    is followed: when it is moved, the requests go with it.
    """

    model: Reference = Field(
        description="A model's name (its newest version), name@version, a version's id, or name@alias."
    )
    weight: Annotated[int, Field(ge=1, le=100)] = Field(100, description="Per cent of the requests; they sum to 100.")
    precision: Literal["fp32", "int8"] = Field(
        "fp32", description="int8 serves the model's newest export of the format onnx-int8, which must have been made."
    )


Targets = Annotated[list[NewTarget], Field(min_length=1, max_length=10)]


class NewLogging(Body):
    """What is kept of the requests; a field left out stays as it is."""

    sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="Which share of the requests is logged; which ones, their ids decide. 1 unless told otherwise.",
        json_schema_extra=never_null,
    )
    pictures: bool | None = Field(
        None,
        description="Whether pictures are kept with their entries; false unless told otherwise.",
        json_schema_extra=never_null,
    )
    retention_days: Annotated[int, Field(ge=1, le=3650)] | None = Field(
        None,
        description="After how many days entries, pictures, feedback and counts are deleted; 7 unless told otherwise.",
        json_schema_extra=never_null,
    )

    @model_validator(mode="after")
    def something(self) -> "NewLogging":
        if any(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("none of sample, pictures and retention_days may be null; leave out what is to stay")
        return self


class NewDeployment(Body):
    model_config = example(name="flowers", targets=[{"model": "flowers-1", "weight": 100}])

    name: Name
    targets: Targets
    logging: NewLogging = Field(default_factory=NewLogging)


class DeploymentPatch(Body):
    """What to change; a field left out stays as it is."""

    model_config = example(targets=[{"model": "flowers-1@3", "weight": 90}, {"model": "flowers-2", "weight": 10}])

    targets: Targets | None = Field(None, json_schema_extra=never_null)
    state: Literal["deployed", "undeployed"] | None = Field(None, json_schema_extra=never_null)
    logging: NewLogging | None = Field(None, json_schema_extra=never_null)

    @model_validator(mode="after")
    def something(self) -> "DeploymentPatch":
        if not self.model_fields_set or any(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("nothing to change; accepted: targets, state, logging, none of them null")
        return self


class Target(View):
    id: str
    model: str
    version: int = Field(description="That answers now.")
    alias: str | None = Field(description="The alias that is followed; null for a version that stays.")
    weight: int
    precision: Literal["fp32", "int8"]


class Logging(View):
    sample: float
    pictures: bool
    retention_days: int


class Deployment(View):
    id: str
    name: str
    state: Literal["deployed", "undeployed"]
    targets: list[Target]
    logging: Logging = Field(description="What is kept of the requests.")
    created_at: Time
    updated_at: Time
    links: dict[str, str]


class DeploymentPage(Page[Deployment]):
    pass
