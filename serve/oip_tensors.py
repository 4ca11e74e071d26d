"""Tensors on the wire of the Open Inference Protocol: as JSON, and as binary data behind it.

One input, `images`: UINT8 [N, side, side, channels] as the network sees pictures, or BYTES [N] of picture files. One output,
`scores`: FP32 [N, labels], or with the parameter `classification` BYTES [N, k] of "score:index:label".
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ingest.preprocess import Preprocessing
from search.runtime import INPUT, OUTPUT
from serve.inputs import Ask, values_in
from serve.oip_schemas import InferInput, InferRequest, Parameters
from serve.runtime import Scores
from serve.schemas import DEFAULT_TOP_K, MAX_INSTANCES
from serve.service import json_bytes
from web.problems import ProblemError, from_validation, quoted

HEADER = "Inference-Header-Content-Length"
VALUES_MAX = 1 << 20  # of JSON: 21 pictures of 128 × 128 in colour
LENGTH = struct.Struct("<I")  # stands before each element of BYTES
CHANNELS = {1: "gray", 3: "RGB"}


@dataclass(frozen=True, slots=True)
class Inference:
    """A request that is right as far as one can see without the model.

    pixels: the packed elements of UINT8 in the order of `shape`; pictures: the files of BYTES. One of them is there.
    classes: how many best labels are wanted; 0 for all scores as FP32. binary: whether they go behind the JSON.
    timeout_us: how long the scores may take; None for as long as the service allows.
    """

    id: str | None
    shape: tuple[int, ...]
    pixels: bytes | None
    pictures: tuple[bytes, ...]
    classes: int
    binary: bool
    timeout_us: int | None


def read(body: bytes, header_length: str | None) -> Inference:
    """What a body asks for. header_length: the header Inference-Header-Content-Length.

    Raises ProblemError (400) that names what is wrong.
    """
    document, tail = _split(body, header_length)
    if (found := values_in(document)) > VALUES_MAX:
        raise wrong(
            f"the JSON has {found:,} lists, objects and commas; at most {VALUES_MAX:,} are read: send a larger tensor as "
            f"binary data behind the JSON, with the header {HEADER}"
        )
    try:
        asked = InferRequest.model_validate_json(document)
    except ValidationError as error:
        detail = from_validation(error).detail
        if header_length is None and b"binary_data_size" in body:
            detail += f"; binary data behind the JSON needs the header {HEADER}, the length of the JSON in bytes"
        raise wrong(detail) from None
    classes, binary = _wanted(asked)
    timeout_us = _timeout(asked.parameters)
    names = [given.name for given in asked.inputs]
    if names != [INPUT]:
        raise wrong(f"the inputs are {_shown(names)}; the model has one input, {INPUT!r}")
    given = asked.inputs[0]
    data = _data(given, tail)
    count = _count(given)
    if given.datatype == "BYTES":
        pictures = _elements(data, count) if isinstance(data, bytes) else _decoded(_flat(data, given.shape))
        return Inference(asked.id, tuple(given.shape), None, pictures, classes, binary, timeout_us)
    pixels = data if isinstance(data, bytes) else _packed(_flat(data, given.shape))
    if len(pixels) != math.prod(given.shape):
        raise wrong(
            f"the input {INPUT!r} has {len(pixels):,} bytes of binary data; UINT8 {given.shape} has {math.prod(given.shape):,}"
        )
    return Inference(asked.id, tuple(given.shape), pixels, (), classes, binary, timeout_us)


def ask_of(inference: Inference, preprocessing: Preprocessing, model: str) -> Ask:
    """The pictures for one model. model: as it is called. Raises ProblemError (400) for pixels of another shape."""
    count = inference.shape[0]
    fields = tuple(f"{INPUT}[{place}]" for place in range(count))
    if inference.pixels is None:
        return Ask(inference.pictures, fields, DEFAULT_TOP_K)
    side, channels = preprocessing.side, preprocessing.channels
    if inference.shape[1:] != (side, side, channels):
        raise wrong(
            f"the input {INPUT!r} is UINT8 {list(inference.shape)}; {model} takes [N, {side}, {side}, {channels}] "
            f"(rows, columns, {CHANNELS[channels]}), or BYTES [N] of picture files of any size"
        )
    pixels = np.frombuffer(inference.pixels, np.uint8).reshape(inference.shape)
    return Ask(tuple(pixels), fields, DEFAULT_TOP_K)


def answer(
    inference: Inference, scores: Sequence[Scores], labels: Sequence[str], about: dict[str, Any]
) -> tuple[bytes, int | None]:
    """The body of a reply, and how long its JSON is when binary data follow. about: the JSON but its outputs."""
    data: list[Any]
    if inference.classes:
        best = min(inference.classes, len(labels))
        texts = [line for one in scores for line in classified(one, labels, best)]
        raw = b"".join(_element(text) for text in texts) if inference.binary else b""
        output = {"name": OUTPUT, "datatype": "BYTES", "shape": [len(scores), best]}
        data = texts
    else:
        stacked = np.stack(scores).astype("<f4")
        raw = stacked.tobytes()
        output = {"name": OUTPUT, "datatype": "FP32", "shape": list(stacked.shape)}
        data = [] if inference.binary else stacked.ravel().tolist()
    if not inference.binary:
        return json_bytes({**about, "outputs": [{**output, "data": data}]}), None
    document = json_bytes({**about, "outputs": [{**output, "parameters": {"binary_data_size": len(raw)}}]})
    return document + raw, len(document)


def classified(scores: Scores, labels: Sequence[str], best: int) -> list[str]:
    """The `best` labels as Triton writes them, "score:index:label", best first; equal scores in the order of `labels`."""
    places: NDArray[np.intp] = np.argsort(-scores, kind="stable")[:best]
    return [f"{scores[place]:.6f}:{place}:{labels[place]}" for place in places.tolist()]


def wrong(detail: str) -> ProblemError:
    """400, the protocol's word for whatever is wrong with a request."""
    return ProblemError(400, "invalid-request", detail)


