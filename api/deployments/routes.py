"""Routes of deployments: which models answer under which name."""

from collections.abc import Sequence

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from api.deployments.schemas import (
    Deployment,
    DeploymentPage,
    DeploymentPatch,
    Logging,
    NewDeployment,
    NewTarget,
    Target,
)
from api.deps import Editor, Once, Unchanged, Viewer, Work
from api.routing import Route, revision_tag
from api.schemas import DeploymentRef, PageSize, PageToken, link_to
from store import audit, deployments, tables
from store.pages import page
from store.states import DeploymentState

router = APIRouter(prefix="/v1/deployments", tags=["deployments"], route_class=Route)


def deployment_view(deployment: tables.Deployment) -> Deployment:
    here = link_to("deployments", deployment.name)
    return Deployment(
        id=deployment.id,
        name=deployment.name,
        state=deployment.state.value,
        targets=[
            Target(
                id=target.model.id,
                model=target.model.name,
                version=target.model.number,
                alias=target.alias,
                weight=target.weight,
                precision=target.precision,
            )
            for target in deployment.targets
        ],
        logging=Logging(
            sample=deployment.log_sample,
            pictures=deployment.log_pictures,
            retention_days=deployment.log_retention_days,
        ),
        created_at=deployment.created_at,
        updated_at=deployment.updated_at,
        links={"self": here}
        | {name: f"{here}/{name}" for name in ("predict", "requests", "accuracy", "drift", "stats")},
    )


def wished(targets: Sequence[NewTarget]) -> list[deployments.Target]:
    return [deployments.Target(target.model, target.weight, target.precision) for target in targets]


@router.post("", status_code=201)
def create_deployment(new: NewDeployment, work: Work, caller: Editor, _: Once, response: Response) -> Deployment:
    """Have a name answer predictions."""
    deployment = deployments.create(work, new.name, wished(new.targets))
    if kept := new.logging.model_dump(exclude_unset=True):
        deployments.log(work, deployment, kept)
    details = {"name": deployment.name, "targets": [target.model_dump() for target in new.targets], "logging": kept}
    audit.note(work, caller.id, "deployment.create", deployment.id, details)
    location = {"Location": link_to("deployments", deployment.name)}
    response.headers.update(revision_tag(deployment.revision) | location)
    return deployment_view(deployment)


@router.get("")
def list_deployments(work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None) -> DeploymentPage:
    """All deployments, newest first."""
    targets = selectinload(tables.Deployment.targets)
    statement = select(tables.Deployment).options(
        targets.joinedload(tables.DeploymentTarget.fixed),
        targets.joinedload(tables.DeploymentTarget.followed).joinedload(tables.ModelAlias.model),
    )
    rows, following = page(work, statement, tables.Deployment.id, page_size, page_token, newest_first=True)
    return DeploymentPage(items=[deployment_view(row) for row in rows], next_page_token=following)


@router.get("/{deployment}")
def get_deployment(deployment: DeploymentRef, work: Work, _: Viewer, response: Response) -> Deployment:
    found = deployments.get(work, deployment)
    response.headers.update(revision_tag(found.revision))
    return deployment_view(found)


@router.patch("/{deployment}")
def update_deployment(
    deployment: DeploymentRef,
    patch: DeploymentPatch,
    work: Work,
    caller: Editor,
    unchanged: Unchanged,
    response: Response,
) -> Deployment:
    """Point it at other models, undeploy it or deploy it again: at once, without a failed request. Or log it otherwise."""
    found = deployments.get(work, deployment, lock=True)
    unchanged.check(found.revision)
    if patch.targets is not None:
        deployments.retarget(work, found, wished(patch.targets))
    if patch.state is not None and patch.state != found.state:
        deployments.move(work, found, DeploymentState(patch.state))
    if patch.logging is not None and (kept := patch.logging.model_dump(exclude_unset=True)):
        deployments.log(work, found, kept)
    audit.note(work, caller.id, "deployment.update", found.id, patch.model_dump(exclude_unset=True))
    response.headers.update(revision_tag(found.revision))
    return deployment_view(found)


@router.delete("/{deployment}", status_code=204)
def delete_deployment(deployment: DeploymentRef, work: Work, caller: Editor, unchanged: Unchanged) -> None:
    """Delete the name; the models stay. Its request log and the pictures in it go with the sweeps that follow."""
    found = deployments.get(work, deployment, lock=True)
    unchanged.check(found.revision)
    deployments.delete(work, found)
    audit.note(work, caller.id, "deployment.delete", found.id, {"name": found.name})
