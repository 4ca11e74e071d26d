"""Data sets, their frozen versions, examples and findings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import Connection
from sqlalchemy import Integer, cast, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import jobs
from store.errors import ConflictError, NotFoundError, RefusedError
from store.ids import NAME, NAME_RULE, is_id, new_id
from store.objects import Objects
from store.states import DatasetState, SearchState, is_final, sources
from store.tables import (
    BatchPrediction,
    Dataset,
    DatasetVersion,
    DoomedObject,
    Evaluation,
    Example,
    Finding,
    Job,
    ReportLine,
    Search,
)

UPLOAD_KEPT_FOR = timedelta(days=1)
EXAMPLE_COLUMNS = (
    "number", "path", "label", "split", "sha256", "phash", "width", "height", "size_bytes", "format",
    "shard", "shard_offset", "shard_length",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What an import made, in the store's words; `examples` yields tuples in the order of EXAMPLE_COLUMNS."""

    content_hash: str
    labels: Sequence[str]
    preprocessing: Mapping[str, Any]
    images_key: str
    index_key: str
    shard_keys: Sequence[str]
    size_bytes: int
    stats: Mapping[str, Any]
    example_count: int
    examples: Iterable[tuple[Any, ...]]
    findings: Sequence[Mapping[str, Any]]  # kind, severity, message, labels, examples


def check_name(noun: str, name: str) -> str:
    """Raises RefusedError for a name that is none or looks like an id."""
    if not NAME.match(name) or is_id(noun, name):
        raise RefusedError(f"{name!r} cannot name a {noun}; accepted: {NAME_RULE}, and not the form of an id", "name")
    return name


def create(session: Session, name: str, task: str, description: str = "") -> Dataset:
    """An empty data set. Raises ConflictError when the name is taken."""
    check_name("dataset", name)
    made = session.scalar(
        insert(Dataset)
        .values(id=new_id("dataset"), name=name, task=task, description=description, state=DatasetState.EMPTY)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Dataset.id)
    )
    if made is None:
        raise ConflictError(f"there is a data set named {name!r} already; choose another name or import into that one")
    return session.get_one(Dataset, made)


def get(session: Session, reference: str, *, lock: bool = False) -> Dataset:
    """By id or name. Raises NotFoundError."""
    column = Dataset.id if is_id("dataset", reference) else Dataset.name
    statement = select(Dataset).where(column == reference)
    dataset = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if dataset is None:
        raise NotFoundError("dataset", reference)
    return dataset


def latest_version(session: Session, dataset: Dataset) -> DatasetVersion | None:
    return session.scalars(
        select(DatasetVersion)
        .where(DatasetVersion.dataset_id == dataset.id)
        .order_by(DatasetVersion.number.desc())
        .limit(1)
    ).one_or_none()


def latest_versions(session: Session, dataset_ids: Sequence[str]) -> dict[str, DatasetVersion]:
    """The newest version of each data set that has one, by the data set's id."""
    newest = (
        select(DatasetVersion.dataset_id, func.max(DatasetVersion.number))
        .where(DatasetVersion.dataset_id.in_(dataset_ids))
        .group_by(DatasetVersion.dataset_id)
    )
    versions = session.scalars(
        select(DatasetVersion).where(tuple_(DatasetVersion.dataset_id, DatasetVersion.number).in_(newest))
    )
    return {version.dataset_id: version for version in versions}


def require_version(session: Session, dataset: Dataset, number: int | None = None) -> DatasetVersion:
    """A version of the data set, the newest unless numbered. Raises ConflictError when there is none to work on."""
    if number is None:
        version = latest_version(session, dataset)
        if version is None:
            raise ConflictError(
                f"data set {dataset.name!r} is {dataset.state} and has no examples yet; "
                f"send some with PUT /v1/datasets/{dataset.name}/data"
            )
        return version
    version = session.scalars(
        select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id, DatasetVersion.number == number)
    ).one_or_none()
    if version is None:
        raise NotFoundError("version", f"{dataset.name}/{number}")
    return version


def doom(session: Session, keys: Iterable[str], after: timedelta = timedelta(0)) -> None:
    """Have the sweep delete objects, `after` from now; `spare` takes it back."""
    for key in keys:
        session.execute(
            insert(DoomedObject)
            .values(key=key, due_at=func.clock_timestamp() + after)
            .on_conflict_do_update(index_elements=["key"], set_={"due_at": func.clock_timestamp() + after})
        )


