"""What speaks for a label, by covering a picture piece by piece in the serving process."""

import base64
import io
import threading

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.capacity import Capacity
from serve.explain import AT_ONCE, wants_png
from serve.schemas import ExplainReply
from tests.serve.conftest import Serving, Store, eventually
from tests.serve.networks import colour_network, heavy_network, picture
from tests.serve.test_formats import b64

URL = "/v1/deployments/colours/explain"


def spotted(top: int = 0, left: int = 0, size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    """A green picture with a red quarter of its sides, `top` and `left` in sixteenths."""
    width, height = size
    pixels = np.full((height, width, 3), (20, 230, 20), np.uint8)
    rows = slice(height * top // 16, height * (top + 4) // 16)
    pixels[rows, width * left // 16 : width * (left + 4) // 16] = (230, 20, 20)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def explained(answer: httpx.Response) -> ExplainReply:
    assert answer.status_code == 200, answer.text
    return ExplainReply.model_validate_json(answer.content)


def shown(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize(("top", "left"), [(0, 0), (12, 4)])
def test_the_mass_lies_where_the_label_is_decided(store: Store, serving: Serving, top: int, left: int) -> None:
    store.deploy("colours", store.model(onnx=colour_network(sharpness=0.02)))
    with serving() as client:
        found = explained(
            client.post(URL, content=spotted(top, left), params={"label": "red", "patch": 4, "stride": 2})
        )
    grid = np.array(found.grid)
    assert (found.label, found.predicted, found.method) == ("red", "green", "occlusion")
    assert (found.side, found.patch, found.stride, found.fill) == (16, 4, 2, "mean")
    assert grid.shape == (8, 8)
    inside = np.s_[top // 2 : top // 2 + 2, left // 2 : left // 2 + 2]
    assert grid[inside].min() > 0
    assert grid.clip(0)[inside].sum() > 0.6 * grid.clip(0).sum()
    assert grid[8 - top // 2 - 1, 7] < 0  # green speaks against red


def test_the_reply_has_the_score_that_predict_gives_and_both_as_png(store: Store, serving: Serving) -> None:
    model = store.model()
    store.deploy("colours", model)
    data = spotted(size=(640, 320), kind="JPEG")
    with serving() as client:
        predicted = client.post("/v1/deployments/colours/predict", content=data).json()["predictions"][0]
        answer = client.post(URL, content=data, headers={"X-Request-ID": "mine-1"})
        direct = explained(client.post(f"/v1/models/{model}/explain", content=data))
        drawn = client.post(URL, content=data, headers={"Accept": "image/png"})
    found = explained(answer)
    assert (found.label, found.score) == (predicted["label"], predicted["score"])
    assert found.label == found.predicted == "green"
    assert found.request_id == answer.headers["x-request-id"] == "mine-1"
    assert (found.model.id, found.deployment, direct.deployment) == (model, "colours", None)
    assert direct.grid == found.grid
    assert drawn.headers["content-type"] == "image/png"
    assert drawn.content == base64.b64decode(found.overlay)
    assert shown(drawn.content).size == (512, 256)  # as wide as it was, no larger than needed


def test_a_picture_and_its_options_may_come_in_any_usual_way(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    data = spotted()
    options = {"label": "blue", "patch": 5, "stride": 4, "fill": "blur"}
    texts = {name: str(value) for name, value in options.items()}
    with serving() as client:
        grids = [
            explained(answer).grid
            for answer in (
                client.post(URL, content=data, params=texts),
                client.post(URL, files={"image": data}, data=texts),
                client.post(URL, files={"image": data}, params=texts),
                client.post(URL, json={"b64": b64(data), **options}),
                client.post(URL, json={"image": {"b64": b64(data)}, **options}),
            )
        ]
        other = explained(client.post(URL, json={"b64": b64(data)}))
    assert all(grid == grids[0] for grid in grids)
    assert grids[0] != other.grid
    assert other.patch == 3  # a sixth of 16


def test_a_gray_picture_a_small_one_and_one_of_a_single_colour_are_drawn_too(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    with serving() as client:
        for mode, size, drawn_size in (
            ("L", (28, 28), (252, 252)),
            ("1", (1, 1), (256, 256)),
            ("P", (5, 3), (255, 153)),
        ):
            answer = client.post(URL, content=picture("red", size=size, mode=mode), headers={"Accept": "image/png"})
            assert shown(answer.content).size == drawn_size
        flat = explained(client.post(URL, content=picture("red")))
    assert not np.any(flat.grid)  # covered by its own mean colour it stays what it is


ODD: list[tuple[dict[str, str], str, str]] = [
    ({"label": "mauve"}, "label", "knows no such label; it knows red, green, blue"),
    ({"patch": "17"}, "patch", "pictures of 16×16 pixels; a patch may have 1 to 16"),
    ({"patch": "0"}, "patch", "greater than or equal to 1"),
    ({"patch": "x"}, "patch", "integer"),
    ({"patch": "4", "stride": "5"}, "stride", "may be 1 to 4"),
    ({"fill": "black"}, "fill", "'mean' or 'blur'"),
    ({"top_k": "3"}, "top_k", "Extra inputs"),
]


def test_what_cannot_be_explained_is_refused_with_what_could_be(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    store.deploy("large", store.model("large", heavy_network(side=64, depth=1), side=64))
    good = spotted()
    with serving(Capacity(picture_max_pixels=1_000_000)) as client:
        for parameters, field, said in ODD:
            answer = client.post(URL, content=good, params=parameters)
            assert answer.status_code == 422, parameters
            assert [(fault["field"]) for fault in answer.json()["errors"]] == [field], parameters
            assert said in answer.json()["errors"][0]["message"], parameters
        many = client.post("/v1/deployments/large/explain", content=good, params={"patch": "2", "stride": "1"})
        assert "3,969 covered copies; the limit is 1,024, a stride of 2 would do" in many.json()["detail"]
        for data, said in (
            (b"hello", "not a picture"),
            (b"", "empty"),
            (good[:60], "damaged"),
            (picture("red", size=(1001, 1000)), "1,001,000 pixels, the limit is 1,000,000"),
        ):
            answer = client.post(URL, content=data)
            assert answer.status_code == 422, said
            assert said in answer.json()["detail"]
        for body in (
            {"b64": "x"},
            {"b64": b64(good), "image": {"b64": b64(good)}},
            {"b64": b64(good), "patch": "3"},
            {"b64": b64(good), "image": [[]] * 10_000},
            {},
        ):
            assert client.post(URL, json=body).status_code == 422, body
        assert client.post(URL, json={"b64": b64(good)}, params={"patch": "3"}).status_code == 422
        assert client.post(URL, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
        assert client.post(URL, content=good, headers={"Content-Type": "text/plain"}).status_code == 415
        assert client.post(URL, content=b"x" * (17 << 20)).status_code == 413
        two = client.post(URL, files=[("image", good), ("image", good)])
        assert "one is explained at a time" in two.json()["detail"]
        assert client.post("/v1/deployments/none/explain", content=good).status_code == 404
        assert client.post(URL, content=good, headers={"Authorization": "Bearer no"}).status_code == 401
        assert client.get(URL).status_code == 405
        broken = store.model("broken", b"no onnx")
        assert client.post(f"/v1/models/{broken}/explain", content=good).json()["type"].endswith("unusable-model")


def test_predictions_go_on_while_more_are_to_be_explained_than_there_is_room_for(
    store: Store, serving: Serving
) -> None:
    store.deploy("heavy", store.model("heavy", heavy_network(side=32, depth=3), side=32))
    data, statuses = spotted(), list[int]()
    with serving() as client:
        client.post("/v1/deployments/heavy/predict", content=data)

        def ask() -> None:
            statuses.append(client.post("/v1/deployments/heavy/explain", content=data).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2 * AT_ONCE)]
        for thread in threads:
            thread.start()
        answered = 0
        while any(thread.is_alive() for thread in threads):
            assert client.post("/v1/deployments/heavy/predict", content=data).status_code == 200
            answered += 1
        counted = client.get("/metrics").text
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= AT_ONCE
    assert answered > AT_ONCE
    assert 'netwright_explain_requests_total{status="200",target="deployment/heavy"}' in counted


def test_a_client_that_leaves_is_not_worked_for_any_longer(store: Store, serving: Serving) -> None:
    store.deploy("heavy", store.model("heavy", heavy_network(side=64), side=64))
    wish = {"patch": "4", "stride": "2"}  # 961 copies of some 10 ms each
    with serving() as client:
        assert client.post("/v1/deployments/heavy/predict", content=spotted()).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/deployments/heavy/explain", content=spotted(), params=wish, timeout=0.3)
        gone = 'netwright_explain_requests_total{status="499",target="deployment/heavy"} 1.0'
        eventually(lambda: gone in client.get("/metrics").text, within_s=5)
        assert "netwright_predict_pictures_in_work 0.0" in client.get("/metrics").text


def test_png_is_sent_to_those_who_ask_for_it() -> None:
    for accept in ("image/png", "image/*", "image/png;q=0.9, application/json;q=0.5", "image/png, */*"):
        assert wants_png(accept), accept
    for accept in ("", "*/*", "application/json", "image/png;q=0.1, application/json", "image/png;q=x", "image/jpeg"):
        assert not wants_png(accept), accept
