"""What is documented is what is answered."""

import re
from typing import Any

from serve import openapi
from serve.app import claims
from serve.openapi import REPLY
from serve.schemas import PredictReply


def test_both_predict_operations_are_added_with_their_schemas() -> None:
    document: dict[str, Any] = {"paths": {}, "components": {"schemas": {"Problem": {}}}}
    openapi.add_to(document)
    assert set(document["paths"]) == {"/v1/deployments/{deployment}/predict", "/v1/models/{model}/predict"}
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert named <= set(document["components"]["schemas"])
    assert {"PredictRequest", "PredictReply", "Problem"} <= named


def test_the_documented_reply_is_one() -> None:
    assert PredictReply.model_validate(REPLY).model_dump() == REPLY


def test_the_app_claims_its_routes_and_no_others() -> None:
    def claimed(path: str, kind: str = "http") -> bool:
        return claims({"type": kind, "path": path})

    assert claimed("/v1/deployments/flowers/predict")
    assert claimed("/v1/models/flowers@3/predict")
    for path in ("/v1/deployments/flowers", "/v1/deployments/a/b/predict", "/v1/models/x/predict/", "/healthz", "/v1"):
        assert not claimed(path)
    assert not claimed("/v1/models/flowers/predict", "websocket")
