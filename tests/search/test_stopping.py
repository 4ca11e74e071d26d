"""Early stopping: who is stopped, and who is not."""

from search.stopping import should_stop
from search.train import Point


def curve(*scores: float | None, upto: float = 1.0) -> list[Point]:
    """Scores at equal steps of the schedule up to `upto`."""
    return [Point(upto * (place + 1) / len(scores), 1.0, 1.0, 1.0, score, 100.0) for place, score in enumerate(scores)]


GOOD = curve(0.3, 0.5, 0.7, 0.9)
PEERS = [GOOD, curve(0.2, 0.4, 0.6, 0.8), curve(0.1, 0.3, 0.5, 0.7)]


def test_one_that_lags_behind_the_median_at_half_the_schedule_is_stopped() -> None:
    assert should_stop(curve(0.2, 0.35, upto=0.5), PEERS)
    assert not should_stop(curve(0.2, 0.45, upto=0.5), PEERS)


def test_it_needs_three_peers() -> None:
    assert not should_stop(curve(0.0, 0.0, upto=0.5), PEERS[:2])


def test_neither_early_nor_at_the_end() -> None:
    assert not should_stop(curve(0.0, upto=0.25), PEERS)
    assert not should_stop(curve(0.0, 0.0, 0.0, 0.0, upto=0.95), PEERS)
    assert not should_stop([], PEERS)


def test_one_unlucky_score_is_forgiven() -> None:
    assert not should_stop(curve(0.2, 0.65, 0.1, upto=0.75), PEERS)
    assert should_stop(curve(0.2, 0.1, 0.1, upto=0.75), PEERS)


def test_points_without_a_score_do_not_count() -> None:
    assert should_stop(curve(None, 0.2, None, 0.35, None, upto=0.625), PEERS)
    assert not should_stop(curve(None, None, upto=0.5), PEERS)
    silent = [curve(None, None, None, 0.9)] * 3
    assert not should_stop(curve(0.0, 0.0, upto=0.5), silent)


def test_peers_are_compared_at_the_same_share_of_the_schedule() -> None:
    """At 0.6 the median peer stands between 0.4 and 0.6."""
    assert should_stop(curve(0.1, 0.2, 0.47, upto=0.6), PEERS)
    assert not should_stop(curve(0.1, 0.2, 0.49, upto=0.6), PEERS)


def test_scores_below_zero_compare_alike() -> None:
    peers = [[Point(p.fraction, 1, 1, 1, (p.score or 0) - 2, 1) for p in peer] for peer in PEERS]
    assert should_stop(curve(-1.8, -1.65, upto=0.5), peers)
    assert not should_stop(curve(-1.8, -1.55, upto=0.5), peers)
