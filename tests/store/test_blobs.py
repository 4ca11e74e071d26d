"""Bytes in Postgres."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store import blobs
from store.errors import CorruptBlobError
from store.tables import Blob, BlobChunk, Trial
from tests.support.rows import a_search, a_trial


@pytest.mark.parametrize("size", [0, 1, blobs.CHUNK_BYTES - 1, blobs.CHUNK_BYTES, blobs.CHUNK_BYTES + 1])
def test_what_goes_in_comes_out(session: Session, size: int) -> None:
    data = os.urandom(size)
    digest = blobs.put(session, data)
    assert blobs.get(session, digest) == data


def test_equal_bytes_are_stored_once(session: Session) -> None:
    assert blobs.put(session, b"weights") == blobs.put(session, b"weights")
    assert session.scalar(select(func.count()).select_from(BlobChunk)) == 1


def test_a_missing_blob_is_named(session: Session) -> None:
    with pytest.raises(CorruptBlobError, match=r"00000000.* is missing"):
        blobs.get(session, bytes(32))


def test_a_blob_whose_bytes_changed_is_refused(session: Session) -> None:
    digest = blobs.put(session, b"weights")
    session.execute(update(BlobChunk).values(data=b"wEights"))
    with pytest.raises(CorruptBlobError, match="other bytes than its name says"):
        blobs.get(session, digest)


def test_a_blob_that_lost_a_chunk_is_refused(session: Session) -> None:
    digest = blobs.put(session, bytes(blobs.CHUNK_BYTES + 1))
    session.query(BlobChunk).filter(BlobChunk.ordinal == 1).delete()
    with pytest.raises(CorruptBlobError, match=f"ends after {blobs.CHUNK_BYTES} of {blobs.CHUNK_BYTES + 1}"):
        blobs.get(session, digest)


def test_only_old_blobs_that_no_row_names_are_collected(session: Session) -> None:
    named, orphan, fresh = (blobs.put(session, name) for name in (b"named", b"orphan", b"fresh"))
    trial = a_trial(session, a_search(session))
    session.execute(update(Trial).where(Trial.id == trial.id).values(weights_sha256=named))
    session.execute(
        update(Blob).where(Blob.sha256 != fresh).values(created_at=func.clock_timestamp() - timedelta(hours=2))
    )
    assert blobs.collect(session) == len(b"orphan")
    assert set(session.scalars(select(Blob.sha256))) == {named, fresh}
    assert orphan not in set(session.scalars(select(BlobChunk.sha256)))


def test_a_blob_named_again_is_not_collected_meanwhile(session: Session) -> None:
    digest = blobs.put(session, b"twice")
    session.execute(update(Blob).values(created_at=func.clock_timestamp() - timedelta(hours=2)))
    blobs.put(session, b"twice")
    assert blobs.collect(session) == 0
    assert blobs.get(session, digest) == b"twice"


@pytest.mark.slow
def test_a_hundred_megabytes_pass_through_a_client_that_stays_small(database_url: str) -> None:
    code = """
import resource, sys
from store import blobs
from store.database import engine_for, sessions_for
sessions = sessions_for(engine_for(sys.argv[1]))
with sessions() as session:
    blobs.put(session, bytes(1 << 20))
data = memoryview(bytearray(100 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with sessions() as session:
    digest = blobs.put(session, data)
    assert sum(len(chunk) for chunk in blobs.chunks(session, digest)) == 100 << 20
    session.rollback()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    printed = subprocess.run(
        [sys.executable, "-c", code, database_url], capture_output=True, text=True, check=True
    ).stdout
    assert int(printed) * 1024 < 64 << 20
