"""What deployments answered, minute by minute: counts and latencies of all requests, sampled or not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.tables import Deployment, TrafficMinute

# Bins of latencies: each is 2^(1/4) times as long as the one before, so a percentile is right within a tenth.
FIRST_S = 1e-4
PER_DOUBLING = 4
BINS = 80  # up to 100 s; what takes longer stands in the last one
_FIRST_LOG = math.log2(FIRST_S)


def bin_of(seconds: float) -> int:
    """The bin of a latency."""
    if seconds <= FIRST_S:
        return 0
    return min(BINS - 1, 1 + int((math.log2(seconds) - _FIRST_LOG) * PER_DOUBLING))


def seconds_of(number: int) -> float:
    """The middle of a bin, geometrically."""
    return float(FIRST_S * 2 ** ((number - 0.5) / PER_DOUBLING))


@dataclass(slots=True)
class Counts:
    """Of some time: requests by how they ended, and how many latencies are in each bin."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    latencies: dict[int, int] = field(default_factory=dict)

    def add(self, status: int, seconds: float) -> None:
        """One request. `seconds` counts for those that were answered."""
        if status < 400:
            self.answered += 1
            number = bin_of(seconds)
            self.latencies[number] = self.latencies.get(number, 0) + 1
        elif status < 500:
            self.refused += 1
        else:
            self.failed += 1

    def include(self, other: "Counts") -> None:
        self.answered += other.answered
        self.refused += other.refused
        self.failed += other.failed
        for number, count in other.latencies.items():
            self.latencies[number] = self.latencies.get(number, 0) + count

    def percentile_ms(self, share: float) -> float | None:
        """The latency that `share` (0 to 1) of the answered requests did not exceed; None without any."""
        left = share * sum(self.latencies.values())
        for number in sorted(self.latencies):
            left -= self.latencies[number]
            if left <= 0:
                return round(seconds_of(number) * 1000, 3)
        return None


def write(session: Session, process: str, minutes: Mapping[tuple[str, datetime], Counts]) -> None:
    """Say how many it is by now in each (deployment's id, minute), in place of what this process said before."""
    if not minutes:
        return
    wanted = insert(TrafficMinute)
    session.execute(
        wanted.on_conflict_do_update(
            index_elements=["deployment_id", "minute", "process"],
            set_={name: wanted.excluded[name] for name in ("answered", "refused", "failed", "latencies")},
        ),
        [
            {
                "deployment_id": deployment_id,
                "minute": minute,
                "process": process,
                "answered": counts.answered,
                "refused": counts.refused,
                "failed": counts.failed,
                "latencies": {str(number): count for number, count in counts.latencies.items()},
            }
            for (deployment_id, minute), counts in minutes.items()
        ],
    )


def over(session: Session, deployment: Deployment, span: timedelta, width: timedelta) -> list[tuple[datetime, Counts]]:
    """(beginning, counts) of each stretch of `width` in the last `span`, oldest first; the last one has not ended."""
    width_s = int(width.total_seconds())
    last = int(session.scalars(select(func.extract("epoch", func.clock_timestamp()))).one()) // width_s * width_s
    first = last - int(span.total_seconds()) + width_s
    stretches = {start: Counts() for start in range(first, last + 1, width_s)}
    rows: Sequence[TrafficMinute] = session.scalars(
        select(TrafficMinute).where(
            TrafficMinute.deployment_id == deployment.id, TrafficMinute.minute >= func.to_timestamp(first)
        )
    ).all()
    for row in rows:
        counts = stretches.get(int(row.minute.timestamp()) // width_s * width_s)
        if counts is not None:  # else a process whose clock is ahead
            latencies = {int(number): count for number, count in row.latencies.items()}
            counts.include(Counts(row.answered, row.refused, row.failed, latencies))
    zone = deployment.created_at.tzinfo
    return [(datetime.fromtimestamp(start, zone), counts) for start, counts in stretches.items()]
