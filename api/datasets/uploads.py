"""Bytes of a request into the object store: whole or not at all."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from starlette.requests import ClientDisconnect, Request

from api.errors import disk_full
from api.runtime import Runtime
from store import datasets
from store.ids import new_id
from web.problems import ProblemError

log = structlog.get_logger()

UPLOAD_LASTS_AT_MOST = timedelta(days=2)


def check_declared(request: Request, runtime: Runtime) -> None:
    """Refuse before the first byte what its Content-Length rules out. Raises ProblemError: 413, 422, 507."""
    declared = request.headers.get("content-length")
    if declared is None or not declared.isdecimal():
        return
    size, limit = int(declared), runtime.settings.upload_max_bytes
    if size > limit:
        raise too_large(limit, f"this one has {size}")
    if size == 0:
        raise empty()
    local = runtime.objects.local
    if local is not None and shutil.disk_usage(local).free < size:
        raise disk_full("the disk of the object store")


def too_large(limit: int, found: str) -> ProblemError:
    return ProblemError(
        413,
        "content-too-large",
        f"an upload may have {limit} bytes at most ({found}); NETWRIGHT_UPLOAD_MAX_BYTES sets it",
    )


def empty() -> ProblemError:
    return ProblemError(422, "empty-upload", "the body is empty; send an archive of pictures: curl -T flowers.zip …")


@asynccontextmanager
async def received(request: Request, runtime: Runtime) -> AsyncIterator[tuple[str, int]]:
    """Streams the body into an object; the block, which has its key and size, names it. What fails leaves no object.

    The key is doomed before the first byte is written: whatever happens to this process, the sweep clears up. Raises
    ProblemError: 413, 422 when empty; OSError when the disk is full; ClientDisconnect when the caller is gone.
    """
    key = f"uploads/{new_id('upload')}"
    limit = runtime.settings.upload_max_bytes
    await runtime.transact(lambda session: datasets.doom(session, [key], UPLOAD_LASTS_AT_MOST))

    async def pieces() -> AsyncIterator[bytes]:
        seen = 0
        async for piece in request.stream():
            seen += len(piece)
            if seen > limit:
                raise too_large(limit, "this one has more")
            yield piece
        if seen == 0:
            raise empty()

    try:
        yield key, await runtime.objects.receive(key, pieces())
    except BaseException as error:
        # Also when this task is cancelled: what was written must not wait for two days.
        await asyncio.shield(runtime.transact(lambda session: datasets.doom(session, [key])))
        if isinstance(error, ClientDisconnect):
            log.info("upload.cut_off", key=key)
        raise
