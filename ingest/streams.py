"""A packed file read forwards, in bounded memory, counted as it unpacks."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ingest.errors import ImportRefusedError
from ingest.limits import MIB, Limits

_READ_BYTES = 256 * 1024
_UNPACK_BYTES = MIB
_HEADER_BYTES = MIB  # a tar header may announce a name of any length and be read in one piece
_MAGIC_BYTES = 6
_LZMA_MEMORY_BYTES = 256 * MIB  # `xz -9` needs 65 MiB


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib's decompressor in the shape of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out


class _Plain:
    """An unpacked file, in the same shape."""

    eof = False
    needs_input = True
    unused_data = b""

    def decompress(self, data: bytes, _max_length: int, /) -> bytes:
        return data


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY_BYTES)


PACKINGS: tuple[tuple[bytes, str, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", "gzip", _Gzip),
    (b"\xfd7zXZ\x00", "xz", _xz),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
)


class Unpacked:
    """The unpacked bytes of `source` as a forward-only file: what `tarfile` needs, and `take` for everything else.

    Refuses the import (ImportRefusedError) when it is cut short or damaged, or unpacks beyond the limits.
    """

    def __init__(self, source: Path, limits: Limits) -> None:
        self._file = source.open("rb")
        self._packed_bytes = source.stat().st_size
        self._limits = limits
        head = self._file.read(_MAGIC_BYTES)
        self._file.seek(0)
        self.packing, self._new = next(
            ((name, new) for magic, name, new in PACKINGS if head.startswith(magic)), ("", _Plain)
        )
        self._decompressor = self._new()
        self._pending = b""  # read but not yet unpacked
        self._buffer = b""
        self._at = 0  # first byte of the buffer not yet taken
        self._before = 0  # unpacked bytes before the buffer
        self._ended = False
        self._read_bytes = 0
        self._unpacker = ThreadPoolExecutor(1, thread_name_prefix="unpacker")  # decompressors let other threads run
        self._ahead = self._unpacker.submit(self._piece)

    def __enter__(self) -> "Unpacked":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._unpacker.shutdown(cancel_futures=True)
        self._file.close()

    def fraction(self) -> float:
        """How much of the packed file has been read, 0 to 1."""
        return min(1.0, self._read_bytes / max(1, self._packed_bytes))

    def tell(self) -> int:
        return self._before + self._at

    def seek(self, position: int) -> None:
        """Forwards only. Raises EOFError beyond the end."""
        self.skip(position - self.tell())

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer at the end only."""
        if count > _HEADER_BYTES:
            raise ImportRefusedError(
                f"The tar archive has a header of {count:,} bytes; up to {_HEADER_BYTES:,} are read."
            )
        return self._get(count)

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end only; they stay to be read."""
        data = self._get(count)
        self._at -= len(data)
        if self._at < 0:  # they began in the buffer before this one
            self._before += self._at
            self._buffer, self._at = data + self._buffer[self._at + len(data) :], 0
        return data

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises EOFError when fewer are left."""
        data = self._get(count)
        if len(data) < count:
            raise EOFError
        return data

    def skip(self, count: int) -> None:
        """Raises EOFError when fewer than `count` bytes are left."""
        if count < 0:
            raise EOFError
        while count > len(self._buffer) - self._at:
            count -= len(self._buffer) - self._at
            self._at = len(self._buffer)
            if not self._fill():
                raise EOFError
        self._at += count

    def drain(self) -> None:
        """Read on to the end: only there do gzip and xz say whether all that was read is sound."""
        while self._fill():
            pass

    def _get(self, count: int) -> bytes:
        end = self._at + count
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        parts = []
        missing = count
        while True:
            part = self._buffer[self._at : self._at + missing]
            self._at += len(part)
            missing -= len(part)
            parts.append(part)
            if not missing or not self._fill():
                return b"".join(parts)

    def _fill(self) -> bool:
        """Put the next unpacked bytes into the (used up) buffer; False at the end."""
        self._before += len(self._buffer)
        self._buffer, self._at = b"", 0
        try:
            self._buffer = self._ahead.result()
        except (OSError, lzma.LZMAError, zlib.error, EOFError) as error:
            raise ImportRefusedError(self._damage(error)) from error
        if self._buffer:
            self._ahead = self._unpacker.submit(self._piece)
        unpacked = self._before + len(self._buffer)
        if unpacked > self._limits.max_unpacked_bytes:
            raise ImportRefusedError(
                f"The archive unpacks to more than {self._limits.max_unpacked_bytes:,} bytes, the most that is accepted."
            )
        if unpacked > max(self._limits.ratio_from_bytes, self._limits.max_ratio * self._packed_bytes):
            raise ImportRefusedError(
                f"The archive of {self._packed_bytes:,} bytes unpacks to more than {self._limits.max_ratio:g} times its "
                "size: it looks like a decompression bomb and was not imported."
            )
        return bool(self._buffer)

    def _piece(self) -> bytes:
        """The next unpacked bytes, empty at the end alone. Runs beside the reader, one piece ahead of it."""
        piece = b""
        while not piece and not self._ended:
            piece = self._unpack()
        return piece

    def _unpack(self) -> bytes:
        """The next piece, empty while more input is needed. Sets `_ended` at the end of the last stream."""
        if self._decompressor.eof:
            rest = self._decompressor.unused_data.lstrip(b"\x00")  # padding
            while len(rest) < _MAGIC_BYTES and (more := self._read_packed()):
                rest = (rest + more).lstrip(b"\x00")
            if not any(rest.startswith(magic) for magic, *_ in PACKINGS):
                self._ended = True  # what follows the last stream is no part of it; gzip and xz pass over it, too
                return b""
            self._decompressor, self._pending = self._new(), rest
        data, self._pending = self._pending, b""
        if self._decompressor.needs_input and not data:
            data = self._read_packed()
            if not data:
                if self.packing:
                    raise EOFError
                self._ended = True
        return self._decompressor.decompress(data, _UNPACK_BYTES)

    def _read_packed(self) -> bytes:
        data = self._file.read(_READ_BYTES)
        self._read_bytes += len(data)
        return data

    def _damage(self, error: Exception) -> str:
        if isinstance(error, EOFError):
            return f"The {self.packing} file ends in the middle: the upload was cut off or the file is incomplete. Send it again."
        if "memory usage limit" in str(error).lower():
            return (
                f"The xz file needs more than {_LZMA_MEMORY_BYTES // MIB} MiB to unpack; pack it with `xz -9` or less."
            )
        return f"The {self.packing or 'tar'} file is damaged ({error}). Pack and send it again."
