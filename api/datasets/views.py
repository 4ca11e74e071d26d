"""Rows of data sets as what callers are told."""

from api.datasets.schemas import SPLITS, Dataset, Example, Finding, VersionSummary
from api.schemas import link_to
from store import tables
from store.tables import DatasetVersion


def version_view(version: DatasetVersion) -> VersionSummary:
    return VersionSummary(
        number=version.number,
        content_hash=version.content_hash,
        examples=version.example_count,
        labels=version.labels,
        size_bytes=version.size_bytes,
        channels=version.preprocessing.get("channels"),
        side=version.preprocessing.get("side"),
        created_at=version.created_at,
    )


def dataset_view(dataset: tables.Dataset, version: DatasetVersion | None) -> Dataset:
    here = link_to("datasets", dataset.name)
    links = {"self": here, "data": f"{here}/data", "versions": f"{here}/versions"}
    if version is not None:
        links |= {name: f"{here}/{name}" for name in ("stats", "labels", "findings", "examples", "split")}
    return Dataset(
        id=dataset.id,
        name=dataset.name,
        task=dataset.task,
        description=dataset.description,
        state=dataset.state.value,
        version=None if version is None else version_view(version),
        created_at=dataset.created_at,
        updated_at=dataset.updated_at,
        links=links,
    )


def example_view(dataset: tables.Dataset, version: DatasetVersion, example: tables.Example) -> Example:
    here = link_to("datasets", dataset.name, "examples", str(example.number))
    pinned = f"?version={version.number}"
    return Example(
        number=example.number,
        path=example.path,
        label=version.labels[example.label],
        split=SPLITS[example.split],
        sha256=example.sha256.hex(),
        phash=f"{example.phash & (1 << 64) - 1:016x}",
        width=example.width,
        height=example.height,
        size_bytes=example.size_bytes,
        format=example.format,
        links={
            "self": here + pinned,
            "content": f"{here}/content{pinned}",
            "thumbnail": f"{here}/thumbnail{pinned}",
        },
    )


def finding_view(finding: tables.Finding) -> Finding:
    return Finding(
        kind=finding.kind,
        severity=finding.severity,
        message=finding.message,
        labels=finding.labels,
        examples=finding.examples,
    )
