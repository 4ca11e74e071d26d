"""Searches: their life, their clock, their best so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store import events, trials
from store.database import hint
from store.datasets import check_name
from store.errors import ConflictError, NotFoundError, RefusedError
from store.ids import is_id, new_id
from store.queue import Hint, Task
from store.states import SearchState, TrialState, is_final, sources
from store.tables import Dataset, DatasetVersion, Event, Model, Search, Trial

MAX_BUDGET_S = 30 * 24 * 3600.0
MAX_BUDGET_TRIALS = 100_000
# A worker that is alive ticks every heartbeat; what lies between a tick and its death is not worked time.
MAX_TICK_S = 5.0


def create(
    session: Session,
    dataset: Dataset,
    version: DatasetVersion,
    *,
    name: str | None,
    objective: str,
    space: str,
    space_options: Mapping[str, Any],
    strategy: str,
    strategy_options: Mapping[str, Any],
    seed: int,
    budget_s: float | None,
    budget_trials: int | None,
    seeds: Sequence[Mapping[str, Any]] = (),
    limits: Mapping[str, Any] | None = None,
    proxy: Mapping[str, Any] | None = None,
) -> Search:
    """A queued search; the first turn is taken once this transaction commits. Raises ConflictError for a taken name."""
    if len(version.labels) < 2:
        raise RefusedError(f"data set {dataset.name!r} has one label; a classifier needs two", "dataset")
    search_id = new_id("search")
    search_name = check_name("search", name) if name is not None else _free_name(session, dataset.name)
    made = session.scalar(
        insert(Search)
        .values(
            id=search_id,
            name=search_name,
            version_id=version.id,
            objective=objective,
            space=space,
            space_options=dict(space_options),
            strategy=strategy,
            strategy_options=dict(strategy_options),
            seed=seed,
            budget_s=budget_s,
            budget_trials=budget_trials,
            seeds=[dict(seed) for seed in seeds],
            limits=dict(limits or {}),
            proxy=dict(proxy or {}),
            state=SearchState.QUEUED,
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Search.id)
    )
    if made is None:
        raise ConflictError(f"there is a search named {search_name!r} already; choose another name or leave it out")
    search = session.get_one(Search, made)
    record(session, search)
    hint(session, Hint(Task.ADVANCE, search.id))
    return search


def _free_name(session: Session, base: str) -> str:
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"search-name/{base}", 0))))
    taken = set(session.scalars(select(Search.name).where(Search.name.startswith(base[:50], autoescape=True))))
    return next(name for number in range(1, len(taken) + 2) if (name := f"{base[:50]}-{number}") not in taken)


def seed(genotype: Mapping[str, Any], trial: str | None = None, *, refit: bool = False) -> dict[str, Any]:
    """An architecture to begin with. trial: where it was taken from. refit: it is to be sized for other data."""
    return {"genotype": dict(genotype), "trial": trial, "refit": refit}


def seed_from_trial(session: Session, trial_id: str, space: str, version: DatasetVersion) -> dict[str, Any]:
    """The architecture of a trial of any search, to begin with. Raises RefusedError for what cannot be one here."""
    found = session.get(Trial, trial_id)
    if found is None:
        raise RefusedError(
            f"there is no trial {trial_id!r}; give the id of one as /v1/searches/{{search}}/trials lists them",
            "from_trial",
        )
    genotype = found.candidate["genotype"]
    if found.purpose == "supernet":
        raise RefusedError(
            f"trial {trial_id!r} trained weights that a whole space shares, not one architecture; give one of those "
            "that its report names in seeds, or a trial of one of them",
            "from_trial",
        )
    if genotype["space"] != space:
        raise RefusedError(
            f"trial {trial_id!r} is of space {genotype['space']!r} and this search of {space!r}; give a trial of "
            f"{space!r} or another space",
            "from_trial",
        )
    return seed(genotype, trial_id, refit=_shape(found.search.version) != _shape(version))


def _shape(version: DatasetVersion) -> tuple[Any, ...]:
    return (*(version.preprocessing.get(name) for name in ("channels", "side")), len(version.labels))


def get(session: Session, reference: str, *, lock: bool = False) -> Search:
    """By id or name. Raises NotFoundError."""
    column = Search.id if is_id("search", reference) else Search.name
    statement = select(Search).where(column == reference)
    search = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if search is None:
        raise NotFoundError("search", reference)
    return search


def record(session: Session, search: Search) -> None:
    """Tell the followers how the search stands."""
    events.append(
        session,
        search.id,
        "search",
        {
            "state": search.state.value,
            "spent_s": round(search.spent_s, 1),
            "budget_s": search.budget_s,
            "budget_trials": search.budget_trials,
            "best_trial_id": search.best_trial_id,
            "model_id": search.model_id,
            "error": search.error,
        },
    )


def move(session: Session, search: Search, to: SearchState, **values: Any) -> None:
    """Walk an edge of states.py. Raises ConflictError when there is none from where the search stands."""
    if is_final(to):
        values["ended_at"] = func.clock_timestamp()
    moved = session.scalar(
        update(Search)
        .where(Search.id == search.id, Search.state.in_(sources(to)))
        .values(state=to, revision=Search.revision + 1, hinted_at=func.clock_timestamp(), **values)
        .returning(Search.id)
    )
    session.refresh(search)
    if moved is None:
        raise ConflictError(
            f"search {search.name!r} is {search.state} and cannot become {to}; "
            f"that is possible from: {', '.join(sources(to))}"
        )
    record(session, search)


def end(session: Session, search: Search, error: str) -> None:
    """Give the search up where it stands; its best model stays."""
    move(session, search, SearchState.FAILED, error=error)
    for trial in trials.of_search(session, search.id, TrialState.QUEUED):
        trials.withdraw(session, trial, {"kind": "search_failed", "message": error})


def tick(session: Session, search_id: str, at_most_s: float = MAX_TICK_S) -> tuple[float, Search]:
    """Count the time since the last tick as worked, `at_most_s` of it; returns (spent seconds, the row, locked).

    Several workers tick one search: the sum is the time during which at least one of them worked, never their sum.
    """
    gap = func.extract("epoch", func.clock_timestamp() - func.coalesce(Search.ticked_at, func.clock_timestamp()))
    search = session.scalars(
        update(Search)
        .where(Search.id == search_id)
        .values(
            spent_s=Search.spent_s + func.least(func.greatest(gap, 0.0), at_most_s),
            ticked_at=func.clock_timestamp(),
        )
        .returning(Search)
        .execution_options(populate_existing=True)
    ).one()
    return search.spent_s, search


def request_cancel(session: Session, search: Search) -> None:
    """Ask for the end: running trials hear it at their next heartbeat, the best so far stays. Idempotent until ended."""
    if is_final(search.state):
        raise ConflictError(f"search {search.name!r} has already {search.state}; there is nothing to cancel")
    if search.cancel_requested_at is None:
        session.execute(
            update(Search)
            .where(Search.id == search.id)
            .values(cancel_requested_at=func.clock_timestamp(), revision=Search.revision + 1)
        )
        session.refresh(search)
        record(session, search)
    hint(session, Hint(Task.ADVANCE, search.id))


def pause(session: Session, search: Search) -> None:
    """Stop after the next checkpoint; the clock stands still. Raises ConflictError unless queued or running."""
    move(session, search, SearchState.PAUSED)


def resume(session: Session, search: Search) -> None:
    """Go on where it stood. Raises ConflictError unless paused."""
    if search.state is not SearchState.PAUSED:
        raise ConflictError(f"search {search.name!r} is {search.state}; only a paused search can be resumed")
    move(session, search, SearchState.RUNNING, ticked_at=None)
    session.execute(
        update(Trial)
        .where(Trial.search_id == search.id, Trial.state == TrialState.QUEUED)
        .values(hinted_at=func.clock_timestamp() - timedelta(hours=1))
    )
    hint(session, Hint(Task.ADVANCE, search.id))


def extend(session: Session, search: Search, seconds: float | None, trials: int | None) -> None:
    """Add to the budget, in the unit it was given in. Raises ConflictError once ended, RefusedError for the other unit."""
    if is_final(search.state) or search.cancel_requested_at is not None:
        state = search.state if is_final(search.state) else "being cancelled"
        raise ConflictError(f"search {search.name!r} is {state}; start a new search instead")
    if (seconds is None) == (search.budget_s is not None):
        unit = "minutes" if search.budget_s is not None else "trials"
        raise RefusedError(f"the budget of search {search.name!r} is in {unit}; extend it in {unit}", "budget")
    if seconds is not None and search.budget_s is not None and search.budget_s + seconds > MAX_BUDGET_S:
        raise RefusedError(f"a budget may grow to {MAX_BUDGET_S / 60:.0f} minutes at most", "budget.minutes")
    if trials is not None and search.budget_trials is not None and search.budget_trials + trials > MAX_BUDGET_TRIALS:
        raise RefusedError(f"a budget may grow to {MAX_BUDGET_TRIALS} trials at most", "budget.trials")
    session.execute(
        update(Search)
        .where(Search.id == search.id)
        .values(
            budget_s=Search.budget_s + seconds if seconds is not None else Search.budget_s,
            budget_trials=Search.budget_trials + trials if trials is not None else Search.budget_trials,
            revision=Search.revision + 1,
        )
    )
    session.refresh(search)
    if search.state is SearchState.FINISHING:
        move(session, search, SearchState.RUNNING)
    else:
        record(session, search)
    hint(session, Hint(Task.ADVANCE, search.id))


def unheeded(session: Session, older_than_s: float, limit: int = 100) -> Sequence[str]:
    """Searches on the way whose last turn or hint is older than that; marks them as hinted now."""
    moving = [SearchState.QUEUED, SearchState.RUNNING, SearchState.FINISHING]
    age = func.clock_timestamp() - timedelta(seconds=older_than_s)
    waiting = (
        select(Search.id)
        .where(or_(Search.state.in_(moving), Search.cancel_requested_at.is_not(None)), Search.ended_at.is_(None))
        .where(Search.hinted_at < age)
        .order_by(Search.hinted_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(
        update(Search)
        .where(Search.id.in_(waiting))
        .values(hinted_at=func.clock_timestamp())
        .returning(Search.id)
        .execution_options(synchronize_session=False)
    ).all()


def wake_queued(session: Session) -> None:
    """Have every queued search take its first turn, e.g. when a worker has come."""
    for search_id in session.scalars(select(Search.id).where(Search.state == SearchState.QUEUED)):
        hint(session, Hint(Task.ADVANCE, search_id))


@dataclass(frozen=True, slots=True)
class Overview:
    """What belongs to a search in other tables. `best`, `floor`: the trials, once there are any. `model`: if it stands."""

    dataset: Dataset
    version: DatasetVersion
    trials: Mapping[TrialState, int]
    best: Trial | None
    floor: Trial | None
    model: Model | None


def overviews(session: Session, found: Sequence[Search]) -> dict[str, Overview]:
    """The overview of each search, by its id; five queries however many there are."""
    ids = [search.id for search in found]
    versions = {
        version.id: (version, dataset)
        for version, dataset in session.execute(
            select(DatasetVersion, Dataset)
            .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
            .where(DatasetVersion.id.in_({search.version_id for search in found}))
        )
    }
    counts: dict[str, dict[TrialState, int]] = {search_id: dict.fromkeys(TrialState, 0) for search_id in ids}
    for search_id, state, count in session.execute(
        select(Trial.search_id, Trial.state, func.count())
        .where(Trial.search_id.in_(ids))
        .group_by(Trial.search_id, Trial.state)
    ):
        counts[search_id][state] = count
    best = {
        trial.id: trial
        for trial in session.scalars(
            select(Trial).where(Trial.id.in_([search.best_trial_id for search in found if search.best_trial_id]))
        )
    }
    floors = {
        trial.search_id: trial
        for trial in session.scalars(
            select(Trial).where(Trial.search_id.in_(ids), Trial.purpose == "floor").order_by(Trial.number.desc())
        )
    }
    models = {
        model.id: model
        for model in session.scalars(
            select(Model).where(Model.id.in_([search.model_id for search in found if search.model_id]))
        )
    }
    return {
        search.id: Overview(
            dataset=versions[search.version_id][1],
            version=versions[search.version_id][0],
            trials=counts[search.id],
            best=best.get(search.best_trial_id or ""),
            floor=floors.get(search.id),
            model=models.get(search.model_id or ""),
        )
        for search in found
    }


def delete(session: Session, search: Search) -> None:
    """Delete an ended search with its trials and events; its models stay. Raises ConflictError while it works."""
    if not is_final(search.state):
        raise ConflictError(f"search {search.name!r} is {search.state}; cancel it before deleting it")
    session.execute(sql_delete(Event).where(Event.stream == search.id))
    session.delete(search)
    session.flush()
