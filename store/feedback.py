"""Feedback: what the pictures of past requests really showed, and how often the answers were right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.errors import RefusedError
from store.tables import Deployment, Feedback, LogEntry, Model

NAMED_MOST = 20  # known labels that a refusal lists
Place = tuple[str, int]  # a request's id, and the picture's place in it


@dataclass(frozen=True, slots=True)
class Outcome:
    """`count` pictures whose true label is `truth` (None: none of the model's) were answered with `answer`."""

    model_id: str
    model: str
    truth: str | None
    answer: str
    count: int


def put(session: Session, deployment: Deployment, labels: Mapping[Place, str | None]) -> set[Place]:
    """Keep true labels, in place of earlier ones; returns the places that the log knows by now.

    The log is written a moment after the answer and may keep a sample alone, so a place that it does not know is kept,
    too, and counts as soon as it is there. Raises RefusedError for a label that no model of the deployment knows.
    """
    place = tuple_(LogEntry.request_id, LogEntry.item)
    logged = session.execute(
        select(LogEntry.request_id, LogEntry.item, LogEntry.model_id).where(
            LogEntry.deployment_id == deployment.id, place.in_(list(labels))
        )
    ).all()
    models = {target.model.id for target in deployment.targets} | {model_id for _, _, model_id in logged}
    _check(session, models, {label for label in labels.values() if label is not None})
    wanted = insert(Feedback)
    session.execute(
        wanted.on_conflict_do_update(
            index_elements=["deployment_id", "request_id", "item"],
            set_={"label": wanted.excluded.label, "at": func.clock_timestamp()},
        ),
        [
            {"deployment_id": deployment.id, "request_id": request_id, "item": item, "label": label}
            for (request_id, item), label in labels.items()
        ],
    )
    return {(request_id, item) for request_id, item, _ in logged}


def _check(session: Session, models: set[str], labels: set[str]) -> None:
    known: dict[str, None] = {}
    for names in session.scalars(select(Model.labels).where(Model.id.in_(models)).order_by(Model.id)):
        known |= dict.fromkeys(names)
    if unknown := sorted(labels - known.keys()):
        listed = ", ".join(repr(name) for name in list(known)[:NAMED_MOST])
        more = f" and {len(known) - NAMED_MOST} more" if len(known) > NAMED_MOST else ""
        raise RefusedError(
            f"the label {unknown[0][:100]!r} is none that the deployment's models know: {listed}{more}; "
            "null says that a picture shows none of them",
            "label",
        )


def of_entries(session: Session, found: Sequence[LogEntry]) -> dict[tuple[str, str, int], Feedback]:
    """What was said about these entries, by (deployment's id, request's id, item)."""
    key = tuple_(Feedback.deployment_id, Feedback.request_id, Feedback.item)
    places = [(entry.deployment_id, entry.request_id, entry.item) for entry in found]
    rows = session.scalars(select(Feedback).where(key.in_(places))).all() if places else []
    return {(row.deployment_id, row.request_id, row.item): row for row in rows}


def outcomes(session: Session, deployment: Deployment, span: timedelta) -> Sequence[Outcome]:
    """Truths against answers of what was asked in the last `span`. Of requests with the same id the last one counts."""
    same = (LogEntry.request_id, LogEntry.item)
    known = (
        select(
            LogEntry.model_id,
            LogEntry.model,
            Feedback.label.label("truth"),
            LogEntry.label.label("answer"),
            func.row_number().over(partition_by=same, order_by=LogEntry.id.desc()).label("newest"),
        )
        .join(
            Feedback,
            (Feedback.deployment_id == LogEntry.deployment_id)
            & (Feedback.request_id == LogEntry.request_id)
            & (Feedback.item == LogEntry.item),
        )
        .where(LogEntry.deployment_id == deployment.id, LogEntry.at >= func.clock_timestamp() - span)
        .subquery()
    )
    told = (known.c.model_id, known.c.model, known.c.truth, known.c.answer)
    rows = session.execute(select(*told, func.count()).where(known.c.newest == 1).group_by(*told).order_by(*told))
    return [Outcome(*row) for row in rows]


def pending(session: Session, deployment: Deployment) -> int:
    """How much feedback names requests that the log does not hold: outside its sample, or mistyped."""
    logged = select(LogEntry.id).where(
        LogEntry.deployment_id == Feedback.deployment_id,
        LogEntry.request_id == Feedback.request_id,
        LogEntry.item == Feedback.item,
    )
    statement = select(func.count()).where(Feedback.deployment_id == deployment.id, ~logged.exists())
    return session.scalar(statement) or 0
