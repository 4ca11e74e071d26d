"""Which worker processes are there, on what hardware, doing what."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.states import TrialState
from store.tables import Trial, Worker

ALIVE_FOR = timedelta(seconds=30)


def beat(session: Session, name: str, queues: Sequence[str]) -> None:
    """Say that the worker `name` is there; forgets those unheard of for a day."""
    row = {"queues": list(queues), "beat_at": func.clock_timestamp()}
    session.execute(insert(Worker).values(name=name, **row).on_conflict_do_update(index_elements=["name"], set_=row))
    session.execute(delete(Worker).where(Worker.beat_at < func.clock_timestamp() - timedelta(days=1)))


def describe(session: Session, name: str, queues: Sequence[str], device: Mapping[str, Any]) -> None:
    """Say what the worker computes with, once it has measured it."""
    row = {"queues": list(queues), "device": dict(device), "beat_at": func.clock_timestamp()}
    session.execute(insert(Worker).values(name=name, **row).on_conflict_do_update(index_elements=["name"], set_=row))


def flops_per_s(session: Session) -> float | None:
    """Multiply-adds per second of the slowest live trial worker that has measured itself; None when none has."""
    speeds = [
        float(worker.device["flops_per_s"])
        for worker in alive(session)
        if "trial" in worker.queues and worker.device and "flops_per_s" in worker.device
    ]
    return min(speeds, default=None)


def gone(session: Session, name: str) -> None:
    session.execute(delete(Worker).where(Worker.name == name))


def alive(session: Session) -> Sequence[Worker]:
    return session.scalars(
        select(Worker).where(Worker.beat_at > func.clock_timestamp() - ALIVE_FOR).order_by(Worker.name)
    ).all()


def trial_devices(session: Session) -> int:
    """How many live workers take trials; at least 1, so that a search whose worker is still starting plans for one."""
    return max(1, sum("trial" in worker.queues for worker in alive(session)))


def current_trials(session: Session) -> dict[str, Trial]:
    """The running trial of each worker, by the worker's name."""
    running = session.scalars(select(Trial).where(Trial.state == TrialState.RUNNING)).all()
    return {trial.worker: trial for trial in running if trial.worker is not None}
