"""Routes of models: look at, take away, delete."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import Editor, Unchanged, Viewer, Work
from api.downloads import BINARY, Download, send
from api.models.schemas import Alias, AliasPage, Model, ModelPage, NewAlias
from api.models.views import alias_view, model_views
from api.openapi import PYTHON
from api.routing import Route, revision_tag
from api.runtime import runtime_of
from api.schemas import AliasRef, Freed, ModelRef, PageSize, PageToken, Reference, VersionNumber, python_file
from store import aliases, audit, models, searches, tables
from store.errors import NotFoundError
from store.ids import is_id
from store.pages import page

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=Route)


@router.get("")
def list_models(
    work: Work,
    _: Viewer,
    search: Annotated[Reference | None, Query(description="Only what came of this search.")] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> ModelPage:
    """Every model in its newest version, by name."""
    statement = select(tables.Model).where(models.is_newest())
    if search is not None:
        statement = statement.where(tables.Model.search_id == searches.get(work, search).id)
    rows, following = page(work, statement, tables.Model.name, page_size, page_token)
    return ModelPage(items=model_views(work, rows), next_page_token=following)


@router.get("/{model}")
def get_model(model: ModelRef, work: Work, _: Viewer) -> Model:
    return model_views(work, [models.get(work, model)])[0]


@router.get("/{model}/versions")
def list_model_versions(
    model: ModelRef, work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None
) -> ModelPage:
    """Every version of a model, newest first."""
    statement = select(tables.Model).where(tables.Model.name == models.get(work, model).name)
    rows, following = page(work, statement, tables.Model.number, page_size, page_token, newest_first=True)
    return ModelPage(items=model_views(work, rows), next_page_token=following)


@router.get("/{model}/versions/{version}")
def get_model_version(model: ModelRef, version: VersionNumber, work: Work, _: Viewer) -> Model:
    return model_views(work, [models.version(work, models.get(work, model).name, version)])[0]


@router.get("/{model}/aliases")
def list_model_aliases(
    model: ModelRef, work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None
) -> AliasPage:
    """The aliases of a model's versions, in the order of the alphabet."""
    statement = select(tables.ModelAlias).where(tables.ModelAlias.name == models.get(work, model).name)
    rows, following = page(work, statement, tables.ModelAlias.alias, page_size, page_token)
    return AliasPage(items=[alias_view(row) for row in rows], next_page_token=following)


@router.get("/{model}/aliases/{alias}")
def get_model_alias(model: ModelRef, alias: AliasRef, work: Work, _: Viewer, response: Response) -> Alias:
    found = aliases.get(work, models.get(work, model).name, alias)
    response.headers.update(revision_tag(found.revision))
    return alias_view(found)


@router.put("/{model}/aliases/{alias}")
def put_model_alias(
    model: ModelRef,
    alias: AliasRef,
    new: NewAlias,
    work: Work,
    caller: Editor,
    unchanged: Unchanged,
    response: Response,
) -> Alias:
    """Name a version, or move the name to another one: deployments that follow the alias send their requests there.

    They do so within a second and without a failed request.
    """
    name = models.get(work, model).name
    before: tables.ModelAlias | None = None
    with suppress(NotFoundError):
        before = aliases.get(work, name, alias, lock=True)
    unchanged.check(0 if before is None else before.revision)
    details = {"version": new.version, "version_before": None if before is None else before.number}
    found = aliases.put(work, name, alias, new.version)
    audit.note(work, caller.id, "model.alias.put", f"{name}@{alias}", details)
    response.headers.update(revision_tag(found.revision))
    return alias_view(found)


@router.delete("/{model}/aliases/{alias}", status_code=204)
def delete_model_alias(model: ModelRef, alias: AliasRef, work: Work, caller: Editor, unchanged: Unchanged) -> None:
    """Forget an alias; the version stays. Refused while a deployment follows it; the refusal says which."""
    found = aliases.get(work, models.get(work, model).name, alias, lock=True)
    unchanged.check(found.revision)
    aliases.delete(work, found)
    audit.note(work, caller.id, "model.alias.delete", f"{found.name}@{found.alias}", {"version": found.number})


@router.get("/{model}/onnx", response_class=Response, responses=BINARY)
async def download_model_onnx(request: Request, model: ModelRef, _: Viewer) -> Response:
    """Take the network away as it is served, to run anywhere. Other formats: `…/exports`."""

    def find(session: Session) -> Download:
        found = models.get(session, model)
        name = f"{found.name}-{found.number}.onnx"
        return Download(found.onnx_sha256, found.size_bytes, name, "application/octet-stream")

    return send(request, await runtime_of(request).transact(find))


@router.get("/{model}/source", response_class=Response, responses=PYTHON)
def get_model_source(model: ModelRef, work: Work, _: Viewer) -> Response:
    """The model as a Python module that stands alone: given its weights it answers as the model does.

    It needs torch, NumPy, Pillow and safetensors.
    """
    found = models.get(work, model)
    return python_file(found.source, f"{found.name}-{found.number}")


@router.delete("/{model}")
def delete_model(model: ModelRef, work: Work, caller: Editor) -> Freed:
    """Delete a model: by its name every version, by an id, `name@version` or `name@alias` that one.

    Refused for a version that a deployment sends requests to, or that an alias names; the refusal says which.
    """
    found = models.get(work, model)
    whole = not is_id("model", model) and "@" not in model
    doomed = models.versions(work, found.name) if whole else [found]
    freed = sum(models.delete(work, version) for version in doomed)
    details = {"name": found.name, "versions": [version.number for version in doomed], "freed_bytes": freed}
    audit.note(work, caller.id, "model.delete", found.id, details)
    return Freed(freed_bytes=freed)


@router.delete("/{model}/versions/{version}")
def delete_model_version(model: ModelRef, version: VersionNumber, work: Work, caller: Editor) -> Freed:
    """Delete one version."""
    found = models.version(work, models.get(work, model).name, version)
    freed = models.delete(work, found)
    details = {"name": found.name, "versions": [found.number], "freed_bytes": freed}
    audit.note(work, caller.id, "model.delete", found.id, details)
    return Freed(freed_bytes=freed)
