"""The description of the API: whole, fit for code generators, and true."""

import re
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import booleans
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.batch_predictions.schemas import NewBatchPrediction, NewSource
from api.datasets.schemas import DatasetPatch, NewDataset, NewSplit
from api.deployments.schemas import DeploymentPatch, NewDeployment
from api.evaluations.schemas import NewEvaluation
from api.explanations.schemas import NewExplanation
from api.exports.schemas import NewExport
from api.keys.schemas import NewKey
from api.monitoring.schemas import NewFeedback
from api.searches.schemas import Budget, NewSearch
from api.sessions.schemas import SignIn
from tests.api.conftest import serving
from tests.api.world import World

# A page token, a name or an option of the right form may still be none: no schema says so.
KNOWN = {
    "dataset": "pets",
    "search": "hunt",
    "trial": "1",
    "model": "hunt",
    "version": 1,
    "example": 0,
    "alias": "champion",
}
MEANT = positive_data_acceptance


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_has_an_id_a_tag_its_security_and_its_refusals(app: FastAPI) -> None:
    document = app.openapi()
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z][a-z_]+", name) for name in ids)
    described = {tag["name"] for tag in document["tags"]}
    for path, method, operation in operations(document):
        assert set(operation["tags"]) <= described
        problems = [
            status
            for status, response in operation["responses"].items()
            if "application/problem+json" in response.get("content", {})
        ]
        if path.startswith("/v1"):
            everybody = (method, path) == ("post", "/v1/session")
            ways = [{"bearer": []}, {"api_key": []}, {"session": []}]
            assert operation.get("security") == (None if everybody else ways), path
            assert {"401", "403", "422", "429", "500", "503"} <= set(problems), (method, path)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "api_key", "session"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_examples_of_requests_are_accepted(app: FastAPI) -> None:
    for model in (
        NewDataset,
        DatasetPatch,
        NewSplit,
        NewDeployment,
        DeploymentPatch,
        NewKey,
        NewSearch,
        Budget,
        NewEvaluation,
        NewExplanation,
        NewExport,
        NewFeedback,
        NewBatchPrediction,
        NewSource,
        SignIn,
    ):
        for example in model.model_json_schema()["examples"]:
            model.model_validate(example)


def test_the_docs_need_nothing_from_elsewhere(client: TestClient) -> None:
    client.headers.clear()
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "unsafe" not in policy
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 4
    for link in linked:
        assert not link.startswith(("http", "//"))
        asset = client.get(f"/{link}")
        assert asset.status_code == 200
        assert "max-age" in asset.headers["cache-control"]
    assert "<script>" not in page.text
    assert client.get("/docs/secrets.txt").status_code == 404
    assert client.get("/openapi.json").json()["info"]["title"] == "Netwright"


@pytest.mark.slow
def test_whatever_is_sent_the_answers_keep_to_the_description(
    app: FastAPI, secrets: dict[str, str], world: World
) -> None:
    """Schemathesis makes requests from the description, right and wrong ones, and checks every answer against it."""
    world.dataset()
    world.finished()
    with serving(app) as server:
        known_here = KNOWN | {"evaluation": world.evaluation("hunt")}
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.path.endswith("/events"):
                continue  # a stream that does not end while its search goes on

            @given(case=operation.as_strategy(), known=booleans())
            @settings(
                max_examples=8,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def check(case: schemathesis.Case, known: bool) -> None:
                if known and case.meta.generation.mode.is_positive:
                    here = {name: known_here[name] for name in case.path_parameters if name in known_here}
                    case.path_parameters |= here
                if case.meta.generation.mode.is_positive and "wait" in (case.query or {}):
                    case.query["wait"] = 0.1  # up to 60 seconds are right, too
                case.call_and_validate(headers={"X-API-Key": secrets["admin"]}, excluded_checks=[MEANT])

            check()
