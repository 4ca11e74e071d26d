"""A worker's context on the run's database, with a small data set of real digits and a worker that is 'there'."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store import searches, workers
from store.database import Sessions
from store.settings import Settings
from store.tables import Dataset, Search
from tests.support.versions import digits_version
from worker import execute, presence
from worker.context import Context

WORKER = "trial@here"


@pytest.fixture
def context(
    settings: Settings, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Context]:
    monkeypatch.setattr(presence, "_queues", ["trial"])
    quick = settings.model_copy(update={"heartbeat_s": 0.2, "checkpoint_s": 0.5, "cancel_grace_s": 5.0})
    context = Context.of(quick)
    with context.sessions.begin() as session:
        workers.describe(session, WORKER, ["trial"], {"flops_per_s": 20e9})
        digits_version(session, context.objects, tmp_path / "made", per_class=50)
    yield context
    execute.cool_down()
    context.sessions.kw["bind"].dispose()


def new_search(context: Context, **values: object) -> str:
    """The id of a queued search over the digits."""
    with context.sessions.begin() as session:
        dataset = session.query(Dataset).one()
        search: Search = searches.create(
            session,
            dataset,
            dataset.versions[0],
            **(  # type: ignore[arg-type]  # the defaults and whatever the test changes
                {
                    "name": None,
                    "objective": "accuracy",
                    "space": "stages",
                    "space_options": {},
                    "strategy": "random",
                    "strategy_options": {},
                    "seed": 3,
                    "budget_s": None,
                    "budget_trials": 3,
                }
                | values
            ),
        )
        return search.id