def _shown(value: Any) -> Any:
    """A value of the request in a sentence about it."""
    short = quoted(value)
    return json.dumps(short, ensure_ascii=False) if isinstance(value, str) else short


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON and the binary data behind it."""
    if not body:
        raise wrong('the body is empty; send {"inputs": [{"name": "images", "shape": …, "datatype": …, "data": …}]}')
    if header_length is None:
        return body, b""
    length = (
        int(header_length) if header_length.isascii() and header_length.isdecimal() and len(header_length) < 12 else -1
    )
    if not 0 < length <= len(body):
        raise wrong(
            f"the header {HEADER} is {header_length[:40]!r}; it must be the length of the JSON, "
            f"1 to the {len(body):,} bytes of the body"
        )
    return body[:length], body[length:]


def _wanted(asked: InferRequest) -> tuple[int, bool]:
    """How many classes, and whether the output goes behind the JSON."""
    binary = _flag(asked.parameters, "binary_data_output", False)
    if not asked.outputs:
        return 0, binary
    names = [output.name for output in asked.outputs]
    if names != [OUTPUT]:
        raise wrong(f"the outputs are {_shown(names)}; the model has one output, {OUTPUT!r}")
    parameters = asked.outputs[0].parameters or {}
    _no_shared_memory(parameters, OUTPUT)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise wrong(
            f"classification of {OUTPUT!r} is {_shown(classes)}; it must be a whole number: how many labels to list, best first"
        )
    return classes, _flag(parameters, "binary_data", binary)


def _flag(parameters: Parameters | None, name: str, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise wrong(f"the parameter {name} is {_shown(value)}; it must be true or false")
    return value


def _timeout(parameters: Parameters | None) -> int | None:
    """Triton's parameter `timeout`, in microseconds; 0 for none."""
    value = (parameters or {}).get("timeout", 0)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise wrong(f"the parameter timeout is {_shown(value)}; it must be a number of microseconds, 0 for no deadline")
    return value or None


def _no_shared_memory(parameters: Parameters, tensor: str) -> None:
    if "shared_memory_region" in parameters:
        raise wrong(f"{tensor!r} is to lie in shared memory, which is not offered; send it as `data` or as binary data")


