"""Control plane and runtime as one server."""

from starlette.testclient import TestClient

from netwright.server import compose
from store.settings import Settings


def test_one_description_lists_the_routes_of_both(settings: Settings) -> None:
    with TestClient(compose(settings)) as client:
        first, second = (client.get("/openapi.json").json() for _ in range(2))
    assert first == second
    assert "post" in first["paths"]["/v1/deployments/{deployment}/predict"]
    assert "post" in first["paths"]["/v1/searches"]
