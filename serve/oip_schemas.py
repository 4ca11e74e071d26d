"""The JSON of the Open Inference Protocol, as far as a classifier of pictures speaks it.

The protocol: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
Parameters that are not known are passed over, as the protocol allows; unknown fields are refused.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Parameters = dict[str, Any]
Dimension = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class InferInput(_Wire):
    """The tensor `images`."""

    name: str
    shape: list[Dimension] = Field(min_length=1, max_length=8)
    datatype: str = Field(description="UINT8: pixels; BYTES: picture files")
    parameters: Parameters | None = Field(None, description="`binary_data_size`: its bytes follow the JSON")
    data: Any = Field(None, description="flat or nested; of BYTES, each a picture file in base64")


class InferOutput(_Wire):
    """How `scores` is wanted."""

    name: str
    parameters: Parameters | None = Field(
        None, description='`binary_data`: after the JSON; `classification`: the so many best, as "score:index:label"'
    )


class InferRequest(_Wire):
    id: str | None = Field(None, max_length=1024, description="comes back, and decides who answers in a split")
    model_name: str | None = Field(None, description="may stand here, too; the URL decides")
    model_version: str | None = Field(None, description="may stand here, too; the URL decides")
    parameters: Parameters | None = Field(
        None, description="`binary_data_output`: all outputs after the JSON; `timeout`: a deadline, in microseconds"
    )
    inputs: list[InferInput] = Field(min_length=1, max_length=16)
    outputs: list[InferOutput] | None = Field(None, max_length=16)


class ResponseOutput(_Wire):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, description="missing when `parameters.binary_data_size` says that it follows")


class InferResponse(_Wire):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters = Field(description="`model`: what answered, as name@version")
    outputs: list[ResponseOutput]


class Refusal(_Wire):
    error: str