def _data(given: InferInput, tail: bytes) -> bytes | list[Any]:
    """The input's binary data, or its JSON list."""
    parameters = given.parameters or {}
    _no_shared_memory(parameters, given.name)
    size = parameters.get("binary_data_size")
    if size is None:
        if tail:
            raise wrong(
                f"{len(tail):,} bytes follow the JSON, and {given.name!r} has no binary_data_size to claim them"
            )
        if not isinstance(given.data, list):
            raise wrong(
                f"the input {given.name!r} has {'no data' if given.data is None else 'data that is no list'}; "
                "send a list as `data`, or binary data behind the JSON with the parameter binary_data_size"
            )
        return given.data
    if type(size) is not int or size < 0:
        raise wrong(f"binary_data_size of {given.name!r} is {_shown(size)}; it must be a number of bytes")
    if given.data is not None:
        raise wrong(f"the input {given.name!r} has both `data` and binary_data_size; send one of them")
    if size != len(tail):
        raise wrong(
            f"binary_data_size of {given.name!r} is {size:,}, but {len(tail):,} bytes follow the JSON "
            f"(whose length the header {HEADER} says)"
        )
    return tail


def _count(given: InferInput) -> int:
    """How many pictures the shape says there are."""
    if given.datatype not in {"UINT8", "BYTES"}:
        raise wrong(
            f"the datatype of {INPUT!r} is {_shown(given.datatype)}; accepted are UINT8 [N, side, side, channels], pixels from 0 "
            "to 255, which the network scales itself, and BYTES [N] of picture files"
        )
    shape = given.shape
    fits = len(shape) == 4 if given.datatype == "UINT8" else len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not fits:
        expected = "[N, side, side, channels]" if given.datatype == "UINT8" else "[N] or [N, 1]"
        raise wrong(f"the shape of {INPUT!r} is {shape}; {given.datatype} has {expected}")
    if not 1 <= shape[0] <= MAX_INSTANCES:
        raise wrong(f"the input {INPUT!r} is a batch of {shape[0]:,}; it must be 1 to {MAX_INSTANCES} pictures")
    return shape[0]


def _flat(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """The elements in row-major order of data that is flat, or nested as `shape` says."""
    items = data
    if any(isinstance(item, list) for item in data):
        items = [data]
        for axis, length in enumerate(shape):
            for item in items:
                if not isinstance(item, list) or len(item) != length:
                    found = f"a list of {len(item)}" if isinstance(item, list) else _shown(item)
                    raise wrong(
                        f"data of {INPUT!r} is nested otherwise than {shape}: {found} along axis {axis}, not {length}"
                    )
            items = list(chain.from_iterable(items))
    if len(items) != math.prod(shape):
        raise wrong(f"data of {INPUT!r} has {len(items):,} elements; the shape {shape} has {math.prod(shape):,}")
    return items


def _packed(items: list[Any]) -> bytes:
    """The elements of UINT8."""
    if set(map(type, items)) <= {int}:
        try:
            return bytes(items)
        except ValueError:
            pass
    place, item = next((at, one) for at, one in enumerate(items) if type(one) is not int or not 0 <= one <= 255)
    raise wrong(f"element {place} of {INPUT!r} is {_shown(item)}; UINT8 is whole numbers from 0 to 255")


def _decoded(items: list[Any]) -> tuple[bytes, ...]:
    """The elements of BYTES, which are base64 in JSON."""
    found = []
    for place, item in enumerate(items):
        if not isinstance(item, str):
            raise wrong(f"element {place} of {INPUT!r} is {_shown(item)}; BYTES in JSON is a picture file in base64")
        try:
            found.append(base64.b64decode(item, validate=True))
        except (binascii.Error, ValueError) as error:
            raise wrong(f"element {place} of {INPUT!r} is not base64: {error}; it begins with {item[:40]!r}") from None
    return tuple(found)


def _element(text: str) -> bytes:
    """One element of BYTES in binary data."""
    content = text.encode("utf-8", "backslashreplace")
    return LENGTH.pack(len(content)) + content


def _elements(raw: bytes, count: int) -> tuple[bytes, ...]:
    """The elements of BYTES in binary data: for each its length as 4 bytes, least first, and then itself."""
    found, at = [], 0
    for place in range(count):
        if at + LENGTH.size > len(raw):
            raise wrong(
                f"the binary data of {INPUT!r} has {len(raw):,} bytes and ends before element {place} of {count}; "
                "before each stands its length in 4 bytes, least first"
            )
        (length,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        if at + length > len(raw):
            raise wrong(f"element {place} of {INPUT!r} says that it has {length:,} bytes; {len(raw) - at:,} are left")
        found.append(raw[at : at + length])
        at += length
    if at < len(raw):
        raise wrong(f"{len(raw) - at:,} bytes of {INPUT!r} are left after the last of its {count} elements")
    return tuple(found)
