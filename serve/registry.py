"""From the name in a URL to the model version that answers this request."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve.fresh import Fresh
from store import deployments, exports, models
from store.database import Sessions
from store.errors import NotFoundError
from store.states import DeploymentState
from store.tables import Deployment, DeploymentTarget, Model
from web.problems import ProblemError, from_store

REFERENCE = re.compile(r"[A-Za-z0-9._-]{1,63}(@[A-Za-z0-9._-]{1,63})?")


class Kind(StrEnum):
    """What a URL names."""

    DEPLOYMENT = "deployment"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Version:
    """A model version in one precision, with all that a prediction needs of its row."""

    id: str
    name: str
    number: int
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    onnx_sha256: bytes
    size_bytes: int
    precision: str = "fp32"

    @property
    def spoken(self) -> str:
        return f"{self.name}@{self.number}" + ("" if self.precision == "fp32" else f" in {self.precision}")

    @property
    def key(self) -> str:
        """What tells networks in memory apart: the id, and for an export its file, which a newer one may replace."""
        return self.id if self.precision == "fp32" else f"{self.id}/{self.onnx_sha256.hex()}"


@dataclass(frozen=True, slots=True)
class Share:
    """A model version and its part of the requests, in per cent."""

    version: Version
    weight: int


@dataclass(frozen=True, slots=True)
class Logging:
    """What is logged of a deployment: which share of its requests, and whether their pictures are kept."""

    sample: float = 0.0
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Where the requests for one name go. `id` and `name` are the deployment's, or the model version's."""

    kind: Kind
    id: str
    name: str
    deployed: bool
    shares: tuple[Share, ...]
    logging: Logging = Logging()

    @property
    def versions(self) -> Sequence[Version]:
        return [share.version for share in self.shares]

    def choose(self, request_id: str) -> Version:
        """The version that answers `request_id`: always the same one while the weights stay, and fair over many."""
        if len(self.shares) == 1:
            return self.shares[0].version
        # with the route's id in it, a client behind two deployments is not twice on the same side
        digest = hashlib.blake2b(f"{self.id}/{request_id}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest) % sum(share.weight for share in self.shares)
        for share in self.shares:
            point -= share.weight
            if point < 0:
                return share.version
        raise AssertionError("a point below the sum of the weights lies in one of them")


@dataclass(frozen=True, slots=True)
class Entry:
    """A version that can be asked for under a name, in the list of all of them."""

    name: str
    number: int
    model_id: str
    deployed: bool


class Registry:
    """Looks names up. A deployment that is pointed elsewhere, undeployed or deleted is seen within a second."""

    def __init__(self, sessions: Sessions, executor: Executor) -> None:
        self._sessions = sessions
        self._routes: Fresh[tuple[Kind, str], Route | None] = Fresh(executor)
        self._numbers: Fresh[str, tuple[int, ...]] = Fresh(executor)
        self._entries: Fresh[None, tuple[Entry, ...]] = Fresh(executor)

    async def route(self, kind: Kind, reference: str) -> Route:
        """Raises ProblemError: 404 for a name that nothing has, 409 for a deployment that is not deployed."""
        route = None
        if REFERENCE.fullmatch(reference):  # what cannot be a name costs the database nothing
            route = await self._routes.get((kind, reference), lambda: self._read(kind, reference))
        if route is None:
            raise from_store(NotFoundError(kind.value, reference[:100]))
        if not route.deployed:
            raise ProblemError(
                409,
                "undeployed",
                f"the deployment {route.name!r} is undeployed and answers no predictions; "
                f'PATCH /v1/deployments/{route.name} with {{"state": "deployed"}} deploys it again',
            )
        return route

    async def numbers(self, name: str) -> tuple[int, ...]:
        """Of the versions of a model, oldest first."""
        return await self._numbers.get(name, lambda: self._read_numbers(name))

    async def entries(self) -> tuple[Entry, ...]:
        """Everything that can be asked, deployments first; a model whose name a deployment has is hidden by it."""
        return await self._entries.get(None, self._read_entries)

    def _read_numbers(self, name: str) -> tuple[int, ...]:
        with self._sessions.begin() as session:
            return tuple(session.scalars(select(Model.number).where(Model.name == name).order_by(Model.number)))

    def _read_entries(self) -> tuple[Entry, ...]:
        with self._sessions.begin() as session:
            found = [
                Entry(
                    deployment.name, target.model.number, target.model.id, deployment.state is DeploymentState.DEPLOYED
                )
                for deployment in session.scalars(select(Deployment).order_by(Deployment.name))
                for target in deployment.targets
            ]
            hidden = {entry.name for entry in found}
            rows = session.execute(select(Model.name, Model.number, Model.id).order_by(Model.name, Model.number))
            return (*found, *(Entry(name, number, id, True) for name, number, id in rows if name not in hidden))

    def _read(self, kind: Kind, reference: str) -> Route | None:
        with self._sessions.begin() as session:
            try:
                if kind is Kind.MODEL:
                    model = models.get(session, reference)
                    return Route(kind, model.id, model.name, True, (Share(_version(model), 100),))
                deployment = deployments.get(session, reference)
            except NotFoundError:
                return None
            shares = tuple(Share(_targeted(session, target), target.weight) for target in deployment.targets)
            deployed = deployment.state is DeploymentState.DEPLOYED
            logging = Logging(deployment.log_sample, deployment.log_pictures)
            return Route(kind, deployment.id, deployment.name, deployed, shares, logging)


def _targeted(session: Session, target: DeploymentTarget) -> Version:
    version = _version(target.model)
    if target.precision == "fp32":
        return version
    export = exports.newest_int8(session, version.id)
    assert export is not None  # whoever takes it away is refused
    return replace(version, onnx_sha256=export.sha256, size_bytes=export.size_bytes, precision=target.precision)


def _version(model: Model) -> Version:
    return Version(
        id=model.id,
        name=model.name,
        number=model.number,
        labels=tuple(model.labels),
        preprocessing=model.preprocessing,
        onnx_sha256=model.onnx_sha256,
        size_bytes=model.size_bytes,
    )
