"""Names inside archives: what they say, whether they are safe, and whether they are rubbish.

Nothing here is ever written to a disk under the name it came with, so an unsafe name harms nobody at once. It is
refused all the same: it would come out again with an export, and it is never an accident worth keeping.
"""

import re
import unicodedata
from dataclasses import dataclass

from ingest.limits import Limits

MAX_PART_BYTES = 255  # what ext4, NTFS, APFS hold
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))})
_RUBBISH = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Name:
    """A cleaned path (`/` between parts, no leading slash, NFC), or the reason why there is none.

    path: always safe to print and to store, even when refused. refused, mended: None where nothing is to be said.
    """

    path: str
    refused: str | None = None
    mended: str | None = None


def clean(raw: bytes, limits: Limits, *, fallback: str) -> Name:
    """`fallback`: the character set of names that are not UTF-8, cp437 in a zip and latin-1 in a tar."""
    mended = None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode(fallback)
        mended = "its name is not UTF-8"
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)  # macOS packs decomposed letters; a manifest has composed ones
    text = text.replace("\\", "/")
    shown = printable(text)
    if len(raw) > limits.max_name_bytes:
        return Name(shown, f"has a name of {len(raw)} bytes, the limit is {limits.max_name_bytes}")
    if _CONTROL.search(text):
        return Name(shown, "has control characters in its name")
    if text.startswith("/") or _DRIVE.match(text):
        return Name(shown, "has an absolute path")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts:
        return Name(shown, "has no name")
    if ".." in parts:
        return Name(shown, "climbs out of the archive with '..'")
    if len(parts) - 1 > limits.max_depth:
        return Name(shown, f"lies {len(parts) - 1} folders deep, the limit is {limits.max_depth}")
    for part in parts:
        if len(part) > MAX_PART_BYTES // 4 and len(part.encode()) > MAX_PART_BYTES:
            return Name(shown, f"has a part of {len(part.encode())} bytes in its name, the limit is {MAX_PART_BYTES}")
        if len(part) >= 3 and part.split(".", 1)[0].rstrip(" ").upper() in _DEVICES:
            return Name(shown, f"has '{part}' in its path, a device name on Windows")
    return Name("/".join(parts), None, mended)


def is_rubbish(path: str) -> bool:
    """Hidden files and what file managers leave behind; `path` is a cleaned one."""
    return any(part.startswith(".") or part.lower() in _RUBBISH for part in path.split("/"))


def printable(text: str, longest: int = 200) -> str:
    """`text` without control characters, cut to `longest` characters."""
    text = _CONTROL.sub("\ufffd", text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
