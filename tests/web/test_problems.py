"""Every refusal has one shape, whatever raised it."""

from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers

from store.errors import ConflictError, CorruptBlobError, NotFoundError, RefusedError, StaleError, StoreError
from store.keys import Role
from web import credentials
from web.credentials import Credential
from web.problems import HANDLERS, Fault, ProblemError, from_store, from_validation, invalid, quoted
from web.requests import RequestIds

KEY = "nw_" + "x" * 43


class Budget(BaseModel):
    model_config = ConfigDict(extra="forbid")
    minutes: float = Field(gt=0)


class Wish(BaseModel):
    model_config = ConfigDict(extra="forbid")
    budgets: list[Budget]


@pytest.fixture
def client() -> TestClient:
    app = FastAPI(exception_handlers=HANDLERS)
    app.add_middleware(RequestIds)

    @app.post("/wishes")
    async def wish(request: Request) -> dict[str, Any]:
        try:
            return Wish.model_validate_json(await request.body()).model_dump()
        except ValidationError as error:
            raise from_validation(error) from None

    @app.get("/wishes/{name}")
    def read(name: str) -> None:
        if name == "bug":
            raise ZeroDivisionError("secret details")
        raise NotFoundError("wish", name)

    return TestClient(app, raise_server_exceptions=False)


def test_a_refusal_of_the_store_is_a_problem_with_the_request_it_answers(client: TestClient) -> None:
    answer = client.get("/wishes/none", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.json() == {
        "type": "urn:netwright:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": "there is no wish 'none'",
        "instance": "/wishes/none",
        "request_id": "abc-1",
    }


def test_wrong_fields_are_named_with_path_value_and_message(client: TestClient) -> None:
    answer = client.post("/wishes", json={"budgets": [{"minutes": 1}, {"minutes": -1, "hours": 2}], "colour": "red"})
    assert answer.status_code == 422
    by_field = {error["field"]: error for error in answer.json()["errors"]}
    assert set(by_field) == {"budgets[1].minutes", "budgets[1].hours", "colour"}
    assert by_field["budgets[1].minutes"]["value"] == -1
    assert "greater than 0" in by_field["budgets[1].minutes"]["message"]
    assert answer.json()["detail"].startswith("3 fields of the request are wrong: ")


def test_a_body_that_is_no_json_is_said_to_be_that(client: TestClient) -> None:
    answer = client.post("/wishes", content=b"{nope", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "not valid JSON" in answer.json()["detail"]


def test_an_unknown_route_and_a_wrong_method_are_problems_too(client: TestClient) -> None:
    missing, wrong = client.get("/nowhere"), client.delete("/wishes")
    assert (missing.status_code, missing.json()["title"]) == (404, "Not found")
    assert "/nowhere" in missing.json()["detail"]
    assert wrong.status_code == 405
    assert "DELETE" in wrong.json()["detail"]
    assert wrong.headers["allow"] == "POST"


def test_a_bug_is_answered_without_its_details(client: TestClient) -> None:
    answer = client.get("/wishes/bug")
    assert answer.status_code == 500
    assert "secret details" not in answer.text
    assert answer.json()["request_id"] in answer.json()["detail"]


@pytest.mark.parametrize("sent", ["", " ", "a" * 129, "a b", "<script>", "é"])
def test_an_unsound_request_id_is_replaced(client: TestClient, sent: str) -> None:
    answer = client.get("/nowhere", headers={"X-Request-ID": sent.encode()})
    assert answer.json()["request_id"] == answer.headers["x-request-id"] != sent


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFoundError("model", "m"), 404),
        (ConflictError("it is running"), 409),
        (StaleError("attempt 2"), 409),
        (RefusedError("the weights add up to 90", "targets"), 422),
        (RefusedError("no"), 422),
        (CorruptBlobError("blob 00 is missing"), 500),
    ],
)
def test_each_refusal_of_the_store_has_its_status(error: StoreError, status: int) -> None:
    problem = from_store(error)
    assert (problem.status, problem.detail) == (status, str(error))


def test_values_are_quoted_short_and_finite() -> None:
    assert quoted(float("nan")) == "nan"
    assert quoted(1.5) == 1.5
    assert len(quoted("x" * 10_000)) == 201
    assert quoted({"a": ["x" * 10_000] * 10_000}).startswith('{"a": [\'xxx')
    assert len(quoted({"a": [{"b": "x" * 10_000}] * 10_000})) == 201


def test_many_faults_are_counted_and_the_first_are_told() -> None:
    problem = invalid([Fault(f"instances[{number}]", "is no picture") for number in range(8)])
    assert "8 fields" in problem.detail
    assert "and 3 more" in problem.detail
    assert len(problem.faults) == 8


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY} "}, {"x-api-key": KEY}]
)
def test_a_key_may_come_in_either_header(headers: dict[str, str]) -> None:
    assert credentials.credential_of(Headers(headers), "GET") == Credential(KEY, is_session=False)


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Basic eA=="}, {"authorization": "Bearer"}, {"x-api-key": ""}]
)
def test_no_key_is_401_and_says_how_to_send_one(headers: dict[str, str]) -> None:
    with pytest.raises(ProblemError, match="X-API-Key") as caught:
        credentials.credential_of(Headers(headers), "GET")
    assert caught.value.status == 401
    assert "WWW-Authenticate" in caught.value.headers


def test_a_weak_key_is_403_and_names_both_roles() -> None:
    problem = credentials.too_weak(Role.VIEWER, Role.EDITOR)
    assert problem.status == 403
    assert "editor" in problem.detail
    assert "viewer" in problem.detail
