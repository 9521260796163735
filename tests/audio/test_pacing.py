"""The pacing wheel on virtual time: who is due when, what a stall costs, and when nothing is due at all."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rtc_server.audio.pacing import PacingWheel

FRAME = 0.02


def run(wheel: PacingWheel[str], start: float, end: float, *, stall: tuple[float, float] | None = None) -> list[tuple]:
    """Advance whenever something is due, except inside the stall. Returns (member, due, skipped, when)."""
    ticks = []
    now = start
    while (due := wheel.next_due()) is not None and due < end:
        now = max(now, due)
        if stall is not None and stall[0] <= now < stall[1]:
            now = stall[1]
        for members, was_due, skipped in wheel.advance(now):
            ticks += [(member, was_due, skipped, now) for member in members]
    return ticks


def test_an_empty_wheel_has_nothing_due() -> None:
    wheel: PacingWheel[str] = PacingWheel()
    assert wheel.next_due() is None
    wheel.add("a", 0.0)
    wheel.discard("a")
    assert wheel.next_due() is None
    assert len(wheel) == 0


def test_a_member_is_due_within_one_slot_and_then_once_per_frame() -> None:
    wheel: PacingWheel[str] = PacingWheel()
    wheel.add("a", 100.0012)
    ticks = run(wheel, 100.0012, 101.0)
    dues = [due for _, due, _, _ in ticks]
    assert dues[0] - 100.0012 <= 0.005
    assert all(abs(b - a - FRAME) < 1e-9 for a, b in itertools.pairwise(dues))
    assert len(ticks) in (49, 50)


def test_four_members_share_the_frame_evenly() -> None:
    wheel: PacingWheel[str] = PacingWheel()
    for name in "abcd":
        wheel.add(name, 5.0)
    firsts = {member: due for member, due, _, _ in reversed(run(wheel, 5.0, 5.1))}
    phases = sorted(round(due % FRAME, 6) for due in firsts.values())
    assert all(abs(b - a - 0.005) < 1e-6 for a, b in itertools.pairwise(phases))


def test_one_late_frame_is_caught_up_with() -> None:
    wheel: PacingWheel[str] = PacingWheel()
    wheel.add("a", 0.0)
    ticks = run(wheel, 0.0, 1.0, stall=(0.3, 0.33))
    assert sum(skipped for _, _, skipped, _ in ticks) == 0
    assert len(ticks) in (49, 50)


def test_a_long_stall_is_skipped_without_a_burst() -> None:
    wheel: PacingWheel[str] = PacingWheel()
    wheel.add("a", 0.0)
    ticks = run(wheel, 0.0, 2.0, stall=(0.5, 1.1))
    at_once = [tick for tick in ticks if tick[3] == 1.1]
    assert len(at_once) == 1
    frames = len(ticks) + sum(skipped for _, _, skipped, _ in ticks)
    assert frames in (99, 100), "the clock of the member has moved on by the stall"


@given(
    stalls=st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 0.5)), max_size=5),
    added=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12),
)
def test_frames_and_skips_always_follow_the_wall_clock(stalls: list[tuple[float, float]], added: list[float]) -> None:
    wheel: PacingWheel[int] = PacingWheel()
    start = max(added)
    for member in range(len(added)):
        wheel.add(member, start)
    frames = dict.fromkeys(range(len(added)), 0)
    now, end = start, start + 4.0
    while (due := wheel.next_due()) is not None and due < end:
        now = max(now, due)
        for begin, length in stalls:
            if begin <= now < begin + length:
                now = begin + length
        for members, was_due, skipped in wheel.advance(now):
            assert was_due <= now
            assert now - was_due < 2 * FRAME + 1e-6, "nothing older than a frame is sent"
            for member in members:
                frames[member] += 1 + skipped
    elapsed = now - start
    for count in frames.values():
        assert abs(count * FRAME - elapsed) <= 2 * FRAME + 1e-6
