"""Runs one trial: claim it, have the warm trainer train it, keep the lease meanwhile, write down what came of it.

The trainer holds the state of the training, the row holds its last checkpoint; this process holds nothing that a
crash could lose. A trial ends in one of four ways: succeeded, failed (an outcome or a bug, told apart by `kind`),
pruned (stopped early, or its search was cancelled), or back in the queue with its checkpoint.
"""

import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from search.candidate import Candidate, Purpose
from search.source import source_of
from store import blobs, events, leases, models, searches, trials, workers
from store.database import hint
from store.errors import CorruptBlobError, StaleError
from store.objects import ObjectsError
from store.queue import Hint, Task
from store.states import SearchState, TrialState
from store.tables import DatasetVersion, Search, Trial
from worker import presence
from worker.advance import take_turn
from worker.context import Context
from worker.data import materialise
from worker.lineage import lineage_of
from worker.warm import Message, Trainer, TrainerDiedError

log = structlog.get_logger()
T = TypeVar("T")

SETTLE_FOR_S = 600.0  # how long a finished training waits for a database that is down
DATABASE_RETRY_S = 0.5
_warm: list[Trainer] = []


@dataclass(slots=True)
class _Run:
    """A claimed trial on its way. `curve` and `checkpoint` are what the row holds; `news` what it does not, yet."""

    trial_id: str
    search_id: str
    version: DatasetVersion
    attempt: int
    order: dict[str, Any]
    deadline_s: float | None
    curve: list[dict[str, Any]]
    seconds_before: float
    claimed_at: float
    news: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: Path | None = None
    stop_reason: str | None = None
    stop_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _End:
    """How a trial ends: its state, the values of its row, and the message of a finished training."""

    state: TrialState
    error: Mapping[str, Any] | None = None
    done: Message | None = None
    losses: int = 0


def warm_up(context: Context, worker: str) -> None:
    """Start the trainer, so that the first trial does not wait for it."""
    _trainer(context, worker)


def cool_down() -> None:
    """End the trainer."""
    while _warm:
        _warm.pop().kill()


def _trainer(context: Context, worker: str) -> Trainer:
    if _warm and not _warm[0].is_alive():
        cool_down()
    if not _warm:
        _warm.append(
            Trainer(
                context.cache / "device.json", lambda device: _patiently(lambda: _describe(context, worker, device))
            )
        )
    return _warm[0]


def _describe(context: Context, worker: str, device: Mapping[str, Any]) -> None:
    with context.sessions.begin() as session:
        workers.describe(session, worker, presence.queues_of_this_worker(), device)
        searches.wake_queued(session)  # they wait for a worker whose speed is known


def run(context: Context, trial_id: str, worker: str) -> None:
    """One trial from claim to end, then the search's next turn. Does nothing when the trial is not to be run now."""
    scratch = context.cache / "trials" / trial_id
    claimed = _claim(context, trial_id, worker, scratch)
    if claimed is None:
        return
    log.info("trial.claimed", trial=trial_id, attempt=claimed.attempt)
    try:
        end = _attempt(context, claimed, worker)
        state = _patiently(lambda: _settle(context, claimed, end))
        log.info("trial.ended", trial=trial_id, attempt=claimed.attempt, state=state, error=end.error)
    except StaleError as error:
        # Another attempt holds the trial: whatever this one knows is worth nothing any more.
        log.warning("trial.stale", trial=trial_id, attempt=claimed.attempt, reason=str(error))
        cool_down()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _patiently(lambda: take_turn(context, claimed.search_id))


def _attempt(context: Context, claimed: _Run, worker: str) -> _End:
    try:
        return _follow(context, claimed, _trainer(context, worker))
    except StaleError:
        raise
    except TrainerDiedError as error:
        cool_down()
        log.warning("trial.trainer_died", trial=claimed.trial_id, attempt=claimed.attempt, reason=str(error))
        return _End(TrialState.QUEUED, {"kind": "trainer_lost", "message": str(error)}, losses=1)
    except ObjectsError as error:
        # The store's client has tried again for a while; another worker, or this one later, may reach it.
        log.warning("trial.objects_away", trial=claimed.trial_id, attempt=claimed.attempt, reason=str(error))
        return _End(TrialState.QUEUED, {"kind": "data_unreachable", "message": str(error)}, losses=1)
    except Exception as error:
        cool_down()
        log.exception("trial.bug", trial=claimed.trial_id, attempt=claimed.attempt)
        message = f"{type(error).__name__}: {error}"
        return _End(TrialState.FAILED, {"kind": "bug", "message": message, "traceback": traceback.format_exc()})


