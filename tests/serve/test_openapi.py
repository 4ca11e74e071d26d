"""What is documented is what is answered."""

import re
from typing import Any

from serve import openapi
from serve.app import claims
from serve.openapi import EXPLAINED, REPLY
from serve.schemas import ExplainReply, PredictReply


def test_the_operations_to_predict_and_to_explain_are_added_with_their_schemas() -> None:
    document: dict[str, Any] = {"paths": {}, "components": {"schemas": {"Problem": {}}}}
    openapi.add_to(document)
    targets = ("/v1/deployments/{deployment}", "/v1/models/{model}")
    assert set(document["paths"]) == {f"{target}/{verb}" for target in targets for verb in ("predict", "explain")}
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert named <= set(document["components"]["schemas"])
    assert {"PredictRequest", "PredictReply", "ExplainRequest", "ExplainReply", "Problem"} <= named


def test_the_documented_replies_are_some() -> None:
    assert PredictReply.model_validate(REPLY).model_dump() == REPLY
    assert ExplainReply.model_validate(EXPLAINED).model_dump() == EXPLAINED


def test_the_app_claims_its_routes_and_no_others() -> None:
    def claimed(path: str, kind: str = "http") -> bool:
        return claims({"type": kind, "path": path})

    assert claimed("/v1/deployments/flowers/predict")
    assert claimed("/v1/models/flowers@3/predict")
    assert claimed("/v1/models/flowers/explain")
    for path in ("/v1/deployments/flowers", "/v1/deployments/a/b/predict", "/v1/models/x/predict/", "/healthz", "/v1"):
        assert not claimed(path)
    assert not claimed("/v1/models/flowers/predict", "websocket")
