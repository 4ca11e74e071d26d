"""The Open Inference Protocol as NVIDIA's client speaks it, with a real server and real networks behind it."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from ingest.preprocess import Preprocessing, to_array
from store import deployments
from store.states import DeploymentState
from tests.serve.conftest import Serving, Store
from tests.serve.networks import COLOURS, LABELS, colour_network, noise, picture

SIDE = 16
SHARP = colour_network(sharpness=0.3)  # so sharp that another pixel would show in the scores


class Triton:
    """A client that carries a key."""

    def __init__(self, http: httpx.Client) -> None:
        self.headers = {"Authorization": http.headers["authorization"]}
        self.client = triton.InferenceServerClient(f"{http.base_url.host}:{http.base_url.port}", concurrency=4)

    def infer(self, name: str, *inputs: "triton.InferInput", **options: object) -> "triton.InferResult":
        # it writes into the headers that it is given
        return self.client.infer(name, list(inputs), headers=dict(self.headers), **options)


@contextmanager
def client_of(http: httpx.Client) -> Iterator[Triton]:
    made = Triton(http)
    try:
        yield made
    finally:
        made.client.close()


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def tensor(data: NDArray[np.generic], datatype: str = "UINT8", binary: bool = True) -> "triton.InferInput":
    made = triton.InferInput("images", list(data.shape), datatype)
    made.set_data_from_numpy(data, binary_data=binary)
    return made


def files(*pictures: bytes, binary: bool = True) -> "triton.InferInput":
    sent = pictures if binary else [base64.b64encode(one) for one in pictures]
    return tensor(np.array(sent, np.object_), "BYTES", binary)


def expected(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What plain ONNX Runtime says."""
    session = onnxruntime.InferenceSession(SHARP, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"images": data})
    assert isinstance(scores, np.ndarray)
    return scores


def test_the_server_and_its_models_describe_themselves(store: Store, serving: Serving) -> None:
    first, second = store.model("flowers"), store.model("flowers")
    store.model("birds", colour_network(32), side=32)
    store.deploy("shop", first)
    store.deploy("split", (first, 50), ("birds@1", 50))
    with serving() as http, client_of(http) as asked:
        assert asked.client.is_server_live()
        assert asked.client.is_server_ready()
        about = asked.client.get_server_metadata(headers=asked.headers)
        assert about["name"] == "netwright"
        assert {"binary_tensor_data", "classification"} <= set(about["extensions"])
        for name, version in (("shop", ""), ("shop", "1"), ("flowers", ""), ("flowers", "2"), (second, "")):
            assert asked.client.is_model_ready(name, version, headers=asked.headers)
        model = asked.client.get_model_metadata("flowers", headers=asked.headers)
        assert (model["name"], model["versions"], model["platform"]) == ("flowers", ["1", "2"], "onnxruntime_onnx")
        assert model["inputs"][0]["datatype"] == "UINT8"
        assert model["inputs"][0]["shape"] == [-1, SIDE, SIDE, 3]
        assert (model["outputs"][0]["datatype"], model["outputs"][0]["shape"]) == ("FP32", [-1, 3])
        assert model["outputs"][0]["parameters"]["labels"] == list(LABELS)
        assert asked.client.get_model_metadata("shop", headers=asked.headers)["versions"] == ["1"]
        assert asked.client.get_model_metadata("split", headers=asked.headers)["inputs"][0]["shape"] == [-1, -1, -1, 3]
        told = asked.client.get_model_config("birds", "1", headers=asked.headers)
        assert told["max_batch_size"] == 128
        assert told["input"][0]["dims"] == [32, 32, 3]


