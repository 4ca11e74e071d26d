"""Models on the wire."""

from typing import Annotated, Any

from pydantic import Field

from api.schemas import Body, Page, Time, View, example


class Model(View):
    id: str
    name: str
    version: int
    search: str | None = Field(description="The id of the search it came of; null once that is deleted.")
    trial: str | None
    dataset: str | None = Field(description="The name of the data set; null once that is deleted.")
    dataset_version: int | None
    description: str = Field(description="The architecture in words.")
    genotype: dict[str, Any]
    preprocessing: dict[str, Any]
    labels: list[str] = Field(description="In the order of the scores.")
    metrics: dict[str, Any] = Field(description="On the validation split.")
    params: int
    flops: int
    size_bytes: int = Field(description="Of the ONNX file.")
    onnx_sha256: str
    parity: float = Field(description="Largest difference of a score between PyTorch and ONNX Runtime.")
    lineage: dict[str, Any]
    aliases: list[str] = Field(description="The movable names of this version.")
    deployments: list[str] = Field(description="The names that send requests to this version.")
    created_at: Time
    links: dict[str, str]


class ModelPage(Page[Model]):
    pass


class NewAlias(Body):
    """Which version the alias names from now on."""

    model_config = example(version=3)

    version: Annotated[int, Field(ge=1, le=2**31 - 1)]


class Alias(View):
    model: str
    alias: str
    version: int
    id: str = Field(description="The version's id.")
    created_at: Time
    updated_at: Time
    links: dict[str, str]


class AliasPage(Page[Alias]):
    pass
