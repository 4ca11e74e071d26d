"""The same object store, as a directory and as S3."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from store.objects import PART_BYTES, Objects, ObjectsError


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A local S3 server with a bucket `data`."""
    import httpx

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    httpx.put(f"{endpoint}/data").raise_for_status()
    before = dict(os.environ)
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1")
    yield endpoint
    os.environ.clear()
    os.environ.update(before)
    server.stop()


@pytest.fixture(params=["directory", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "directory":
        return Objects(f"file://{tmp_path}/with%20space")
    return Objects(f"s3://data/{tmp_path.name}", request.getfixturevalue("s3"))


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def test_a_streamed_upload_comes_out_as_it_went_in(objects: Objects, tmp_path: Path) -> None:
    data = os.urandom(PART_BYTES + 12345)
    assert asyncio.run(objects.receive("uploads/a", pieces(data[:100], b"", data[100:]))) == len(data)
    assert objects.fetch("uploads/a", tmp_path / "cache").read_bytes() == data
    assert objects.read("uploads/a", 90, 20) == data[90:110]


def test_an_upload_that_breaks_off_leaves_nothing(objects: Objects) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield bytes(2 * PART_BYTES)
        raise ConnectionError("the client is gone")

    with pytest.raises(ConnectionError):
        asyncio.run(objects.receive("uploads/b", cut_off()))
    assert objects.keys("uploads") == []


def test_a_file_is_moved_in(objects: Objects, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"packed")
    assert objects.take_file("d/file", path) == 6
    assert not path.exists()
    assert objects.read("d/file", 0, 6) == b"packed"


def test_a_missing_object_is_named(objects: Objects, tmp_path: Path) -> None:
    with pytest.raises(ObjectsError, match="nowhere/x"):
        objects.fetch("nowhere/x", tmp_path / "cache")
    with pytest.raises(ObjectsError, match="nowhere/x"):
        objects.read("nowhere/x", 0, 1)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_deleting_twice_is_no_error(objects: Objects) -> None:
    asyncio.run(objects.receive("gone", pieces(b"x")))
    objects.delete(["gone"])
    objects.delete(["gone"])
    assert objects.keys("") == []


def test_copies_of_remote_objects_make_room_for_newer_ones_but_not_within_the_hour(s3: str, tmp_path: Path) -> None:
    objects, cache = Objects(f"s3://data/{tmp_path.name}", s3, copies_max_bytes=250), tmp_path / "cache"
    for key in ("old", "used", "late", "last"):
        asyncio.run(objects.receive(key, pieces(bytes(100))))
    for key, age_s in (("old", 8000), ("used", 9000)):
        copy = objects.fetch(key, cache)
        os.utime(copy, times=(copy.stat().st_atime - age_s, copy.stat().st_mtime - age_s))
    objects.fetch("used", cache)
    objects.fetch("late", cache)
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["late", "used"]
    objects.fetch("last", cache)
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["last", "late", "used"]
    assert objects.fetch("old", cache).read_bytes() == bytes(100)
