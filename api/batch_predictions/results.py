"""The answers of a batch as a stream: JSON Lines as they are stored, or a table for spreadsheets."""

import csv
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from store.objects import Objects

Format = Literal["jsonl", "csv"]
MEDIA_TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}

NAMES = {"dataset": ("example", "path", "true_label"), "upload": ("path",), "uris": ("uri",)}
"""What a row is called, by the kind of its source."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet computes what begins with one of these
_PART_MAX_BYTES = 1 << 30
_GZIP_LEVEL, _GZIP = 6, 31


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the answers of a batch are. kind: of its source."""

    keys: Sequence[str]
    kind: str
    top_k: int


def stream(objects: Objects, stored: Stored, form: Format, *, packed: bool) -> Iterator[bytes]:
    """The results in pieces of a part; `packed`: as gzip. Raises ObjectsError."""
    pieces = parts(objects, stored.keys)
    if form == "csv":
        pieces = tables(pieces, stored)
    return gzipped(pieces) if packed else pieces


def parts(objects: Objects, keys: Sequence[str]) -> Iterator[bytes]:
    for key in keys:
        yield zlib.decompress(objects.whole(key, _PART_MAX_BYTES), wbits=_GZIP)


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def tables(pieces: Iterable[bytes], stored: Stored) -> Iterator[bytes]:
    """CSV with a header (RFC 4180): row, its names, label, score, the labels that came next, error."""
    names = NAMES[stored.kind]
    nexts = [f"{name}_{place}" for place in range(2, stored.top_k + 1) for name in ("label", "score")]
    yield _lines([["row", *names, "label", "score", *nexts, "error"]])
    for piece in pieces:
        yield _lines(_cells(json.loads(line), names, len(nexts)) for line in piece.splitlines())


def _cells(row: dict[str, Any], names: Sequence[str], nexts: int) -> list[Any]:
    others = [value for best in row.get("top", ())[1:] for value in (_safe(best["label"]), best["score"])]
    return [
        row["row"],
        *(_safe(row[name]) for name in names),
        _safe(row.get("label", "")),
        row.get("score", ""),
        *others,
        *[""] * (nexts - len(others)),
        _safe(row.get("error", "")),
    ]


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    sink = io.StringIO()
    csv.writer(sink).writerows(rows)
    return sink.getvalue().encode()


def _safe(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula: one that begins like it has a ' before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def takes_gzip(accepted: str | None) -> bool:
    """Whether an Accept-Encoding lets an answer be packed."""
    for part in (accepted or "").lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000")
    return False
