"""Sums over the tables: what the service holds and has spent."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.tables import Blob, Dataset, DatasetVersion, Deployment, Job, Model, Search, Trial

STATES = {
    "dataset": Dataset.state,
    "search": Search.state,
    "trial": Trial.state,
    "job": Job.state,
    "deployment": Deployment.state,
}


def totals(session: Session) -> dict[str, float]:
    """Counts, bytes and seconds of everything together."""
    sums = {
        "datasets": select(func.count(Dataset.id)),
        "examples": select(func.coalesce(func.sum(DatasetVersion.example_count), 0)),
        "dataset_bytes": select(func.coalesce(func.sum(DatasetVersion.size_bytes), 0)),
        "searches": select(func.count(Search.id)),
        "trials": select(func.count(Trial.id)),
        "trial_seconds": select(func.coalesce(func.sum(Trial.seconds), 0.0)),
        "models": select(func.count(Model.id)),
        "deployments": select(func.count(Deployment.id)),
        "blob_bytes": select(func.coalesce(func.sum(Blob.size_bytes), 0)),
    }
    row = session.execute(select(*(statement.scalar_subquery().label(name) for name, statement in sums.items()))).one()
    return {name: float(value) if name == "trial_seconds" else int(value) for name, value in row._asdict().items()}


def states(session: Session) -> dict[str, dict[str, int]]:
    """How many rows of each noun stand in each state, those without any as 0."""
    counts: dict[str, dict[str, int]] = {}
    for noun, column in STATES.items():
        counts[noun] = {state.value: 0 for state in column.type.python_type}
        for state, count in session.execute(select(column, func.count()).group_by(column)):
            counts[noun][state.value] = count
    return counts