def test_the_index_lists_every_version_that_can_be_asked_and_why_one_cannot(store: Store, serving: Serving) -> None:
    store.deploy("shop", store.model("flowers"))
    store.model("broken", b"no ONNX at all")
    store.deploy("resting", store.model("birds"))
    with store.sessions.begin() as session:
        deployments.move(session, deployments.get(session, "resting"), DeploymentState.UNDEPLOYED)
    with serving() as http, client_of(http) as asked:
        assert not asked.client.is_model_ready("broken", headers=asked.headers)
        assert not asked.client.is_model_ready("resting", headers=asked.headers)
        listed = {entry["name"]: entry for entry in asked.client.get_model_repository_index(headers=asked.headers)}
        alive = http.post("/v2/repository/index", json={"ready": True}).json()
    assert set(listed) == {"shop", "resting", "flowers", "birds", "broken"}
    assert listed["shop"] == {"name": "shop", "version": "1", "state": "READY", "reason": ""}
    assert listed["resting"]["state"] == "UNAVAILABLE"
    assert "undeployed" in listed["resting"]["reason"]
    assert "ONNX Runtime" in listed["broken"]["reason"]
    assert [entry["name"] for entry in alive] == ["shop", "birds", "flowers"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_packed_pictures_get_the_scores_that_onnx_runtime_gives_them(
    store: Store, serving: Serving, binary: bool
) -> None:
    store.deploy("shop", store.model("flowers", SHARP))
    data = pixels(40)
    with serving() as http, client_of(http) as asked:
        wanted = triton.InferRequestedOutput("scores", binary_data=binary)
        for count in (1, 7, 40):
            reply = asked.infer("shop", tensor(data[:count], binary=binary), outputs=[wanted], request_id="number 7")
            scores = reply.as_numpy("scores")
            assert scores.dtype == np.float32
            np.testing.assert_allclose(scores, expected(data[:count]), atol=1e-6)
        told = reply.get_response()
        assert (told["model_name"], told["model_version"], told["id"]) == ("shop", "1", "number 7")
        assert told["parameters"] == {"model": "flowers@1"}
        bare = asked.infer("flowers", tensor(data, binary=binary))  # no outputs named: all of them, as binary data
        assert "id" not in bare.get_response()
        np.testing.assert_array_equal(bare.as_numpy("scores"), scores)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "base64"])
def test_picture_files_of_any_size_and_mode_are_answered_as_v1_answers_them(
    store: Store, serving: Serving, binary: bool
) -> None:
    store.deploy("shop", store.model("flowers", SHARP))
    sent = [
        noise(1),
        noise(2, (700, 500), "JPEG"),
        noise(3, (3, 90), "WEBP"),
        noise(4, (64, 64), "GIF"),
        noise(5, (17, 33), "BMP"),
        picture("blue", mode="1"),
        picture("green", mode="P"),
        picture("red", "PNG", mode="LA"),
        picture("red", "PNG", mode="I;16") if "I;16" in Image.MODES else picture("red", mode="L"),
        picture("blue", "JPEG", mode="CMYK"),
    ]
    with serving() as http, client_of(http) as asked:
        scores = asked.infer("shop", files(*sent, binary=binary)).as_numpy("scores")
        column = tensor(np.array(sent, np.object_).reshape(-1, 1), "BYTES")
        np.testing.assert_array_equal(asked.infer("shop", column).as_numpy("scores"), scores)
        for data, one in zip(sent, scores, strict=True):
            np.testing.assert_allclose(one, expected(to_array(data, Preprocessing(SIDE, 3))[None])[0], atol=1e-6)
            v1 = http.post("/v1/deployments/shop/predict?top_k=3", content=data).json()["predictions"][0]["scores"]
            by_label = {score["label"]: score["score"] for score in v1}
            np.testing.assert_allclose(one, [by_label[label] for label in LABELS], atol=2e-6)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_classification_lists_the_best_labels_as_triton_writes_them(
    store: Store, serving: Serving, binary: bool
) -> None:
    names = ["röd 🌹", "a:b", "\u7dd1"]
    store.model("flowers", labels=names)
    reds = np.full((2, SIDE, SIDE, 3), COLOURS["red"], np.uint8)
    with serving() as http, client_of(http) as asked:
        scores = asked.infer("flowers", tensor(reds)).as_numpy("scores")
        for count, listed in ((1, 1), (2, 2), (99, 3)):
            wanted = triton.InferRequestedOutput("scores", binary_data=binary, class_count=count)
            told = asked.infer("flowers", tensor(reds), outputs=[wanted]).as_numpy("scores")
            assert told.shape == (2, listed)
            lines = [line.decode() if isinstance(line, bytes) else line for line in told[1]]
            assert lines[0] == f"{scores[1, 0]:.6f}:0:röd 🌹"
            places = [int(line.split(":")[1]) for line in lines]
            assert places == np.argsort(-scores[1], kind="stable")[:listed].tolist()
            assert [line.split(":", 2)[2] for line in lines] == [names[place] for place in places]


