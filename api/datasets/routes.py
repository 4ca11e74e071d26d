"""Routes of data sets: make, fill, look at, divide anew, delete."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.datasets import pictures, uploads
from api.datasets.division import divide
from api.datasets.schemas import (
    SPLITS,
    Dataset,
    DatasetPage,
    DatasetPatch,
    DatasetStats,
    Example,
    ExamplePage,
    FindingList,
    Label,
    LabelList,
    LabelStats,
    NewDataset,
    NewSplit,
    Span,
    SplitCounts,
    SplitName,
    Task,
    VersionPage,
    VersionSummary,
)
from api.datasets.views import dataset_view, example_view, finding_view, version_view
from api.deps import Editor, Once, Unchanged, Viewer, Work
from api.jobs.schemas import Job
from api.jobs.views import is_over, job_view
from api.routing import Route, StreamedRoute, revision_tag
from api.runtime import runtime_of
from api.schemas import DatasetRef, Freed, PageSize, PageToken, Wait, link_to
from ingest.imported import SIDES, ImportOptions
from store import audit, datasets, tables
from store.errors import NotFoundError
from store.pages import page
from store.states import DatasetState
from store.tables import DatasetVersion
from web.problems import Fault, ProblemError, invalid

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=Route)
streamed = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=StreamedRoute)

IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}  # of a frozen version, named by its number
ExampleNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="The example's place in the version.")]
AtVersion = Annotated[
    int | None, Query(ge=1, le=2**31 - 1, description="A version's number; the newest when left out.")
]


def chosen(work: Session, reference: str, number: int | None) -> tuple[tables.Dataset, DatasetVersion]:
    dataset = datasets.get(work, reference)
    return dataset, datasets.require_version(work, dataset, number)


@router.post("", status_code=201)
def create_dataset(new: NewDataset, work: Work, caller: Editor, _: Once, response: Response) -> Dataset:
    """Make an empty data set; fill it with PUT …/data."""
    dataset = datasets.create(work, new.name, new.task, new.description)
    audit.note(work, caller.id, "dataset.create", dataset.id, {"name": dataset.name})
    response.headers.update(revision_tag(dataset.revision) | {"Location": link_to("datasets", dataset.name)})
    return dataset_view(dataset, None)


@router.get("")
def list_datasets(
    work: Work,
    _: Viewer,
    state: DatasetState | None = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> DatasetPage:
    """All data sets, newest first."""
    statement = select(tables.Dataset)
    if state is not None:
        statement = statement.where(tables.Dataset.state == state)
    rows, following = page(work, statement, tables.Dataset.id, page_size, page_token, newest_first=True)
    versions = datasets.latest_versions(work, [row.id for row in rows])
    return DatasetPage(items=[dataset_view(row, versions.get(row.id)) for row in rows], next_page_token=following)


@router.get("/{dataset}")
def get_dataset(dataset: DatasetRef, work: Work, _: Viewer, response: Response) -> Dataset:
    found = datasets.get(work, dataset)
    response.headers.update(revision_tag(found.revision))
    return dataset_view(found, datasets.latest_version(work, found))


@router.patch("/{dataset}")
def update_dataset(
    dataset: DatasetRef, patch: DatasetPatch, work: Work, caller: Editor, unchanged: Unchanged, response: Response
) -> Dataset:
    """Change the description."""
    found = datasets.get(work, dataset, lock=True)
    unchanged.check(found.revision)
    datasets.touch(work, found, description=patch.description)
    audit.note(work, caller.id, "dataset.update", found.id, {"description": patch.description})
    response.headers.update(revision_tag(found.revision))
    return dataset_view(found, datasets.latest_version(work, found))


@router.delete("/{dataset}")
def delete_dataset(dataset: DatasetRef, work: Work, caller: Editor, unchanged: Unchanged) -> Freed:
    """Delete a data set with its versions, pictures and searches. Models that came of it stay."""
    found = datasets.get(work, dataset, lock=True)
    unchanged.check(found.revision)
    freed = datasets.delete(work, found)
    audit.note(work, caller.id, "dataset.delete", found.id, {"name": found.name, "freed_bytes": freed})
    return Freed(freed_bytes=freed)


@streamed.put(
    "/{dataset}/data",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "zip, tar, tar.gz, tar.xz or tar.bz2: a folder per label, optionally under train/, validation/ and "
            "test/; or pictures with a CSV manifest.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_dataset_data(
    request: Request,
    response: Response,
    dataset: DatasetRef,
    caller: Editor,
    create: Annotated[bool, Query(description="Make the data set if there is none of this name.")] = False,
    task: Annotated[Task, Query(description="Of the data set that `create` makes.")] = "image_classification",
    split: Annotated[
        str,
        Query(
            pattern=r"^[0-9]{1,2}(\.[0-9]{1,3})?,[0-9]{1,2}(\.[0-9]{1,3})?,[0-9]{1,2}(\.[0-9]{1,3})?$",
            description="Per cent of the pictures for train, validation and test.",
            examples=["80,10,10"],
        ),
    ] = "80,10,10",
    seed: Annotated[int, Query(ge=0, le=2**31 - 1, description="Of the split.")] = 0,
    given_split: Annotated[
        bool, Query(description="Keep a division into train, validation and test that the upload has.")
    ] = True,
    max_side: Annotated[
        int, Query(ge=SIDES[0], le=SIDES[-1], description="Pixels on a side to pack pictures to, at most.")
    ] = SIDES[-1],
    wait: Wait = 0,
) -> Job:
    """Send pictures: `curl -T flowers.zip '…/v1/datasets/flowers/data?create=true'`. An import begins.

    The content decides the format. The body is streamed and may be chunked; when it is cut off, nothing is kept.
    """
    try:
        options = ImportOptions(parse_split(split), seed, given_split, max_side).to_json()
    except ValueError as error:
        raise invalid([Fault("split", str(error), split)]) from error
    runtime = runtime_of(request)
    uploads.check_declared(request, runtime)
    await runtime.transact(partial(refuse_early, reference=dataset, create=create))

    def begin(session: Session, key: str, size: int) -> Job:
        found = find_or_create(session, dataset, task) if create else datasets.get(session, dataset)
        job = datasets.begin_import(session, found, key, options)
        datasets.spare(session, [key])
        audit.note(
            session, caller.id, "dataset.import", found.id, {"name": found.name, "job": job.id, "size_bytes": size}
        )
        return job_view(job)

    async with uploads.received(request, runtime) as (key, size):
        job = await runtime.transact(partial(begin, key=key, size=size))
    await runtime.until(partial(is_over, job_id=job.id), wait, request)
    response.headers["Location"] = link_to("jobs", job.id)
    return await runtime.transact(partial(read_job, job_id=job.id)) if wait else job


def parse_split(split: str) -> tuple[float, float, float]:
    """Raises ValueError for parts of which one is nothing: each has its use in a search."""
    train, validation, test = (float(part) / 100 for part in split.split(","))
    if not (train and validation and test) or abs(train + validation + test - 1) > 1e-6:
        raise ValueError("train, validation and test must each have something and add up to 100")
    return train, validation, test


def refuse_early(session: Session, reference: str, create: bool) -> None:
    """Say before the upload what would be said after it. Raises NotFoundError, ConflictError, RefusedError."""
    try:
        found = datasets.get(session, reference)
    except NotFoundError:
        if not create:
            raise ProblemError(
                404, "not-found", f"there is no dataset {reference!r}; add ?create=true to have it made"
            ) from None
        datasets.check_name("dataset", reference)
        return
    datasets.check_importable(found)


def find_or_create(session: Session, name: str, task: str) -> tables.Dataset:
    try:
        return datasets.get(session, name, lock=True)
    except NotFoundError:
        return datasets.create(session, name, task)


def read_job(session: Session, job_id: str) -> Job:
    return job_view(session.get_one(tables.Job, job_id))


@router.post("/{dataset}/split", status_code=201)
def split_dataset(
    request: Request,
    dataset: DatasetRef,
    new: NewSplit,
    work: Work,
    caller: Editor,
    _: Once,
    unchanged: Unchanged,
    response: Response,
) -> VersionSummary:
    """Divide the newest version into train, validation and test anew. It makes a version; the others stay as they are."""
    found = datasets.get(work, dataset, lock=True)
    unchanged.check(found.revision)
    parts = new.fractions
    fractions = (parts.train, parts.validation, parts.test)
    version = divide(work, runtime_of(request), found, fractions, new.seed)
    datasets.touch(work, found)
    details = {"name": found.name, "version": version.number, "fractions": fractions, "seed": new.seed}
    audit.note(work, caller.id, "dataset.split", found.id, details)
    response.headers["Location"] = link_to("datasets", found.name, "versions")
    return version_view(version)


@router.get("/{dataset}/versions")
def list_dataset_versions(
    dataset: DatasetRef, work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None
) -> VersionPage:
    """Every frozen state of the data set, newest first."""
    found = datasets.get(work, dataset)
    statement = select(DatasetVersion).where(DatasetVersion.dataset_id == found.id)
    rows, following = page(work, statement, DatasetVersion.number, page_size, page_token, newest_first=True)
    return VersionPage(items=[version_view(row) for row in rows], next_page_token=following)


@router.get("/{dataset}/stats")
def get_dataset_stats(dataset: DatasetRef, work: Work, _: Viewer, version: AtVersion = None) -> DatasetStats:
    """How many examples there are of each label in each split, and what sizes and formats they came in."""
    _found, at = chosen(work, dataset, version)
    counts = datasets.label_counts(work, at)
    width, height = datasets.spans(work, at)

    labels = [
        label_stats(name, [counts.get((number, split), 0) for split in range(3)])
        for number, name in enumerate(at.labels)
    ]
    return DatasetStats(
        version=at.number,
        examples=at.example_count,
        splits=SplitCounts(
            train=sum(label.train for label in labels),
            validation=sum(label.validation for label in labels),
            test=sum(label.test for label in labels),
        ),
        labels=labels,
        width=Span(minimum=width[0], median=width[1], maximum=width[2]),
        height=Span(minimum=height[0], median=height[1], maximum=height[2]),
        formats=datasets.format_counts(work, at),
        imported=at.stats.get("counts", {}),
    )


def label_stats(name: str, splits: list[int]) -> LabelStats:
    train, validation, test = splits
    return LabelStats(label=name, train=train, validation=validation, test=test, total=sum(splits))


@router.get("/{dataset}/labels")
def list_dataset_labels(dataset: DatasetRef, work: Work, _: Viewer, version: AtVersion = None) -> LabelList:
    """The labels, in the order of the scores that a model answers."""
    _found, at = chosen(work, dataset, version)
    counts = datasets.label_counts(work, at)
    totals = [sum(counts.get((number, split), 0) for split in range(len(SPLITS))) for number in range(len(at.labels))]
    return LabelList(
        version=at.number,
        items=[
            Label(number=number, name=name, examples=total)
            for number, (name, total) in enumerate(zip(at.labels, totals, strict=True))
        ],
    )


@router.get("/{dataset}/findings")
def list_dataset_findings(dataset: DatasetRef, work: Work, _: Viewer, version: AtVersion = None) -> FindingList:
    """What the import thinks of the data: tiny classes, imbalance, duplicates, leaks, odd sizes."""
    _found, at = chosen(work, dataset, version)
    rows = work.scalars(
        select(tables.Finding).where(tables.Finding.version_id == at.id).order_by(tables.Finding.ordinal)
    )
    return FindingList(version=at.number, items=[finding_view(row) for row in rows])


@router.get("/{dataset}/examples")
def list_examples(
    dataset: DatasetRef,
    work: Work,
    _: Viewer,
    label: Annotated[str | None, Query(max_length=255, description="Only those with this label.")] = None,
    split: SplitName | None = None,
    version: AtVersion = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> ExamplePage:
    """The pictures of a version, in order."""
    found, at = chosen(work, dataset, version)
    statement = select(tables.Example).where(tables.Example.version_id == at.id)
    if label is not None:
        if label not in at.labels:
            listed = ", ".join(at.labels[:50])
            raise invalid([Fault("label", f"unknown label; data set {found.name!r} has {listed}", label)])
        statement = statement.where(tables.Example.label == at.labels.index(label))
    if split is not None:
        statement = statement.where(tables.Example.split == SPLITS.index(split))
    rows, following = page(work, statement, tables.Example.number, page_size, page_token)
    return ExamplePage(items=[example_view(found, at, row) for row in rows], next_page_token=following)


@router.get("/{dataset}/examples/{example}")
def get_example(
    dataset: DatasetRef, example: ExampleNumber, work: Work, _: Viewer, version: AtVersion = None
) -> Example:
    found, at = chosen(work, dataset, version)
    return example_view(found, at, datasets.example(work, at, example))


@router.get("/{dataset}/examples/{example}/content", response_class=Response)
def get_example_content(
    request: Request, dataset: DatasetRef, example: ExampleNumber, work: Work, _: Viewer, version: AtVersion = None
) -> Response:
    """The picture as it was uploaded."""
    _found, at = chosen(work, dataset, version)
    row = datasets.example(work, at, example)
    content = datasets.original(runtime_of(request).objects, at, row)
    return Response(content, media_type=pictures.media_type(row), headers=cached(version, f"{row.sha256.hex()}"))


@router.get("/{dataset}/examples/{example}/thumbnail", response_class=Response)
def get_example_thumbnail(
    request: Request, dataset: DatasetRef, example: ExampleNumber, work: Work, _: Viewer, version: AtVersion = None
) -> Response:
    """A small PNG: the picture as networks see it."""
    _found, at = chosen(work, dataset, version)
    row = datasets.example(work, at, example)
    content = pictures.packed(runtime_of(request).objects, at, row)
    return Response(content, media_type="image/png", headers=cached(version, f"{at.id}-{row.number}"))


def cached(version: int | None, digest: str) -> dict[str, str]:
    return {"ETag": f'"{digest}"', **(IMMUTABLE if version is not None else {})}
