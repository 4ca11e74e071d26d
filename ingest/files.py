"""The files an import leaves: packed pictures, an index, and the originals in shards."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ingest.errors import DiskFullError
from ingest.limits import MIB

SHARD_BYTES = 64 * MIB
HEADER_BYTES = 128  # of images.npy, always: the number of rows is known last and written over the first guess
_OPEN_SHARDS = 8
_COPY_BYTES = 8 * MIB


def images_path(workdir: Path) -> Path:
    """uint8 (N, side, side, channels), a plain .npy."""
    return workdir / "images.npy"


def index_path(workdir: Path) -> Path:
    """labels int32 (N,), splits uint8 (N,), groups int32 (N,)."""
    return workdir / "index.npz"


def shard_path(workdir: Path, shard: int) -> Path:
    return workdir / f"originals-{shard:05d}.bin"


def write_index(workdir: Path, labels: NDArray[np.int32], splits: NDArray[np.uint8], groups: NDArray[np.int32]) -> None:
    np.savez(
        index_path(workdir),
        labels=labels.astype(np.int32),
        splits=splits.astype(np.uint8),
        groups=groups.astype(np.int32),
    )


class ShardWriter:
    """Appends originals, a new shard after each SHARD_BYTES. Raises DiskFullError."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._shard = 0
        self._offset = 0
        self._file = shard_path(workdir, 0).open("wb", buffering=0)  # decoders read what was written at once

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def append(self, data: bytes) -> tuple[int, int, int]:
        """Returns shard, offset, length."""
        if self._offset >= SHARD_BYTES:
            self._file.close()
            self._shard, self._offset = self._shard + 1, 0
            self._file = shard_path(self._workdir, self._shard).open("wb", buffering=0)
        at = self._offset
        rest = memoryview(data)
        with disk_full_is_said(self._workdir):
            while rest:
                rest = rest[self._file.write(rest) :]
        self._offset += len(data)
        return self._shard, at, len(data)


class Shards:
    """Reads originals, a few shards open at a time."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._open: dict[int, int] = {}

    def read(self, shard: int, offset: int, length: int) -> bytes:
        file = self._open.get(shard)
        if file is None:
            if len(self._open) >= _OPEN_SHARDS:
                os.close(self._open.pop(next(iter(self._open))))
            file = self._open[shard] = os.open(shard_path(self._workdir, shard), os.O_RDONLY)
        return os.pread(file, length, offset)


def create_images(workdir: Path, rows: int, side: int, channels: int) -> None:
    """images.npy with its room taken at once, so that a full disk shows now. Raises DiskFullError."""
    size = HEADER_BYTES + rows * side * side * channels
    with disk_full_is_said(workdir, size), images_path(workdir).open("wb", buffering=0) as file:
        file.write(_header(rows, side, channels))
        os.posix_fallocate(file.fileno(), 0, size)


def read_rows(file: BinaryIO, rows: NDArray[np.int64], side: int, channels: int) -> NDArray[np.uint8]:
    """Some rows of an open images.npy, (len(rows), side, side, channels). Read, not mapped: mapped pages count as memory."""
    size = side * side * channels
    data = b"".join(os.pread(file.fileno(), size, HEADER_BYTES + row * size) for row in rows.tolist())
    return np.frombuffer(data, np.uint8).reshape(len(rows), side, side, channels)


def keep_rows(workdir: Path, keep: NDArray[np.bool_], side: int, channels: int, to_channels: int) -> None:
    """Drop rows of images.npy, and all channels but the first `to_channels`, in place."""
    if keep.all() and channels == to_channels:
        return
    row_bytes = side * side * channels
    chunk = max(1, _COPY_BYTES // row_bytes)
    with images_path(workdir).open("r+b", buffering=0) as file:
        end = HEADER_BYTES
        for first in range(0, len(keep), chunk):
            kept = keep[first : first + chunk]
            data = os.pread(file.fileno(), len(kept) * row_bytes, HEADER_BYTES + first * row_bytes)
            rows = np.frombuffer(data, np.uint8).reshape(len(kept), side, side, channels)[kept]
            packed = rows[..., :to_channels].tobytes()
            os.pwrite(file.fileno(), packed, end)  # never ahead of what is still to be read
            end += len(packed)
        os.ftruncate(file.fileno(), end)
        os.pwrite(file.fileno(), _header(int(keep.sum()), side, to_channels), 0)


@contextmanager
def disk_full_is_said(workdir: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn the errors of a full disk or quota into DiskFullError."""
    try:
        yield
    except OSError as error:
        raise_if_disk_full(error.errno, workdir, needed_bytes)
        raise


def raise_if_disk_full(number: int | None, workdir: Path, needed_bytes: int | None = None) -> None:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        room = os.statvfs(workdir)
        needs = "" if needed_bytes is None else f", {needed_bytes / MIB:,.1f} MiB are needed at once"
        raise DiskFullError(
            f"The disk for imports is full: {room.f_bavail * room.f_frsize / MIB:,.0f} MiB are free{needs}. "
            "Make room and send the data again; nothing was imported."
        )


def _header(rows: int, side: int, channels: int) -> bytes:
    """The header of format version 1.0, of HEADER_BYTES whatever the numbers."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {side}, {side}, {channels}), }}"
    magic = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return magic + text.ljust(HEADER_BYTES - 11).encode() + b"\n"
