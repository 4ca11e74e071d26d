"""Rows of models as what callers are told."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.models.schemas import Evaluation, Model
from api.schemas import link_to
from store import models, tables


def model_views(session: Session, found: Sequence[tables.Model]) -> list[Model]:
    sources = models.datasets_of(session, found)
    deployments = models.deployments_of(session, found)
    views = []
    for model in found:
        here = link_to("models", model.name, "versions", str(model.number))
        dataset = sources.get(model.version_id or "")
        links = {
            "self": here,
            "versions": link_to("models", model.name, "versions"),
            "evaluation": link_to("models", f"{model.name}@{model.number}", "evaluation"),
            "onnx": link_to("models", f"{model.name}@{model.number}", "onnx"),
            "exports": link_to("models", f"{model.name}@{model.number}", "exports"),
            "source": link_to("models", f"{model.name}@{model.number}", "source"),
            "predict": link_to("models", f"{model.name}@{model.number}", "predict"),
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
                deployments=deployments.get(model.id, []),
                created_at=model.created_at,
                links=links,
            )
        )
    return views


def evaluation_view(model: tables.Model, evaluation: tables.Evaluation) -> Evaluation:
    return Evaluation(
        id=evaluation.id,
        model=model.name,
        version=model.number,
        split=evaluation.split,
        examples=evaluation.example_count,
        metrics=evaluation.metrics,
        per_label=evaluation.per_label,
        confusion=evaluation.confusion,
        created_at=evaluation.created_at,
    )
