"""Exports on the wire."""

from typing import Any

from pydantic import Field

from api.schemas import Body, Page, Time, View, example
from search import catalog


class NewExport(Body):
    model_config = Body.model_config | example(format="onnx-int8", options={"max_accuracy_drop": 0.005})

    format: str = Field(
        description=f"One of {', '.join(catalog.EXPORTS)}.", json_schema_extra={"enum": list(catalog.EXPORTS)}
    )
    options: dict[str, Any] = Field(
        default={},
        description="Of the format; `GET /v1/limits` lists them. "
        + " ".join(
            f"{entry.name}: {option.name} ({option.type}, {str(option.default).lower()}). {option.explanation}"
            for entry in catalog.EXPORTS.values()
            for option in entry.options
        ),
    )


class Export(View):
    model_config = example(
        id="ex_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        model="flowers",
        version=3,
        format="onnx",
        options={},
        sha256="5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        size_bytes=98304,
        file_name="flowers-3.onnx",
        media_type="application/octet-stream",
        report={"pictures": 64, "max_difference": 1.2e-7},
        job="jo_0197c1d2e3f47a5b8c6d7e8f90a1b2c3",
        created_at="2026-01-31T12:00:00Z",
        links={"content": "/v1/models/flowers@3/exports/ex_0197c1d2e3f47a5b8c6d7e8f90a1b2c3/content"},
    )

    id: str
    model: str
    version: int
    format: str
    options: dict[str, Any] = Field(description="With the defaults of those that were not given.")
    sha256: str
    size_bytes: int
    file_name: str
    media_type: str
    report: dict[str, Any] = Field(
        description="How it was compared with the model: max_difference is the largest difference of a score over the "
        "compared pictures, in a fresh process without Netwright. What else there is depends on the format."
    )
    job: str = Field(description="The id of the job that made it.")
    created_at: Time
    links: dict[str, str]


class ExportPage(Page[Export]):
    pass
