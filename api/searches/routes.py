"""Routes of searches: begin, follow, steer, look into."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from api.deps import Editor, Once, Unchanged, Viewer, Work
from api.events import LastEventId, follow
from api.openapi import EVENT_STREAM, PYTHON
from api.routing import Route, revision_tag
from api.runtime import runtime_of
from api.schemas import PageSize, PageToken, Reference, SearchRef, TrialRef, Wait, link_to, python_file
from api.searches.schemas import (
    Architecture,
    Budget,
    Curve,
    Front,
    FrontCost,
    FrontPoint,
    NewSearch,
    Note,
    NotePage,
    Proxy,
    Purpose,
    Search,
    SearchPage,
    Trial,
    TrialPage,
    TrialReport,
)
from api.searches.views import cost, description, final_state, is_over, read_search, search_view, trial_view
from search import catalog
from search.source import source_of
from store import audit, datasets, searches, tables, trials
from store.pages import page
from store.states import SearchState, TrialState
from web.problems import ProblemError

router = APIRouter(prefix="/v1/searches", tags=["searches"], route_class=Route)


def chosen_options(new: NewSearch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of space and strategy, defaults filled in: they stand in the row, so that a later release with
    other defaults does not change what a running search does. Raises OptionError for what the catalogue lacks and for
    seeds that do not go with the other choices."""
    catalog.entry(catalog.OBJECTIVES, new.objective, "objective")
    space = catalog.entry(catalog.SPACES, new.space, "space")
    strategy = catalog.entry(catalog.STRATEGIES, new.strategy, "strategy")
    catalog.check_pair(new.strategy, new.space)
    for number, genotype in enumerate(new.seeds):
        if genotype.space != new.space:
            raise catalog.OptionError(
                f"seeds[{number}].space", f"{genotype.space!r} is not the search's, {new.space!r}"
            )
    seeds = len(new.seeds) + (new.from_trial is not None)
    catalog.check_seeds(new.strategy, seeds, new.budget.trials, on_proxy=new.proxy != Proxy())
    return (
        space.resolve(new.space_options, "space_options"),
        strategy.resolve(new.strategy_options, "strategy_options"),
    )


@router.post("", status_code=202)
def create_search(new: NewSearch, work: Work, caller: Editor, _: Once, response: Response) -> Search:
    """Begin a search. It answers at once; follow it with …/events or `?wait=`."""
    space_options, strategy_options = chosen_options(new)
    dataset = datasets.get(work, new.dataset)
    version = datasets.require_version(work, dataset, new.version)
    seeds = [searches.seed(genotype.model_dump()) for genotype in new.seeds]
    if new.from_trial is not None:
        seeds.append(searches.seed_from_trial(work, new.from_trial, new.space, version))
    search = searches.create(
        work,
        dataset,
        version,
        name=new.name,
        objective=new.objective,
        space=new.space,
        space_options=space_options,
        strategy=new.strategy,
        strategy_options=strategy_options,
        seed=new.seed,
        budget_s=new.budget.seconds,
        budget_trials=new.budget.trials,
        seeds=seeds,
        limits=new.limits.model_dump(exclude_none=True),
        proxy=new.proxy.model_dump(),
    )
    audit.note(work, caller.id, "search.create", search.id, {"name": search.name, "dataset": dataset.name})
    response.headers.update(revision_tag(search.revision) | {"Location": link_to("searches", search.name)})
    return read_search(work, search)


