"""The rate limit on virtual time: how many pass, how long to wait, and that a flood sets nobody free."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_server.limits import Rate, RateLimiter, address_key, retry_after


def test_a_burst_passes_then_requests_pass_at_the_rate() -> None:
    limiter = RateLimiter(Rate(per_minute=60, burst=5))
    assert [limiter.take("a", 0.0) for _ in range(5)] == [0.0] * 5
    assert limiter.take("a", 0.0) == pytest.approx(1.0)
    assert limiter.take("b", 0.0) == 0.0, "somebody else is not affected"
    assert limiter.take("a", 0.5) == pytest.approx(0.5)
    assert limiter.take("a", 1.0) == 0.0
    assert limiter.take("a", 1.0) > 0.0
    assert [limiter.take("a", 100.0) for _ in range(5)] == [0.0] * 5


def test_a_refused_request_costs_nothing() -> None:
    limiter = RateLimiter(Rate(per_minute=60, burst=1))
    assert limiter.take("a", 0.0) == 0.0
    for _ in range(100):
        assert limiter.take("a", 0.5) == pytest.approx(0.5)
    assert limiter.take("a", 1.0) == 0.0


@given(
    per_minute=st.floats(0.5, 100_000),
    burst=st.integers(1, 200),
    gaps=st.lists(st.floats(0.0, 30.0), max_size=60),
    start=st.floats(0.0, 1e7),
)
@settings(max_examples=300, deadline=None)
def test_who_waits_as_long_as_told_passes(per_minute: float, burst: int, gaps: list[float], start: float) -> None:
    limiter = RateLimiter(Rate(per_minute, burst))
    now = start
    for gap in [*gaps, *[0.0] * (burst + 1)]:
        now += gap
        wait = limiter.take("a", now)
        if wait:
            assert limiter.wait("a", now + wait) == 0.0, "the exact time"
            assert limiter.wait("a", now + retry_after(wait)) == 0.0, "the header's whole seconds"
            now += retry_after(wait)
            assert limiter.take("a", now) == 0.0


@given(per_minute=st.floats(1, 6_000), burst=st.integers(1, 50), gaps=st.lists(st.floats(0.0, 2.0), min_size=1))
@settings(max_examples=200, deadline=None)
def test_never_more_than_the_burst_and_the_rate_pass(per_minute: float, burst: int, gaps: list[float]) -> None:
    limiter = RateLimiter(Rate(per_minute, burst))
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        passed += limiter.take("a", now) == 0.0
        assert passed <= burst + now * per_minute / 60 + 1e-3


def test_a_flood_of_new_keys_does_not_set_a_limited_one_free() -> None:
    limiter = RateLimiter(Rate(per_minute=1, burst=1), max_keys=100)
    assert limiter.take("guilty", 0.0) == 0.0
    for number in range(5_000):
        limiter.take(f"new-{number}", 0.0)
    assert len(limiter) == 100
    assert limiter.take("guilty", 1.0) > 0.0


def test_keys_that_found_no_place_are_limited_all_the_same() -> None:
    limiter = RateLimiter(Rate(per_minute=1, burst=3), max_keys=10)
    for number in range(10):
        limiter.take(f"first-{number}", 0.0)
    assert sum(limiter.take("late", 0.0) == 0.0 for _ in range(50)) == 3


def test_refilled_keys_make_room() -> None:
    limiter = RateLimiter(Rate(per_minute=60, burst=1), max_keys=10)
    for number in range(10):
        limiter.take(f"early-{number}", 0.0)
    limiter.take("late", 5.0)
    assert len(limiter) == 1


def test_a_busy_key_in_front_does_not_keep_refilled_ones_in_the_table() -> None:
    limiter = RateLimiter(Rate(per_minute=60, burst=100), max_keys=10)
    for _ in range(100):
        limiter.take("busy", 0.0)
    for number in range(9):
        limiter.take(f"calm-{number}", 0.0)
    limiter.take("new", 50.0)
    assert len(limiter) == 2


@pytest.mark.parametrize("rate", [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_must_be_one(rate: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="burst"):
        Rate(*rate)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_subscriber_is_an_address_or_a_64(address: str, key: str) -> None:
    assert address_key(address) == key
