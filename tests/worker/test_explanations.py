"""Explanations as a worker makes them: a network trained on digits, the job's row before and after."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select, update

from store import blobs, explanations, jobs, leases, models
from store.states import JobState
from store.tables import Blob, Dataset, Explanation, Job, Model
from tests.support.pictures import png, some_digits
from tests.support.trained import trained_model
from tests.worker.conftest import WORKER
from worker import jobs as running
from worker.context import Context


@pytest.fixture
def model(context: Context) -> Model:
    with context.sessions.begin() as session:
        return trained_model(session, session.query(Dataset).one())


def a_digit(number: int = 7) -> bytes:
    return png(some_digits(1, first=45)[0][number])


def asked(context: Context, model: Model, picture: bytes, **wish: Any) -> str:
    """The id of a job that explains `picture`."""
    wish = {"method": "occlusion", "label": None, "options": {}} | wish
    with context.sessions.begin() as session:
        return explanations.ask(session, models.get(session, model.id), picture, **wish).id


def ended(context: Context, job_id: str) -> Job:
    running.run(context, job_id, WORKER)
    with context.sessions() as session:
        return jobs.get(session, job_id)


@pytest.mark.parametrize("method", explanations.METHODS)
def test_a_prediction_is_explained_with_numbers_and_a_picture(context: Context, model: Model, method: str) -> None:
    job = ended(context, asked(context, model, a_digit(), method=method))
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.input_sha256 is None  # what was sent is let go
    with context.sessions() as session:
        row = session.scalars(select(Explanation)).one()
        drawn = Image.open(io.BytesIO(blobs.get(session, row.overlay_sha256)))
        grid = np.array(row.grid)
    assert job.result is not None
    assert job.result["explanation_id"] == row.id
    assert (row.model_id, row.job_id, row.method) == (model.id, job.id, method)
    assert row.label == row.predicted == job.result["label"]
    assert row.score == row.predicted_score > 0.3
    assert grid.shape == (28, 28)
    assert np.abs(grid).max() > 1e-3
    assert (row.delta is None) == (method != "integrated_gradients")
    assert (drawn.format, drawn.size) == ("PNG", (252, 252))


def test_any_known_label_is_explained_with_the_options_of_the_method(context: Context, model: Model) -> None:
    options = {"patch": 7, "stride": 7, "fill": "blur"}
    assert ended(context, asked(context, model, a_digit(), label="3", options=options)).state is JobState.SUCCEEDED
    with context.sessions() as session:
        row = session.scalars(select(Explanation)).one()
        assert (row.label, row.details) == ("3", options)
        assert row.predicted_score > row.score


def test_a_picture_that_cannot_be_read_ends_its_job_with_the_reason(context: Context, model: Model) -> None:
    whole = a_digit()
    for data, said in ((b"hello", "is not a picture"), (whole[: len(whole) // 2], "damaged or cut short")):
        job = ended(context, asked(context, model, data))
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error["kind"] == "refused"
        assert said in job.error["message"]
        assert job.input_sha256 is None


def test_a_model_that_is_gone_or_damaged_is_named(context: Context, model: Model) -> None:
    first, second = asked(context, model, a_digit()), asked(context, model, a_digit())
    with context.sessions.begin() as session:
        nothing = blobs.put(session, b"nothing")
        session.execute(update(Model).where(Model.id == model.id).values(weights_sha256=nothing))
        session.execute(update(Blob).where(Blob.sha256 == nothing).values(size_bytes=100))
    assert "its file is damaged" in str(ended(context, first).error)
    with context.sessions.begin() as session:
        session.delete(session.get_one(Model, model.id))
    job = ended(context, second)
    assert job.error is not None
    assert job.error["message"] == f"model digits-net@1 ({model.id}) was deleted before it was explained"


def test_a_job_that_is_cancelled_lets_its_picture_go(context: Context, model: Model) -> None:
    job_id = asked(context, model, a_digit())
    with context.sessions.begin() as session:
        assert jobs.get(session, job_id).input_sha256 is not None
        jobs.request_cancel(session, job_id)
    with context.sessions() as session:
        job = jobs.get(session, job_id)
        assert (job.state, job.input_sha256) == (JobState.CANCELLED, None)


def test_a_job_whose_worker_died_is_explained_by_the_next(context: Context, model: Model) -> None:
    job_id = asked(context, model, a_digit())
    with context.sessions.begin() as session:
        assert leases.claim(session, Job, job_id, "dead@there", 30) is not None
        leases.settle(session, Job, job_id, 1, JobState.QUEUED)
    job = ended(context, job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    with context.sessions() as session:
        assert len(session.scalars(select(Explanation)).all()) == 1
