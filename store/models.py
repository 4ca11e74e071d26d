"""Models: trained networks under a name, in numbered versions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from store import blobs, events
from store.errors import ConflictError, NotFoundError
from store.ids import is_id, new_id
from store.tables import (
    BatchPrediction,
    Blob,
    Dataset,
    DatasetVersion,
    Deployment,
    DeploymentTarget,
    Evaluation,
    Explanation,
    Export,
    Job,
    Model,
    ModelAlias,
    Search,
    Trial,
)

NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left behind, in the store's words. `parity` is max |torch - ONNX Runtime| over scores."""

    weights: bytes
    onnx: bytes
    parity: float
    genotype: Mapping[str, Any]
    space_options: Mapping[str, Any]
    mirror_at_test: bool
    description: str
    preprocessing: Mapping[str, Any]
    labels: Sequence[str]
    metrics: Mapping[str, Any]
    source: str
    params: int
    flops: int
    lineage: Mapping[str, Any]


def register(session: Session, search: Search, trial: Trial, trained: Trained) -> Model:
    """The next version of the model named after the search; blobs are written first. The caller holds the search's row."""
    weights = blobs.put(session, trained.weights)
    onnx = blobs.put(session, trained.onnx)
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"model/{search.name}", 0))))
    last = session.scalar(select(func.max(Model.number)).where(Model.name == search.name)) or 0
    model = Model(
        id=new_id("model"),
        name=search.name,
        number=last + 1,
        search_id=search.id,
        trial_id=trial.id,
        version_id=search.version_id,
        genotype=dict(trained.genotype),
        space_options=dict(trained.space_options),
        mirror_at_test=trained.mirror_at_test,
        description=trained.description,
        preprocessing=dict(trained.preprocessing),
        labels=list(trained.labels),
        metrics=dict(trained.metrics),
        weights_sha256=weights,
        onnx_sha256=onnx,
        parity=trained.parity,
        params=trained.params,
        flops=trained.flops,
        size_bytes=len(trained.onnx),
        source=trained.source,
        lineage=dict(trained.lineage),
    )
    session.add(model)
    session.flush()
    session.refresh(model)
    events.append(
        session,
        search.id,
        "model",
        {
            "id": model.id,
            "name": model.name,
            "version": model.number,
            "trial_id": trial.id,
            "purpose": trial.purpose,
            "score": trial.score,
            "description": model.description,
        },
    )
    return model


def get(session: Session, reference: str) -> Model:
    """By id, by name (its newest version), as `name@3` or as `name@alias`. Raises NotFoundError."""
    statement = select(Model)
    name, at, which = reference.partition("@")
    if is_id("model", reference):
        statement = statement.where(Model.id == reference)
    elif NUMBER.fullmatch(which):
        statement = statement.where(Model.name == name, Model.number == int(which))
    elif at:
        named = and_(ModelAlias.name == Model.name, ModelAlias.number == Model.number)
        statement = statement.join(ModelAlias, named).where(ModelAlias.name == name, ModelAlias.alias == which)
    else:
        statement = statement.where(Model.name == name).order_by(Model.number.desc()).limit(1)
    model = session.scalars(statement).one_or_none()
    if model is None:
        raise NotFoundError("model", reference)
    return model


def versions(session: Session, name: str) -> Sequence[Model]:
    """Every version under a name, oldest first."""
    return session.scalars(select(Model).where(Model.name == name).order_by(Model.number)).all()


def version(session: Session, name: str, number: int) -> Model:
    """Raises NotFoundError."""
    found = session.scalars(select(Model).where(Model.name == name, Model.number == number)).one_or_none()
    if found is None:
        raise NotFoundError("model", f"{name}@{number}")
    return found


def is_newest() -> ColumnElement[bool]:
    """A model that is the newest version of its name."""
    later = aliased(Model)
    return ~exists().where(later.name == Model.name, later.number > Model.number)


