"""The pictures of a request, whichever way they come: raw, as a form, or as base64 in JSON.

The content of a picture says what it is; the Content-Type only says how the body is laid out.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serve.capacity import KIB, MIB, Capacity, Room
from serve.schemas import DEFAULT_TOP_K, MAX_INSTANCES, MAX_TOP_K, PredictRequest
from web.problems import Fault, ProblemError, from_validation, invalid

INLINE_BYTES = 32 * KIB  # JSON up to this size is read on the event loop: in less time than a thread takes to wake
ACCEPTED = (
    "a picture as the body (any image/* type or application/octet-stream), multipart/form-data with pictures as files, "
    'or application/json with {"instances": [{"b64": "…"}]}'
)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks: pictures as the bytes of their files, each with the name it has for the caller."""

    pictures: tuple[bytes, ...]
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


async def parse(body: bytes, headers: Headers, top_k: str | None, executor: Executor) -> Ask:
    """What the request asks. `top_k` is the query parameter. Raises ProblemError 415 or 422."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise ProblemError(
            415, "unsupported-encoding", f"Content-Encoding {encoding!r} is not accepted; send the body as it is"
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        if top_k is not None:
            raise invalid([Fault("top_k", "give it in the JSON body, not in the URL", top_k)])
        if len(body) <= INLINE_BYTES:
            return _from_json(body)
        return await asyncio.get_running_loop().run_in_executor(executor, _from_json, body)
    if kind == "multipart/form-data":
        return await _from_form(body, headers, top_k)
    # curl --data-binary says x-www-form-urlencoded unless told otherwise, and clients without an opinion say nothing
    if kind.startswith("image/") or kind in {"", "application/octet-stream", "application/x-www-form-urlencoded"}:
        if not body:
            raise ProblemError(422, "no-picture", f"the body is empty; send {ACCEPTED}")
        return Ask((body,), ("body",), _top_k(top_k))
    raise ProblemError(415, "unsupported-content-type", f"Content-Type {kind!r} is not accepted; send {ACCEPTED}")


def _from_json(body: bytes) -> Ask:
    try:
        asked = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from None
    pictures, faults = [], []
    for place, instance in enumerate(asked.instances):
        try:
            pictures.append(base64.b64decode(instance.encoded, validate=True))
        except (binascii.Error, ValueError) as error:
            field = f"instances[{place}].{'image.b64' if instance.image else 'b64'}"
            faults.append(Fault(field, f"is not base64: {error}", instance.encoded[:40]))
    if faults:
        raise invalid(faults)
    fields = tuple(f"instances[{place}]" for place in range(len(pictures)))
    return Ask(tuple(pictures), fields, asked.top_k)


class _MemoryParser(MultiPartParser):
    """The body is in memory already; its parts need not go to a file."""

    spool_max_size = 1 << 62


async def _from_form(body: bytes, headers: Headers, top_k: str | None) -> Ask:
    _, options = parse_options_header(headers["content-type"])
    if not options.get(b"boundary"):
        raise ProblemError(422, "invalid-form", "the Content-Type multipart/form-data names no boundary")
    parser = _MemoryParser(headers, _once(body), max_files=MAX_INSTANCES, max_fields=8, max_part_size=KIB)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError(422, "invalid-form", f"the form cannot be read: {error.message}") from None
    pictures, fields, faults = [], [], []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            pictures.append(await value.read())
            fields.append(f"{name}[{len(pictures) - 1}] ({value.filename})" if value.filename else name)
        elif name == "top_k":
            top_k = value
        else:
            faults.append(Fault(name, "is no field of a prediction; send pictures as files, and top_k", value))
    await form.close()
    if faults:
        raise invalid(faults)
    if not pictures:
        raise ProblemError(422, "no-picture", "the form has no file; with curl, send one as -F image=@picture.jpg")
    return Ask(tuple(pictures), tuple(fields), _top_k(top_k))


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _top_k(text: str | None) -> int:
    if text is None:
        return DEFAULT_TOP_K
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_TOP_K:
        raise invalid([Fault("top_k", f"must be a whole number from 1 to {MAX_TOP_K}", text)])
    return int(text)
