"""How many requests a key may make: a token bucket per key, in this process alone.

Two API processes allow twice as much: the limit guards a process from one eager client, it does not meter anybody.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

KEYS_REMEMBERED = 10_000  # the longest unseen is forgotten first: its bucket has filled up again


@dataclass(slots=True)
class Rates:
    """Buckets that hold a minute's worth and refill steadily."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)  # key: (tokens, seen at)

    def take(self, key: str) -> float:
        """Count one request of `key`; returns 0, or after how many seconds there will be room for it."""
        now, per_second = self.clock(), self.per_minute / 60
        tokens, seen = self.buckets.pop(key, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - seen) * per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / per_second
        self.buckets[key] = (tokens if wait else tokens - 1, now)
        if len(self.buckets) > KEYS_REMEMBERED:
            self.buckets.popitem(last=False)
        return wait