def _patiently(step: Callable[[], T]) -> T:
    """`step`, again and again while the database is away."""
    give_up_at = time.monotonic() + SETTLE_FOR_S
    while True:
        try:
            return step()
        except DBAPIError as error:
            if not _is_away(error) or time.monotonic() > give_up_at:
                raise
            log.warning("database.away", reason=str(error.orig))
            time.sleep(DATABASE_RETRY_S)


def _is_away(error: DBAPIError) -> bool:
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in (None, "57P01", "57P02", "57P03")


def _claim(context: Context, trial_id: str, worker: str, scratch: Path) -> _Run | None:
    """Take the trial and lay out what the trainer needs: data, checkpoint, weights to start from."""
    settings, claimed_at = context.settings, time.monotonic()
    with context.sessions.begin() as session:
        trial = trials.claim(session, trial_id, worker, settings.lease_s)
        if trial is None:
            return None
        searches.tick(session, trial.search_id, settings.heartbeat_s)
        search = session.get_one(Search, trial.search_id)
        version = session.get_one(DatasetVersion, search.version_id)
        best = trials.best(session, search.id)
        peers = _peers(session, search, trial)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        resume = _write_blob(session, trial.checkpoint_sha256, scratch / "resume")
        warm_start = None
        if trial.warm_start_id is not None and resume is None:
            source = session.get(Trial, trial.warm_start_id)
            warm_start = _write_blob(session, None if source is None else source.weights_sha256, scratch / "start")
        order = {
            "do": "train",
            "candidate": trial.candidate,
            "space": search.space,
            "space_options": search.space_options,
            "labels": version.labels,
            "objective": search.objective,
            "limits": search.limits,
            "seed": trial.seed,
            "resume": resume,
            "warm_start": warm_start,
            "checkpoint_s": settings.checkpoint_s,
            "beat": None if best is None else best.merit,
            "purpose": trial.purpose,
            "validated": sum(version.stats["splits"]["validation"].values()),
            "peers": peers,
            "curve": trial.curve,
            "scratch": str(scratch),
        }
        return _Run(
            trial_id=trial.id,
            search_id=search.id,
            version=version,
            attempt=trial.attempt,
            order=order,
            deadline_s=_deadline(trial, settings.trial_overrun_s),
            curve=list(trial.curve),
            seconds_before=trial.seconds or 0.0,
            claimed_at=claimed_at,
        )


def _write_blob(session: Session, sha256: bytes | None, path: Path) -> str | None:
    """The blob as a file; None when there is none. What is lost or damaged is trained anew, not waited for."""
    if sha256 is None:
        return None
    try:
        with path.open("wb") as sink:
            for chunk in blobs.chunks(session, sha256):
                sink.write(chunk)
    except CorruptBlobError as error:
        log.error("trial.blob_lost", path=path.name, reason=str(error))
        return None
    return str(path)


def _peers(session: Session, search: Search, trial: Trial) -> list[list[dict[str, Any]]]:
    """Curves that tell whether the trial is worth finishing: ended ones of a comparable fidelity, the floor's included,
    that began like it: with fresh weights, or with another's.

    None under a budget in trials, whose result must not depend on how many workers there were.
    """
    if search.budget_trials is not None or trial.purpose != Purpose.EXPLORE.value:
        return []
    own = Candidate.from_json(trial.candidate).fidelity
    return [
        other.curve
        for other in trials.of_search(session, search.id, TrialState.SUCCEEDED, TrialState.PRUNED)
        if other.purpose != Purpose.SUPERNET.value
        and own.compares_with(Candidate.from_json(other.candidate).fidelity)
        and (other.warm_start_id is None) == (trial.warm_start_id is None)
    ]


