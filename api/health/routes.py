"""Is it alive, can it work, how does it do: for supervisors, load balancers and Prometheus."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import structlog
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.deps import Viewer
from api.metrics import MEDIA_TYPE
from api.routing import Route
from api.runtime import Runtime, runtime_of
from api.schemas import View
from store import migrate, usage, workers
from web.problems import ProblemError

router = APIRouter(tags=["operation"], route_class=Route)
log = structlog.get_logger()

Check = Literal["ok", "failed"]


class Health(View):
    status: Literal["ok"]


class Readiness(View):
    status: Literal["ready", "not ready"]
    database: Check
    migrations: Check
    broker: Check


@router.get("/healthz")
async def healthz() -> Health:
    """This process answers. Asks nobody else: whoever restarts on a failure here would not mend a database."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Something that it needs is away."}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Everything it needs is there: the database, its newest schema, the broker."""
    runtime = runtime_of(request)
    database, migrations = await schema(runtime)
    broker = await passes("broker", partial(runtime.hints.ping))
    ready = database == migrations == broker == "ok"
    if not ready:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Readiness(status="ready" if ready else "not ready", database=database, migrations=migrations, broker=broker)


async def schema(runtime: Runtime) -> tuple[Check, Check]:
    """(the database answers, its schema is the one this code is written for)."""
    try:
        async with runtime.slot():
            current, head = await run_sync(migrate.pending, runtime.engine)
    except (SQLAlchemyError, ProblemError) as error:
        log.warning("readiness.failed", check="database", reason=str(error))
        return "failed", "failed"
    return "ok", "ok" if current == head else "failed"


async def passes(name: str, check: Callable[[], None]) -> Check:
    try:
        await run_sync(check)
    except (OperationalError, OSError) as error:
        log.warning("readiness.failed", check=name, reason=str(error))
        return "failed"
    return "ok"


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "The text exposition.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, _: Viewer) -> Response:
    """For Prometheus; its scrape configuration takes a key as `authorization: {credentials: nw_…}`."""
    runtime = runtime_of(request)

    def read(session: Session) -> tuple[dict[str, dict[str, int]], dict[str, float], int]:
        return usage.states(session), usage.totals(session), len(workers.alive(session))

    states, totals, alive = await runtime.transact(read)
    plain = {
        "workers_alive": ("Workers heard of in the last half minute.", float(alive)),
        "dataset_bytes": ("Bytes of all data set versions in the object store.", totals["dataset_bytes"]),
        "blob_bytes": ("Bytes of weights, ONNX files and checkpoints in Postgres.", totals["blob_bytes"]),
        "trial_seconds": ("Seconds of training in all trials there are.", totals["trial_seconds"]),
    }
    return Response(runtime.metrics.render(states, plain), media_type=MEDIA_TYPE)
