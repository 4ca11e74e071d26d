"""Blobs as downloads: streamed in pieces, whole or from where a transfer broke off (RFC 9110, section 14)."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi.responses import Response, StreamingResponse
from starlette.requests import Request

from api.runtime import Runtime, runtime_of
from store import blobs
from store.errors import CorruptBlobError
from web.problems import ProblemError

PIECE_BYTES = 1 << 20
SPAN = re.compile(r"bytes=[ \t]*(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})[ \t]*\Z", re.IGNORECASE)

BINARY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file. `ETag` and `Repr-Digest` name its SHA-256.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {
        "description": "The part of it that `Range` asks for.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "`If-None-Match` names the file's ETag."},
    416: {
        "description": "`Range` begins beyond the end of the file.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Download:
    """A blob as a file to keep."""

    sha256: bytes
    size_bytes: int
    file_name: str
    media_type: str

    @property
    def etag(self) -> str:
        return f'"{self.sha256.hex()}"'


def send(request: Request, download: Download) -> Response:
    """The answer to a GET: 200, 206 for one range, 304 by `api.routing`. Raises ProblemError: 416.

    Several ranges at once are answered with the whole, as the RFC allows.
    """
    headers = {
        "Content-Disposition": f'attachment; filename="{download.file_name}"',
        "ETag": download.etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(download.sha256).decode()}:",  # RFC 9530: of the whole, also with a 206
    }
    asked = request.headers.get("range")
    start, stop, status = 0, download.size_bytes, 200
    if asked is not None and request.headers.get("if-range", download.etag) == download.etag:
        part = span_of(asked, download.size_bytes)
        if part is not None:
            (start, stop), status = part, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{download.size_bytes}"
    headers["Content-Length"] = str(stop - start)
    pieces = _pieces(runtime_of(request), download, start, stop)
    return StreamingResponse(pieces, status, headers, media_type=download.media_type)


def span_of(header: str, size: int) -> tuple[int, int] | None:
    """(first byte, byte after the last) of a `Range`; None where it is to be ignored: malformed, of another unit, several.

    Raises ProblemError (416) when no byte of it is there.
    """
    found = SPAN.match(header.strip())
    if found is None or not (found["first"] or found["last"]):
        return None
    if not found["first"]:  # the last so many
        first, last = max(0, size - int(found["last"])), size - 1
    else:
        first, last = int(found["first"]), min(int(found["last"] or size - 1), size - 1)
        if found["last"] and int(found["last"]) < first:
            return None
    if first > last:
        raise ProblemError(
            416,
            "range-not-satisfiable",
            f"Range is {header[:100]}, but the file has {size} bytes: 0 to {size - 1}",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, last + 1


async def _pieces(runtime: Runtime, download: Download, start: int, stop: int) -> AsyncIterator[bytes]:
    """Each piece in a transaction of its own: a slow reader holds no connection.

    A whole file is checked on the way: its last piece leaves only if the digest holds, otherwise the transfer breaks off.
    """
    digest, at = hashlib.sha256(), start
    while at < stop:
        size = min(PIECE_BYTES - at % PIECE_BYTES, stop - at)
        piece = await runtime.transact(partial(blobs.piece, sha256=download.sha256, start=at, size=size))
        digest.update(piece)
        at += len(piece)
        if at == download.size_bytes and start == 0 and digest.digest() != download.sha256:
            raise CorruptBlobError(f"blob {download.sha256.hex()} holds other bytes than its name says")
        yield piece
