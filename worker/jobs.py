"""Runs one job: claim it, keep its lease from a thread, write down what came of it."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from store import jobs, leases
from store.errors import StaleError, StoreError
from store.objects import ObjectsError
from store.states import JobState
from store.tables import Job
from worker import batches, evaluations, explanations, exports, imports, references
from worker.context import Context
from worker.held import CancelledError, Held, RefusedJobError, ShutdownError

log = structlog.get_logger()

KINDS: Mapping[str, Callable[[Context, Job, Held], None]] = {
    "import": imports.run,
    "evaluation": evaluations.run,
    "export": exports.run,
    "reference": references.run,
    "explanation": explanations.run,
    "batch_prediction": batches.run,
}


def run(context: Context, job_id: str, worker: str) -> None:
    """One job from claim to end. Does nothing when it is not to be run now.

    A kind's function writes its result and ends the job in one transaction of its own (`Held.finish`); what it raises
    ends the job here.
    """
    with context.sessions.begin() as session:
        job = leases.claim(session, Job, job_id, worker, context.settings.lease_s)
        if job is None:
            return
        jobs.record(session, job)
    log.info("job.claimed", job=job_id, kind=job.kind, attempt=job.attempt)
    held = Held(context, job.id, job.attempt)
    try:
        with held:
            KINDS[job.kind](context, job, held)
    except StaleError as error:
        log.warning("job.stale", job=job_id, reason=str(error))
    except CancelledError:
        _end(context, job, JobState.CANCELLED, None)
    except ShutdownError:
        with context.sessions.begin() as session:
            leases.settle(session, Job, job.id, job.attempt, JobState.QUEUED)
    except (RefusedJobError, StoreError) as error:
        _end(context, job, JobState.FAILED, {"kind": "refused", "message": str(error)})
    except DBAPIError as error:
        # Not its fault: the lease runs out and the sweep has it tried again, a bounded number of times.
        log.warning("job.database_error", job=job_id, reason=str(error.orig))
    except ObjectsError as error:
        log.warning("job.objects_away", job=job_id, reason=str(error))  # likewise
    except Exception as error:
        log.exception("job.bug", job=job_id)
        message = f"{type(error).__name__}: {error}"
        _end(context, job, JobState.FAILED, {"kind": "bug", "message": message, "traceback": traceback.format_exc()})
    else:
        log.info("job.succeeded", job=job_id)


def _end(context: Context, job: Job, to: JobState, error: Mapping[str, Any] | None) -> None:
    try:
        with context.sessions.begin() as session:
            jobs.finish(session, job.id, job.attempt, to, error=error)
    except StaleError as stale:
        log.warning("job.stale", job=job.id, reason=str(stale))
