"""Zip archives, read entry by entry.

The standard library's reader keeps an object of 600 bytes for every entry before the first one can be read; a data set
of a million pictures would not fit the memory an import is given. This one walks the central directory and keeps
nothing. It reads what every tool writes (stored and deflated entries, zip64), and refuses the rest by name.
Format: PKWARE APPNOTE 6.3.10.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ingest.errors import ImportRefusedError

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_MAX_BYTES = _END.size + 0xFFFF  # with the longest comment
_METHODS = {1: "shrink", 6: "implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}
_CHUNK_BYTES = 1 << 20


class EntryError(Exception):
    """One entry cannot be read; the message completes "this entry …"."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the central directory. kind: "file", "folder", "link" or "special"."""

    name: bytes
    kind: str
    size_bytes: int
    packed_bytes: int
    utf8: bool
    method: int
    encrypted: bool
    crc: int
    at: int


class Zip:
    """The directory of an open zip file. Raises ImportRefusedError where the whole file cannot be read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = file.seek(0, os.SEEK_END)
        tail_at = max(0, size - _END_MAX_BYTES)
        tail = _pread(file, _END_MAX_BYTES, tail_at)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or len(tail) - found < _END.size:
            raise ImportRefusedError(
                "The zip file has no directory at its end: the upload was cut off or the file is incomplete. Send it again."
            )
        _, disk, _, _, self.count, length, offset, _ = _END.unpack_from(tail, found)
        end = tail_at + found
        if disk not in (0, 0xFFFF):
            raise ImportRefusedError("The zip file is one part of a split archive. Join the parts and send one file.")
        if end >= _END64_LOCATOR.size and (0xFFFFFFFF in (length, offset) or self.count == 0xFFFF):
            locator = _pread(file, _END64_LOCATOR.size, end - _END64_LOCATOR.size)
            if locator.startswith(b"PK\x06\x07"):
                end64_at = _END64_LOCATOR.unpack(locator)[2]
                record = _pread(file, _END64.size, end64_at)
                if len(record) < _END64.size or not record.startswith(b"PK\x06\x06"):
                    raise _damaged("its zip64 record is not where it should be")
                self.count, length, offset = _END64.unpack(record)[7:10]
                end = end64_at
        self._before = end - length - offset  # bytes that somebody put before the archive, e.g. an unpacking program
        if self._before < 0:
            raise _damaged("its directory begins before the file does")
        self._directory_at, self._directory_end = offset + self._before, end

    def entries(self) -> Iterator[Entry]:
        """The central directory, in its own order."""
        at, end = self._directory_at, self._directory_end
        buffer, position = b"", 0
        while at < end:
            if len(buffer) - position < _ENTRY.size + 3 * 0xFFFF:
                buffer, position = _pread(self._file, min(_CHUNK_BYTES, end - at), at), 0
            if len(buffer) - position < _ENTRY.size:
                raise _damaged("its directory ends in the middle")
            fields = _ENTRY.unpack_from(buffer, position)
            signature, made, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, *_ = fields
            attributes, offset = fields[-2:]
            if signature != b"PK\x01\x02":
                raise _damaged("its directory holds something else")
            body = position + _ENTRY.size
            length = _ENTRY.size + n_name + n_extra + n_comment
            if len(buffer) - position < length:
                raise _damaged("its directory ends in the middle")
            name = buffer[body : body + n_name]
            if 0xFFFFFFFF in (size, packed, offset):
                extra = buffer[body + n_name : body + n_name + n_extra]
                size, packed, offset = _zip64(extra, size, packed, offset)
            position += length
            at += length
            yield Entry(
                name.split(b"\x00", 1)[0],
                _kind(name, made >> 8, attributes),
                size,
                packed,
                bool(flags & 0x800),
                method,
                bool(flags & 0x41),
                crc,
                offset + self._before,
            )

    def read(self, entry: Entry) -> bytes:
        """The unpacked, checked bytes of a file. Raises EntryError."""
        if entry.encrypted:
            raise EntryError("is locked with a password")
        if entry.method not in (0, 8):
            raise EntryError(f"is packed with {_METHODS.get(entry.method, f'method {entry.method}')}")
        local = _pread(self._file, _LOCAL.size, entry.at)
        if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
            raise EntryError("is not where the directory says")
        *_, n_name, n_extra = _LOCAL.unpack(local)
        data = _pread(self._file, entry.packed_bytes, entry.at + _LOCAL.size + n_name + n_extra)
        if len(data) < entry.packed_bytes:
            raise EntryError("ends in the middle")
        if entry.method == 8:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size_bytes + 1)
            except zlib.error as error:
                raise EntryError("is damaged") from error
        if len(data) != entry.size_bytes or zlib.crc32(data) != entry.crc:
            raise EntryError("is damaged (its checksum does not fit)")
        return data


def _pread(file: BinaryIO, count: int, at: int) -> bytes:
    """os.pread until `count` bytes or the end: one call may return less."""
    data = os.pread(file.fileno(), count, at)
    while len(data) < count and (more := os.pread(file.fileno(), count - len(data), at + len(data))):
        data += more
    return data


def _damaged(what: str) -> ImportRefusedError:
    return ImportRefusedError(f"The zip file is damaged ({what}). Pack and send it again.")


def _zip64(extra: bytes, *small: int) -> tuple[int, int, int]:
    """The three numbers with those of all ones replaced from the zip64 field, which holds only those."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            size, packed, offset = (next(wide, n) if n == 0xFFFFFFFF else n for n in small)
            return size, packed, offset
        at += 4 + length
    size, packed, offset = small
    return size, packed, offset


def _kind(name: bytes, system: int, attributes: int) -> str:
    if name.endswith((b"/", b"\\")):
        return "folder"
    mode = attributes >> 16 if system in (3, 19) else 0  # Unix and macOS keep the file's mode there
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "special"
