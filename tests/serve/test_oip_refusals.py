"""Whatever is wrong with a request over /v2: `{"error": …}` that names it, and the next request is served."""

import base64
import gzip
import io
import json
import socket
import struct
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image
from prometheus_client import REGISTRY
from sqlalchemy import text

from serve.capacity import Capacity
from serve.encodings import wanted
from store import deployments
from store.keys import Role
from store.states import DeploymentState
from tests.serve.conftest import Serving, Store, digest, eventually
from tests.serve.networks import colour_network, heavy_network, noise, picture

URL = "/v2/models/colours/infer"
HEADER = "Inference-Header-Content-Length"
SHAPE = [1, 16, 16, 3]
SIZE = 768
FILE = base64.b64encode(picture()).decode()


def refused(answer: httpx.Response, status: int, *said: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert list(body) == ["error"]
    for words in said:
        assert words in body["error"], body["error"]
    assert len(answer.content) < 10_000
    return str(body["error"])


def tensor(**changes: Any) -> dict[str, Any]:
    """The input of a right request over JSON, changed; None leaves a field out."""
    whole = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [FILE]} | changes
    return {name: value for name, value in whole.items() if value is not None}


def pixels(**changes: Any) -> dict[str, Any]:
    return tensor(**({"shape": SHAPE, "datatype": "UINT8", "data": [7] * SIZE} | changes))


