"""The token bucket, by a clock of the test's own."""

from api import rates
from api.rates import Rates


def test_a_bucket_holds_a_minute_and_refills_steadily() -> None:
    now = [0.0]
    buckets = Rates(60, lambda: now[0])
    assert [buckets.take("a") for _ in range(60)] == [0.0] * 60
    assert buckets.take("a") == 1.0
    assert buckets.take("b") == 0.0
    now[0] = 0.5
    assert buckets.take("a") == 0.5
    now[0] = 1.0
    assert buckets.take("a") == 0.0
    now[0] = 1000.0
    assert [buckets.take("a") for _ in range(61)][-2:] == [0.0, 1.0]


def test_the_longest_unseen_key_is_forgotten() -> None:
    buckets = Rates(60, lambda: 0.0)
    for number in range(rates.KEYS_REMEMBERED + 5):
        buckets.take(str(number))
    assert len(buckets.buckets) == rates.KEYS_REMEMBERED
    assert "0" not in buckets.buckets
