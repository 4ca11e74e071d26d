"""When a candidate need not be trained to its end."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.train import Point

_EARLIEST, _LATEST = 0.45, 0.9  # of the schedule: before, order means little; after, nothing is saved
_MIN_PEERS = 3


def should_stop(curve: "Sequence[Point]", peers: "Sequence[Sequence[Point]]") -> bool:
    """Whether a candidate lags behind the median of its peers at the same share of the schedule.

    curve: its points so far. peers: curves of candidates of a comparable fidelity that have ended. Of the last two
    scores the better one counts, since a score on the way is of few pictures. Never with fewer than three peers.
    The median rule of Golovin et al. 2017 (Google Vizier), on single scores instead of running means.
    """
    scored = [point for point in curve if point.score is not None]
    if not scored or not _EARLIEST <= scored[-1].fraction <= _LATEST:
        return False
    best = max(point.score for point in scored[-2:] if point.score is not None)
    rivals = [score for peer in peers if (score := _score_at(peer, scored[-1].fraction)) is not None]
    return len(rivals) >= _MIN_PEERS and best < median(rivals)


def _score_at(curve: "Sequence[Point]", fraction: float) -> float | None:
    """The score at that share of the schedule, linear between the points that have one; None outside of them."""
    before: tuple[float, float] | None = None
    for point in curve:
        if point.score is None:
            continue
        if point.fraction >= fraction:
            if before is None or point.fraction == before[0]:
                return point.score if point.fraction == fraction else None
            share = (fraction - before[0]) / (point.fraction - before[0])
            return before[1] + share * (point.score - before[1])
        before = (point.fraction, point.score)
    return None