def test_versions_are_those_of_the_model_or_of_what_stands_behind_the_deployment(
    store: Store, serving: Serving
) -> None:
    for turn in range(3):
        store.model("flowers", colour_network(turn=turn))
    store.deploy("shop", ("flowers@1", 50), ("flowers@3", 50))
    red = tensor(np.full((1, SIDE, SIDE, 3), COLOURS["red"], np.uint8))

    def best(asked: Triton, name: str, version: str) -> tuple[int, str]:
        reply = asked.infer(name, red, model_version=version)
        return int(reply.as_numpy("scores").argmax()), reply.get_response()["model_version"]

    with serving() as http, client_of(http) as asked:
        assert best(asked, "flowers", "") == (2, "3")
        assert [best(asked, "flowers", str(number)) for number in (1, 2, 3)] == [(0, "1"), (1, "2"), (2, "3")]
        assert best(asked, "flowers@2", "") == (1, "2")
        assert [best(asked, "shop", number) for number in ("1", "3")] == [(0, "1"), (2, "3")]
        for name, version, said in (
            ("shop", "2", "flowers@1, flowers@3"),
            ("flowers", "4", "flowers@4"),
            ("flowers", "0", "versions are numbers"),
            ("none", "", "there is no deployment or model 'none'"),
            ("flowers", "newest", "'newest'"),
        ):
            with pytest.raises(InferenceServerException, match="404") as refused:
                asked.infer(name, red, model_version=version)
            assert said in refused.value.message()


def test_the_id_decides_who_answers_in_a_split_and_without_one_the_header_does(store: Store, serving: Serving) -> None:
    store.deploy("shop", (store.model("flowers"), 50), (store.model("flowers"), 50))
    one = tensor(pixels(1))
    with serving() as http, client_of(http) as asked:

        def answering(request_id: str, **headers: str) -> str:
            reply = asked.client.infer("shop", [one], request_id=request_id, headers={**asked.headers, **headers})
            return str(reply.get_response()["model_version"])

        by_id = {f"order {number}": answering(f"order {number}") for number in range(30)}
        assert set(by_id.values()) == {"1", "2"}
        assert {name: answering(name, **{"X-Request-ID": "other"}) for name in by_id} == by_id
        by_header = {f"h{number}": answering("", **{"X-Request-ID": f"h{number}"}) for number in range(30)}
        assert set(by_header.values()) == {"1", "2"}
        assert {name: answering(name) for name in by_header} == by_header
        body = {"id": "mine-1", "inputs": [{"name": "images", "shape": [0], "datatype": "BYTES", "data": []}]}
        assert http.post("/v2/models/shop/infer", json=body).headers["x-request-id"] != "mine-1"  # refused unread
        body["inputs"][0] |= {"shape": [1], "data": [base64.b64encode(picture()).decode()]}  # type: ignore[index]
        assert http.post("/v2/models/shop/infer", json=body).headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("there", [None, "gzip", "deflate"])
@pytest.mark.parametrize("back", [None, "gzip", "deflate"])
def test_bodies_may_be_packed_either_way(store: Store, serving: Serving, there: str | None, back: str | None) -> None:
    store.model("flowers", SHARP)
    data = pixels(100)
    with serving() as http, client_of(http) as asked:
        for binary in (True, False):
            reply = asked.infer(
                "flowers",
                tensor(data, binary=binary),
                outputs=[triton.InferRequestedOutput("scores", binary_data=binary)],
                request_compression_algorithm=there,
                response_compression_algorithm=back,
            )
            np.testing.assert_allclose(reply.as_numpy("scores"), expected(data), atol=1e-6)


def test_many_at_once_share_batches(store: Store, serving: Serving) -> None:
    store.model("flowers", SHARP)
    data = pixels(60)
    with serving() as http, client_of(http) as asked:
        running = [
            asked.client.async_infer("flowers", [tensor(data[at : at + 3])], headers=dict(asked.headers))
            for at in range(0, 60, 3)
        ]
        scores = np.concatenate([one.get_result().as_numpy("scores") for one in running])
    np.testing.assert_allclose(scores, expected(data), atol=1e-6)


def test_requests_are_counted_under_the_deployment_beside_those_of_v1(store: Store, serving: Serving) -> None:
    store.deploy("counted", store.model("flowers"))
    with serving() as http, client_of(http) as asked:
        asked.infer("counted", tensor(pixels(5)))
        http.post("/v1/deployments/counted/predict", content=picture())
        http.post("/v2/models/counted/infer", content=b"{")
        http.post("/v2/models/made-up/infer", content=b"{")
        metrics = http.get("/metrics").text
    assert 'netwright_predict_requests_total{status="200",target="deployment/counted"} 2.0' in metrics
    assert 'netwright_predict_requests_total{status="400",target="deployment/counted"} 1.0' in metrics
    assert 'netwright_predict_pictures_total{target="deployment/counted"} 6.0' in metrics
    assert "made-up" not in metrics
