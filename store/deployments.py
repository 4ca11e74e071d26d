"""Deployments: a name that answers predictions, and the models behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import aliases, exports, models
from store.datasets import check_name
from store.errors import ConflictError, NotFoundError, RefusedError
from store.ids import is_id, new_id
from store.states import DeploymentState, sources
from store.tables import Deployment, DeploymentTarget


@dataclass(frozen=True, slots=True)
class Target:
    """A model by any reference, and its share of the requests in per cent. `name@alias` follows the alias.

    precision: `int8` serves the model's newest export of the format `onnx-int8`, `fp32` its own file.
    """

    model: str
    weight: int = 100
    precision: str = "fp32"


def _set_targets(session: Session, deployment: Deployment, targets: Sequence[Target]) -> None:
    total = sum(target.weight for target in targets)
    if total != 100:
        raise RefusedError(f"the weights of the targets add up to {total}; they must add up to 100", "targets")
    rows = [
        DeploymentTarget(
            number=number, weight=target.weight, precision=target.precision, **_named(session, target.model)
        )
        for number, target in enumerate(targets)
    ]
    if len({(row.model_id, row.alias_name, row.alias, row.precision) for row in rows}) != len(rows):
        raise RefusedError("two targets name the same model; give it one weight", "targets")
    for target in targets:
        if target.precision == "int8":
            exports.require_int8(session, models.get(session, target.model), "targets")
    deployment.targets = rows
    session.flush()


def _named(session: Session, reference: str) -> dict[str, str]:
    """What of a target's row says which model: its id, or the alias that it follows. Raises NotFoundError."""
    name, at, which = reference.partition("@")
    if at and models.NUMBER.fullmatch(which) is None:
        found = aliases.get(session, name, which)
        return {"alias_name": found.name, "alias": found.alias}
    return {"model_id": models.get(session, reference).id}


def create(session: Session, name: str, targets: Sequence[Target]) -> Deployment:
    """Raises ConflictError for a taken name, NotFoundError for an unknown model, RefusedError for odd weights."""
    check_name("deployment", name)
    made = session.scalar(
        insert(Deployment)
        .values(id=new_id("deployment"), name=name, state=DeploymentState.DEPLOYED)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Deployment.id)
    )
    if made is None:
        raise ConflictError(f"there is a deployment named {name!r} already; PATCH it to point it at another model")
    deployment = session.get_one(Deployment, made)
    _set_targets(session, deployment, targets)
    return deployment


def get(session: Session, reference: str, *, lock: bool = False) -> Deployment:
    """By id or name. Raises NotFoundError."""
    column = Deployment.id if is_id("deployment", reference) else Deployment.name
    statement = select(Deployment).where(column == reference)
    deployment = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if deployment is None:
        raise NotFoundError("deployment", reference)
    return deployment


def retarget(session: Session, deployment: Deployment, targets: Sequence[Target]) -> None:
    """Send the requests elsewhere, all at once."""
    deployment.targets.clear()
    session.flush()
    _set_targets(session, deployment, targets)
    _touch(session, deployment)


def log(session: Session, deployment: Deployment, values: Mapping[str, float | bool]) -> None:
    """Change what of its requests is logged: sample (0 to 1), pictures, retention_days; what is left out stays."""
    session.execute(
        update(Deployment)
        .where(Deployment.id == deployment.id)
        .values({f"log_{name}": value for name, value in values.items()})
    )
    _touch(session, deployment)


def move(session: Session, deployment: Deployment, to: DeploymentState) -> None:
    """Deploy or undeploy. Raises ConflictError when it is so already."""
    moved = session.scalar(
        update(Deployment)
        .where(Deployment.id == deployment.id, Deployment.state.in_(sources(to)))
        .values(state=to)
        .returning(Deployment.id)
    )
    if moved is None:
        raise ConflictError(f"deployment {deployment.name!r} is {deployment.state} already")
    _touch(session, deployment)


def _touch(session: Session, deployment: Deployment) -> None:
    session.execute(
        update(Deployment)
        .where(Deployment.id == deployment.id)
        .values(revision=Deployment.revision + 1, updated_at=func.clock_timestamp())
    )
    session.refresh(deployment)


def delete(session: Session, deployment: Deployment) -> None:
    """Delete the name; the models stay."""
    session.delete(deployment)
    session.flush()