def _deadline(trial: Trial, overrun_s: float) -> float | None:
    seconds = Candidate.from_json(trial.candidate).fidelity.seconds
    return None if seconds is None else seconds + max(overrun_s, 0.1 * seconds)


def _follow(context: Context, claimed: _Run, trainer: Trainer) -> _End:
    """Give the order and keep lease and row up to date until there is an end. Raises StaleError, TrainerDiedError."""
    settings = context.settings
    trainer.send(claimed.order | {"data": str(materialise(context, claimed.version))})
    deadline = None if claimed.deadline_s is None else time.monotonic() + claimed.deadline_s
    beat_at = time.monotonic() + settings.heartbeat_s
    while True:
        message = trainer.receive(beat_at - time.monotonic())
        if message is not None:
            end = _heed(claimed, message)
            if end is not None:
                return end
            if claimed.checkpoint is None and time.monotonic() < beat_at:
                continue
        _beat(context, claimed, trainer)
        beat_at = time.monotonic() + settings.heartbeat_s
        if claimed.stop_reason is not None and time.monotonic() >= claimed.stop_at:
            cool_down()
            return _stopped(claimed, None)
        if deadline is not None and time.monotonic() > deadline:
            cool_down()
            overdue = f"it did not end within {claimed.deadline_s:.0f} s and was killed"
            return _End(TrialState.FAILED, {"kind": "deadline", "message": overdue})


def _heed(claimed: _Run, message: Message) -> _End | None:
    """What a message changes; an end when it tells one."""
    event = message.pop("event")
    if event == "point":
        claimed.news.append(message)
    elif event == "checkpoint":
        claimed.checkpoint = Path(message["path"])
    elif event == "failed":
        return _End(TrialState.FAILED, message)
    elif event == "done":
        if message["stopped"]:
            return _stopped(claimed, message)
        return _End(TrialState.PRUNED if message["pruned"] else TrialState.SUCCEEDED, done=message)
    return None


def _beat(context: Context, claimed: _Run, trainer: Trainer) -> None:
    """Renew the lease, count the time, write points and checkpoint, hear whether to stop. Raises StaleError."""
    try:
        with context.sessions.begin() as session:
            values: dict[str, Any] = {}
            if claimed.checkpoint is not None:
                values["checkpoint_sha256"] = blobs.put(session, claimed.checkpoint.read_bytes())
            if claimed.news:
                values["curve"] = claimed.curve + claimed.news
                values["seconds"] = claimed.news[-1]["seconds"]
            _, search = searches.tick(session, claimed.search_id)
            before = session.get_one(Trial, claimed.trial_id, populate_existing=True).checkpoint_sha256
            leases.renew(session, Trial, claimed.trial_id, claimed.attempt, context.settings.lease_s, **values)
            if "checkpoint_sha256" in values and before not in (None, values["checkpoint_sha256"]):
                blobs.discard(session, before)
            if claimed.news:
                events.append(
                    session,
                    claimed.search_id,
                    "progress",
                    {"trial": claimed.trial_id, "spent_s": round(search.spent_s, 1), **claimed.news[-1]},
                )
    except DBAPIError as error:
        # The training goes on; if the database stays away longer than the lease, the next beat is refused as stale.
        if not _is_away(error):
            raise
        log.warning("trial.beat_failed", trial=claimed.trial_id, reason=str(error.orig))
        return
    claimed.curve += claimed.news
    claimed.news = []
    if claimed.checkpoint is not None:
        claimed.checkpoint.unlink()
        claimed.checkpoint = None
        if claimed.stop_reason == "paused":
            claimed.stop_at = time.monotonic()  # it is saved: stop now
    _look_for_stop(context, claimed, search, trainer)


