"""Weights, ONNX files and checkpoints in Postgres: chunked rows, named by their SHA-256.

8 MiB chunks with STORAGE EXTERNAL and binary cursors: 100 MB goes in and out without a second copy in memory, and
pg_dump never meets a value it cannot write. A blob is written before the row that names it; `collect` removes those
that no row has named for an hour.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

from psycopg import Connection
from sqlalchemy import text
from sqlalchemy.orm import Session

from store.errors import CorruptBlobError
from store.tables import Base

CHUNK_BYTES = 8 << 20


def _connection(session: Session) -> Connection[tuple[Any, ...]]:
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, Connection)
    return driver


def put(session: Session, data: bytes | memoryview) -> bytes:
    """Store `data` unless it is there already; returns its SHA-256 (32 bytes)."""
    view = memoryview(data)
    digest = hashlib.sha256(view).digest()
    with _connection(session).cursor(binary=True) as cursor:
        cursor.execute(
            "INSERT INTO blobs (sha256, size_bytes) VALUES (%s, %s)"
            # touching the row keeps `collect` away from bytes that are named again
            " ON CONFLICT (sha256) DO UPDATE SET created_at = clock_timestamp() RETURNING (xmax = 0)",
            (digest, len(view)),
        )
        row = cursor.fetchone()
        if row is not None and row[0]:
            for ordinal, start in enumerate(range(0, len(view), CHUNK_BYTES)):
                cursor.execute(
                    "INSERT INTO blob_chunks (sha256, ordinal, data) VALUES (%s, %s, %s)",
                    (digest, ordinal, view[start : start + CHUNK_BYTES]),
                )
    return digest


def chunks(session: Session, sha256: bytes) -> Iterator[bytes]:
    """The bytes in pieces of up to 8 MiB, one at a time in memory; the last piece is held back until the digest holds.

    Raises CorruptBlobError when the blob is missing, incomplete or not what its name says.
    """
    digest = hashlib.sha256()
    connection = _connection(session)
    with connection.cursor(binary=True) as cursor:
        cursor.execute("SELECT size_bytes FROM blobs WHERE sha256 = %s", (sha256,))
        row = cursor.fetchone()
        if row is None:
            raise CorruptBlobError(f"blob {sha256.hex()} is missing")
        size, seen, ordinal, held = row[0], 0, 0, b""
        while seen < size:
            cursor.execute("SELECT data FROM blob_chunks WHERE sha256 = %s AND ordinal = %s", (sha256, ordinal))
            chunk = cursor.fetchone()
            if chunk is None:
                raise CorruptBlobError(f"blob {sha256.hex()} ends after {seen} of {size} bytes")
            if held:
                yield held
            held = chunk[0]
            digest.update(held)
            seen += len(held)
            ordinal += 1
    if digest.digest() != sha256:
        raise CorruptBlobError(f"blob {sha256.hex()} holds other bytes than its name says: {digest.hexdigest()}")
    yield held


def get(session: Session, sha256: bytes) -> bytes:
    """All bytes of a blob. Raises CorruptBlobError."""
    pieces = list(chunks(session, sha256))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def piece(session: Session, sha256: bytes, start: int, size: int) -> bytes:
    """Up to `size` (at most CHUNK_BYTES) of the bytes from `start` on: those that lie in one chunk, so perhaps fewer.

    Unlike `chunks` it cannot say whether they are what the digest names. Raises CorruptBlobError when there are none.
    """
    ordinal, offset = divmod(start, CHUNK_BYTES)
    with _connection(session).cursor(binary=True) as cursor:
        cursor.execute(
            "SELECT substring(data FROM %s FOR %s) FROM blob_chunks WHERE sha256 = %s AND ordinal = %s",
            (offset + 1, size, sha256, ordinal),
        )
        row = cursor.fetchone()
    if row is None or not row[0]:
        raise CorruptBlobError(f"blob {sha256.hex()} has no byte {start}")
    data: bytes = row[0]
    return data


def _named() -> str:
    """SQL for every digest that some row names: all foreign keys to blobs, so that a new column needs no care here."""
    columns = [
        f"SELECT {column.name} FROM {table.name} WHERE {column.name} IS NOT NULL"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if table.name != "blob_chunks" and any(key.target_fullname == "blobs.sha256" for key in column.foreign_keys)
    ]
    return " UNION ".join(columns)


def discard(session: Session, sha256: bytes) -> None:
    """Delete one blob now if no row names it; for what is replaced every few seconds."""
    session.execute(
        text(f"DELETE FROM blobs WHERE sha256 = :sha256 AND sha256 NOT IN ({_named()})"),
        {"sha256": sha256},
    )


def collect(session: Session, older_than_s: float = 3600.0) -> int:
    """Delete blobs that no row names and that were written more than `older_than_s` ago; returns the bytes freed."""
    freed = session.execute(
        text(
            "WITH gone AS (DELETE FROM blobs WHERE created_at < clock_timestamp() - make_interval(secs => :age)"
            f" AND sha256 NOT IN ({_named()}) RETURNING size_bytes) SELECT coalesce(sum(size_bytes), 0) FROM gone"
        ),
        {"age": older_than_s},
    ).scalar_one()
    return int(freed)