def datasets_of(session: Session, found: Sequence[Model | Explanation]) -> dict[str, tuple[str, int]]:
    """(name of the data set, number of its version) by the version's id, for those that are still there."""
    rows = session.execute(
        select(DatasetVersion.id, Dataset.name, DatasetVersion.number)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(DatasetVersion.id.in_({each.version_id for each in found if each.version_id}))
    )
    return {version_id: (name, number) for version_id, name, number in rows}


def deployments_of(session: Session, found: Sequence[Model], precision: str | None = None) -> dict[str, list[str]]:
    """The names of the deployments that send requests to each model, by its id: to that version or to its alias.

    precision: only those that it answers so.
    """
    names: dict[str, list[str]] = {}
    statement = _answering([model.id for model in found])
    if precision is not None:
        statement = statement.where(DeploymentTarget.precision == precision)
    for model_id, name in session.execute(statement):
        names.setdefault(model_id, []).append(name)
    return names


def _answering(ids: Sequence[str]) -> Select[str, str]:
    """(a model's id, the name of a deployment that it answers), each pair once."""
    followed = and_(ModelAlias.name == DeploymentTarget.alias_name, ModelAlias.alias == DeploymentTarget.alias)
    answers = or_(
        Model.id == DeploymentTarget.model_id,
        and_(Model.name == ModelAlias.name, Model.number == ModelAlias.number),
    )
    return (
        select(Model.id, Deployment.name)
        .select_from(DeploymentTarget)
        .join(Deployment, Deployment.id == DeploymentTarget.deployment_id)
        .outerjoin(ModelAlias, followed)
        .join(Model, answers)
        .where(Model.id.in_(ids))
        .distinct()
        .order_by(Deployment.name)
    )


def listed(noun: str, names: Sequence[str]) -> str:
    """For messages: `the deployments 'a', 'b'`."""
    plural = "" if len(names) == 1 else "es" if noun.endswith("s") else "s"
    return f"the {noun}{plural} {', '.join(map(repr, names))}"


def delete(session: Session, model: Model) -> int:
    """Delete one version; returns the bytes freed at the next sweep.

    Raises ConflictError, naming the deployments that it answers, the aliases that name it, the batch prediction or the
    search that works with it.
    """
    session.refresh(model, with_for_update=True)
    if names := deployments_of(session, [model]).get(model.id):
        raise ConflictError(
            f"model {model.name}@{model.number} answers {listed('deployment', names)}; "
            "point that elsewhere or delete it first"
        )
    named = select(ModelAlias.alias).where(ModelAlias.name == model.name, ModelAlias.number == model.number)
    if held := session.scalars(named.order_by(ModelAlias.alias)).all():
        raise ConflictError(
            f"model {model.name}@{model.number} has {listed('alias', held)}; move that to another version or delete "
            "it first"
        )
    batch = session.scalars(
        select(BatchPrediction.id).join(Job).where(BatchPrediction.model_id == model.id, Job.ended_at.is_(None))
    ).first()
    if batch is not None:
        raise ConflictError(
            f"model {model.name}@{model.number} answers the batch prediction {batch}; cancel it or wait for its end"
        )
    working = session.scalars(
        select(Search).where(Search.model_id == model.id, Search.ended_at.is_(None))
    ).one_or_none()
    if working is not None:
        raise ConflictError(
            f"model {model.name}@{model.number} is the best so far of the running search {working.name!r}"
        )
    freed = session.scalar(
        select(func.coalesce(func.sum(Blob.size_bytes), 0)).where(
            or_(
                Blob.sha256.in_([model.weights_sha256, model.onnx_sha256]),
                Blob.sha256.in_(select(Export.sha256).where(Export.model_id == model.id)),
                Blob.sha256.in_(select(Evaluation.curves_sha256).where(Evaluation.model_id == model.id)),
                Blob.sha256.in_(select(Evaluation.answers_sha256).where(Evaluation.model_id == model.id)),
                Blob.sha256.in_(select(Explanation.overlay_sha256).where(Explanation.model_id == model.id)),
            )
        )
    )
    session.delete(model)
    session.flush()
    return int(freed or 0)
