"""A 100 MB model into Postgres and out again: seconds and what the client's memory grows by.

    python -m bench.store [--megabytes 100] [--rounds 5]

Starts its own Postgres (the embedded one, with fsync on) and removes it.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

from netwright import engines
from store import blobs, migrate
from store.database import engine_for, sessions_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with engines.temporary(durable=True) as servers:
        migrate.upgrade(servers.database_url)
        engine = engine_for(servers.database_url)
        sessions = sessions_for(engine)
        with sessions.begin() as session:
            blobs.put(session, os.urandom(1 << 20))
        data = bytearray(arguments.megabytes << 20)
        for start in range(0, len(data), 1 << 20):  # in pieces: a second copy would hide what `put` needs
            data[start : start + (1 << 20)] = os.urandom(1 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        writes, reads = [], []
        for number in range(arguments.rounds):
            data[:8] = number.to_bytes(8, "big")
            began = time.perf_counter()
            with sessions.begin() as session:
                digest = blobs.put(session, memoryview(data))
            writes.append(time.perf_counter() - began)
            began = time.perf_counter()
            with sessions() as session:
                size = sum(len(chunk) for chunk in blobs.chunks(session, digest))
            reads.append(time.perf_counter() - began)
            assert size == len(data)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        engine.dispose()
    figures = {
        "megabytes": arguments.megabytes,
        "n": arguments.rounds,
        "write_s_median": round(statistics.median(writes), 3),
        "write_s_max": round(max(writes), 3),
        "read_s_median": round(statistics.median(reads), 3),
        "read_s_max": round(max(reads), 3),
        "client_memory_grown_mb": round(grown, 1),
    }
    for name, value in figures.items():
        print(f"{name:24} {value}")
    json.dump(figures, sys.stderr)


if __name__ == "__main__":
    main()
