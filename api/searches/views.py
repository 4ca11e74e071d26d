"""Rows of searches and trials as what callers are told."""

from typing import Any

from sqlalchemy.orm import Session

from api.schemas import link_to
from api.searches.schemas import (
    Best,
    BudgetView,
    DatasetOf,
    Fidelity,
    LimitsView,
    ModelOf,
    ProxyView,
    Scored,
    Search,
    Trial,
    TrialCounts,
    TrialError,
)
from store import searches, tables
from store.searches import Overview
from store.states import is_final


def model_of(model: tables.Model) -> ModelOf:
    link = link_to("models", model.name, "versions", str(model.number))
    return ModelOf(id=model.id, name=model.name, version=model.number, link=link)


def description(trial: tables.Trial) -> str | None:
    return (trial.cost or {}).get("description")


def scored(trial: tables.Trial) -> dict[str, Any]:
    return {
        "trial": trial.id,
        "number": trial.number,
        "purpose": trial.purpose,
        "score": trial.score,
        "description": description(trial),
    }


def search_view(search: tables.Search, overview: Overview) -> Search:
    here = link_to("searches", search.name)
    model = None if overview.model is None else model_of(overview.model)
    links = {"self": here, "dataset": link_to("datasets", overview.dataset.name)}
    links |= {name: f"{here}/{name}" for name in ("events", "trials", "front", "notes")}
    if model is not None:
        links["model"] = model.link
    return Search(
        id=search.id,
        name=search.name,
        dataset=DatasetOf(id=overview.dataset.id, name=overview.dataset.name, version=overview.version.number),
        state=search.state.value,
        objective=search.objective,
        space=search.space,
        space_options=search.space_options,
        strategy=search.strategy,
        strategy_options=search.strategy_options,
        proxy=ProxyView(**search.proxy),
        limits=LimitsView(**{name: search.limits.get(name) for name in LimitsView.model_fields}),
        seed=search.seed,
        seeds=len(search.seeds),
        from_trial=next((seed["trial"] for seed in search.seeds if seed["trial"] is not None), None),
        budget=BudgetView(
            minutes=None if search.budget_s is None else search.budget_s / 60, trials=search.budget_trials
        ),
        spent_s=round(search.spent_s, 3),
        trials=TrialCounts(**{state.value: count for state, count in overview.trials.items()}),
        best=None if overview.best is None else Best(**scored(overview.best), model=model),
        floor=None if overview.floor is None else Scored(**scored(overview.floor)),
        model=model,
        cancel_requested=search.cancel_requested_at is not None,
        error=search.error,
        created_at=search.created_at,
        started_at=search.started_at,
        ended_at=search.ended_at,
        links=links,
    )


def read_search(session: Session, search: tables.Search) -> Search:
    return search_view(search, searches.overviews(session, [search])[search.id])


def trial_view(search: tables.Search, trial: tables.Trial) -> Trial:
    here = link_to("searches", search.name, "trials", str(trial.number))
    error = None
    if trial.error is not None:
        error = TrialError(kind=str(trial.error.get("kind", "bug")), message=str(trial.error.get("message", "")))
    return Trial(
        id=trial.id,
        number=trial.number,
        purpose=trial.purpose,
        state=trial.state.value,
        description=description(trial),
        genotype=trial.candidate["genotype"],
        fidelity=Fidelity(**trial.candidate.get("fidelity", {})),
        parent=trial.candidate.get("parent"),
        score=trial.score,
        metrics=trial.metrics,
        cost=cost(trial),
        seconds=trial.seconds,
        seed=trial.seed,
        attempt=trial.attempt,
        worker=trial.worker,
        error=error,
        created_at=trial.created_at,
        started_at=trial.started_at,
        ended_at=trial.ended_at,
        links={
            "self": here,
            "architecture": f"{here}/architecture",
            "curve": f"{here}/curve",
            "source": f"{here}/source",
            "search": link_to("searches", search.name),
        }
        | ({"report": f"{here}/report"} if trial.purpose == "supernet" else {}),
    )


def cost(trial: tables.Trial) -> dict[str, Any] | None:
    """What the architecture costs, without the words that stand beside it in the row."""
    return None if trial.cost is None else {name: value for name, value in trial.cost.items() if name != "description"}


def final_state(session: Session, reference: str) -> str | None:
    """Its state once nothing follows any more. Raises NotFoundError."""
    state = searches.get(session, reference).state
    return state.value if is_final(state) else None


def is_over(session: Session, reference: str) -> bool:
    """Raises NotFoundError."""
    return final_state(session, reference) is not None
