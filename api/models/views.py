"""Rows of models as what callers are told."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.models.schemas import Alias, Model
from api.schemas import link_to
from store import aliases, models, tables


def model_views(session: Session, found: Sequence[tables.Model]) -> list[Model]:
    sources = models.datasets_of(session, found)
    deployments = models.deployments_of(session, found)
    named = aliases.of(session, found)
    views = []
    for model in found:
        here = link_to("models", model.name, "versions", str(model.number))
        dataset = sources.get(model.version_id or "")
        links = {
            "self": here,
            "versions": link_to("models", model.name, "versions"),
            "evaluation": link_to("models", f"{model.name}@{model.number}", "evaluation"),
            "evaluations": link_to("models", f"{model.name}@{model.number}", "evaluations"),
            "aliases": link_to("models", model.name, "aliases"),
            "onnx": link_to("models", f"{model.name}@{model.number}", "onnx"),
            "exports": link_to("models", f"{model.name}@{model.number}", "exports"),
            "source": link_to("models", f"{model.name}@{model.number}", "source"),
            "predict": link_to("models", f"{model.name}@{model.number}", "predict"),
            "explain": link_to("models", f"{model.name}@{model.number}", "explain"),
            "explanations": link_to("models", f"{model.name}@{model.number}", "explanations"),
        }
        if model.search_id is not None:
            links["search"] = link_to("searches", model.search_id)
        views.append(
            Model(
                id=model.id,
                name=model.name,
                version=model.number,
                search=model.search_id,
                trial=model.trial_id,
                dataset=None if dataset is None else dataset[0],
                dataset_version=None if dataset is None else dataset[1],
                description=model.description,
                genotype=model.genotype,
                preprocessing=model.preprocessing,
                labels=model.labels,
                metrics=model.metrics,
                params=model.params,
                flops=model.flops,
                size_bytes=model.size_bytes,
                onnx_sha256=model.onnx_sha256.hex(),
                parity=model.parity,
                lineage=model.lineage,
                aliases=named.get(model.id, []),
                deployments=deployments.get(model.id, []),
                created_at=model.created_at,
                links=links,
            )
        )
    return views


def alias_view(alias: tables.ModelAlias) -> Alias:
    return Alias(
        model=alias.name,
        alias=alias.alias,
        version=alias.number,
        id=alias.model.id,
        created_at=alias.created_at,
        updated_at=alias.updated_at,
        links={
            "self": link_to("models", alias.name, "aliases", alias.alias),
            "model": link_to("models", f"{alias.name}@{alias.alias}"),
            "predict": link_to("models", f"{alias.name}@{alias.alias}", "predict"),
        },
    )
