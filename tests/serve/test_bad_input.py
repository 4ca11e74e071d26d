"""Whatever is wrong with a request: a clear answer, and the next request is served as if nothing had been."""

import base64
import io
import json
import os
import socket
import struct
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image

from serve.capacity import Capacity
from store import deployments
from store.states import DeploymentState
from tests.serve.conftest import Serving, Store
from tests.serve.networks import heavy_network, noise, picture

URL = "/v1/deployments/colours/predict"
GOOD = {"b64": base64.b64encode(picture()).decode()}


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is that large, and is not."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def problem(answer: httpx.Response, status: int, *said: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["instance"] == answer.request.url.path
    for words in said:
        assert words in body["detail"], body
    return body


def test_what_is_no_picture_is_refused_with_the_reason(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    whole = noise(1, (64, 64), "JPEG")
    many_pixels = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(many_pixels, "PNG")
    refused = {
        "text": (b"hello, this is no picture", "not a picture but a text file"),
        "cut JPEG": (whole[: len(whole) // 2], "damaged or cut short"),
        "cut large picture": (noise(1, (400, 400), "JPEG")[:-20_000], "damaged or cut short"),
        "random bytes": (os.urandom(50_000), "not a picture"),
        "15 MiB of zeros": (bytes(15 << 20), "not a picture"),
        "a picture that lies about its size": (png_header(60_000, 60_000), "pixels, the limit is"),
        "100 megapixels and some": (many_pixels.getvalue(), "100,010,000 pixels, the limit is 100,000,000"),
        "a ZIP": (b"PK\x03\x04" + bytes(100), "ZIP"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "convert it"),
    }
    with serving() as client:
        for name, (data, reason) in refused.items():
            body = problem(client.post(URL, content=data), 422)
            assert reason.lower() in body["detail"].lower(), (name, body["detail"])
            assert body["type"] == "urn:netwright:problem:unreadable-picture"
            assert body["errors"][0]["field"] == "body"
        assert client.post(URL, content=picture()).status_code == 200


def test_a_body_that_is_too_large_is_413_whether_its_length_is_announced_or_not(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    twenty = bytes(20 << 20)
    with serving() as client:
        problem(client.post(URL, content=twenty), 413, "20,971,520", "16,777,216", "16 MiB")
        problem(client.post(URL, content=iter([twenty[: 10 << 20], twenty[10 << 20 :]])), 413, "16 MiB")
        assert client.post(URL, content=picture()).status_code == 200


def test_an_empty_body_and_unknown_types_say_what_is_accepted(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    with serving() as client:
        problem(client.post(URL), 422, "the body is empty", "multipart/form-data", "application/json")
        problem(
            client.post(URL, content=picture(), headers={"Content-Type": "text/plain"}), 415, "'text/plain'", "image/*"
        )
        problem(client.post(URL, content=picture(), headers={"Content-Encoding": "gzip"}), 415, "'gzip'")
        problem(client.post(URL, files={"note": (None, "no file")}), 422, "note")
        problem(client.post(URL, files={"top_k": (None, "2")}), 422, "no file", "curl")
        problem(client.post(URL, content=b"x", headers={"Content-Type": "multipart/form-data"}), 422, "boundary")
        torn = {"Content-Type": "multipart/form-data; boundary=b"}
        problem(client.post(URL, content=b"--b\r\nnonsense", headers=torn), 422, "form")
        problem(client.get(URL), 405, "GET")
        problem(client.post(f"{URL}?top_k=0", content=picture()), 422, "top_k", "1000")
        problem(client.post(f"{URL}?top_k=9999999999999", content=picture()), 422, "top_k")
        problem(client.post(f"{URL}?top_k=two", content=picture()), 422, "top_k")


@pytest.fixture(scope="module")
def wrong_json() -> dict[str, tuple[str, int, str, str]]:
    """By name: the body, the status, the field that is named, what is said of it."""
    return {
        "no JSON": ("{nope", 400, "", "not valid JSON"),
        "a list": ("[]", 422, "", "object"),
        "nothing": ("{}", 422, "instances", "required"),
        "no instances": ('{"instances": []}', 422, "instances", "at least 1"),
        "an unknown field": (json.dumps({"instances": [GOOD], "explain": True}), 422, "explain", "not permitted"),
        "a number": ('{"instances": [7]}', 422, "instances[0]", "object"),
        "neither": (json.dumps({"instances": [GOOD, {}]}), 422, "instances[1]", "one picture"),
        "both": (json.dumps({"instances": [{**GOOD, "image": GOOD}]}), 422, "instances[0]", "one picture"),
        "not base64": ('{"instances": [{"b64": "@@@"}]}', 422, "instances[0].b64", "base64"),
        "bad padding": ('{"instances": [{"image": {"b64": "abcde"}}]}', 422, "instances[0].image.b64", "base64"),
        "not ASCII": ('{"instances": [{"b64": "bäh"}]}', 422, "instances[0].b64", "base64"),
        "no text": ('{"instances": [{"b64": 5}]}', 422, "instances[0].b64", "string"),
        "an empty picture": (json.dumps({"instances": [GOOD, {"b64": ""}]}), 422, "instances[1]", "empty"),
        "text as a picture": ('{"instances": [{"b64": "aGVsbG8="}]}', 422, "instances[0]", "not a picture"),
        "129 instances": (json.dumps({"instances": [GOOD] * 129}), 422, "instances", "at most 128"),
        "a million instances": ('{"instances": [' + "{}," * 999_999 + "{}]}", 422, "instances", "at most 128"),
        "top_k of 0": (json.dumps({"instances": [GOOD], "top_k": 0}), 422, "top_k", "greater than or equal to 1"),
        "top_k as text": (json.dumps({"instances": [GOOD], "top_k": "3"}), 422, "top_k", "integer"),
    }


def test_wrong_json_names_the_field(
    store: Store, serving: Serving, wrong_json: dict[str, tuple[str, int, str, str]]
) -> None:
    store.deploy("colours", store.model())
    with serving() as client:
        for name, (body, status, field, said) in wrong_json.items():
            answer = client.post(URL, content=body, headers={"Content-Type": "application/json"})
            found = problem(answer, status)
            assert said in found["detail"], (name, found["detail"])
            if field:
                assert field in [error["field"] for error in found["errors"]], (name, found)
            assert len(answer.content) < 100_000, name
        twice = client.post(f"{URL}?top_k=1", json={"instances": [GOOD]})
        problem(twice, 422, "top_k", "JSON body")


def test_all_bad_pictures_of_several_are_named_and_none_is_answered(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    files = [
        ("image", ("good.png", picture())),
        ("image", ("bad.png", b"nope")),
        ("image", ("worse.png", picture()[:40])),
    ]
    with serving() as client:
        body = problem(client.post(URL, files=files), 422, "2 fields")
    assert [error["field"] for error in body["errors"]] == ["image[1] (bad.png)", "image[2] (worse.png)"]


def test_unknown_names_are_404_and_an_undeployed_one_is_409_with_the_way_to_deploy_it(
    store: Store, serving: Serving
) -> None:
    store.deploy("colours", store.model())
    with store.sessions.begin() as session:
        deployments.move(session, deployments.get(session, "colours"), DeploymentState.UNDEPLOYED)
    with serving() as client:
        problem(client.post("/v1/deployments/none/predict", content=picture()), 404, "there is no deployment 'none'")
        problem(client.post("/v1/models/none/predict", content=picture()), 404, "there is no model 'none'")
        problem(client.post("/v1/models/colours@2/predict", content=picture()), 404, "'colours@2'")
        problem(client.post(URL, content=picture()), 409, "'colours' is undeployed", "PATCH", "deployed")
        problem(client.post("/v1/deployments/a%00b/predict", content=picture()), 404)
        problem(client.post(f"/v1/deployments/{'x' * 5000}/predict", content=picture()), 404)
        problem(client.post("/v1/elsewhere", content=picture()), 404)


def test_without_a_good_key_nothing_is_answered_or_read(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    with serving() as client:
        client.headers.pop("Authorization")
        assert "X-API-Key" in problem(client.post(URL, content=picture()), 401)["detail"]
        for secret in ("nw_wrong", "nw_" + "x" * 43, "x", "nw_" + "y" * 5000):
            answer = client.post(URL, content=picture(), headers={"Authorization": f"Bearer {secret}"})
            problem(answer, 401, "not known here, or it has expired or been revoked")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        problem(client.post("/v1/deployments/none/predict", content=picture()), 401)


def test_too_much_at_once_is_503_with_the_time_to_come_again(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model(onnx=heavy_network(), side=64))
    capacity = Capacity(pictures_max=4, bodies_max_bytes=100_000)
    with serving(capacity) as client:
        files = [("image", picture()) for _ in range(5)]
        answer = client.post(URL, files=files)
        problem(answer, 503, "the limit is 4")
        assert answer.headers["retry-after"] == "1"
        problem(client.post(URL, content=bytes(200_000)), 503, "the limit is 100000")
        assert client.post(URL, files=files[:4]).status_code == 200


def test_a_body_that_stops_halfway_is_given_up(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    with serving(Capacity(body_max_s=0.3)) as client:
        key = client.headers["authorization"]
        head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 1000\r\n\r\n".encode()
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=10) as stalled:
            stalled.sendall(head + b"only this")
            assert stalled.recv(20).startswith(b"HTTP/1.1 408")
        with socket.create_connection(address, timeout=10) as broken:
            broken.sendall(head + b"only this")
        assert client.post(URL, content=picture()).status_code == 200
