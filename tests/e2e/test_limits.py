"""A search with hard limits, over HTTP alone."""

from pathlib import Path

import pytest

from tests.support.pictures import digits_zip
from tests.support.service import running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_search_with_limits_ends_with_a_model_inside_them(tmp_path: Path) -> None:
    limits = {"max_params": 20_000, "max_size_mb": 0.1, "max_latency_ms": 1000}
    with running_service() as service:
        assert service.upload("digits", digits_zip(tmp_path / "digits.zip", per_class=40))["state"] == "succeeded"
        wish = {"dataset": "digits", "name": "small", "budget": {"trials": 4}, "limits": limits, "strategy": "random"}
        service.post("/v1/searches", wish)
        search = service.ended("/v1/searches/small")
        assert search["state"] == "succeeded", search
        assert search["limits"] == limits | {"max_flops": None}
        model = service.get(search["model"]["link"])
        assert model["params"] <= 20_000
        assert model["size_bytes"] <= 100_000
        for trial in service.get("/v1/searches/small/trials")["items"]:
            if trial["state"] == "succeeded":
                assert trial["cost"]["params"] <= 20_000
                assert trial["cost"]["size_bytes"] <= 100_000
                assert trial["cost"]["latency_ms"] <= 1000
        impossible = wish | {"name": "tiny", "limits": {"max_params": 100}}
        service.post("/v1/searches", impossible)
        refused = service.ended("/v1/searches/tiny")
        assert refused["state"] == "failed"
        assert "max_params: 100; the smallest" in refused["error"]
        assert refused["trials"]["failed"] == 0
