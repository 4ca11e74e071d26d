"""A picture may come in any usual way, and is answered alike."""

import base64

import httpx
import numpy as np
import onnxruntime
import pytest

from ingest.preprocess import Preprocessing, to_array
from serve.schemas import PredictReply
from tests.serve.conftest import Serving, Store
from tests.serve.networks import LABELS, colour_network, noise, picture

URL = "/v1/deployments/colours/predict"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def labels(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [prediction["label"] for prediction in answer.json()["predictions"]]


def test_the_answer_names_label_scores_model_deployment_request_and_time(store: Store, serving: Serving) -> None:
    model = store.model()
    store.deploy("colours", model)
    with serving() as client:
        answer = client.post(URL, content=picture("green"), headers={"X-Request-ID": "mine-1"})
        direct = client.post(f"/v1/models/{model}/predict", content=picture("green"))
    reply = PredictReply.model_validate_json(answer.content)
    assert [prediction.label for prediction in reply.predictions] == ["green"]
    assert [score.label for score in reply.predictions[0].scores] == ["green", "red", "blue"]
    assert reply.predictions[0].score == reply.predictions[0].scores[0].score > 0.9
    assert sum(score.score for score in reply.predictions[0].scores) == pytest.approx(1, abs=1e-5)
    assert (reply.model.id, reply.model.name, reply.model.version) == (model, "colours", 1)
    assert reply.deployment == "colours"
    assert reply.request_id == answer.headers["x-request-id"] == "mine-1"
    assert reply.latency_ms > 0
    assert direct.json()["deployment"] is None
    assert direct.json()["predictions"] == answer.json()["predictions"]
    assert direct.json()["request_id"] == direct.headers["x-request-id"]


def test_every_way_to_send_a_picture_gives_the_same_scores(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    data = noise(1)
    with serving() as client:
        answers = [
            client.post(URL, content=data, headers={"Content-Type": "image/png"}),
            client.post(URL, content=data, headers={"Content-Type": "image/anything; q=1"}),
            client.post(URL, content=data, headers={"Content-Type": "application/octet-stream"}),
            client.post(URL, content=data),
            client.post(URL, content=data, headers={"Content-Type": "application/x-www-form-urlencoded"}),
            client.post(URL, content=iter([data[:100], data[100:]])),
            client.post(URL, files={"image": ("a.png", data, "image/png")}),
            client.post(URL, files={"whatever": data}),
            client.post(URL, json={"instances": [{"b64": b64(data)}]}),
            client.post(URL, json={"instances": [{"image": {"b64": b64(data)}}]}),
        ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"] == answers[0].json()["predictions"]


def test_the_content_decides_the_format_and_a_large_picture_is_read_like_a_small_one(
    store: Store, serving: Serving
) -> None:
    store.deploy("colours", store.model())
    with serving() as client:
        for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
            answer = client.post(URL, content=picture("blue", kind), headers={"Content-Type": "image/tiff"})
            assert labels(answer) == ["blue"], kind
        assert labels(client.post(URL, content=picture("red", "GIF", mode="P"))) == ["red"]
        assert labels(client.post(URL, content=picture("red", "JPEG", mode="CMYK"))) == ["red"]
        assert labels(client.post(URL, content=picture("green", "PNG", size=(3000, 2000)))) == ["green"]  # few bytes
        assert labels(client.post(URL, content=picture("green", "BMP", size=(400, 300)))) == ["green"]  # many bytes


def test_several_pictures_are_answered_in_their_order(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    order = ["red", "blue", "green", "blue"]
    with serving() as client:
        form = [("images", (f"{colour}.png", picture(colour))) for colour in order]
        assert labels(client.post(URL, files=form)) == order
        instances = [{"b64": b64(picture(colour))} for colour in order]
        assert labels(client.post(URL, json={"instances": instances})) == order
        many = [{"b64": b64(picture(order[number % 4], size=(100, 100)))} for number in range(128)]
        assert labels(client.post(URL, json={"instances": many})) == order * 32


def test_top_k_says_how_many_labels_are_listed(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    data = picture("red")
    with serving() as client:
        for answer, count in (
            (client.post(URL, content=data), 3),
            (client.post(f"{URL}?top_k=1", content=data), 1),
            (client.post(f"{URL}?top_k=1000", content=data), 3),
            (client.post(URL, files={"image": data}, data={"top_k": "2"}), 2),
            (client.post(f"{URL}?top_k=2", files={"image": data}), 2),
            (client.post(URL, json={"instances": [{"b64": b64(data)}], "top_k": 2}), 2),
        ):
            assert len(answer.json()["predictions"][0]["scores"]) == count, answer.text


def test_serving_sees_the_very_array_that_import_and_training_see(store: Store, serving: Serving) -> None:
    network = colour_network(sharpness=0.3)  # so sharp that another pixel would show in the scores
    store.deploy("colours", store.model(onnx=network))
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    with serving() as client:
        for seed, kind, size in ((1, "PNG", (50, 31)), (2, "JPEG", (640, 480)), (3, "WEBP", (16, 16))):
            data = noise(seed, size, kind)
            array = to_array(data, Preprocessing(16, 3))
            (expected,) = session.run(None, {"images": array[None]})
            scores = client.post(URL, content=data).json()["predictions"][0]["scores"]
            by_label = {score["label"]: score["score"] for score in scores}
            assert [by_label[label] for label in LABELS] == pytest.approx(expected[0].tolist(), abs=1e-6), kind


def test_labels_of_any_script_come_back_as_they_are(store: Store, serving: Serving) -> None:
    names = ["röd 🌹", "\u7dd1", 'say "blue"\n']
    store.deploy("colours", store.model(labels=names))
    with serving() as client:
        assert labels(client.post(URL, content=picture("red"))) == [names[0]]
        assert labels(client.post(URL, content=picture("blue"))) == [names[2]]


def test_what_a_batch_answers_is_what_each_picture_alone_is_answered(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model(onnx=colour_network(sharpness=0.3)))
    pictures = [noise(seed, (16 + seed, 16)) for seed in range(64)]
    with serving() as client:
        alone = [client.post(URL, content=data).json()["predictions"][0] for data in pictures]
        together = client.post(URL, json={"instances": [{"b64": b64(data)} for data in pictures]})
    for one, other in zip(alone, together.json()["predictions"], strict=True):
        assert one["label"] == other["label"]
        assert np.allclose([s["score"] for s in one["scores"]], [s["score"] for s in other["scores"]], atol=2e-6)
