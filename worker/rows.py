"""What a batch prediction is asked about, row by row: examples of a data set, files of an archive, addresses.

A source yields the same rows in the same order each time, and skips those that were answered before, so that a batch
goes on where its last part ends.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ingest.archives import LEFT_OUT, members
from ingest.decoders import Place
from ingest.errors import ReportLine
from ingest.files import ShardWriter, shard_path
from ingest.formats import sniff
from ingest.limits import Limits
from ingest.preprocess import not_a_picture
from store.database import Sessions
from store.objects import Objects
from store.tables import Example
from worker.fetch import Fetcher, FetchError

_PAGE = 2048  # examples read at a time
_FETCHERS = 8
_FETCHED_AHEAD = 16

Alive = Callable[[], None]
"""To be called between things that may take long; raises what is to end the job."""


@dataclass(frozen=True, slots=True)
class Row:
    """One picture that was asked about. names: what it is called in the results.

    Either `place`, where its bytes are in the shards of the working folder, or `packed`, its place in the packed array,
    or `error`, why there is no picture. size_bytes: that wait in the shards for it. read: how much of the whole source is
    read by then, 0 to 1, where that is known.
    """

    names: dict[str, Any]
    place: Place | None = None
    packed: int | None = None
    error: str | None = None
    size_bytes: int = 0
    read: float | None = None


Rows = Generator[Row, None, None]


def of_examples(
    sessions: Sessions,
    objects: Objects,
    version_id: str,
    labels: Sequence[str],
    split: int | None,
    shard_keys: Sequence[str],
    folder: Path,
    cache: Path,
    skip: int,
    *,
    packed: bool,
) -> Rows:
    """The examples of a version, or of one split, in order. packed: as places in the packed array, not as originals."""
    columns = Example.number, Example.path, Example.label, Example.shard, Example.shard_offset, Example.shard_length
    statement = select(*columns).where(Example.version_id == version_id).order_by(Example.number)
    if split is not None:
        statement = statement.where(Example.split == split)
    with sessions.begin() as session:
        first = session.execute(statement.offset(skip).limit(1)).first() if skip else None
    if skip and first is None:
        return
    last = -1 if first is None else first.number - 1
    while True:
        with sessions.begin() as session:
            page = session.execute(statement.where(Example.number > last).limit(_PAGE)).all()
        for number, path, label, shard, offset, length in page:
            names = {"example": number, "path": path, "true_label": labels[label]}
            if packed:
                yield Row(names, packed=number)
                continue
            link = shard_path(folder, shard)
            if not link.exists():
                link.unlink(missing_ok=True)  # the copy that it led to has made room for others
                link.symlink_to(objects.fetch(shard_keys[shard], cache))
            yield Row(names, place=(shard, offset, length))
        if len(page) < _PAGE:
            return
        last = page[-1].number


def of_archive(archive: Path, limits: Limits, folder: Path, skip: int, note: Callable[[ReportLine], None]) -> Rows:
    """The files of an archive in its order, those that cannot be read among them; `note` is told of mends and rubbish.

    Raises ImportRefusedError when the whole must be refused.
    """
    refused: list[ReportLine] = []

    def report(line: ReportLine) -> None:
        if line.action == LEFT_OUT:
            refused.append(line)
        else:
            note(line)

    seen = 0
    with ShardWriter(folder) as shards, closing(members(archive, limits, report)) as found:
        for member in found:
            for line in refused:
                seen += 1
                if seen > skip:
                    yield Row({"path": line.path}, error=line.reason)
            refused.clear()
            seen += 1
            if seen > skip:
                yield _stored({"path": member.path}, member.data, shards, member.fraction)
        for line in refused:
            seen += 1
            if seen > skip:
                yield Row({"path": line.path}, error=line.reason)


def of_uris(uris: Sequence[str], fetcher: Fetcher, folder: Path, skip: int, alive: Alive) -> Rows:
    """What lies at the addresses, fetched a few at a time, in their order."""
    with ShardWriter(folder) as shards, ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch") as threads:
        waiting = deque((uri, threads.submit(fetcher.fetch, uri)) for uri in uris[skip : skip + _FETCHED_AHEAD])
        following = iter(uris[skip + _FETCHED_AHEAD :])
        try:
            while waiting:
                alive()
                uri, future = waiting.popleft()
                if (after := next(following, None)) is not None:
                    waiting.append((after, threads.submit(fetcher.fetch, after)))
                try:
                    data = future.result()
                except FetchError as error:
                    yield Row({"uri": uri}, error=str(error))
                    continue
                yield _stored({"uri": uri}, data, shards, None)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _stored(names: dict[str, Any], data: bytes, shards: ShardWriter, read: float | None) -> Row:
    if sniff(data) is None:
        return Row(names, error=not_a_picture(data).reason, read=read)
    return Row(names, place=shards.append(data), size_bytes=len(data), read=read)
