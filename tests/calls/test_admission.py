"""Who may call, and what the others are told: lanes, Retry-After from how long calls last, and the live limit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.calls.admission import MAX_RETRY_AFTER_SECONDS, RETRY_AFTER_SECONDS, Admission, CallLimits
from rtc_server.errors import ServerFullError


def refused(admission: Admission, num_calls: int, now: float, *, priority: bool = False) -> ServerFullError:
    with pytest.raises(ServerFullError) as caught:
        admission.admit(num_calls, now, "priority" if priority else "standard")
    return caught.value


def let_calls_end(admission: Admission, *, num_calls: int, seconds_each: float, until: float) -> None:
    """A server that is always full of calls of one length."""
    for others in range(num_calls):
        admission.admit(others, 0.0)
    now, step = 0.0, seconds_each / num_calls
    while now < until:
        now += step
        admission.admit(num_calls - 1, now)  # one has ended, and somebody takes its place
    admission.observe(num_calls, until)


def test_while_nothing_is_known_of_the_calls_ten_seconds_are_told() -> None:
    admission = Admission(2)
    admission.admit(0, 0.0)
    admission.admit(1, 0.0)
    error = refused(admission, 2, 1.0)
    assert (error.retry_after, error.status) == (RETRY_AFTER_SECONDS, 503)
    assert error.message == "All 2 lines are busy. Try again in 10 s."


def test_retry_after_follows_how_long_calls_last() -> None:
    admission = Admission(10)
    let_calls_end(admission, num_calls=10, seconds_each=200.0, until=1000.0)
    # One of ten calls of 200 s ends every 20 s.
    assert refused(admission, 10, 1000.0).retry_after == pytest.approx(20, abs=2)


def test_callers_who_are_refused_together_are_not_sent_back_together() -> None:
    admission = Admission(10)
    let_calls_end(admission, num_calls=10, seconds_each=100.0, until=1000.0)
    told = [refused(admission, 10, 1000.0).retry_after for _ in range(4)]
    assert told == pytest.approx([10, 20, 30, 40], abs=3)
    assert refused(admission, 10, 1030.0).retry_after == pytest.approx(20, abs=3)


def test_retry_after_stays_within_its_bounds() -> None:
    quick, slow = Admission(100), Admission(1)
    let_calls_end(quick, num_calls=100, seconds_each=5.0, until=60.0)
    assert refused(quick, 100, 60.0).retry_after == 1
    let_calls_end(slow, num_calls=1, seconds_each=1000.0, until=10_000.0)
    assert [refused(slow, 1, 10_000.0).retry_after for _ in range(3)] == [MAX_RETRY_AFTER_SECONDS] * 3


def test_those_who_come_back_when_they_were_told_mostly_find_a_place() -> None:
    """Calls of random length (mean 60 s) on ten lines, offered one half more than they carry: without promises to be
    kept, every second who comes back would find the lines busy again."""
    chance = random.Random(7)
    admission, ends, now = Admission(10), [], 0.0
    arrivals = [(chance.uniform(0, 3600), False) for _ in range(900)]
    outcomes = []
    while arrivals:
        arrivals.sort(reverse=True)
        now, is_back = arrivals.pop()
        ends = [end for end in ends if end > now]
        try:
            admission.admit(len(ends), now)
        except ServerFullError as error:
            if not is_back:
                arrivals.append((now + error.retry_after, True))
            elif now > 600:
                outcomes.append(False)
        else:
            ends.append(now + chance.expovariate(1 / 60))
            if is_back and now > 600:
                outcomes.append(True)
    assert len(outcomes) > 100
    assert sum(outcomes) / len(outcomes) > 0.4


def test_the_priority_lane_finds_the_places_that_are_kept_for_it() -> None:
    admission = Admission(5, reserved_calls=2)
    for num_calls in range(3):
        admission.admit(num_calls, 0.0)
    error = refused(admission, 3, 0.0)
    assert error.message.startswith("All 3 lines are busy (2 more are kept for priority callers).")
    admission.admit(3, 0.0, "priority")
    admission.admit(4, 0.0, "priority")
    assert refused(admission, 5, 0.0, priority=True).message == "All 5 lines are busy. Try again in 10 s."


def test_the_lowest_limit_holds_and_the_refusal_says_which() -> None:
    assert CallLimits(10, 7, 4).max_calls == 4
    assert "replies stumble" in CallLimits(10, 7, 4).refusal().message
    assert "the engine serves no more" in CallLimits(10, 7).refusal().message
    assert CallLimits(10, 20).refusal().message == "All 10 lines are busy. Try again in 10 s."


def run(admission: Admission, start: float, seconds: int, num_calls: int, underruns: int) -> float:
    """`seconds` of `num_calls` calls that play half of the time and run dry `underruns` times a second."""
    for second in range(seconds):
        admission.observe(num_calls, start + second, underruns, num_calls / 2)
    return start + seconds


def test_replies_that_run_dry_lower_the_limit_and_calm_raises_it_slowly() -> None:
    admission = Admission(20, underruns_per_minute=3.0)
    now = run(admission, 0.0, 30, 20, underruns=0)
    assert admission.limits.max_calls == 20
    now = run(admission, now, 5, 20, underruns=2)
    assert admission.limits.max_calls == 18  # at once
    now = run(admission, now, 60, 20, underruns=2)
    assert admission.limits.max_calls == 18  # and no further before any call has ended, as nothing is known of fewer
    now = run(admission, now, 20, 18, underruns=2)
    lowest = admission.limits.max_calls
    assert lowest == 16
    now = run(admission, now, 25, lowest, underruns=0)
    assert admission.limits.max_calls == lowest
    now = run(admission, now, 40, lowest, underruns=0)
    assert lowest < admission.limits.max_calls <= lowest + 2
    run(admission, now, 400, lowest, underruns=0)
    assert admission.limits == CallLimits(20)


def test_between_too_many_gaps_and_few_the_limit_stays() -> None:
    admission = Admission(20, underruns_per_minute=3.0)
    now = run(admission, 0.0, 12, 20, underruns=2)
    lowest = admission.limits.max_calls
    for second in range(600):  # one gap in 40 s of speech: half of what is too many, twice what is few
        admission.observe(lowest, now + second, underruns=1 if second % 6 == 0 else 0, played_seconds=40 / 6)
    assert admission.limits.max_calls == lowest


def test_one_reply_that_stumbles_lowers_nothing() -> None:
    admission = Admission(20, underruns_per_minute=3.0)
    now = run(admission, 0.0, 1, 20, underruns=2)
    run(admission, now, 60, 20, underruns=0)
    assert admission.limits == CallLimits(20)


def test_without_a_number_of_gaps_there_is_no_live_limit() -> None:
    admission = Admission(20, underruns_per_minute=0.0)
    run(admission, 0.0, 60, 20, underruns=20)
    assert admission.limits == CallLimits(20)


def test_other_settings_hold_for_the_next_caller_and_forget_nothing() -> None:
    admission = Admission(20, underruns_per_minute=3.0)
    run(admission, 0.0, 12, 20, underruns=2)
    live = admission.limits.live_calls
    admission.configure(30, 1, 3.0)
    assert admission.limits == CallLimits(30, live_calls=live, reserved_calls=1)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.floats(0, 50), st.floats(0, 20)), max_size=60),
    st.integers(1, 30),
)
def test_whatever_is_observed_the_limit_is_between_one_and_the_operators(
    seconds: list[tuple[int, int, float, float]], max_calls: int
) -> None:
    admission, now = Admission(max_calls, underruns_per_minute=3.0), 0.0
    for num_calls, underruns, played, elapsed in seconds:
        now += elapsed
        admission.observe(num_calls, now, underruns, played)
        assert 1 <= admission.limits.max_calls <= max_calls
        if num_calls >= admission.limits.max_calls:
            assert 1 <= refused(admission, num_calls, now).retry_after <= MAX_RETRY_AFTER_SECONDS
