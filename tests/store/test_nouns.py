"""Keys, data sets, models, deployments, idempotent replies: what each refuses and why."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store import audit, datasets, deployments, events, jobs, keys, models, notes, pages, searches, trials
from store.deployments import Target
from store.errors import ConflictError, NotFoundError, RefusedError
from store.keys import Role
from store.models import Trained
from store.states import DatasetState, JobState, SearchState
from store.tables import ApiKey, Dataset, DoomedObject, Example, Model, Search, SearchNote, Trial
from tests.support.rows import a_search, a_trial, a_version


def a_model(session: Session, search: Search | None = None) -> Model:
    search = search or a_search(session)
    return models.register(
        session,
        search,
        a_trial(session, search),
        Trained(
            b"weights",
            b"onnx",
            0.0,
            {},
            {},
            False,
            "words",
            {},
            ["a", "b"],
            {"accuracy": 1.0},
            "import torch",
            1,
            1,
            {},
        ),
    )


# Notes


def test_a_note_learned_again_takes_the_place_of_the_first(session: Session) -> None:
    search = a_search(session)
    for step, entropy in [(1, 1.0), (2, 0.9), (1, 1.0), (2, 0.8)]:
        notes.put(session, search.id, "controller", step, {"entropy": entropy})
    notes.put(session, search.id, "surrogate", 1, {"pairs": [[0.5, 0.25]]})
    rows = session.scalars(select(SearchNote).order_by(SearchNote.number)).all()
    assert [(row.number, row.kind, row.step, row.data) for row in rows] == [
        (1, "controller", 1, {"entropy": 1.0}),
        (2, "controller", 2, {"entropy": 0.8}),
        (3, "surrogate", 1, {"pairs": [[0.5, 0.25]]}),
    ]
    heard = [event.payload["number"] for event in events.after(session, search.id, 0)]
    assert heard == [1, 2, 2, 3]


def test_notes_go_with_their_search(session: Session) -> None:
    search = a_search(session, SearchState.SUCCEEDED)
    notes.put(session, search.id, "rungs", 1, {})
    searches.delete(session, search)
    assert session.scalars(select(SearchNote)).all() == []


# Keys


def test_a_secret_is_kept_as_a_digest_alone(session: Session) -> None:
    key, secret = keys.create_key(session, "mine", Role.ADMIN)
    assert secret.startswith("nw_")
    assert secret not in str([getattr(key, column.key) for column in ApiKey.__table__.columns])
    found = keys.authenticate(session, secret)
    assert found is not None
    assert found.id == key.id


def test_unknown_expired_and_revoked_keys_open_nothing(session: Session) -> None:
    keys.create_key(session, "another admin", Role.ADMIN)
    _, expired = keys.create_key(session, "old", Role.ADMIN, datetime.now(UTC) - timedelta(seconds=1))
    revoked_key, revoked = keys.create_key(session, "lost", Role.ADMIN)
    keys.revoke_key(session, revoked_key.id)
    assert [keys.authenticate(session, secret) for secret in ("nw_guess", expired, revoked)] == [None, None, None]


def test_the_last_admin_cannot_lock_everybody_out(session: Session) -> None:
    key, _ = keys.create_key(session, "only", Role.ADMIN)
    keys.create_key(session, "editor", Role.EDITOR)
    with pytest.raises(ConflictError, match="last admin key"):
        keys.revoke_key(session, key.id)


def test_a_role_covers_those_below_it() -> None:
    assert [role for role in Role if Role.EDITOR.covers(role)] == [Role.EDITOR, Role.VIEWER, Role.PREDICTOR]


# Data sets


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "a" * 64, "ds_" + "0" * 32, "a\n", "a/b"])
def test_a_name_that_would_break_a_url_or_pass_for_an_id_is_refused(session: Session, name: str) -> None:
    with pytest.raises(RefusedError, match="cannot name"):
        datasets.create(session, name, "image_classification")


def test_a_name_works_wherever_an_id_does(session: Session) -> None:
    dataset, _ = a_version(session)
    assert datasets.get(session, dataset.id) is datasets.get(session, "flowers")


def test_one_import_at_a_time(session: Session) -> None:
    dataset = datasets.create(session, "d", "image_classification")
    datasets.begin_import(session, dataset, "uploads/1", {})
    with pytest.raises(ConflictError, match="importing already"):
        datasets.begin_import(session, dataset, "uploads/2", {})


@pytest.mark.parametrize("had_data", [True, False])
def test_a_cancelled_import_lets_the_data_set_go(session: Session, had_data: bool) -> None:
    dataset = a_version(session)[0] if had_data else datasets.create(session, "d", "image_classification")
    job = datasets.begin_import(session, dataset, "uploads/1", {})
    assert jobs.request_cancel(session, job.id).state is JobState.CANCELLED
    session.refresh(dataset)
    assert dataset.state is (DatasetState.READY if had_data else DatasetState.FAILED)


def test_deleting_a_data_set_dooms_its_objects_and_counts_them(session: Session) -> None:
    dataset, version = a_version(session)
    assert datasets.delete(session, dataset) == version.size_bytes
    assert set(session.scalars(select(DoomedObject.key))) == {
        version.images_key,
        version.index_key,
        *version.shard_keys,
    }
    assert session.scalar(select(func.count()).select_from(Example)) == 0


def test_a_data_set_in_use_is_not_deleted(session: Session) -> None:
    search = a_search(session)
    dataset = session.get_one(Dataset, search.version.dataset_id)
    with pytest.raises(ConflictError, match=search.name):
        datasets.delete(session, dataset)


def test_models_outlive_data_and_search(session: Session) -> None:
    search = a_search(session)
    model = a_model(session, search)
    searches.move(session, search, SearchState.CANCELLED)
    datasets.delete(session, session.get_one(Dataset, search.version.dataset_id))
    session.refresh(model)
    assert (model.search_id, model.version_id) == (None, None)


# Searches


def test_a_second_search_of_a_data_set_gets_a_name_of_its_own(session: Session) -> None:
    dataset, version = a_version(session)
    made = [
        searches.create(
            session,
            dataset,
            version,
            name=None,
            objective="accuracy",
            space="stages",
            space_options={},
            strategy="race",
            strategy_options={},
            seed=0,
            budget_s=60,
            budget_trials=None,
        ).name
        for _ in range(2)
    ]
    assert made == ["flowers-1", "flowers-2"]


def test_a_budget_is_extended_in_its_own_unit(session: Session) -> None:
    search = a_search(session)
    searches.extend(session, search, 30, None)
    assert search.budget_s == 90
    with pytest.raises(RefusedError, match="minutes"):
        searches.extend(session, search, None, 3)


def test_extending_while_finishing_reopens(session: Session) -> None:
    search = a_search(session, SearchState.FINISHING)
    searches.extend(session, search, 30, None)
    assert search.state is SearchState.RUNNING


def test_an_ended_search_is_not_extended(session: Session) -> None:
    with pytest.raises(ConflictError, match="succeeded"):
        searches.extend(session, a_search(session, SearchState.SUCCEEDED), 30, None)


def test_the_best_trial_is_the_earlier_of_equals(session: Session) -> None:
    search = a_search(session)
    for score in (0.5, 0.9, 0.9):
        trial = a_trial(session, search)
        trials.claim(session, trial.id, "w", 15)
        trials.settle(session, trial.id, 1, trials.TrialState.SUCCEEDED, score=score)
    best = trials.best(session, search.id)
    assert best is not None
    assert best.number == 2


def test_shared_weights_are_never_the_best_trial_and_end_with_a_report(session: Session) -> None:
    search = a_search(session)
    network, supernet = a_trial(session, search), a_trial(session, search, "supernet")
    for trial in (network, supernet):
        trials.claim(session, trial.id, "w", 15)
    trials.settle(session, network.id, 1, trials.TrialState.SUCCEEDED, score=0.1)
    succeeded = update(Trial).values(state=trials.TrialState.SUCCEEDED, score=1, merit=1)
    for wrong, report in ((network, {}), (supernet, None)):
        with pytest.raises(IntegrityError, match="report"), session.begin_nested():
            session.execute(succeeded.where(Trial.id == wrong.id).values(report=report))
    trials.settle(session, supernet.id, 1, trials.TrialState.SUCCEEDED, score=0.9, report={"shortlist": []})
    best = trials.best(session, search.id)
    assert best is not None
    assert best.id == network.id


def test_an_architecture_cannot_be_taken_from_shared_weights(session: Session) -> None:
    search = a_search(session)
    supernet = a_trial(session, search, "supernet")
    with pytest.raises(RefusedError, match="not one architecture; give one of those that its report names in seeds"):
        searches.seed_from_trial(session, supernet.id, "cell", search.version)


# Models and deployments


def test_better_networks_are_versions_of_one_model(session: Session) -> None:
    search = a_search(session)
    first, second = a_model(session, search), a_model(session, search)
    assert (first.number, second.number) == (1, 2)
    assert models.get(session, search.name) is second
    assert models.get(session, f"{search.name}@1") is first
    with pytest.raises(NotFoundError):
        models.get(session, f"{search.name}@3")


def test_a_deployed_model_is_not_deleted(session: Session) -> None:
    model = a_model(session)
    searches.move(session, session.get_one(Search, model.search_id), SearchState.CANCELLED)
    deployment = deployments.create(session, "prod", [Target(model.id)])
    with pytest.raises(ConflictError, match="prod"):
        models.delete(session, model)
    deployments.delete(session, deployment)
    assert models.delete(session, model) == len(b"weights") + len(b"onnx")


@pytest.mark.parametrize("weights", [(50, 49), (100, 1)])
def test_weights_add_up_to_a_hundred(session: Session, weights: tuple[int, int]) -> None:
    targets = [Target(a_model(session).id, weight) for weight in weights]
    with pytest.raises(RefusedError, match=f"add up to {sum(weights)}"):
        deployments.create(session, "prod", targets)


# Replies to repeated requests


def test_a_repeated_request_gets_the_same_reply(session: Session) -> None:
    assert audit.begin_once(session, "ke_1", "k", b"POST /v1/x {}") is None
    reply = audit.Reply(201, {"Location": "/x"}, b"{}")
    audit.remember(session, "ke_1", "k", reply)
    assert audit.begin_once(session, "ke_1", "k", b"POST /v1/x {}") == reply
    assert audit.begin_once(session, "ke_2", "k", b"POST /v1/x {}") is None  # keys of others are theirs


def test_an_idempotency_key_does_not_serve_two_requests(session: Session) -> None:
    audit.begin_once(session, "ke_1", "k", b"one")
    with pytest.raises(audit.ReusedKeyError, match="another request"):
        audit.begin_once(session, "ke_1", "k", b"two")


def test_replies_are_forgotten_after_a_day(session: Session) -> None:
    audit.begin_once(session, "ke_1", "k", b"one")
    session.execute(
        update(audit.IdempotentReply).values(created_at=func.clock_timestamp() - timedelta(days=1, minutes=1))
    )
    assert audit.begin_once(session, "ke_1", "k", b"two") is None


# Events and pages


def test_events_of_a_stream_are_numbered_without_gaps(session: Session) -> None:
    assert [events.append(session, stream, "k", {}) for stream in "aabab"] == [1, 2, 1, 3, 2]
    assert [event.number for event in events.after(session, "a", 1)] == [2, 3]


def test_pages_neither_repeat_nor_skip_while_rows_come(session: Session) -> None:
    names = [datasets.create(session, f"d{number}", "image_classification").name for number in range(5)]
    first, token = pages.page(session, select(Dataset), Dataset.id, 2, None)
    datasets.create(session, "later", "image_classification")
    seen = [row.name for row in first]
    while token is not None:
        rows, token = pages.page(session, select(Dataset), Dataset.id, 2, token)
        seen += [row.name for row in rows]
    assert seen == [*names, "later"]


@pytest.mark.parametrize("token", ["x", "é", "bnVsbA==", "MTI=", "", "WzFd"])
def test_a_token_of_another_list_is_refused(session: Session, token: str) -> None:
    with pytest.raises(RefusedError, match="page_token"):
        pages.page(session, select(Dataset), Dataset.id, 2, token)
