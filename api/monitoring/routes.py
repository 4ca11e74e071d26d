"""Routes of what deployments answered: the request log, feedback and accuracy, drift, traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AwareDatetime

from api.deps import AnyKey, Once, Viewer, Work
from api.monitoring.schemas import (
    Accuracy,
    Drift,
    FeedbackReply,
    LabelAccuracy,
    LabelComparison,
    LabelScore,
    Latency,
    LoggedRequest,
    LoggedRequestPage,
    ModelAccuracy,
    ModelDrift,
    Place,
    Proportion,
    SomeFeedback,
    Stats,
    Stretch,
    Thresholds,
    Traffic,
    ValueComparison,
    Window,
)
from api.routing import Route
from api.runtime import runtime_of
from api.schemas import DeploymentRef, PageSize, PageToken, Text, link_to
from ingest.formats import sniff
from store import audit, deployments, feedback, references, requests, tables, traffic
from store.errors import NotFoundError
from store.feedback import Outcome
from store.pages import page
from store.references import Measured
from store.tables import LogEntry

if TYPE_CHECKING:
    from search import drift

router = APIRouter(prefix="/v1/deployments", tags=["deployments"], route_class=Route)

SPANS: dict[Window, timedelta] = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
WIDTHS: dict[Window, timedelta] = {"1h": timedelta(minutes=1), "24h": timedelta(minutes=15), "7d": timedelta(hours=2)}
PICTURE_MAX_BYTES = 1 << 30  # as large as a body of predictions may ever be set to

InWindow = Annotated[Window, Query(description="How far back to look.")]


@router.get("/{deployment}/requests")
def list_deployment_requests(
    deployment: DeploymentRef,
    work: Work,
    _: Viewer,
    label: Annotated[Text | None, Query(max_length=1000, description="Only what was answered so.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only what was asked then or later.")] = None,
    max_score: Annotated[
        float | None,
        Query(ge=0, le=1, allow_inf_nan=False, description="Only where the model was no surer than this."),
    ] = None,
    request_id: Annotated[Text | None, Query(max_length=128, description="Only the pictures of this request.")] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> LoggedRequestPage:
    """What the deployment answered, picture by picture, newest first, as far as its log's sample reaches. An answer is in
    the log after a second or two."""
    found = deployments.get(work, deployment)
    statement = requests.entries(found, label=label, since=since, max_score=max_score, request_id=request_id)
    rows, following = page(work, statement, LogEntry.id, page_size, page_token, newest_first=True)
    said = feedback.of_entries(work, rows)
    items = [logged_view(found, row, said.get((row.deployment_id, row.request_id, row.item))) for row in rows]
    return LoggedRequestPage(items=items, next_page_token=following)


def logged_view(deployment: tables.Deployment, entry: LogEntry, said: tables.Feedback | None) -> LoggedRequest:
    here = link_to("deployments", deployment.name, "requests", entry.id, "picture")
    return LoggedRequest(
        id=entry.id,
        request_id=entry.request_id,
        item=entry.item,
        at=entry.at,
        model_id=entry.model_id,
        model=entry.model,
        label=entry.label,
        score=entry.score,
        scores=[LabelScore(**one) for one in entry.scores],
        statistics=entry.statistics,
        latency_ms=entry.latency_ms,
        sha256=entry.sha256.hex(),
        feedback=None if said is None else "right" if said.label == entry.label else "wrong",
        true_label=None if said is None else said.label,
        picture=None if entry.picture_key is None else here,
    )


@router.get("/{deployment}/requests/{entry}/picture", response_class=Response)
def get_request_picture(
    request: Request,
    deployment: DeploymentRef,
    entry: Annotated[str, Path(pattern="^rq_[0-9a-f]{32}$", description="The id of the logged picture.")],
    work: Work,
    _: Viewer,
) -> Response:
    """The picture as it was sent, where the deployment keeps pictures."""
    found = deployments.get(work, deployment)
    row = requests.get(work, found, entry)
    if row.picture_key is None:
        raise NotFoundError("picture kept of the logged request", entry)
    content = runtime_of(request).objects.whole(row.picture_key, PICTURE_MAX_BYTES)
    kind = sniff(content)  # what browsers may not interpret stays opaque
    media_type = "application/octet-stream" if kind is None else f"image/{kind.lower()}"
    return Response(content, media_type=media_type, headers={"Cache-Control": "private, no-store"})


@router.post("/{deployment}/feedback")
def give_feedback(deployment: DeploymentRef, new: SomeFeedback, work: Work, caller: AnyKey, _: Once) -> FeedbackReply:
    """Say what pictures that were asked about really show: one, or a list of up to 1,000. What is said of a picture
    again takes the place of what was said before."""
    found = deployments.get(work, deployment)
    labels = {(one.request_id, one.item): one.label for one in new}
    matched = feedback.put(work, found, labels)
    audit.note(work, caller.id, "deployment.feedback", found.id, {"count": len(labels)})
    pending = [Place(request_id=request_id, item=item) for request_id, item in labels.keys() - matched]
    return FeedbackReply(
        matched=len(matched), pending=sorted(pending, key=lambda place: (place.request_id, place.item))
    )


@router.get("/{deployment}/accuracy")
def get_deployment_accuracy(deployment: DeploymentRef, work: Work, _: Viewer, window: InWindow = "7d") -> Accuracy:
    """How often the answers of the window were right, as far as feedback says: with intervals, per label, confused with
    what."""
    found = deployments.get(work, deployment)
    outcomes = feedback.outcomes(work, found, SPANS[window])
    models = dict.fromkeys((one.model_id, one.model) for one in outcomes)
    return Accuracy(
        window=window,
        accuracy=proportion(outcomes),
        pending=feedback.pending(work, found),
        models=[
            model_accuracy(model_id, model, [one for one in outcomes if one.model_id == model_id])
            for model_id, model in models
        ],
    )


def proportion(outcomes: Sequence[Outcome]) -> Proportion | None:
    from search.drift import share_right  # SciPy, which no other route needs

    right = sum(one.count for one in outcomes if one.truth == one.answer)
    found = share_right(right, sum(one.count for one in outcomes))
    return None if found is None else Proportion(**asdict(found))


def model_accuracy(model_id: str, model: str, outcomes: Sequence[Outcome]) -> ModelAccuracy:
    names: set[str] = {one.answer for one in outcomes} | {one.truth for one in outcomes if one.truth is not None}
    labels: list[str | None] = [*sorted(names)]
    if any(one.truth is None for one in outcomes):
        labels.append(None)
    counts = {(one.truth, one.answer): one.count for one in outcomes}
    whole = proportion(outcomes)
    assert whole is not None
    return ModelAccuracy(
        model_id=model_id,
        model=model,
        accuracy=whole,
        labels=[
            LabelAccuracy(
                label=label,
                answered=sum(one.count for one in outcomes if one.answer == label),
                right=proportion([one for one in outcomes if one.truth == label]),
            )
            for label in labels
        ],
        confusion=[[counts.get((truth, answer or ""), 0) for answer in labels] for truth in labels],
    )


@router.get("/{deployment}/drift")
def get_deployment_drift(deployment: DeploymentRef, work: Work, _: Viewer, window: InWindow = "24h") -> Drift:
    """How far the logged requests of the window lie from what each model learnt on: its answers, how sure they were, and
    what the pictures look like."""
    from search import drift  # SciPy, which no other route needs

    found = deployments.get(work, deployment)
    logged, entries = requests.sample(work, found, SPANS[window])
    names = {target.model.id: f"{target.model.name}@{target.model.number}" for target in found.targets}
    names |= {entry.model_id: entry.model for entry in entries}
    models = [
        model_drift(
            model_id,
            model,
            references.find(work, model_id),
            [entry for entry in entries if entry.model_id == model_id],
        )
        for model_id, model in names.items()
    ]
    verdicts = [one.verdict for one in models if one.verdict is not None]
    return Drift(
        window=window,
        logged=logged,
        verdict=drift.worst(verdicts) if verdicts else None,
        thresholds=Thresholds(
            pictures=drift.LEAST, moderate=drift.PSI_MODERATE, major=drift.PSI_MAJOR, p_value=drift.P_VALUE
        ),
        models=models,
    )


def model_drift(model_id: str, model: str, reference: Measured | str, entries: Sequence[LogEntry]) -> ModelDrift:
    from search import drift

    answers: dict[str, int] = {}
    for entry in entries:
        answers[entry.label] = answers.get(entry.label, 0) + 1
    view = ModelDrift(
        model_id=model_id, model=model, pictures=len(entries), verdict=None, reason=None, answers=answers,
        validation=None, training=None, confidence=None, inputs={},
    )  # fmt: skip
    if isinstance(reference, str):
        return view.model_copy(update={"reason": reference})
    if len(entries) < drift.LEAST:
        few = f"{len(entries)} pictures are logged of the window; {drift.LEAST} are needed"
        return view.model_copy(update={"reason": few})
    confidence = drift.compare_values(reference.confidences, [entry.score for entry in entries])
    validation = drift.compare_labels(reference.validation_labels, answers)
    training = drift.compare_labels(reference.training_labels, answers)
    inputs = {}
    for name, learnt in reference.inputs.items():
        values = [entry.statistics[name] for entry in entries if name in entry.statistics]
        if len(values) >= drift.LEAST and (compared := drift.compare_values(learnt, values)) is not None:
            inputs[name] = compared
    weighed = [one.verdict for one in (confidence, validation, *inputs.values()) if one is not None]
    return view.model_copy(
        update={
            "verdict": drift.worst(weighed),
            "validation": label_comparison(validation, reference.validation_labels),
            "training": label_comparison(training, reference.training_labels),
            "confidence": None if confidence is None else ValueComparison(**asdict(confidence)),
            "inputs": {name: ValueComparison(**asdict(one)) for name, one in inputs.items()},
        }
    )


def label_comparison(found: "drift.LabelDrift | None", counts: Mapping[str, int]) -> LabelComparison | None:
    return None if found is None else LabelComparison(counts=dict(counts), **asdict(found))


@router.get("/{deployment}/stats")
def get_deployment_stats(deployment: DeploymentRef, work: Work, _: Viewer, window: InWindow = "1h") -> Stats:
    """How much was asked and how fast it was answered, in stretches of a minute, a quarter of an hour or two hours. All
    requests are counted, whatever share of them is logged."""
    found = deployments.get(work, deployment)
    whole = traffic.Counts()
    stretches = traffic.over(work, found, SPANS[window], WIDTHS[window])
    for _at, counts in stretches:
        whole.include(counts)
    return Stats(
        window=window,
        width_s=int(WIDTHS[window].total_seconds()),
        stretches=[Stretch(at=at, **dict(traffic_view(counts))) for at, counts in stretches],
        **dict(traffic_view(whole)),
    )


def traffic_view(counts: traffic.Counts) -> Traffic:
    return Traffic(
        requests=counts.answered + counts.refused + counts.failed,
        refused=counts.refused,
        failed=counts.failed,
        latency_ms=Latency(
            p50=counts.percentile_ms(0.5), p95=counts.percentile_ms(0.95), p99=counts.percentile_ms(0.99)
        ),
    )
