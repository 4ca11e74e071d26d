"""Data set bytes in an object store: a local directory, S3, Google Cloud Storage or Azure, by URL (obstore)."""

import errno
import os
import time
from collections.abc import AsyncIterable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from store.settings import Settings

PART_BYTES = 8 << 20
COPY_KEPT_S = 3600.0  # since it was last asked for: somebody may be about to open it


class ObjectsError(RuntimeError):
    """The object store refused or could not be reached; the message is its own."""


class Objects:
    """Named byte strings. A key is written whole or not at all: readers never see half an object."""

    def __init__(self, url: str, s3_endpoint: str | None = None, copies_max_bytes: int = 50 << 30) -> None:
        """`url`: file:///directory, s3://bucket/prefix, gs://…, az://…; credentials come from the usual variables.

        copies_max_bytes: of local copies of remote objects, in one cache; those that nobody asks for go first.
        """
        self._copies_max_bytes = copies_max_bytes
        parts = urlparse(url)
        self.local: Path | None = Path(unquote(parts.path)) if parts.scheme == "file" else None
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
            self.store: ObjectStore = from_url(url)
        elif s3_endpoint is not None:
            allow_http = s3_endpoint.startswith("http://")
            self.store = from_url(url, endpoint=s3_endpoint, client_options={"allow_http": allow_http})
        else:
            self.store = from_url(url)

    @classmethod
    def of(cls, settings: Settings) -> "Objects":
        return cls(settings.objects, settings.s3_endpoint, settings.object_cache_max_bytes)

    async def receive(self, key: str, body: AsyncIterable[bytes]) -> int:
        """Stream `body` into `key`; returns its size. Anything `body` raises leaves nothing behind."""
        size = 0
        async with obstore.open_writer_async(self.store, key, buffer_size=PART_BYTES) as writer:
            async for piece in body:
                if piece:
                    await writer.write(piece)
                    size += len(piece)
        return size

    def take_file(self, key: str, path: Path) -> int:
        """Move a file into `key`; returns its size. Raises OSError (disk full among them) or ObjectsError."""
        size = path.stat().st_size
        try:
            if self.local is None:
                obstore.put(self.store, key, path, chunk_size=PART_BYTES, max_concurrency=2)
                path.unlink()
                return size
            target = self.local / key
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.rename(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with path.open("rb") as source, obstore.open_writer(self.store, key, buffer_size=PART_BYTES) as writer:
                    while piece := source.read(PART_BYTES):
                        writer.write(piece)
                path.unlink()
        except BaseError as error:
            raise ObjectsError(f"object {key} could not be written: {error}") from error
        return size

    def put(self, key: str, data: bytes) -> None:
        """Write a few megabytes. Raises ObjectsError."""
        try:
            obstore.put(self.store, key, data)
        except BaseError as error:
            raise ObjectsError(f"object {key} could not be written: {error}") from error

    def fetch(self, key: str, cache: Path) -> Path:
        """`key` as a local file: the stored file itself when the store is a directory, else a copy under `cache`.

        Keys are never rewritten, so a copy that is there is the right one. Raises ObjectsError when it is missing.
        """
        if self.local is not None:
            path = self.local / key
            if not path.exists():
                raise ObjectsError(f"object {key} is missing from {self.local}")
            return path
        path = cache / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{id(self):x}.part")
            try:
                with part.open("wb") as sink:
                    for piece in obstore.get(self.store, key).stream(min_chunk_size=PART_BYTES):
                        sink.write(piece)
            except (BaseError, FileNotFoundError) as error:
                part.unlink(missing_ok=True)
                raise ObjectsError(f"object {key} could not be read: {error}") from error
            part.rename(path)
            self._make_room(cache)
        with suppress(FileNotFoundError):  # another process has just made room
            os.utime(path)
        return path

    def _make_room(self, cache: Path) -> None:
        """Let the copies go that were not asked for in the longest while, until all fit; what is open stays readable."""
        found = sorted(
            ((path.stat(), path) for path in cache.rglob("*") if path.is_file()), key=lambda x: x[0].st_mtime
        )
        held = sum(status.st_size for status, _ in found)
        for status, path in found:
            if held <= self._copies_max_bytes or status.st_mtime > time.time() - COPY_KEPT_S:
                return
            path.unlink(missing_ok=True)
            held -= status.st_size

    def read(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of `key` from `start`. Raises ObjectsError."""
        try:
            return bytes(obstore.get_range(self.store, key, start=start, length=length))
        except (BaseError, FileNotFoundError) as error:
            raise ObjectsError(f"object {key} could not be read: {error}") from error

    def whole(self, key: str, max_bytes: int) -> bytes:
        """All bytes of `key`. Raises ObjectsError, also for an object of more than `max_bytes`."""
        try:
            found = obstore.get(self.store, key)
            if found.meta["size"] > max_bytes:
                raise ObjectsError(f"object {key} has {found.meta['size']:,} bytes, the limit is {max_bytes:,}")
            return bytes(found.bytes())
        except (BaseError, FileNotFoundError) as error:
            raise ObjectsError(f"object {key} could not be read: {error}") from error

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are no error."""
        for key in keys:
            try:
                obstore.delete(self.store, key)
            except FileNotFoundError:
                continue
            except BaseError as error:
                raise ObjectsError(f"object {key} could not be deleted: {error}") from error

    def keys(self, prefix: str) -> list[str]:
        """Every key below `prefix`."""
        return [str(entry["path"]) for page in obstore.list(self.store, prefix) for entry in page]
