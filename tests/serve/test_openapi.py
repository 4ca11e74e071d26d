"""What is documented is what is answered."""

import copy
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as given_settings
from hypothesis.strategies import booleans
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.app import create_app as create_api
from netwright.server import describe_predictions
from serve import oip, oip_openapi, openapi
from serve.app import claims
from serve.oip_schemas import InferRequest, InferResponse
from serve.openapi import EXPLAINED, REPLY
from serve.schemas import ExplainReply, PredictReply
from store.settings import Settings
from tests.serve.conftest import Serving, Store


def test_the_operations_to_predict_and_to_explain_are_added_with_their_schemas() -> None:
    document: dict[str, Any] = {"paths": {}, "components": {"schemas": {"Problem": {}}}}
    openapi.add_to(document)
    targets = ("/v1/deployments/{deployment}", "/v1/models/{model}")
    found = {path for path in document["paths"] if path.startswith("/v1")}
    assert found == {f"{target}/{verb}" for target in targets for verb in ("predict", "explain")}
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert named <= set(document["components"]["schemas"])
    assert {"PredictRequest", "PredictReply", "ExplainRequest", "ExplainReply", "Problem"} <= named


def test_the_documented_replies_are_some() -> None:
    assert PredictReply.model_validate(REPLY).model_dump() == REPLY
    assert ExplainReply.model_validate(EXPLAINED).model_dump() == EXPLAINED


def test_the_protocol_is_described_as_it_is_routed_and_a_second_time_changes_nothing() -> None:
    document: dict[str, Any] = {}
    oip_openapi.add_to(document)
    before = copy.deepcopy(document)
    oip_openapi.add_to(document)
    assert document == before
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert described == {
        (route.path, method) for route in oip.ROUTES for method in (route.methods or ()) if method != "HEAD"
    }
    assert InferRequest.model_validate(oip_openapi.REQUEST)
    assert InferResponse.model_validate(oip_openapi.RESPONSE)


def test_the_app_claims_its_routes_and_no_others() -> None:
    def claimed(path: str, kind: str = "http") -> bool:
        return claims({"type": kind, "path": path})

    assert claimed("/v1/deployments/flowers/predict")
    assert claimed("/v1/models/flowers@3/predict")
    assert claimed("/v1/models/flowers/explain")
    assert claimed("/v2")
    assert claimed("/v2/anything")
    for path in (
        "/v20",
        "/v1/deployments/flowers",
        "/v1/deployments/a/b/predict",
        "/v1/models/x/predict/",
        "/healthz",
        "/v1",
    ):
        assert not claimed(path)
    assert not claimed("/v1/models/flowers/predict", "websocket")


@pytest.mark.slow
def test_whatever_is_sent_to_the_runtime_its_answers_keep_to_the_description(
    settings: Settings, store: Store, serving: Serving
) -> None:
    """Schemathesis makes requests from the description, right and wrong ones, and checks every answer against it."""
    store.deploy("colours", store.model())
    api = create_api(settings)
    describe_predictions(api)
    known_names = {"model": "colours", "deployment": "colours", "version": "1"}
    with serving() as client:
        for result in schemathesis.openapi.from_dict(api.openapi()).get_all_operations():
            operation = result.ok()
            if not claims({"type": "http", "path": operation.path}):
                continue

            @given(case=operation.as_strategy(), known=booleans())
            @given_settings(
                max_examples=6,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def check(case: schemathesis.Case, known: bool) -> None:
                if known and case.meta.generation.mode.is_positive:
                    case.path_parameters |= {name: known_names[name] for name in case.path_parameters}
                case.call_and_validate(
                    base_url=str(client.base_url),
                    headers={"Authorization": client.headers["authorization"]},
                    excluded_checks=[positive_data_acceptance],  # what has the right form may still be no picture
                )

            check()
