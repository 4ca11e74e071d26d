"""Wake-ups through Celery. A hint says «look at this row»; the row says what is true."""

from dataclasses import dataclass
from enum import StrEnum

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

log = structlog.get_logger()


class Queue(StrEnum):
    TRIAL = "trial"
    DATA = "data"
    CONTROL = "control"


class Task(StrEnum):
    """The names under which worker/tasks.py registers what it does."""

    ADVANCE = "netwright.advance"  # a search
    TRIAL = "netwright.trial"
    JOB = "netwright.job"


QUEUES: dict[Task, Queue] = {Task.ADVANCE: Queue.CONTROL, Task.TRIAL: Queue.TRIAL, Task.JOB: Queue.DATA}

# Kombu re-delivers what was not acknowledged within this time. It must outlast any task, or long trainings run twice;
# correctness rests on claim and attempt, not on it.
VISIBILITY_TIMEOUT_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Hint:
    task: Task
    id: str


def celery_app(redis_url: str) -> Celery:
    """The Celery application that senders and workers share: JSON, late acknowledgement, no result backend."""
    app = Celery("netwright", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the sweep re-sends; a poison task must not come back by itself
        worker_prefetch_multiplier=1,
        task_default_queue=Queue.CONTROL.value,
        task_routes={task.value: {"queue": queue.value} for task, queue in QUEUES.items()},
        task_create_missing_queues=True,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_connect_timeout": 5,
            "socket_timeout": 10,
            "socket_keepalive": True,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        enable_utc=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
    )
    return app


class Hints:
    """Sends hints; a broker that is down is logged, never raised."""

    def __init__(self, redis_url: str) -> None:
        self.app = celery_app(redis_url)
        # Kombu would try for six seconds to reach a broker that is down, while a transaction's caller waits.
        self.app.conf.broker_transport_options |= {"max_retries": 0, "interval_start": 0, "interval_max": 0}

    def send(self, hint: Hint) -> None:
        try:
            self.app.send_task(hint.task.value, args=[hint.id], retry=False, ignore_result=True)
        except (OperationalError, OSError) as error:
            log.warning("hint.lost", task=hint.task.value, id=hint.id, reason=str(error))

    def ping(self) -> None:
        """Raises kombu's OperationalError or OSError when the broker does not answer."""
        with self.app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
