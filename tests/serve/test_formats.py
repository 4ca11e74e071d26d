"""A picture may come in any usual way, and is answered alike."""


import httpx
import pytest

from serve.schemas import PredictReply
from tests.serve.conftest import Store
from tests.serve.networks import picture

URL = "/v1/deployments/colours/predict"


@pytest.fixture(autouse=True)
def deployed(store: Store) -> str:
    model = store.model()
    store.deploy("colours", model)
    return model


def test_the_answer_names_label_scores_model_deployment_request_and_time(client: httpx.Client, deployed: str) -> None:
    answer = client.post(URL, content=picture("green"), headers={"X-Request-ID": "mine-1", "Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    reply = PredictReply.model_validate_json(answer.content)
    assert [prediction.label for prediction in reply.predictions] == ["green"]
    assert [score.label for score in reply.predictions[0].scores] == ["green", "red", "blue"]
    assert reply.predictions[0].score == reply.predictions[0].scores[0].score > 0.9
    assert sum(score.score for score in reply.predictions[0].scores) == pytest.approx(1, abs=1e-5)
    assert (reply.model.id, reply.model.name, reply.model.version) == (deployed, "colours", 1)
    assert reply.deployment == "colours"
    assert reply.request_id == answer.headers["x-request-id"] == "mine-1"
    assert reply.latency_ms > 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("content_type", ["image/png", "image/x-anything", "application/octet-stream", None])
def test_a_raw_body_of_any_format_is_read_by_its_content(
    client: httpx.Client, kind: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = client.post(URL, content=picture("blue", kind), headers=headers)
    assert answer.json()["predictions"][0]["label"] == "blue", answer.text
