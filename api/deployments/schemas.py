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


Targets = Annotated[list[NewTarget], Field(min_length=1, max_length=10)]


class NewDeployment(Body):
    model_config = example(name="flowers", targets=[{"model": "flowers-1", "weight": 100}])

    name: Name
    targets: Targets


class DeploymentPatch(Body):
    """What to change; a field left out stays as it is."""

    model_config = example(targets=[{"model": "flowers-1@3", "weight": 90}, {"model": "flowers-2", "weight": 10}])

    targets: Targets | None = Field(None, json_schema_extra=never_null)
    state: Literal["deployed", "undeployed"] | None = Field(None, json_schema_extra=never_null)

    @model_validator(mode="after")
    def something(self) -> "DeploymentPatch":
        if not self.model_fields_set or any(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("nothing to change; accepted: targets, state, neither of them null")
        return self


class Target(View):
    id: str
    model: str
    version: int = Field(description="That answers now.")
    alias: str | None = Field(description="The alias that is followed; null for a version that stays.")
    weight: int


class Deployment(View):
    id: str
    name: str
    state: Literal["deployed", "undeployed"]
    targets: list[Target]
    created_at: Time
    updated_at: Time
    links: dict[str, str]


class DeploymentPage(Page[Deployment]):
    pass
