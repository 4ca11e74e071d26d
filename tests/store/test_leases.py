"""Claims, leases and fences, as several workers meet them."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from store import leases, searches, trials
from store.database import Sessions
from store.errors import StaleError
from store.states import SearchState, TrialState
from store.tables import Search, Trial
from tests.support.rows import a_search, a_trial


@pytest.fixture
def trial(session: Session) -> Trial:
    return a_trial(session, a_search(session))


def lapse(session: Session, trial: Trial) -> None:
    session.execute(
        update(Trial).where(Trial.id == trial.id).values(lease_until=func.clock_timestamp() - timedelta(seconds=1))
    )


def claimed(session: Session, trial: Trial, worker: str = "w") -> Trial:
    held = trials.claim(session, trial.id, worker, 15)
    assert held is not None
    return held


def test_a_claim_raises_the_attempt_and_sets_the_lease(session: Session, trial: Trial) -> None:
    held = claimed(session, trial)
    assert (held.attempt, held.state, held.worker) == (1, TrialState.RUNNING, "w")
    assert held.lease_until is not None


def test_a_claimed_trial_is_not_claimed_again(session: Session, trial: Trial) -> None:
    claimed(session, trial)
    assert trials.claim(session, trial.id, "other", 15) is None


@pytest.mark.parametrize("state", [SearchState.PAUSED, SearchState.FINISHING])
def test_a_trial_of_a_search_that_does_not_run_is_not_claimed(session: Session, state: SearchState) -> None:
    trial = a_trial(session, a_search(session, state))
    assert trials.claim(session, trial.id, "w", 15) is None


def test_a_trial_of_a_search_about_to_be_cancelled_is_not_claimed(session: Session) -> None:
    search = a_search(session)
    trial = a_trial(session, search)
    searches.request_cancel(session, search)
    assert trials.claim(session, trial.id, "w", 15) is None


def test_two_workers_that_claim_at_once_get_one_trial_between_them(sessions: Sessions) -> None:
    with sessions.begin() as session:
        trial = a_trial(session, a_search(session))
    with sessions() as first, sessions() as second:
        assert trials.claim(first, trial.id, "first", 15) is not None
        assert trials.claim(second, trial.id, "second", 15) is None  # at once, not after the first commits
        first.commit()
        second.commit()


def test_the_write_of_an_attempt_that_lost_its_lease_is_refused(session: Session, trial: Trial) -> None:
    zombie = claimed(session, trial).attempt
    lapse(session, trial)
    leases.expire(session, Trial, 5, 0)
    claimed(session, trial, "other")
    with pytest.raises(StaleError):
        leases.renew(session, Trial, trial.id, zombie, 15)
    with pytest.raises(StaleError):
        trials.settle(session, trial.id, zombie, TrialState.SUCCEEDED, score=1.0)
    assert trials.settle(session, trial.id, zombie + 1, TrialState.SUCCEEDED, score=0.5).score == 0.5


def test_an_ended_trial_is_not_ended_again(session: Session, trial: Trial) -> None:
    attempt = claimed(session, trial).attempt
    trials.settle(session, trial.id, attempt, TrialState.SUCCEEDED, score=0.5)
    with pytest.raises(StaleError):
        trials.settle(session, trial.id, attempt, TrialState.FAILED, error={"message": "late"})


def test_a_live_lease_does_not_expire(session: Session, trial: Trial) -> None:
    claimed(session, trial)
    assert leases.expire(session, Trial, 5, 0) == ([], [])


def test_workers_get_time_to_renew_after_a_restart_of_postgres(session: Session, trial: Trial) -> None:
    claimed(session, trial)
    lapse(session, trial)
    a_day = 24 * 3600
    assert leases.expire(session, Trial, 5, a_day) == ([], [])  # this Postgres has not been up that long
    assert leases.expire(session, Trial, 5, 0)[0]


def test_a_trial_that_kills_its_workers_fails_in_the_end(session: Session, trial: Trial) -> None:
    for loss in range(3):
        claimed(session, trial)
        lapse(session, trial)
        again, failed = leases.expire(session, Trial, 3, 0)
        assert (len(again), len(failed)) == ((1, 0) if loss < 2 else (0, 1))
    session.refresh(trial)
    assert trial.state is TrialState.FAILED
    assert trial.error is not None
    assert trial.error["kind"] == "worker_lost"


def test_a_pause_is_no_loss(session: Session, trial: Trial) -> None:
    for _ in range(10):
        held = claimed(session, trial)
        trials.settle(session, trial.id, held.attempt, TrialState.QUEUED)
    session.refresh(trial)
    assert (trial.losses, trial.attempt) == (0, 10)


def test_lost_hints_are_found_once(session: Session, trial: Trial) -> None:
    session.execute(update(Trial).values(hinted_at=func.clock_timestamp() - timedelta(minutes=1)))
    assert list(leases.unhinted(session, Trial, 5)) == [trial.id]
    assert list(leases.unhinted(session, Trial, 5)) == []


@pytest.fixture
def ticking(session: Session) -> Iterator[Search]:
    return a_search(session)


def passed(session: Session, search: Search, seconds: float) -> None:
    session.execute(
        update(Search)
        .where(Search.id == search.id)
        .values(ticked_at=func.clock_timestamp() - timedelta(seconds=seconds))
    )


def test_the_first_tick_counts_nothing(session: Session, ticking: Search) -> None:
    assert searches.tick(session, ticking.id)[0] == 0


def test_ticks_add_up_the_time_between_them(session: Session, ticking: Search) -> None:
    for _ in range(3):
        passed(session, ticking, 1.5)
        spent, _ = searches.tick(session, ticking.id)
    assert 4.5 <= spent < 4.7


def test_time_in_which_nobody_worked_is_not_counted(session: Session, ticking: Search) -> None:
    passed(session, ticking, 3600)
    assert searches.tick(session, ticking.id)[0] == searches.MAX_TICK_S


def test_two_workers_of_one_search_count_their_common_time_once(session: Session, ticking: Search) -> None:
    passed(session, ticking, 2)
    first, _ = searches.tick(session, ticking.id)
    second, _ = searches.tick(session, ticking.id)
    assert second - first < 0.1