@router.get("")
def list_searches(
    work: Work,
    _: Viewer,
    state: SearchState | None = None,
    dataset: Annotated[Reference | None, Query(description="Only those of this data set.")] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> SearchPage:
    """All searches, newest first."""
    statement = select(tables.Search)
    if state is not None:
        statement = statement.where(tables.Search.state == state)
    if dataset is not None:
        versions = select(tables.DatasetVersion.id).where(
            tables.DatasetVersion.dataset_id == datasets.get(work, dataset).id
        )
        statement = statement.where(tables.Search.version_id.in_(versions))
    rows, following = page(work, statement, tables.Search.id, page_size, page_token, newest_first=True)
    overviews = searches.overviews(work, rows)
    return SearchPage(items=[search_view(row, overviews[row.id]) for row in rows], next_page_token=following)


@router.get("/{search}")
async def get_search(request: Request, search: SearchRef, _: Viewer, response: Response, wait: Wait = 0) -> Search:
    """A search as it stands; with `?wait=30` as it stands at its end, or in 30 seconds."""
    runtime = runtime_of(request)
    await runtime.until(partial(is_over, reference=search), wait, request)

    def read(session: Session) -> tuple[Search, int]:
        found = searches.get(session, search)
        return read_search(session, found), found.revision

    view, revision = await runtime.transact(read)
    response.headers.update(revision_tag(revision))
    return view


@router.get("/{search}/events", response_class=Response, responses=EVENT_STREAM)
async def follow_search(request: Request, search: SearchRef, _: Viewer, last_event_id: LastEventId = None) -> Response:
    """Follow a search: `curl -N`. Kinds: search, trial, progress, model, note, and at last end."""
    runtime = runtime_of(request)
    search_id = await runtime.transact(lambda session: searches.get(session, search).id)
    return await follow(request, search_id, partial(final_state, reference=search_id), last_event_id)


@router.get("/{search}/trials")
def list_trials(
    search: SearchRef,
    work: Work,
    _: Viewer,
    state: TrialState | None = None,
    purpose: Purpose | None = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> TrialPage:
    """Every network that was tried, in order."""
    found = searches.get(work, search)
    statement = (
        select(tables.Trial)
        .where(tables.Trial.search_id == found.id)
        .options(defer(tables.Trial.curve), defer(tables.Trial.report))
    )
    if state is not None:
        statement = statement.where(tables.Trial.state == state)
    if purpose is not None:
        statement = statement.where(tables.Trial.purpose == purpose)
    rows, following = page(work, statement, tables.Trial.number, page_size, page_token)
    return TrialPage(items=[trial_view(found, row) for row in rows], next_page_token=following)


@router.get("/{search}/trials/{trial}")
def get_trial(search: SearchRef, trial: TrialRef, work: Work, _: Viewer) -> Trial:
    found = searches.get(work, search)
    return trial_view(found, trials.get(work, found, trial))


@router.get("/{search}/trials/{trial}/architecture")
def get_trial_architecture(search: SearchRef, trial: TrialRef, work: Work, _: Viewer) -> Architecture:
    """The network: its genotype, what it costs, and in words."""
    row = trials.get(work, searches.get(work, search), trial)
    return Architecture(trial=row.id, description=description(row), genotype=row.candidate["genotype"], cost=cost(row))


@router.get("/{search}/trials/{trial}/source", response_class=Response, responses=PYTHON)
def get_trial_source(search: SearchRef, trial: TrialRef, work: Work, _: Viewer) -> Response:
    """The network as a Python module that stands alone: given the trained weights it answers as the model does.

    It needs torch, NumPy, Pillow and safetensors. 404 where the architecture is not one that its space can build.
    """
    found = searches.get(work, search)
    row = trials.get(work, found, trial)
    if row.network_source is None:
        if row.purpose == "supernet":
            reason = "it trained weights that a whole space shares, not one architecture"
        else:
            reason = (row.error or {}).get("message", "its architecture is not one that its space can build")
        raise ProblemError(404, "not-found", f"trial {row.number} of search {found.name!r} has no source: {reason}")
    source = source_of(
        row.network_source,
        found.version.labels,
        packed_side=int(found.version.preprocessing["side"]),
        channels=int(found.version.preprocessing["channels"]),
        mirror_at_test=bool((row.metrics or {}).get("mirror_at_test")),
    )
    return python_file(source, f"{found.name}-trial-{row.number}")


@router.get("/{search}/trials/{trial}/curve")
def get_trial_curve(search: SearchRef, trial: TrialRef, work: Work, _: Viewer) -> Curve:
    """How its training went so far."""
    row = trials.get(work, searches.get(work, search), trial)
    return Curve(trial=row.id, state=row.state.value, points=row.curve)


@router.get("/{search}/trials/{trial}/report")
def get_trial_report(search: SearchRef, trial: TrialRef, work: Work, _: Viewer) -> TrialReport:
    """What shared weights say of their space (strategy `enas`); null of every other trial, and until it has ended."""
    row = trials.get(work, searches.get(work, search), trial)
    return TrialReport(trial=row.id, state=row.state.value, report=row.report)


@router.get("/{search}/front")
def get_search_front(
    search: SearchRef,
    work: Work,
    _: Viewer,
    against: Annotated[
        FrontCost,
        Query(
            alias="cost",
            description="What to weigh the score against: params and flops of the architecture, seconds of training, "
            "size_bytes of the ONNX file, or latency_ms of one picture in ONNX Runtime on the worker's machine.",
        ),
    ] = "params",
) -> Front:
    """The Pareto front: what the best score is at each cost."""
    found = searches.get(work, search)
    rated = [
        (float(price), -row.score, row.number, row)
        for row in trials.of_search(work, found.id, TrialState.SUCCEEDED)
        if row.score is not None
        and row.purpose != "supernet"
        and (price := row.seconds if against == "seconds" else (row.cost or {}).get(against)) is not None
    ]
    items, least = [], float("inf")
    for price, lost, number, row in sorted(rated, key=lambda point: point[:3]):
        if lost < least:
            least = lost
            items.append(
                FrontPoint(
                    trial=row.id,
                    number=number,
                    purpose=row.purpose,
                    description=description(row),
                    score=-lost,
                    cost=price,
                )
            )
    return Front(cost=against, items=items)


@router.get("/{search}/notes")
def list_notes(
    search: SearchRef,
    work: Work,
    _: Viewer,
    kind: Annotated[
        str | None, Query(pattern="^[a-z_]{1,40}$", description="Only those of this kind, e.g. controller.")
    ] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> NotePage:
    """What the strategy learned on the way, in order: to be drawn over `step`, one line a kind. Some learn nothing.

    `controller` (strategy `reinforce`), one an update: `reward`, the mean of the `children` it learned from; `baseline`,
    what they were held against; by kind of decision `entropy`, in nats a decision, and `preferences`, the mean
    probability of each choice.

    `surrogate` of `bayesian` and `race`, one for each proposal of their model: `predicted`, the score expected of it,
    between `low` and `high` at one deviation; `incumbent`, the best so far; `improvement` expected, `length` and `noise`
    of the Gaussian process.

    `surrogate` of `pnas`, one a level: `blocks`, `children` and `failures`, the `best` and `mean` score, `pairs` of
    prediction and score and their `rank_correlation`.

    `supernet` of `enas`, one a look at the space: `score`, and by kind of decision `entropy` and `preferences`, of the
    controller's draws or of the 20 best so far. `shared_scores`, one a stand-alone score of the shortlist: how many
    there are (`n`), `pairs` of shared and stand-alone score, and Kendall's `tau` between them. `supernet_failed`: the `trial`.

    `rungs` (any strategy with `rungs` above 1, `race` where the time allows), by the count of results: `shares` of a
    whole training, and how many `results` each rung has and how many of these were `promoted`.

    `finalists` (any strategy), by the count of finals: `trials` that were trained to the end as `finals`, their
    `candidate_scores` and `final_scores` and the `rank_correlation` of the two (Spearman's).
    """
    found = searches.get(work, search)
    statement = select(tables.SearchNote).where(tables.SearchNote.search_id == found.id)
    if kind is not None:
        statement = statement.where(tables.SearchNote.kind == kind)
    rows, following = page(work, statement, tables.SearchNote.number, page_size, page_token)
    items = [Note(number=row.number, kind=row.kind, step=row.step, data=row.data, at=row.at) for row in rows]
    return NotePage(items=items, next_page_token=following)


def steered(work: Session, search: tables.Search, caller_id: str, action: str, response: Response) -> Search:
    audit.note(work, caller_id, f"search.{action}", search.id, {"name": search.name})
    response.headers.update(revision_tag(search.revision))
    return read_search(work, search)


@router.post("/{search}/pause")
def pause_search(
    search: SearchRef, work: Work, caller: Editor, _: Once, unchanged: Unchanged, response: Response
) -> Search:
    """Stop after the next checkpoint; the clock stands still."""
    found = searches.get(work, search, lock=True)
    unchanged.check(found.revision)
    searches.pause(work, found)
    return steered(work, found, caller.id, "pause", response)


@router.post("/{search}/resume")
def resume_search(
    search: SearchRef, work: Work, caller: Editor, _: Once, unchanged: Unchanged, response: Response
) -> Search:
    """Go on where it stood."""
    found = searches.get(work, search, lock=True)
    unchanged.check(found.revision)
    searches.resume(work, found)
    return steered(work, found, caller.id, "resume", response)


@router.post("/{search}/cancel", status_code=202)
def cancel_search(
    search: SearchRef, work: Work, caller: Editor, _: Once, unchanged: Unchanged, response: Response
) -> Search:
    """Ask for its end: running trials hear it within seconds; the best so far stays."""
    found = searches.get(work, search, lock=True)
    unchanged.check(found.revision)
    searches.request_cancel(work, found)
    return steered(work, found, caller.id, "cancel", response)


@router.post("/{search}/extend")
def extend_search(
    search: SearchRef, more: Budget, work: Work, caller: Editor, _: Once, unchanged: Unchanged, response: Response
) -> Search:
    """Add to the budget, in the unit it was given in."""
    found = searches.get(work, search, lock=True)
    unchanged.check(found.revision)
    searches.extend(work, found, more.seconds, more.trials)
    return steered(work, found, caller.id, "extend", response)


@router.delete("/{search}", status_code=204)
def delete_search(search: SearchRef, work: Work, caller: Editor, unchanged: Unchanged) -> None:
    """Delete an ended search with its trials and events; its models stay."""
    found = searches.get(work, search, lock=True)
    unchanged.check(found.revision)
    searches.delete(work, found)
    audit.note(work, caller.id, "search.delete", found.id, {"name": found.name})
