"""The soak's own arithmetic; the soak itself is run by hand (`make soak`)."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.churn import failures, left_behind, slope_per_100, summarise
from benchmarks.support.server import Usage

HELD = Usage(calls=0, asyncio_tasks=8, threads=7, processes=3, sockets=2, rss_mb=300.0, fds=33)


def test_the_slope_is_per_hundred_calls_and_needs_enough_samples() -> None:
    calls = [10.0 * number for number in range(20)]
    assert slope_per_100(calls, [300 + 0.02 * count for count in calls]) == pytest.approx(2.0)
    assert slope_per_100(calls[:5], [300.0] * 5) is None
    assert slope_per_100([7.0] * 20, [300.0] * 20) is None


def test_only_what_is_more_than_before_is_left_behind() -> None:
    after = Usage(calls=1, asyncio_tasks=8, threads=6, processes=3, sockets=2, rss_mb=390.0, fds=34)
    assert left_behind(HELD, after) == {"calls": 1, "fds": 1}


def test_the_warm_up_does_not_count_as_growth() -> None:
    seen = {"calls": 10, "turns": 30, "lost_turns": 0, "interruptions": 4, "vanished": 3, "refused": 1}
    result = {**seen, "reply_ms": [200.0, 300.0], "errors": {"gone": 1}, "losses": {}}
    samples = [(float(at), float(at), Usage(3, 60, 7, 3, 5, 300.0 + min(at, 30), 40)) for at in range(0, 100, 2)]
    pooled = summarise([result, result], samples, 100.0)
    assert pooled["turns"] == 60
    assert pooled["errors"] == {"gone": 2}
    assert pooled["rss_mb_per_100_calls"] == pytest.approx(0.0, abs=1e-6)


GOOD: dict[str, Any] = {
    "errors": {},
    "losses": {},
    "turns": 300,
    "lost_turns": 3,
    "rss_mb_per_100_calls": 0.4,
    "restarts": 0,
    "internal_errors": 0,
    "left_behind": {},
}


def test_a_good_run_has_no_failures() -> None:
    assert failures(GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"errors": {"The server ended the call.": 2}}, "2 calls failed: The server ended the call."),
        ({"turns": 0, "lost_turns": 0}, "No turn was begun."),
        (
            {"lost_turns": 4, "losses": {"no reply in time": 4}},
            "4 of 300 turns were not answered: no reply in time (4).",
        ),
        ({"rss_mb_per_100_calls": 1.0}, "Memory grew by 1.00 MB per 100 calls; less than 1 was promised."),
        ({"restarts": 1}, "1 processes were lost and started again."),
        ({"internal_errors": 1}, "1 calls ended with an internal error."),
        ({"left_behind": {"sockets": 2}}, "2 sockets more than before the first call."),
    ],
)
def test_a_broken_promise_is_said(change: dict[str, Any], said: str) -> None:
    assert failures({**GOOD, **change}) == [said]
