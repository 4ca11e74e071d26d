"""What one serving process may hold at a time, and how it says that it holds enough already."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from search.runtime import cores, threads
from store.settings import Settings
from web.problems import ProblemError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bounds of a serving process. Times in seconds.

    body_max_bytes, picture_max_pixels: of one request, of one picture.
    bodies_max_bytes, pictures_max: of all requests together; beyond them the answer is 503 with Retry-After.
    wait_max_s: how long a picture may wait for its batch; body_max_s: how long a client may take to send a body.
    lanes: batches that run at once, one thread each; of a slow network fewer, with up to `threads` each, so that together
      they never exceed the lanes (`search.runtime.threads`).
    models_max_bytes: of loaded models together; idle_s: unloaded when unused for so long.
    load_max_s: how long a request may wait for its model to be loaded.
    log_pictures_per_s: that each deployment logs in the long run; log_queue_max, log_queue_max_bytes: pictures that wait
      to be logged.
    """

    body_max_bytes: int = 16 * MIB
    picture_max_pixels: int = 100_000_000
    bodies_max_bytes: int = 256 * MIB
    pictures_max: int = 1024
    wait_max_s: float = 20.0
    body_max_s: float = 60.0
    batch_max: int = 32
    lanes: int = 1
    threads: int = 1
    decoders: int = 2
    models_max_bytes: int = 2 * GIB
    idle_s: float = 900.0
    load_max_s: float = 20.0
    log_pictures_per_s: float = 10.0
    log_queue_max: int = 1000
    log_queue_max_bytes: int = 64 * MIB

    @classmethod
    def of(cls, settings: Settings) -> "Capacity":
        """What this machine and these settings allow."""
        return cls(
            body_max_bytes=settings.predict_max_bytes,
            picture_max_pixels=settings.picture_max_pixels,
            bodies_max_bytes=max(256 * MIB, 2 * settings.predict_max_bytes),
            lanes=cores(),
            threads=threads(),
            decoders=min(8, cores()),
        )


class Room:
    """Counts something that is held for a while, up to a limit."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit = limit
        self.what = what
        self.held = 0

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Raises ProblemError (503, Retry-After) when `amount` more would be too much."""
        if self.held + amount > self.limit:
            raise busy(f"{self.held} {self.what} are in work already, the limit is {self.limit}")
        self.held += amount
        try:
            yield
        finally:
            self.held -= amount


def busy(why: str) -> ProblemError:
    """503 that asks the client to come again."""
    return ProblemError(503, "busy", f"{why}; try again in a second", headers={"Retry-After": "1"})
