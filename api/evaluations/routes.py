"""Routes of evaluations: have a model evaluated, and look at what came of it."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from api.deps import Editor, Once, Viewer, Work
from api.evaluations.schemas import (
    Confusion,
    Curve,
    Evaluation,
    EvaluationPage,
    MistakePage,
    NewEvaluation,
    Part,
)
from api.evaluations.views import confusion_view, curve_view, evaluation_view, mistake_view, summaries
from api.jobs.schemas import Job
from api.jobs.views import job_view
from api.routing import Route
from api.schemas import EvaluationRef, Freed, ModelRef, PageSize, PageToken, link_to
from search.answers import Answers, Curves
from store import audit, blobs, datasets, evaluations, models, tables
from store.errors import ConflictError, NotFoundError
from store.pages import page, part
from web.problems import Fault, invalid

router = APIRouter(prefix="/v1/models/{model}", tags=["models"], route_class=Route)


def labelled(model: tables.Model, field: str, label: str | None) -> int | None:
    """The place of a label. Raises ProblemError (422) for one that the model does not know."""
    if label is None:
        return None
    if label not in model.labels:
        listed = ", ".join(model.labels[:50])
        raise invalid([Fault(field, f"unknown label; model {model.name}@{model.number} knows {listed}", label)])
    return model.labels.index(label)


def chosen(work: Session, reference: str, evaluation_id: str) -> tuple[tables.Model, tables.Evaluation]:
    model = models.get(work, reference)
    return model, evaluations.get(work, model, evaluation_id)


@router.post("/evaluations", status_code=202)
def create_evaluation(
    model: ModelRef, new: NewEvaluation, work: Work, caller: Editor, _: Once, response: Response
) -> Job:
    """Evaluate a model on a data set, its own or another; a job, whose result names the evaluation.

    Pictures are prepared as the model was trained to see them, whatever the data set was packed to.
    """
    found = models.get(work, model)
    dataset = datasets.get(work, new.dataset)
    version = datasets.require_version(work, dataset, new.version)
    job = evaluations.request(work, found, version, new.split, new.unknown_labels)
    details = {"model": found.id, "dataset": dataset.name, "version": version.number, "split": new.split}
    audit.note(work, caller.id, "model.evaluate", job.id, details)
    response.headers["Location"] = link_to("jobs", job.id)
    return job_view(job)


@router.get("/evaluations")
def list_evaluations(
    model: ModelRef, work: Work, _: Viewer, page_size: PageSize = 50, page_token: PageToken = None
) -> EvaluationPage:
    """Every evaluation of a version of a model, newest first."""
    found = models.get(work, model)
    statement = evaluations.of_model(found)
    rows, following = page(work, statement, tables.Evaluation.id, page_size, page_token, newest_first=True)
    return EvaluationPage(items=summaries(work, found, rows), next_page_token=following)


@router.get("/evaluation")
def get_model_evaluation(model: ModelRef, work: Work, _: Viewer, split: Part = "test") -> Evaluation:
    """How it does on pictures that it was not trained on: the newest evaluation on a part of its own data.

    That on the test pictures is made once, when its search ends.
    """
    found = models.get(work, model)
    evaluation = evaluations.latest(work, found, split)
    if evaluation is None:
        raise NotFoundError("evaluation", f"of {found.name}@{found.number} on {split}")
    return evaluation_view(work, found, evaluation)


@router.get("/evaluations/{evaluation}")
def get_evaluation(model: ModelRef, evaluation: EvaluationRef, work: Work, _: Viewer) -> Evaluation:
    """Metrics with their intervals, figures per label, calibration, and slices."""
    return evaluation_view(work, *chosen(work, model, evaluation))


@router.delete("/evaluations/{evaluation}")
def delete_evaluation(model: ModelRef, evaluation: EvaluationRef, work: Work, caller: Editor) -> Freed:
    """Delete an evaluation with all that is kept of it."""
    found, row = chosen(work, model, evaluation)
    details = {"model": found.id, "split": row.split, "freed_bytes": (freed := evaluations.delete(work, row))}
    audit.note(work, caller.id, "evaluation.delete", evaluation, details)
    return Freed(freed_bytes=freed)


@router.get("/evaluations/{evaluation}/confusion")
def get_evaluation_confusion(model: ModelRef, evaluation: EvaluationRef, work: Work, _: Viewer) -> Confusion:
    """What it takes for what; `…/errors?true=…&predicted=…` lists the pictures of a cell."""
    return confusion_view(*chosen(work, model, evaluation))


@router.get("/evaluations/{evaluation}/curves")
def get_evaluation_curves(
    model: ModelRef,
    evaluation: EvaluationRef,
    work: Work,
    _: Viewer,
    label: Annotated[str | None, Query(max_length=255, description="Of this label; of all when left out.")] = None,
) -> Curve:
    """Precision, recall, F1 and false-positive rate at each threshold: of a label, or of all together."""
    found, row = chosen(work, model, evaluation)
    labelled(found, "label", label)
    return curve_view(found, row, Curves.from_bytes(blobs.get(work, row.curves_sha256)), label)


@router.get("/evaluations/{evaluation}/errors")
def list_evaluation_errors(
    model: ModelRef,
    evaluation: EvaluationRef,
    work: Work,
    _: Viewer,
    true: Annotated[str | None, Query(max_length=255, description="Only pictures with this label.")] = None,
    predicted: Annotated[
        str | None, Query(max_length=255, description="Only pictures that were taken for this label.")
    ] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> MistakePage:
    """The mistakes, the surest first, with their pictures.

    `true` and `predicted` choose a cell of the confusion; the same label as both lists the right answers for it.
    """
    found, row = chosen(work, model, evaluation)
    places = labelled(found, "true", true), labelled(found, "predicted", predicted)
    if row.answers_sha256 is None or row.version_id is None:
        raise ConflictError(
            f"evaluation {row.id} has its figures alone: the data set was deleted, and the answers to its pictures with it"
        )
    answers = Answers.from_bytes(blobs.get(work, row.answers_sha256))
    at = answers.chosen(*places)
    positions, following = part(at.tolist(), page_size, page_token)
    dataset = evaluations.datasets_of(work, [row])[row.version_id]
    return MistakePage(
        items=[mistake_view(found.labels, dataset, answers, position) for position in positions],
        next_page_token=following,
        total=len(at),
    )
