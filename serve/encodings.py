"""Bodies that travel packed, as gzip or as deflate; never unpacked beyond what a body may have."""

import gzip
import zlib

from serve.capacity import MIB
from web.problems import ProblemError

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # "deflate" is zlib's format: RFC 9110, 8.4.1.2
LEVEL = 1  # scores hardly get smaller for more work


def unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """`body` as it was before it was packed.

    encoding: the header Content-Encoding. Raises ProblemError: 415 for one that is not known, 413 when more than
    `max_bytes` come out (no more than that is ever unpacked), 400 for a body that is damaged or cut short.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in WINDOWS:
        raise ProblemError(
            415,
            "unsupported-encoding",
            f"Content-Encoding {encoding[:100]!r} is not accepted; send gzip, deflate or none",
        )
    unpacker = zlib.decompressobj(WINDOWS[encoding])
    try:
        plain = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ProblemError(
            400, "malformed", f"the body is not {encoding}, as Content-Encoding says it is: {error}"
        ) from None
    if len(plain) > max_bytes:
        raise ProblemError(
            413,
            "body-too-large",
            f"the body has {len(body):,} bytes as {encoding} and unpacks to more than {max_bytes:,}; "
            f"the limit is {max_bytes:,} ({max_bytes // MIB} MiB)",
        )
    if not unpacker.eof:
        raise ProblemError(400, "malformed", f"the body is {encoding} that is cut short after {len(body):,} bytes")
    if unpacker.unused_data:
        raise ProblemError(
            400, "malformed", f"{len(unpacker.unused_data):,} bytes follow the end of the {encoding} body"
        )
    return plain


def packed(body: bytes, encoding: str) -> bytes:
    """encoding: one that `wanted` gives."""
    return gzip.compress(body, LEVEL, mtime=0) if encoding == "gzip" else zlib.compress(body, LEVEL)


def wanted(accepted: str) -> str | None:
    """The encoding that a client likes best of those there are, None for a body as it is.

    accepted: the header Accept-Encoding (RFC 9110, 12.5.3).
    """
    weights: dict[str, float] = {}
    for item in accepted.lower().split(","):
        name, _, parameter = item.partition(";")
        key, _, value = parameter.partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0  # nothing that can be understood has been asked for
    best = max(WINDOWS, key=lambda name: weights.get(name, 0.0))  # of equals the first, gzip
    return best if weights.get(best, 0.0) > 0 else None
