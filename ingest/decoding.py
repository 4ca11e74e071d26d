"""One decoding process: `python -m ingest.decoding WORKDIR`. Lines of JSON in, lines of JSON out, until the end of input.

Pictures are read from the shards and packed rows written to `images.npy` in place, so that neither travels through a
pipe. The process is a throw-away: hostile bytes may crash it or make it swell, and the import goes on without it.
"""

import contextlib
import fcntl
import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.duplicates import perceptual_hashes
from ingest.errors import UnreadableImageError
from ingest.files import HEADER_BYTES, Shards, images_path
from ingest.limits import GIB, Limits
from ingest.preprocess import Preprocessing, probe, to_array

_MEMORY_BYTES = 4 * GIB  # of address space; what a picture at the pixel limit needs is a fraction of it

Json = Any


def main() -> None:
    workdir = Path(sys.argv[1])
    limits = Limits(**json.loads(sys.argv[2]))
    with contextlib.suppress(ValueError):  # a stricter bound is in force already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    shards = Shards(workdir)
    print("ready", flush=True)  # noqa: T201  # the protocol
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply: Json = {"items": _answer(request, workdir, shards, limits)}
        except OSError as error:
            if error.errno is None:
                raise
            reply = {"errno": error.errno}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _answer(request: Json, workdir: Path, shards: Shards, limits: Limits) -> list[Json]:
    if "preprocessing" not in request:
        return [_probe(shards.read(*place), limits) for place in request["places"]]
    rows, items = _decode(request, workdir, shards, limits)
    if not request["hashed"]:
        return items
    hashes = perceptual_hashes(rows).tolist()
    gray = (rows[..., :1] == rows).all(axis=(1, 2, 3)).tolist()
    return [item or [phash, flag] for item, phash, flag in zip(items, hashes, gray, strict=True)]


def _probe(data: bytes, limits: Limits) -> Json:
    try:
        return asdict(probe(data, limits))
    except UnreadableImageError as error:
        return {"reason": error.reason, "mend": error.mend}


def _decode(request: Json, workdir: Path, shards: Shards, limits: Limits) -> tuple[NDArray[np.uint8], list[Json]]:
    """Write consecutive rows of images.npy beginning with `row`; those of refused pictures stay zero.

    Returns the rows, and for each None or why it was refused. A large picture is decoded while no other process of this
    folder holds one.
    """
    preprocessing = Preprocessing.from_json(request["preprocessing"])
    side, channels = preprocessing.side, preprocessing.channels
    rows = np.zeros((len(request["places"]), side, side, channels), np.uint8)
    items: list[Json] = []
    for row, place in zip(rows, request["places"], strict=True):
        try:
            row[:] = to_array(shards.read(*place), preprocessing, limits, lambda: _alone(workdir))
            items.append(None)
        except UnreadableImageError as error:
            items.append({"reason": error.reason, "mend": error.mend})
    with images_path(workdir).open("r+b", buffering=0) as images:
        data, at = rows.data.cast("B"), HEADER_BYTES + request["row"] * side * side * channels
        while data:
            written = os.pwrite(images.fileno(), data, at)
            data, at = data[written:], at + written
    return rows, items


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """While no other process of this folder holds a large picture."""
    with images_path(workdir).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
