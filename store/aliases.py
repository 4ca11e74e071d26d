"""Aliases: movable names for versions of a model, such as `flowers@champion`."""

import re
from collections.abc import Sequence

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import exports, models
from store.errors import ConflictError, NotFoundError, RefusedError
from store.tables import Deployment, DeploymentTarget, Model, ModelAlias

ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")
ALIAS_RULE = "1 to 63 letters, digits, '.', '_' or '-', beginning with a letter: a number names a version"


def get(session: Session, name: str, alias: str, *, lock: bool = False) -> ModelAlias:
    """Raises NotFoundError."""
    statement = select(ModelAlias).where(ModelAlias.name == name, ModelAlias.alias == alias)
    found = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if found is None:
        raise NotFoundError("alias", f"{name}@{alias}")
    return found


def put(session: Session, name: str, alias: str, number: int) -> ModelAlias:
    """Have the alias name this version; deployments that follow it do so with the commit.

    Raises RefusedError for what is no alias and for a version that cannot answer as followers want it (in int8),
    NotFoundError for an unknown version.
    """
    if ALIAS.fullmatch(alias) is None:
        raise RefusedError(f"alias {alias[:100]!r} must be {ALIAS_RULE}", "alias")
    model = models.version(session, name, number)
    if _followers(session, name, alias, "int8"):
        exports.require_int8(session, model, "version")
    statement = insert(ModelAlias).values(name=name, alias=alias, number=number)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["name", "alias"],
            set_={
                "number": statement.excluded.number,
                "revision": ModelAlias.revision + 1,
                "updated_at": func.clock_timestamp(),
            },
        )
    )
    found = get(session, name, alias)
    session.refresh(found)
    return found


def of(session: Session, found: Sequence[Model]) -> dict[str, list[str]]:
    """The aliases of each model version, by its id, in the order of the alphabet."""
    ids = {(model.name, model.number): model.id for model in found}
    rows = session.scalars(
        select(ModelAlias)
        .where(tuple_(ModelAlias.name, ModelAlias.number).in_(list(ids)))
        .order_by(ModelAlias.name, ModelAlias.alias)
    )
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(ids[row.name, row.number], []).append(row.alias)
    return names


def delete(session: Session, found: ModelAlias) -> None:
    """Forget the alias; the version stays. Raises ConflictError, naming the deployments that follow it."""
    session.refresh(found, with_for_update=True)
    if followers := _followers(session, found.name, found.alias):
        raise ConflictError(
            f"alias {found.name}@{found.alias} is followed by {models.listed('deployment', followers)}; "
            "point that elsewhere or delete it first"
        )
    session.delete(found)
    session.flush()


def _followers(session: Session, name: str, alias: str, precision: str | None = None) -> Sequence[str]:
    """The names of the deployments that follow it, in the order of the alphabet. precision: only those that want it so."""
    statement = (
        select(Deployment.name)
        .join(DeploymentTarget)
        .where(DeploymentTarget.alias_name == name, DeploymentTarget.alias == alias)
        .distinct()
        .order_by(Deployment.name)
    )
    if precision is not None:
        statement = statement.where(DeploymentTarget.precision == precision)
    return session.scalars(statement).all()