def _look_for_stop(context: Context, claimed: _Run, search: Search, trainer: Trainer) -> None:
    settings, now = context.settings, time.monotonic()
    if presence.stopping.is_set():
        claimed.stop_reason, claimed.stop_at = "shutdown", now
    elif claimed.stop_reason is not None:
        return
    elif search.cancel_requested_at is not None or search.ended_at is not None:
        claimed.stop_reason, claimed.stop_at = "cancelled", now + settings.cancel_grace_s
        trainer.send({"do": "stop"})
    elif search.state is SearchState.PAUSED:
        # The next checkpoint saves what was done since the last; it comes within `checkpoint_s`.
        claimed.stop_reason, claimed.stop_at = "paused", now + settings.checkpoint_s + settings.cancel_grace_s


def _stopped(claimed: _Run, done: Message | None) -> _End:
    if claimed.stop_reason == "cancelled":
        return _End(TrialState.PRUNED, {"kind": "cancelled", "message": "its search was cancelled"}, done)
    return _End(TrialState.QUEUED)


def _settle(context: Context, claimed: _Run, end: _End) -> str:
    """Write the end in one transaction: blobs, trial, model, clock, events. Raises StaleError."""
    with context.sessions.begin() as session:
        searches.tick(session, claimed.search_id)  # locks the search's row: one trial at a time becomes its best
        search = session.get_one(Search, claimed.search_id)
        values: dict[str, Any] = {"curve": claimed.curve + claimed.news, "error": end.error}
        trial = session.get_one(Trial, claimed.trial_id, populate_existing=True)
        state = end.state
        if state is TrialState.QUEUED:
            values["losses"] = trial.losses + end.losses
            if claimed.checkpoint is not None:
                values["checkpoint_sha256"] = blobs.put(session, claimed.checkpoint.read_bytes())
            if values["losses"] >= context.settings.max_attempts:
                state = TrialState.FAILED
        else:
            values["checkpoint_sha256"] = None
        if end.done is not None:
            values |= {
                "score": end.done["score"],
                "merit": end.done["merit"],
                "metrics": end.done["metrics"] | end.done["training"],
                "report": end.done["report"],
                "seconds": end.done["seconds"],
                "held_s": claimed.seconds_before + time.monotonic() - claimed.claimed_at,
            }
            if "weights" in end.done["files"]:
                values["weights_sha256"] = blobs.put(session, Path(end.done["files"]["weights"]).read_bytes())
                values["cost"] = (trial.cost or {}) | {
                    name: end.done["files"][name] for name in ("size_bytes", "latency_ms")
                }
        trial = trials.settle(session, claimed.trial_id, claimed.attempt, state, **values)
        if state is TrialState.SUCCEEDED and end.done is not None:
            _crown(session, search, trial, end.done)
        elif state is TrialState.QUEUED and end.losses:
            hint(session, Hint(Task.TRIAL, trial.id))
        return trial.state.value


def _crown(session: Session, search: Search, trial: Trial, done: Message) -> None:
    """Make the trial the best so far, as a model, if it is. The search's row is locked."""
    best = trials.best(session, search.id)
    if best is None or best.id != trial.id or "onnx" not in done["files"]:
        return
    version = session.get_one(DatasetVersion, search.version_id)
    cost = trial.cost or {}
    genotype = trial.candidate["genotype"]
    assert trial.network_source is not None  # it was built
    model = models.register(
        session,
        search,
        trial,
        models.Trained(
            weights=Path(done["files"]["weights"]).read_bytes(),
            onnx=Path(done["files"]["onnx"]).read_bytes(),
            parity=done["files"]["parity"],
            genotype=genotype,
            space_options=search.space_options if genotype["space"] == search.space else {},
            mirror_at_test=done["training"]["mirror_at_test"],
            description=cost.get("description", ""),
            preprocessing=version.preprocessing,
            labels=version.labels,
            metrics=done["metrics"],
            source=source_of(
                trial.network_source,
                version.labels,
                packed_side=int(version.preprocessing["side"]),
                channels=int(version.preprocessing["channels"]),
                mirror_at_test=done["training"]["mirror_at_test"],
            ),
            params=cost.get("params", 0),
            flops=cost.get("flops", 0),
            lineage=lineage_of(session, search, version, trial),
        ),
    )
    search.best_trial_id = trial.id
    search.model_id = model.id
    session.flush()
    log.info("search.new_best", search=search.id, trial=trial.id, model=model.id, score=trial.score)