def spare(session: Session, keys: Iterable[str]) -> None:
    for key in keys:
        doomed = session.get(DoomedObject, key)
        if doomed is not None:
            session.delete(doomed)
    session.flush()


def touch(session: Session, dataset: Dataset, **values: Any) -> None:
    """Change columns of a data set's row, and its revision with them."""
    session.execute(
        update(Dataset)
        .where(Dataset.id == dataset.id)
        .values(revision=Dataset.revision + 1, updated_at=func.clock_timestamp(), **values)
    )
    session.refresh(dataset)


def check_importable(dataset: Dataset) -> None:
    """Raises ConflictError while another import runs."""
    if dataset.state not in sources(DatasetState.IMPORTING):
        raise _importing(dataset)


def _importing(dataset: Dataset) -> ConflictError:
    return ConflictError(f"data set {dataset.name!r} is importing already; wait for that job to end or cancel it")


def begin_import(session: Session, dataset: Dataset, upload_key: str, options: Mapping[str, Any]) -> Job:
    """Queue the import of an uploaded object. Raises ConflictError while another import runs."""
    moved = session.scalar(
        update(Dataset)
        .where(Dataset.id == dataset.id, Dataset.state.in_(sources(DatasetState.IMPORTING)))
        .values(state=DatasetState.IMPORTING, revision=Dataset.revision + 1, updated_at=func.clock_timestamp())
        .returning(Dataset.id)
    )
    session.refresh(dataset)
    if moved is None:
        raise _importing(dataset)
    return jobs.create(session, "import", {"upload_key": upload_key, "options": dict(options)}, dataset.id)


def add_version(session: Session, dataset_id: str, new: NewVersion) -> DatasetVersion:
    """Write a version with its examples (COPY: 50,000 rows in about a second) and findings."""
    last = session.scalar(select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset_id))
    version = DatasetVersion(
        id=new_id("version"),
        dataset_id=dataset_id,
        number=(last or 0) + 1,
        content_hash=new.content_hash,
        labels=list(new.labels),
        preprocessing=dict(new.preprocessing),
        images_key=new.images_key,
        index_key=new.index_key,
        shard_keys=list(new.shard_keys),
        example_count=new.example_count,
        size_bytes=new.size_bytes,
        stats=dict(new.stats),
    )
    session.add(version)
    session.flush()
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, Connection)
    columns = ", ".join(("version_id", *EXAMPLE_COLUMNS))
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY examples ({columns}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(
            [
                "text",
                "int8",
                "text",
                "int8",
                "int2",
                "bytea",
                "int8",
                "int8",
                "int8",
                "int8",
                "text",
                "int8",
                "int8",
                "int8",
            ]
        )
        for row in new.examples:
            copy.write_row((version.id, *row))
    for ordinal, finding in enumerate(new.findings):
        session.add(Finding(version_id=version.id, ordinal=ordinal, **finding))
    session.flush()
    return version


def add_division(
    session: Session,
    version: DatasetVersion,
    splits: bytes,
    counts: Mapping[str, Mapping[str, int]],
    index_key: str,
    index_bytes: int,
    content_hash: str,
) -> DatasetVersion:
    """A version of the same pictures with other splits: one byte per example, in order. counts: split → label →
    examples. What was found about the pictures holds for it, what was found about their split does not."""
    number = session.scalar(
        select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == version.dataset_id)
    )
    divided = DatasetVersion(
        id=new_id("version"),
        dataset_id=version.dataset_id,
        number=(number or 0) + 1,
        content_hash=content_hash,
        labels=version.labels,
        preprocessing=version.preprocessing,
        images_key=version.images_key,
        index_key=index_key,
        shard_keys=version.shard_keys,
        example_count=version.example_count,
        size_bytes=index_bytes,  # the pictures count where they came
        stats={**version.stats, "splits": {split: dict(labels) for split, labels in counts.items()}},
    )
    session.add(divided)
    session.flush()
    kept = [Example.__table__.c[name] for name in EXAMPLE_COLUMNS if name != "split"]
    split = func.get_byte(literal(splits), cast(Example.number, Integer))
    session.execute(
        insert(Example).from_select(
            ["version_id", *(column.name for column in kept), "split"],
            select(literal(divided.id), *kept, split).where(Example.version_id == version.id),
        )
    )
    kind, *others = (Finding.kind, Finding.ordinal, Finding.severity, Finding.message, Finding.labels, Finding.examples)
    session.execute(
        insert(Finding).from_select(
            ["version_id", "kind", *(column.key for column in others)],
            select(literal(divided.id), kind, *others).where(
                Finding.version_id == version.id, ~Finding.kind.startswith("split_")
            ),
        )
    )
    session.refresh(divided)
    return divided


