"""Rows of evaluations as what callers are told."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from api.evaluations.schemas import Confusion, Curve, Evaluation, EvaluationSummary, Guess, Mistake, Threshold
from api.schemas import link_to
from search.answers import Answers, Curves
from store import evaluations, tables


def links_of(model: tables.Model, evaluation: tables.Evaluation) -> dict[str, str]:
    here = link_to("models", f"{model.name}@{model.number}", "evaluations", evaluation.id)
    parts = ["curves", "confusion"] + (["errors"] if evaluation.answers_sha256 is not None else [])
    return {"self": here} | {part: f"{here}/{part}" for part in parts}


def summary_fields(
    model: tables.Model, evaluation: tables.Evaluation, sources: dict[str, tuple[str, int]]
) -> dict[str, Any]:
    dataset, version = sources.get(evaluation.version_id or "", (None, None))
    return {
        "id": evaluation.id,
        "model": model.name,
        "version": model.number,
        "dataset": dataset,
        "dataset_version": version,
        "own": evaluation.own,
        "split": evaluation.split,
        "examples": evaluation.example_count,
        "skipped": evaluation.skipped,
        "trained_on": evaluation.trained_on,
        "metrics": evaluation.metrics,
        "created_at": evaluation.created_at,
        "links": links_of(model, evaluation),
    }


def summaries(session: Session, model: tables.Model, found: Sequence[tables.Evaluation]) -> list[EvaluationSummary]:
    sources = evaluations.datasets_of(session, found)
    return [EvaluationSummary(**summary_fields(model, evaluation, sources)) for evaluation in found]


def evaluation_view(session: Session, model: tables.Model, evaluation: tables.Evaluation) -> Evaluation:
    return Evaluation(
        **summary_fields(model, evaluation, evaluations.datasets_of(session, [evaluation])),
        intervals=evaluation.intervals,
        per_label=evaluation.per_label,
        reliability=evaluation.reliability,
        slices=evaluation.slices,
    )


def confusion_view(model: tables.Model, evaluation: tables.Evaluation) -> Confusion:
    return Confusion(labels=model.labels, matrix=evaluation.confusion, links=links_of(model, evaluation))


def curve_view(model: tables.Model, evaluation: tables.Evaluation, curves: Curves, label: str | None) -> Curve:
    place = None if label is None else model.labels.index(label)
    if place is None:
        areas = evaluation.metrics.get("auc_pr"), evaluation.metrics.get("auc_roc")
    else:
        areas = evaluation.per_label[place]["average_precision"], evaluation.per_label[place]["auc_roc"]
    return Curve(
        label=label,
        auc_pr=areas[0],
        auc_roc=areas[1],
        thresholds=[
            Threshold(
                threshold=each.threshold,
                precision=each.precision,
                recall=each.recall,
                f1=each.f1,
                false_positive_rate=each.false_positive_rate,
            )
            for each in curves.table(place)
        ],
    )


def mistake_view(labels: Sequence[str], dataset: tuple[str, int], answers: Answers, at: int) -> Mistake:
    name, version = dataset
    number = int(answers.numbers[at])
    here, pinned = link_to("datasets", name, "examples", str(number)), f"?version={version}"
    top = [
        Guess(label=labels[label], score=score)
        for label, score in zip(answers.labels[at].tolist(), answers.scores[at].tolist(), strict=True)
    ]
    return Mistake(
        example=number,
        true=labels[int(answers.targets[at])],
        predicted=top[0].label,
        score=top[0].score,
        true_score=float(answers.target_scores[at]),
        top=top,
        links={"self": here + pinned, "content": f"{here}/content{pinned}", "thumbnail": f"{here}/thumbnail{pinned}"},
    )