def bound(document: dict[str, Any] | bytes, tail: bytes, length: int | str | None = None) -> dict[str, Any]:
    """What httpx sends: the JSON, binary data behind it, and the header."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    return {"content": head + tail, "headers": {HEADER: str(len(head) if length is None else length)}}


def binary(size: Any, **changes: Any) -> dict[str, Any]:
    return {"inputs": [pixels(data=None, parameters={"binary_data_size": size}, **changes)]}


def element(data: bytes, says: int | None = None) -> bytes:
    return struct.pack("<I", len(data) if says is None else says) + data


def still_answers(client: httpx.Client) -> None:
    assert client.post(URL, json={"inputs": [tensor()]}).status_code == 200
    assert client.post(URL, **bound(binary(SIZE), bytes(SIZE))).status_code == 200


def test_wrong_json_says_what_is_wrong_with_which_field(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    deep = "[" * 100_000
    wrong: dict[str, tuple[Any, tuple[str, ...]]] = {
        "nothing": ("", ("the body is empty", "inputs")),
        "no JSON": ("{nope", ("not valid JSON",)),
        "not UTF-8": (b'{"id": "\xff"}', ("not valid JSON",)),
        "too deep": ('{"inputs": ' + deep, ("not valid JSON",)),
        "a list": ([], ("object",)),
        "millions of lists": (
            "[" + "[]," * 4_000_000,
            ("8,000,001 lists, objects and commas", "1,048,576", "binary data"),
        ),
        "no inputs": ({}, ("inputs", "required")),
        "empty inputs": ({"inputs": []}, ("inputs", "at least 1")),
        "many inputs": ({"inputs": [tensor()] * 10_000}, ("inputs", "at most 16")),
        "an unknown field": ({"inputs": [tensor()], "output": []}, ("output", "not permitted")),
        "an unknown field of the input": ({"inputs": [tensor(dtype="UINT8")]}, ("inputs[0].dtype", "not permitted")),
        "an id that is a number": ({"id": 7, "inputs": [tensor()]}, ("id", "string")),
        "a long id": ({"id": "x" * 2000, "inputs": [tensor()]}, ("id", "1024")),
        "two inputs": ({"inputs": [tensor(), tensor()]}, ("['images', 'images']", "one input, 'images'")),
        "another input": ({"inputs": [tensor(name="input_0")]}, ("input_0", "one input, 'images'")),
        "no name": ({"inputs": [tensor(name=None)]}, ("inputs[0].name", "required")),
        "no shape": ({"inputs": [tensor(shape=None)]}, ("inputs[0].shape", "required")),
        "no data": ({"inputs": [tensor(data=None)]}, ("'images' has no data", "binary_data_size")),
        "data that is text": ({"inputs": [tensor(data=FILE)]}, ("'images' has data that is no list",)),
        "FP32": ({"inputs": [pixels(datatype="FP32", data=[0.5] * SIZE)]}, ('"FP32"', "UINT8", "scales itself")),
        "FP64 of NaN": (
            '{"inputs": [{"name": "images", "shape": [1], "datatype": "FP64", "data": [NaN]}]}',
            ('"FP64"',),
        ),
        "no datatype": ({"inputs": [pixels(datatype="PIXELS")]}, ('"PIXELS"', "BYTES [N]")),
        "a shape of text": ({"inputs": [pixels(shape=["a"])]}, ("inputs[0].shape[0]", "integer")),
        "a negative shape": ({"inputs": [pixels(shape=[-1, 16, 16, 3])]}, ("inputs[0].shape[0]", "greater")),
        "a fractional shape": ({"inputs": [pixels(shape=[1.5, 16, 16, 3])]}, ("inputs[0].shape[0]", "integer")),
        "a huge shape": ({"inputs": [pixels(shape=[1, 1 << 70, 16, 3])]}, ("inputs[0].shape[1]",)),
        "a large shape": ({"inputs": [pixels(shape=[1, 1 << 60, 1 << 60, 3])]}, ("has 768 elements", f"{3 << 120:,}")),
        "three axes": ({"inputs": [pixels(shape=[16, 16, 3])]}, ("[16, 16, 3]", "[N, side, side, channels]")),
        "two axes of files": ({"inputs": [tensor(shape=[1, 2], data=[FILE] * 2)]}, ("[1, 2]", "[N] or [N, 1]")),
        "a batch of none": ({"inputs": [pixels(shape=[0, 16, 16, 3], data=[])]}, ("a batch of 0;", "1 to 128")),
        "a million pictures": ({"inputs": [pixels(shape=[10**6, 16, 16, 3])]}, ("a batch of 1,000,000;", "1 to 128")),
        "a million files": ({"inputs": [tensor(shape=[10**6], data=[""] * 10**5)]}, ("a batch of 1,000,000;", "128")),
        "129 files": ({"inputs": [tensor(shape=[129], data=[FILE] * 129)]}, ("a batch of 129;", "1 to 128")),
        "another size": (
            {"inputs": [pixels(shape=[1, 8, 8, 3], data=[7] * 192)]},
            ("[1, 8, 8, 3]", "colours@1 takes [N, 16, 16, 3]"),
        ),
        "channels first": ({"inputs": [pixels(shape=[1, 3, 16, 16])]}, ("[1, 3, 16, 16]", "rows, columns, RGB")),
        "too few": ({"inputs": [pixels(data=[7] * 700)]}, ("has 700 elements", "768")),
        "too many": ({"inputs": [pixels(data=[7] * 769)]}, ("has 769 elements", "768")),
        "nested otherwise": (
            {"inputs": [pixels(data=[[7] * 768])]},
            ("nested otherwise", "a list of 768 along axis 1"),
        ),
        "half nested": ({"inputs": [tensor(shape=[2], data=[[FILE], FILE])]}, ("element 0 of 'images' is [", "base64")),
        "256": ({"inputs": [pixels(data=[*[7] * 767, 256])]}, ("element 767 of 'images' is 256", "0 to 255")),
        "-1": ({"inputs": [pixels(data=[-1, *[7] * 767])]}, ("element 0 of 'images' is -1", "0 to 255")),
        "a fraction": ({"inputs": [pixels(data=[7, 0.5, *[7] * 766])]}, ("element 1 of 'images' is 0.5", "whole")),
        "NaN": (json.dumps({"inputs": [pixels(data=[float("nan")] * SIZE)]}), ("element 0 of 'images' is nan",)),
        "true": ({"inputs": [pixels(data=[7, True, *[7] * 766])]}, ("element 1 of 'images' is True",)),
        "text as a pixel": ({"inputs": [pixels(data=["a", *[7] * 767])]}, ("element 0 of 'images' is \"a\"",)),
        "null as a pixel": ({"inputs": [pixels(data=[None, *[7] * 767])]}, ("element 0 of 'images' is None",)),
        "a number as a file": ({"inputs": [tensor(data=[5])]}, ("element 0 of 'images' is 5", "base64")),
        "base64 garbage": ({"inputs": [tensor(data=["@@@"])]}, ("element 0 of 'images' is not base64", "'@@@'")),
        "base64 cut short": ({"inputs": [tensor(data=[FILE[:-1]])]}, ("element 0 of 'images' is not base64",)),
        "base64 not ASCII": ({"inputs": [tensor(data=["bäh"])]}, ("element 0 of 'images' is not base64",)),
        "text as a picture": ({"inputs": [tensor(data=["aGVsbG8="])]}, ("the picture is not a picture but",)),
        "an empty picture": ({"inputs": [tensor(data=[""])]}, ("is empty",)),
        "one bad file of two": (
            {"inputs": [tensor(shape=[2], data=[FILE, "aGVsbG8="])]},
            ("images[1]", "not a picture"),
        ),
        "another output": ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, ("logits", "one output, 'scores'")),
        "an output twice": ({"inputs": [tensor()], "outputs": [{"name": "scores"}] * 2}, ("one output, 'scores'",)),
        "classification of text": (
            {"inputs": [tensor()], "outputs": [{"name": "scores", "parameters": {"classification": "3"}}]},
            ("classification of 'scores' is \"3\"", "whole number"),
        ),
        "classification of -1": (
            {"inputs": [tensor()], "outputs": [{"name": "scores", "parameters": {"classification": -1}}]},
            ("classification of 'scores' is -1",),
        ),
        "binary_data of text": (
            {"inputs": [tensor()], "outputs": [{"name": "scores", "parameters": {"binary_data": "yes"}}]},
            ('binary_data is "yes"', "true or false"),
        ),
        "binary_data_output of 1": (
            {"inputs": [tensor()], "parameters": {"binary_data_output": 1}},
            ("binary_data_output is 1", "true or false"),
        ),
        "a timeout of text": (
            {"inputs": [tensor()], "parameters": {"timeout": "1 s"}},
            ('timeout is "1 s"', "microseconds"),
        ),
        "a timeout of -1": ({"inputs": [tensor()], "parameters": {"timeout": -1}}, ("timeout is -1",)),
        "shared memory": (
            {"inputs": [tensor(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 1})]},
            ("'images'", "shared memory, which is not offered"),
        ),
        "shared memory for the output": (
            {"inputs": [tensor()], "outputs": [{"name": "scores", "parameters": {"shared_memory_region": "r"}}]},
            ("'scores'", "shared memory, which is not offered"),
        ),
    }
    with serving() as client:
        for name, (body, said) in wrong.items():
            content = body if isinstance(body, str | bytes) else json.dumps(body)
            try:
                refused(client.post(URL, content=content), 400, *said)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
        still_answers(client)


def test_binary_data_that_lies_about_its_length_is_refused_with_both_lengths(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    good = json.dumps(binary(SIZE)).encode()
    both = {"inputs": [pixels(parameters={"binary_data_size": SIZE})]}
    plain = {"inputs": [pixels(data=None)]}

    def of_files(raw: bytes, count: int = 1) -> dict[str, Any]:
        given = tensor(shape=[count], data=None, parameters={"binary_data_size": len(raw)})
        return bound({"inputs": [given]}, raw)

    wrong: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "too few bytes": (bound(binary(SIZE), bytes(700)), ("binary_data_size of 'images' is 768", "700 bytes follow")),
        "too many bytes": (bound(binary(SIZE), bytes(800)), ("is 768", "800 bytes follow")),
        "a size of the wrong shape": (bound(binary(700), bytes(700)), ("700 bytes of binary data", "has 768")),
        "no bytes": (bound(binary(SIZE), b""), ("is 768", "0 bytes follow")),
        "a negative size": (bound(binary(-1), b""), ("binary_data_size of 'images' is -1",)),
        "a size of text": (bound(binary("768"), bytes(SIZE)), ("binary_data_size of 'images' is \"768\"",)),
        "bytes nobody claims": (bound({"inputs": [tensor()]}, b"xyz"), ("3 bytes follow the JSON", "binary_data_size")),
        "both": (bound(both, bytes(SIZE)), ("both `data` and binary_data_size",)),
        "neither": (bound(plain, bytes(SIZE)), ("768 bytes follow the JSON",)),
        "no header": ({"content": good + bytes(SIZE)}, ("not valid JSON", HEADER)),
        "a header of text": (bound(good, bytes(SIZE), "many"), (HEADER, "'many'", f"{len(good) + SIZE:,}")),
        "a negative header": (bound(good, bytes(SIZE), -5), (HEADER, "'-5'")),
        "a header of zero": (bound(good, bytes(SIZE), 0), (HEADER, "'0'")),
        "a header beyond the body": (bound(good, b"", len(good) + 1), (HEADER, "bytes of the body")),
        "a header of a thousand digits": (bound(good, b"", "9" * 1000), (HEADER,)),
        "a header that cuts the JSON": (bound(good, bytes(SIZE), len(good) - 1), ("not valid JSON",)),
        "an element longer than the data": (
            of_files(element(b"abc", 4_000_000_000)),
            ("element 0", "4,000,000,000 bytes", "3 are left"),
        ),
        "an element too many": (of_files(element(picture()) * 2), ("are left after the last of its 1",)),
        "an element too few": (of_files(element(picture()), 2), ("ends before element 1 of 2",)),
        "a torn length": (of_files(b"\x01\x00"), ("2 bytes and ends before element 0 of 1", "4 bytes, least first")),
        "text as a picture": (of_files(element(b"hello")), ("not a picture",)),
        "an empty picture": (of_files(element(b"")), ("is empty",)),
    }
    with serving() as client:
        for name, (sent, said) in wrong.items():
            try:
                refused(client.post(URL, **sent), 400, *said)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
        still_answers(client)


def test_pictures_that_are_damaged_or_too_large_are_refused_like_those_of_v1(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    many_pixels = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(many_pixels, "PNG")
    with serving() as client:
        for data, said in (
            (noise(1, (64, 64), "JPEG")[:500], "damaged or cut short"),
            (many_pixels.getvalue(), "100,010,000 pixels, the limit is 100,000,000"),
            (b"PK\x03\x04" + bytes(100), "zip archive"),
        ):
            body = {"inputs": [tensor(data=[base64.b64encode(data).decode()])]}
            refused(client.post(URL, json=body), 400, said)
        still_answers(client)


def test_packed_bodies_are_bounded_and_broken_ones_named(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    right = json.dumps({"inputs": [tensor()]}).encode()
    bomb = gzip.compress(bytes(400 << 20), 9)
    assert len(bomb) < 1 << 20
    with serving() as client:

        def send(content: bytes, encoding: str) -> httpx.Response:
            return client.post(URL, content=content, headers={"Content-Encoding": encoding})

        for packed, encoding in (
            (gzip.compress(right), "gzip"),
            (zlib.compress(right), "Deflate"),
            (right, "identity"),
        ):
            assert send(packed, encoding).status_code == 200
        refused(send(bomb, "gzip"), 413, f"{len(bomb):,} bytes", "unpacks to more than 16,777,216")
        refused(send(zlib.compress(bytes(20 << 20)), "deflate"), 413, "16 MiB")
        refused(send(right, "gzip"), 400, "the body is not gzip")
        refused(send(gzip.compress(right), "deflate"), 400, "the body is not deflate")
        refused(send(gzip.compress(right)[:-9], "gzip"), 400, "cut short")
        refused(send(b"", "gzip"), 400, "cut short after 0 bytes")
        refused(send(gzip.compress(right) + b"more", "gzip"), 400, "4 bytes follow the end")
        refused(send(right, "br"), 415, "'br'", "gzip, deflate or none")
        refused(send(gzip.compress(gzip.compress(right)), "gzip, gzip"), 415, "'gzip, gzip'")
        still_answers(client)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate;q=1.0, gzip;q=0.5", "deflate"),
        ("gzip;q=0", None),
        ("GZIP ; Q=0.1", "gzip"),
        ("identity, br", None),
        ("gzip;q=nonsense, deflate", "deflate"),
        ("*", None),
        (";;;,,=q", None),
    ],
)
def test_an_answer_is_packed_as_the_client_likes_best(accepted: str, chosen: str | None) -> None:
    assert wanted(accepted) == chosen


def test_without_a_good_key_only_health_is_told(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    with serving() as client:
        client.headers.pop("Authorization")
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
        for method, path in (
            ("GET", "/v2"),
            ("GET", "/v2/models/colours"),
            ("GET", "/v2/models/colours/config"),
            ("GET", "/v2/models/colours/ready"),
            ("POST", "/v2/repository/index"),
            ("POST", URL),
            ("POST", "/v2/models/none/infer"),
        ):
            answer = client.request(method, path)
            refused(answer, 401, "X-API-Key")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for role in Role:
            sent = {"X-API-Key": store.key(role)[1]}
            assert client.post(URL, json={"inputs": [tensor()]}, headers=sent).status_code == 200


def test_other_paths_methods_names_and_states_have_their_own_status(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    store.deploy("resting", store.model())
    with store.sessions.begin() as session:
        deployments.move(session, deployments.get(session, "resting"), DeploymentState.UNDEPLOYED)
    with serving() as client:
        refused(client.get("/v2/models"), 404, "/v2/models")
        refused(client.post("/v2/repository/models/colours/load"), 404)
        refused(client.get(URL), 405, "GET")
        refused(client.post("/v2/models/none/infer", json={}), 404, "there is no deployment or model 'none'")
        refused(client.get("/v2/models/a%00b"), 404)
        refused(client.get(f"/v2/models/{'x' * 5000}"), 404)
        refused(client.post("/v2/models/resting/infer", json={}), 409, "'resting' is undeployed")
        refused(client.get("/v2/models/colours/versions/2"), 404, "colours@1")
        refused(client.post("/v2/repository/index", content=b"[]"), 400, "ready")
        refused(client.post("/v2/repository/index", content=b"{"), 400, "JSON")
        refused(client.post(URL, content=bytes(20 << 20)), 413, "20,971,520", "16 MiB")
        problem = client.post("/v1/deployments/none/predict", content=b"x")
        assert problem.headers["content-type"] == "application/problem+json"


def test_a_damaged_model_is_refused_by_name_while_others_answer(store: Store, serving: Serving) -> None:
    document = colour_network(turn=2)
    store.deploy("colours", store.model())
    broken = store.model("broken", document)
    with store.sessions.begin() as session:
        session.execute(text("DELETE FROM blob_chunks WHERE sha256 = :sha256"), {"sha256": digest(document)})
    with serving() as client:
        for answer in (
            client.post("/v2/models/broken/infer", json={"inputs": [tensor()]}),
            client.get("/v2/models/broken/ready"),
        ):
            refused(answer, 500, "broken@1", broken, digest(document).hex())
        still_answers(client)


def test_too_much_at_once_is_503_with_the_time_to_come_again(store: Store, serving: Serving) -> None:
    store.deploy("colours", store.model())
    with serving(Capacity(pictures_max=4, bodies_max_bytes=100_000, body_max_bytes=90_000)) as client:
        five = {"inputs": [pixels(shape=[5, 16, 16, 3], data=[7] * 5 * SIZE)]}
        answer = client.post(URL, json=five)
        refused(answer, 503, "the limit is 4")
        assert answer.headers["retry-after"] == "1"
        right = gzip.compress(json.dumps({"inputs": [tensor()]}).encode())
        with_room = client.post(URL, content=right, headers={"Content-Encoding": "gzip"})
        assert with_room.status_code == 200
        unknown = client.post(URL, content=iter([right]), headers={"Content-Encoding": "gzip"})
        refused(unknown, 503, "the limit is 100000")  # both what it has and what it may become
        still_answers(client)


def test_a_client_that_leaves_is_not_worked_for(store: Store, serving: Serving) -> None:
    store.deploy("heavy", store.model("heavy", heavy_network(width=64, depth=8), side=64))

    def gone() -> float:
        labels = {"target": "deployment/heavy", "status": "499"}
        return REGISTRY.get_sample_value("netwright_predict_requests_total", labels) or 0.0

    with serving(Capacity(batch_max=1)) as client:
        assert client.get("/v2/models/heavy/ready").status_code == 200
        before = gone()
        shape = [64, 64, 64, 3]
        given = {"name": "images", "shape": shape, "datatype": "UINT8", "parameters": {"binary_data_size": 64**3 * 3}}
        document = json.dumps({"inputs": [given]}).encode()
        body = document + bytes(64**3 * 3)
        request = (
            f"POST /v2/models/heavy/infer HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
            f"{HEADER}: {len(document)}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=10) as impatient:
            impatient.sendall(request)
        eventually(lambda: gone() == before + 1, 5)
        assert client.post("/v2/models/heavy/infer", json={"inputs": [tensor()]}).status_code == 200


def test_a_request_that_has_a_deadline_ends_with_it_and_its_pictures_are_left(store: Store, serving: Serving) -> None:
    store.model("heavy", heavy_network(width=64, depth=8), side=64)
    body = {"inputs": [tensor(shape=[64], data=[FILE] * 64)], "parameters": {"timeout": 1000}}

    def runs() -> float:
        return REGISTRY.get_sample_value("netwright_predict_batch_size_count") or 0.0

    with serving(Capacity(batch_max=1)) as client:
        url = "/v2/models/heavy/infer"
        assert client.get("/v2/models/heavy/ready").status_code == 200
        before = runs()
        refused(client.post(url, json=body), 504, "the timeout of 1,000 µs")
        ample = {"inputs": [tensor()], "parameters": {"timeout": 60_000_000}}
        assert client.post(url, json=ample).status_code == 200
        assert runs() - before < 20
