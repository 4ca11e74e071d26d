"""The pictures of a request, whichever way they come: raw, as a form, or as base64 in JSON.

The content of a picture says what it is; the Content-Type only says how the body is laid out.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serve.capacity import KIB, MIB, Capacity, Room
from serve.runtime import Picture
from serve.schemas import DEFAULT_TOP_K, MAX_INSTANCES, MAX_TOP_K, Instance, PredictRequest
from web.problems import Fault, ProblemError, from_validation, invalid

VALUES_MAX = 4096  # lists, objects and commas of JSON; a right request has a few for each picture
INLINE_BYTES = 32 * KIB  # JSON up to this size is read on the event loop: in less time than a thread takes to wake
ACCEPTED = (
    "a picture as the body (any image/* type or application/octet-stream), multipart/form-data with pictures as files, "
    'or application/json with {"instances": [{"b64": "…"}]}'
)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks: pictures as the bytes of their files or as the network sees them (uint8, side × side ×
    channels), each with the name it has for the caller."""

    pictures: tuple[Picture, ...]
    fields: tuple[str, ...]
    top_k: int


@asynccontextmanager
async def body_of(receive: Receive, headers: Headers, capacity: Capacity, room: Room) -> AsyncIterator[bytes]:
    """The whole body, which counts against `room` until the block ends.

    Raises ProblemError: 413 when it is larger than allowed (before it is read, where its length is announced), 408
    when it comes too slowly, 503 without room; ClientDisconnect when it ends early.
    """
    announced = headers.get("content-length", "")
    length = int(announced) if announced.isdecimal() else None
    if length is not None and length > capacity.body_max_bytes:
        raise _too_large(f"{length:,}", capacity)
    # a body of unannounced length is given room for the largest one
    with room.hold(length if length is not None else capacity.body_max_bytes):
        try:
            async with asyncio.timeout(capacity.body_max_s):
                body = await _read(receive, capacity)
        except TimeoutError:
            raise ProblemError(408, "slow-body", f"the body did not arrive within {capacity.body_max_s:g} s") from None
        yield body


async def _read(receive: Receive, capacity: Capacity) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > capacity.body_max_bytes:
            raise _too_large(f"more than {capacity.body_max_bytes:,}", capacity)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunk if len(chunks) == 1 else b"".join(chunks)


def _too_large(size: str, capacity: Capacity) -> ProblemError:
    limit = capacity.body_max_bytes
    return ProblemError(
        413, "body-too-large", f"the body has {size} bytes; the limit is {limit:,} ({limit // MIB} MiB)"
    )


class Layout(StrEnum):
    """How a body is laid out."""

    RAW = "raw"
    FORM = "form"
    JSON = "json"


def layout_of(headers: Headers) -> Layout:
    """What the headers say of the body. Raises ProblemError 415."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise ProblemError(
            415, "unsupported-encoding", f"Content-Encoding {encoding!r} is not accepted; send the body as it is"
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return Layout.JSON
    if kind == "multipart/form-data":
        return Layout.FORM
    # curl --data-binary says x-www-form-urlencoded unless told otherwise, and clients without an opinion say nothing
    if kind.startswith("image/") or kind in {"", "application/octet-stream", "application/x-www-form-urlencoded"}:
        return Layout.RAW
    raise ProblemError(415, "unsupported-content-type", f"Content-Type {kind!r} is not accepted; send {ACCEPTED}")


async def parse(body: bytes, headers: Headers, top_k: str | None, executor: Executor) -> Ask:
    """What the request asks. `top_k` is the query parameter. Raises ProblemError 415 or 422."""
    match layout_of(headers):
        case Layout.JSON:
            if top_k is not None:
                raise invalid([Fault("top_k", "give it in the JSON body, not in the URL", top_k)])
            if len(body) <= INLINE_BYTES:
                return _from_json(body)
            return await asyncio.get_running_loop().run_in_executor(executor, _from_json, body)
        case Layout.FORM:
            form = await read_form(body, headers, ("top_k",))
            return Ask(form.pictures, form.names, _top_k(form.texts.get("top_k", top_k)))
        case Layout.RAW:
            return Ask((some_picture(body),), ("body",), _top_k(top_k))


def some_picture(body: bytes) -> bytes:
    """The body, which is a picture. Raises ProblemError 422 when it is empty."""
    if not body:
        raise ProblemError(422, "no-picture", f"the body is empty; send {ACCEPTED}")
    return body


def values_in(body: bytes) -> int:
    """About how many values a JSON document has: its lists, objects and commas. Base64 has none of them.

    Told before it is parsed, since a million empty lists take fifty times their bytes as Python objects, and time.
    """
    return body.count(b"[") + body.count(b"{") + body.count(b",")


def _from_json(body: bytes) -> Ask:
    if (found := values_in(body)) > VALUES_MAX:
        said = f"takes at most {MAX_INSTANCES} pictures; the JSON has {found:,} lists, objects and commas"
        raise invalid([Fault("instances", said)])
    try:
        asked = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from None
    decoded = [decoded_base64(instance, f"instances[{place}].") for place, instance in enumerate(asked.instances)]
    pictures = tuple(each for each in decoded if isinstance(each, bytes))
    faults = [each for each in decoded if isinstance(each, Fault)]
    if faults:
        raise invalid(faults)
    fields = tuple(f"instances[{place}]" for place in range(len(pictures)))
    return Ask(pictures, fields, asked.top_k)


def decoded_base64(instance: Instance, within: str) -> bytes | Fault:
    """The bytes of a picture in JSON; what is wrong with it, in the field that begins with `within`."""
    try:
        return base64.b64decode(instance.encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        field = f"{within}{'image.b64' if instance.image else 'b64'}"
        return Fault(field, f"is not base64: {error}", instance.encoded[:40])


class _MemoryParser(MultiPartParser):
    """The body is in memory already; its parts need not go to a file."""

    spool_max_size = 1 << 62


@dataclass(frozen=True, slots=True)
class Form:
    """pictures: the files, as bytes. names: what the caller calls each. texts: the other fields."""

    pictures: tuple[bytes, ...]
    names: tuple[str, ...]
    texts: Mapping[str, str]


async def read_form(body: bytes, headers: Headers, known: Sequence[str]) -> Form:
    """A multipart form with one picture at least. known: the fields it may have beside pictures.

    Raises ProblemError 422.
    """
    _, options = parse_options_header(headers["content-type"])
    if not options.get(b"boundary"):
        raise ProblemError(422, "invalid-form", "the Content-Type multipart/form-data names no boundary")
    parser = _MemoryParser(headers, _once(body), max_files=MAX_INSTANCES, max_fields=8, max_part_size=KIB)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError(422, "invalid-form", f"the form cannot be read: {error.message}") from None
    pictures, names, texts, faults = list[bytes](), list[str](), dict[str, str](), list[Fault]()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            pictures.append(await value.read())
            names.append(f"{name}[{len(pictures) - 1}] ({value.filename})" if value.filename else name)
        elif name in known:
            texts[name] = value
        else:
            faults.append(
                Fault(name, f"is no field of this form; send pictures as files, and {', '.join(known)}", value)
            )
    await form.close()
    if faults:
        raise invalid(faults)
    if not pictures:
        raise ProblemError(422, "no-picture", "the form has no file; with curl, send one as -F image=@picture.jpg")
    return Form(tuple(pictures), tuple(names), texts)


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _top_k(text: str | None) -> int:
    if text is None:
        return DEFAULT_TOP_K
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_TOP_K:
        raise invalid([Fault("top_k", f"must be a whole number from 1 to {MAX_TOP_K}", text)])
    return int(text)
