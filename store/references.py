"""References: what deployed models learnt on, measured once by a worker, in numbers that requests are compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session, joinedload

from store import jobs
from store.tables import DeploymentTarget, Job, ModelAlias, ModelReference

KIND = "reference"


@dataclass(frozen=True, slots=True)
class Measured:
    """training_labels: training pictures by label. validation_labels: the model's answers on validation, by label.
    confidences: its highest scores there. inputs: statistics of training pictures by name. The last two are samples."""

    training_labels: Mapping[str, int]
    validation_labels: Mapping[str, int]
    confidences: Sequence[float]
    inputs: Mapping[str, Sequence[float]]


def want(session: Session) -> list[str]:
    """Have a worker measure every deployed model that has no reference yet; returns their ids."""
    targets = select(DeploymentTarget).options(
        joinedload(DeploymentTarget.fixed), joinedload(DeploymentTarget.followed).joinedload(ModelAlias.model)
    )
    deployed = {target.model.id for target in session.scalars(targets)}
    missing = sorted(deployed - set(session.scalars(select(ModelReference.model_id))))
    for model_id in missing:
        job = jobs.create(session, KIND, {"model_id": model_id})
        session.add(ModelReference(model_id=model_id, job_id=job.id))
    session.flush()
    return missing


def put(session: Session, model_id: str, measured: Measured) -> None:
    """Keep what was measured; nothing happens when the model is gone."""
    session.execute(
        update(ModelReference)
        .where(ModelReference.model_id == model_id)
        .values(
            training_labels=dict(measured.training_labels),
            validation_labels=dict(measured.validation_labels),
            confidences=list(measured.confidences),
            inputs={name: list(values) for name, values in measured.inputs.items()},
        )
    )


def find(session: Session, model_id: str) -> Measured | str:
    """The reference of a model, or why there is none."""
    found = session.execute(
        select(ModelReference, Job)
        .join(Job, Job.id == ModelReference.job_id)
        .where(ModelReference.model_id == model_id)
    ).one_or_none()
    if found is None:
        return "nobody has measured yet what the model learnt on; a worker does so soon after it is deployed"
    row, job = found
    if row.training_labels is None or row.validation_labels is None or row.confidences is None or row.inputs is None:
        said = f": {job.error['message']}" if job.error else ""
        return f"the job {job.id}, which measures what the model learnt on, is {job.state.value}{said}"
    return Measured(row.training_labels, row.validation_labels, row.confidences, row.inputs)
