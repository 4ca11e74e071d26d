"""A worker's main process: says that it is there, sweeps, and hears when it is to stop."""

import threading
from collections.abc import Sequence
from multiprocessing import Event
from typing import Any

import structlog
from celery import signals
from sqlalchemy.exc import DBAPIError

from store import workers
from store.database import engine_for, sessions_for
from store.objects import Objects
from store.queue import Hints
from store.settings import Settings
from worker import sweep

log = structlog.get_logger()

# Made before the pool forks, so that its processes see it set.
stopping = Event()
_queues: list[str] = []
_name: list[str] = []


@signals.celeryd_after_setup.connect
def remember(sender: str, instance: Any, **_: Any) -> None:
    """Before the pool forks: the worker's name, and what it was asked to consume."""
    _name[:] = [sender]
    _queues[:] = sorted(instance.app.amqp.queues.consume_from)


def name_of_this_worker() -> str:
    return _name[0]


def queues_of_this_worker() -> Sequence[str]:
    return _queues


def begin(settings: Settings, name: str) -> None:
    """Start the thread that beats and sweeps until the process ends."""
    threading.Thread(target=_watch, args=(settings, name), name="presence", daemon=True).start()


def _watch(settings: Settings, name: str) -> None:
    # Unpooled: a connection that died with Postgres is never met again.
    engine = engine_for(settings.require_database_url(), pooled=False)
    sessions = sessions_for(engine, Hints(settings.require_redis_url()))
    objects = Objects.of(settings)
    down = False
    while not stopping.is_set():
        try:
            with sessions.begin() as session:
                workers.beat(session, name, _queues)
            sweep.run(sessions, objects, settings)
            if down:
                log.info("presence.back", worker=name)
            down = False
        except DBAPIError as error:
            if not down:
                log.warning("presence.database_down", worker=name, reason=str(error.orig))
            down = True
        stopping.wait(settings.sweep_s)
    try:
        with sessions.begin() as session:
            workers.gone(session, name)
    except DBAPIError as error:
        log.warning("presence.not_signed_off", worker=name, reason=str(error.orig))
