"""Which workers are there, on what hardware, doing what."""

from typing import Any

from fastapi import APIRouter

from api.deps import Viewer, Work
from api.routing import Route
from api.schemas import Time, View, link_to
from store import workers

router = APIRouter(prefix="/v1/workers", tags=["operation"], route_class=Route)


class RunningTrial(View):
    id: str
    number: int
    search: str
    link: str


class Worker(View):
    name: str
    queues: list[str]
    device: dict[str, Any] | None
    trial: RunningTrial | None
    beat_at: Time
    started_at: Time


class WorkerList(View):
    items: list[Worker]


@router.get("")
def list_workers(work: Work, _: Viewer) -> WorkerList:
    """The workers heard of in the last half minute."""
    running = workers.current_trials(work)
    items = []
    for worker in workers.alive(work):
        trial = running.get(worker.name)
        busy = None
        if trial is not None:
            link = link_to("searches", trial.search_id, "trials", str(trial.number))
            busy = RunningTrial(id=trial.id, number=trial.number, search=trial.search_id, link=link)
        items.append(
            Worker(
                name=worker.name,
                queues=worker.queues,
                device=worker.device,
                trial=busy,
                beat_at=worker.beat_at,
                started_at=worker.started_at,
            )
        )
    return WorkerList(items=items)
