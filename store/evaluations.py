"""Evaluations: what models answered about pictures of a data set, and the jobs that make them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from store import datasets, jobs
from store.errors import NotFoundError, RefusedError
from store.ids import new_id
from store.tables import Blob, Dataset, DatasetVersion, Evaluation, Example, Job, Model

SPLITS = ("train", "validation", "test")  # a split's number is its place here
ALL = "all"
UnknownLabels = Literal["refuse", "ignore"]


def request(
    session: Session, model: Model, version: DatasetVersion, split: str, unknown_labels: UnknownLabels = "refuse"
) -> Job:
    """Queue the evaluation of a model on one part of a data set, or on all of it.

    Labels are matched by name. Raises RefusedError for pictures with labels that the model does not know, unless these
    are to be ignored, and where no picture is left.
    """
    counts: dict[str, int] = {}
    for (label, number), count in datasets.label_counts(session, version).items():
        if split in (ALL, SPLITS[number]):
            name = version.labels[label]
            counts[name] = counts.get(name, 0) + count
    unknown = sorted(set(counts) - set(model.labels))
    if unknown and unknown_labels == "refuse":
        raise RefusedError(
            f"model {model.name}@{model.number} does not know {_listed(unknown)}; it knows {_listed(model.labels)}. "
            'Take other data, or send "unknown_labels": "ignore" to leave those pictures out',
            "dataset",
        )
    if not set(counts) & set(model.labels):
        what = f"the {split} part" if split != ALL else "the data set"
        held = f"has pictures of {_listed(unknown)} alone" if unknown else "has no pictures"
        raise RefusedError(f"{what} {held}; model {model.name}@{model.number} knows {_listed(model.labels)}", "split")
    payload = {"model_id": model.id, "version_id": version.id, "split": split}
    return jobs.create(session, "evaluation", payload, version.dataset_id)


def request_last(session: Session, model_id: str, version_id: str, search_id: str) -> Job:
    """Queue the one look at the test pictures that ends a search."""
    payload = {"model_id": model_id, "version_id": version_id, "split": "test", "search_id": search_id}
    return jobs.create(session, "evaluation", payload)


def _listed(labels: Sequence[str], most: int = 10) -> str:
    named = ", ".join(repr(label) for label in labels[:most])
    return named if len(labels) <= most else f"{named} and {len(labels) - most} more"


@dataclass(frozen=True, slots=True)
class Picture:
    """An example as an evaluation needs it: what it is, what it was uploaded as, and where the original's bytes are."""

    number: int
    label: int
    width: int
    height: int
    format: str
    sha256: bytes
    shard: int
    offset: int
    length: int


def pictures(session: Session, version: DatasetVersion, split: str) -> list[Picture]:
    """Those of one part of a data set, or of all of it, in order."""
    statement = select(
        Example.number,
        Example.label,
        Example.width,
        Example.height,
        Example.format,
        Example.sha256,
        Example.shard,
        Example.shard_offset,
        Example.shard_length,
    ).where(Example.version_id == version.id)
    if split != ALL:
        statement = statement.where(Example.split == SPLITS.index(split))
    return [Picture(*row) for row in session.execute(statement.order_by(Example.number))]


def came_with(session: Session, version: DatasetVersion) -> dict[bytes, int]:
    """The number of the data set's version that each picture came with first, by its SHA-256."""
    first = (
        select(Example.sha256, func.min(DatasetVersion.number))
        .join(DatasetVersion, DatasetVersion.id == Example.version_id)
        .where(DatasetVersion.dataset_id == version.dataset_id, DatasetVersion.number <= version.number)
        .group_by(Example.sha256)
    )
    return {row[0]: row[1] for row in session.execute(first)}


def trained_on(session: Session, model: Model) -> set[bytes] | None:
    """The SHA-256 of each picture that the model was trained on; None once the data set is deleted: nobody knows."""
    if model.version_id is None:
        return None
    seen = select(Example.sha256).where(Example.version_id == model.version_id, Example.split == 0)
    return set(session.scalars(seen))


def of_model(model: Model) -> Select[Evaluation]:
    return select(Evaluation).where(Evaluation.model_id == model.id)


def get(session: Session, model: Model, evaluation_id: str) -> Evaluation:
    """Raises NotFoundError, also for that of another model."""
    found = session.scalars(of_model(model).where(Evaluation.id == evaluation_id)).one_or_none()
    if found is None:
        raise NotFoundError("evaluation", f"{evaluation_id} of {model.name}@{model.number}")
    return found


def datasets_of(session: Session, found: Sequence[Evaluation]) -> dict[str, tuple[str, int]]:
    """(name of the data set, number of its version) by the version's id, for those that are still there."""
    rows = session.execute(
        select(DatasetVersion.id, Dataset.name, DatasetVersion.number)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(DatasetVersion.id.in_({evaluation.version_id for evaluation in found if evaluation.version_id}))
    )
    return {version_id: (name, number) for version_id, name, number in rows}


def latest(session: Session, model: Model, split: str) -> Evaluation | None:
    """The newest on a part of the data that the model was trained on."""
    statement = of_model(model).where(Evaluation.own, Evaluation.split == split)
    return session.scalars(statement.order_by(Evaluation.id.desc()).limit(1)).one_or_none()


def add(
    session: Session,
    model: Model,
    version: DatasetVersion,
    split: str,
    figures: Mapping[str, object],
    *,
    curves: bytes,
    answers: bytes,
) -> Evaluation:
    """figures: the columns that tell what was found. curves, answers: digests of blobs written before."""
    evaluation = Evaluation(
        id=new_id("evaluation"),
        model_id=model.id,
        version_id=version.id,
        own=version.id == model.version_id,
        split=split,
        curves_sha256=curves,
        answers_sha256=answers,
        **figures,
    )
    session.add(evaluation)
    session.flush()
    return evaluation


def delete(session: Session, evaluation: Evaluation) -> int:
    """Returns the bytes freed at the next sweep."""
    named = [evaluation.curves_sha256, evaluation.answers_sha256]
    freed = session.scalar(select(func.coalesce(func.sum(Blob.size_bytes), 0)).where(Blob.sha256.in_(named)))
    session.delete(evaluation)
    session.flush()
    return int(freed or 0)