def add_report(session: Session, job_id: str, lines: Iterable[tuple[str, str, str]]) -> None:
    """One (path, reason, action) per refused or mended item of an import; NUL and lone surrogates are spelt out."""
    rows = [
        {"job_id": job_id, "ordinal": ordinal, "path": path, "reason": reason, "action": action}
        for ordinal, (path, reason, action) in enumerate(lines)
    ]
    for start in range(0, len(rows), 1000):
        session.execute(insert(ReportLine), rows[start : start + 1000])


def example(session: Session, version: DatasetVersion, number: int) -> Example:
    found = session.get(Example, (version.id, number))
    if found is None:
        raise NotFoundError("example", f"{version.id}/{number}")
    return found


def original(objects: Objects, version: DatasetVersion, example: Example) -> bytes:
    """The bytes of its picture as they were uploaded. Raises ObjectsError."""
    return objects.read(version.shard_keys[example.shard], example.shard_offset, example.shard_length)


def label_counts(session: Session, version: DatasetVersion) -> dict[tuple[int, int], int]:
    """How many examples have each (label, split), by their numbers; pairs without any are left out."""
    counted = session.execute(
        select(Example.label, Example.split, func.count())
        .where(Example.version_id == version.id)
        .group_by(Example.label, Example.split)
    )
    return {(label, split): count for label, split, count in counted}


def format_counts(session: Session, version: DatasetVersion) -> dict[str, int]:
    counted = session.execute(
        select(Example.format, func.count()).where(Example.version_id == version.id).group_by(Example.format)
    )
    return {row[0]: row[1] for row in counted}


def spans(session: Session, version: DatasetVersion) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(minimum, median, maximum) of the examples' widths, and of their heights."""
    widths, heights = (
        session.execute(
            select(func.min(column), func.percentile_disc(0.5).within_group(column.asc()), func.max(column)).where(
                Example.version_id == version.id
            )
        ).one()
        for column in (Example.width, Example.height)
    )
    return (widths[0], widths[1], widths[2]), (heights[0], heights[1], heights[2])


def objects_of(session: Session, dataset: Dataset) -> set[str]:
    """Every object key that versions of the data set name."""
    keys: set[str] = set()
    for version in session.scalars(select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id)):
        keys |= {version.images_key, version.index_key, *version.shard_keys}
    return keys


def delete(session: Session, dataset: Dataset) -> int:
    """Delete a data set with its versions, searches and objects; models that came of it stay. Returns bytes freed.

    Raises ConflictError while an import, a search or a batch prediction works on it.
    """
    session.refresh(dataset, with_for_update=True)
    if dataset.state is DatasetState.IMPORTING:
        raise ConflictError(f"data set {dataset.name!r} is importing; cancel that job before deleting it")
    busy = session.scalars(
        select(Search.name)
        .join(DatasetVersion, DatasetVersion.id == Search.version_id)
        .where(DatasetVersion.dataset_id == dataset.id)
        .where(Search.state.in_([state for state in SearchState if not is_final(state)]))
    ).all()
    if busy:
        raise ConflictError(f"data set {dataset.name!r} is in use by the search {busy[0]!r}; cancel it first")
    batch = session.scalars(
        select(BatchPrediction.id)
        .join(DatasetVersion, DatasetVersion.id == BatchPrediction.version_id)
        .join(Job, Job.id == BatchPrediction.job_id)
        .where(DatasetVersion.dataset_id == dataset.id, Job.ended_at.is_(None))
    ).first()
    if batch is not None:
        raise ConflictError(f"data set {dataset.name!r} is read by the batch prediction {batch}; cancel it first")
    freed = session.scalar(
        select(func.coalesce(func.sum(DatasetVersion.size_bytes), 0)).where(DatasetVersion.dataset_id == dataset.id)
    )
    doom(session, objects_of(session, dataset))
    # What models answered about single pictures goes with these; the figures stay with the models.
    own = select(DatasetVersion.id).where(DatasetVersion.dataset_id == dataset.id)
    session.execute(update(Evaluation).where(Evaluation.version_id.in_(own)).values(answers_sha256=None))
    session.delete(dataset)
    session.flush()
    return int(freed or 0)
