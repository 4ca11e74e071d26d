"""The Celery application: `celery -A worker.app worker -Q trial -c 1`, or `netwright worker`.

Tasks are thin: each takes an id, calls one function, returns nothing. What they leave undone (a lost message, a dead
process, a broker that was down) the sweep finds in the rows.
"""

import logging
import sys
from typing import Any

from celery import Task, signals

from store import logs
from store.queue import Queue, celery_app
from store.queue import Task as Name
from store.settings import load_settings
from worker import advance as advancing
from worker import evaluations, execute, jobs, presence
from worker.context import process_context

app = celery_app(load_settings().require_redis_url())
app.set_default()
app.conf.worker_soft_shutdown_timeout = 15.0


@app.task(name=Name.ADVANCE.value)
def advance(search_id: str) -> None:
    advancing.take_turn(process_context(), search_id)


@app.task(name=Name.TRIAL.value, bind=True)
def trial(self: "Task[Any, Any]", trial_id: str) -> None:
    execute.run(process_context(), trial_id, str(self.request.hostname))


@app.task(name=Name.JOB.value, bind=True)
def job(self: "Task[Any, Any]", job_id: str) -> None:
    jobs.run(process_context(), job_id, str(self.request.hostname))


@signals.setup_logging.connect
def set_up_logging(loglevel: int | str | None, **_: Any) -> None:
    """Celery's own lines in its own form, ours as everywhere."""
    level = loglevel if isinstance(loglevel, str) else logging.getLevelName(loglevel or logging.INFO)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(processName)s %(message)s", stream=sys.stderr)
    logs.configure(load_settings().log_level)


@signals.worker_ready.connect
def begin_presence(sender: Any, **_: Any) -> None:
    """In the main process: say that the worker is there, and sweep."""
    presence.begin(load_settings(), str(sender.hostname))


@signals.worker_process_init.connect
def warm_up(**_: Any) -> None:
    """In each pool process: load what takes seconds before the first trial or evaluation comes."""
    queues = presence.queues_of_this_worker()
    if Queue.TRIAL in queues:
        execute.warm_up(process_context(), presence.name_of_this_worker())
    if Queue.DATA in queues:
        evaluations.warm_up()


@signals.worker_shutting_down.connect
def let_go(**_: Any) -> None:
    """In the main process: have the pool's processes give their work back."""
    presence.stopping.set()


@signals.worker_process_shutdown.connect
def end_trainer(**_: Any) -> None:
    execute.cool_down()
