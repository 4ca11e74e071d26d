"""CSV manifests: which picture carries which label and belongs to which part.

Two forms are read. Google's, without a header: `ML_USE,path,label` with ML_USE one of TRAIN, VALIDATION, TEST,
UNASSIGNED or empty. A plain one: `path,label[,split]`, with or without a header that may name the columns in any order.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum


class Split(IntEnum):
    """The part of a data set that an example belongs to, as `splits` in the index holds it. FREE: not said."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    FREE = 255


SPLIT_WORDS = {
    "train": Split.TRAIN, "training": Split.TRAIN,
    "val": Split.VALIDATION, "valid": Split.VALIDATION, "validation": Split.VALIDATION, "dev": Split.VALIDATION,
    "test": Split.TEST, "testing": Split.TEST,
}  # fmt: skip
_FREE_WORDS = ("", "unassigned")
_PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "image_path", "uri", "image_uri", "gcs_uri")
_LABEL_COLUMNS = ("label", "class", "category", "target")
_SPLIT_COLUMNS = ("split", "ml_use", "set", "part", "subset")
MAX_LABEL_BYTES = 255


@dataclass(frozen=True, slots=True)
class Row:
    """One row that says something. `problem` completes "line 7 of the manifest …"; then the rest is empty.

    foreign: the path is an address from elsewhere, so its end alone may name a picture of the archive.
    """

    line: int
    path: str = ""
    label: str = ""
    split: Split = Split.FREE
    problem: str | None = None
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class _Columns:
    path: int
    label: int
    split: int | None


def read(data: bytes) -> Iterator[Row]:
    """The rows of a manifest in their order; empty lines and the header are passed over. Never raises on bad content."""
    text = _decode(data)
    delimiter = max(",;\t", key=text[: text.find("\n") if "\n" in text else None].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: _Columns | None = None
    while True:
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:  # e.g. a cell beyond csv's limit of 128 KiB, mostly an unclosed quote
            yield Row(reader.line_num, problem=f"cannot be read ({error})")
            continue
        if not any(cells):
            continue
        if columns is None:
            columns, is_header = _columns(cells)
            if is_header:
                continue
        yield _row(reader.line_num, cells, columns)


def clean_path(path: str) -> tuple[str, bool]:
    """A manifest's path in the form that cleaned names of the archive have, and whether it is an address elsewhere.

    `gs://bucket/flowers/1.jpg` becomes `flowers/1.jpg`, `C:\\flowers\\1.jpg` and `/flowers/1.jpg` likewise.
    """
    path = unicodedata.normalize("NFC", path).replace("\\", "/")
    local = re.sub(r"^([a-z0-9]+://[^/]*/|[a-z]:/|/)", "", path, flags=re.IGNORECASE)
    return "/".join(part for part in local.split("/") if part not in ("", ".")), local != path


def clean_label(label: str) -> str:
    return unicodedata.normalize("NFC", label.strip())


def label_problem(label: str) -> str | None:
    """Why `label` cannot be one, None when it can."""
    if not label:
        return "has no label"
    if not label.isprintable():
        return f"has a label with unprintable characters ({label[:40]!r})"
    if len(label.encode("utf-8", "replace")) > MAX_LABEL_BYTES:
        return f"has a label of more than {MAX_LABEL_BYTES} bytes"
    return None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16", "replace")
        return data.decode("cp1252", "replace")  # what Excel writes


def _columns(first: list[str]) -> tuple[_Columns, bool]:
    """Where things stand, told by the first row, and whether that row is a header."""
    names = [cell.lower().lstrip("#").strip() for cell in first]
    path = next((i for i, name in enumerate(names) if name in _PATH_COLUMNS), None)
    label = next((i for i, name in enumerate(names) if name in _LABEL_COLUMNS), None)
    if path is not None and label is not None:
        return _Columns(path, label, next((i for i, name in enumerate(names) if name in _SPLIT_COLUMNS), None)), True
    if len(names) >= 3 and (names[0] in SPLIT_WORDS or names[0] in _FREE_WORDS):
        return _Columns(1, 2, 0), False
    return _Columns(0, 1, 2), False


def _row(line: int, cells: list[str], columns: _Columns) -> Row:
    named = (columns.path, columns.label, columns.split)
    if len(cells) <= max(columns.path, columns.label):
        return Row(line, problem=f"has {len(cells)} cells; path and label are needed")
    (path, foreign), label = clean_path(cells[columns.path]), clean_label(cells[columns.label])
    if not path:
        return Row(line, problem="names no picture")
    if (problem := label_problem(label)) is not None:
        return Row(line, problem=problem)
    google = columns.split == 0
    if google and any(cell for i, cell in enumerate(cells) if i not in named):
        return Row(line, problem="has more than one label or a box; one label for each picture is accepted")
    word = cells[columns.split].lower() if columns.split is not None and columns.split < len(cells) else ""
    if word not in SPLIT_WORDS and word not in _FREE_WORDS:
        return Row(line, problem=f"has the split '{word[:40]}'; accepted are train, validation, test or nothing")
    return Row(line, path, label, SPLIT_WORDS.get(word, Split.FREE), foreign=foreign)
