"""What leaves the server: exact samples, exact counts, no click, nothing after a flush."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.interface import Pcm16
from rtc_server.audio.playout import Flushed, Playout, PlayoutFrame, PlayoutPacer

FRAME = 480  # 20 ms at 24 kHz
FADE = 120  # 5 ms


def ramp(samples: int, start: int = 1) -> Pcm16:
    """Every sample is another one, none is zero: what is lost, doubled or swapped shows."""
    return (np.arange(start, start + samples) % 30_000 + 1).astype(np.int16)


def playing(pcm: Pcm16, *, text_end: int | None = None, is_finished: bool = False) -> Playout:
    """A playout with one reply "a" queued."""
    playout = Playout()
    playout.start("a")
    assert playout.push("a", pcm, text_end)
    if is_finished:
        playout.finish("a")
    return playout


def pulled(playout: Playout, frames: int) -> list[PlayoutFrame]:
    return [playout.pull() for _ in range(frames)]


def sound(frames: list[PlayoutFrame]) -> Pcm16:
    return np.concatenate([frame.pcm for frame in frames])


# --- one reply from first to last sample


def test_what_is_pushed_leaves_unchanged_in_whole_frames() -> None:
    pcm = ramp(FRAME * 3 + 100)
    playout = playing(pcm, is_finished=True)
    frames = pulled(playout, 5)
    assert [len(frame.pcm) for frame in frames] == [FRAME] * 5
    assert np.array_equal(sound(frames)[: len(pcm)], pcm)
    assert not sound(frames)[len(pcm) :].any()
    assert [frame.is_first for frame in frames] == [True, False, False, False, False]
    assert [frame.is_last for frame in frames] == [False, False, False, True, False]
    assert [frame.response_id for frame in frames] == ["a"] * 4 + [None]
    assert [frame.is_silence for frame in frames] == [False] * 4 + [True]
    assert playout.is_idle


@given(st.lists(st.integers(0, 2_000), max_size=20))
@settings(deadline=None)
def test_pieces_joined_equal_the_whole(sizes: list[int]) -> None:
    pcm = ramp(sum(sizes))
    playout = Playout()
    playout.start("a")
    for piece in np.split(pcm, np.cumsum(sizes)[:-1] if sizes else []):
        playout.push("a", piece, None)
    playout.finish("a")
    frames = pulled(playout, len(pcm) // FRAME + 2)
    assert np.array_equal(sound(frames)[: len(pcm)], pcm)
    assert sum(frame.is_last for frame in frames) == 1
    assert playout.underruns == 0
    assert playout.played_ms("a") == pytest.approx(len(pcm) / 24)


def test_a_reply_without_sound_ends_too() -> None:
    playout = Playout()
    playout.start("a")
    playout.finish("a")
    assert playout.pull().is_last
    assert playout.is_idle


def test_a_finish_that_comes_after_the_last_sample_ends_the_reply_in_a_silent_frame() -> None:
    playout = playing(ramp(FRAME))
    assert not playout.pull().is_last
    playout.finish("a")
    last = playout.pull()
    assert (last.is_last, last.response_id, last.is_silence) == (True, "a", True)


def test_the_other_playout_rate_has_its_own_frame_length() -> None:
    assert len(Playout(sample_rate=48_000).pull().pcm) == 960


# --- identity and bounds


def test_sound_of_another_reply_is_refused() -> None:
    playout = playing(ramp(FRAME))
    assert not playout.push("b", ramp(FRAME), None)
    assert playout.queued_ms == 20.0


def test_a_reply_takes_no_sound_after_it_was_finished_or_flushed() -> None:
    playout = playing(ramp(FRAME), is_finished=True)
    assert not playout.push("a", ramp(FRAME), None)
    playout.flush()
    assert not playout.push("a", ramp(FRAME), None)


def test_a_second_reply_cannot_start_while_the_first_plays() -> None:
    playout = playing(ramp(FRAME))
    with pytest.raises(ValueError, match="still playing"):
        playout.start("b")


def test_more_than_the_bound_is_refused_and_loses_nothing() -> None:
    playout = playing(ramp(4_900 * 24))
    with pytest.raises(OverflowError):
        playout.push("a", ramp(101 * 24), None)
    assert playout.push("a", ramp(100 * 24), None)
    assert playout.queued_ms == 5_000.0


def test_silence_costs_no_memory() -> None:
    playout = Playout()
    assert playout.pull() is playout.pull()
    with pytest.raises(ValueError, match="read-only"):
        playout.pull().pcm[0] = 1


# --- starvation


def test_one_starvation_is_one_underrun_whatever_its_length() -> None:
    playout = playing(ramp(FRAME * 2))
    pulled(playout, 10)
    assert playout.underruns == 1
    playout.push("a", ramp(FRAME * 2), None)
    pulled(playout, 10)
    assert playout.underruns == 2


def test_waiting_for_the_first_sound_is_no_underrun() -> None:
    playout = Playout()
    playout.start("a")
    assert [frame.response_id for frame in pulled(playout, 3)] == ["a"] * 3
    assert playout.underruns == 0
    playout.push("a", ramp(100), None)
    assert playout.pull().is_silence, "it begins with a whole frame"
    playout.push("a", ramp(FRAME), None)
    assert playout.pull().is_first


@pytest.mark.parametrize("queued", [FRAME * 2, FRAME * 2 + 200, FRAME * 2 + 50])
def test_starvation_and_recovery_do_not_click(queued: int) -> None:
    playout = playing(np.full(queued, 12_000, np.int16))
    before = pulled(playout, 4)
    playout.push("a", np.full(FRAME * 2, 12_000, np.int16), None)
    steps = np.abs(np.diff(sound([*before, *pulled(playout, 2)]).astype(int)))
    assert steps[FRAME:].max() <= 12_000 / min(FADE, queued % FRAME or FADE) * 1.1


def test_no_sample_is_lost_over_a_starvation() -> None:
    playout = playing(ramp(FRAME + 300))
    pulled(playout, 5)
    playout.push("a", ramp(100, 10_000), None)
    assert playout.pull().is_silence, "crumbs wait until they fill a frame"
    playout.push("a", ramp(FRAME, 10_100), None)
    frame = playout.pull()
    assert np.array_equal(frame.pcm[FADE:], ramp(FRAME, 10_000)[FADE:])
    assert playout.played_ms("a") == pytest.approx((FRAME + 300 + FRAME) / 24)


# --- pause and resume


def test_a_pause_is_silent_within_5_ms_and_resumes_at_the_exact_sample() -> None:
    pcm = ramp(FRAME * 6)
    playout = playing(pcm)
    pulled(playout, 2)
    playout.pause()
    tail, *rest = pulled(playout, 5)
    assert tail.pcm[0] > 0
    assert not tail.pcm[FADE:].any()
    assert all(frame.is_silence for frame in rest)
    assert playout.played_ms("a") == pytest.approx((2 * FRAME + FADE) / 24)
    playout.resume()
    frame = playout.pull()
    at = 2 * FRAME + FADE
    assert frame.pcm[0] == 0
    assert np.array_equal(frame.pcm[FADE:], pcm[at + FADE : at + FRAME])


def test_pausing_twice_is_pausing_once() -> None:
    playout = playing(ramp(FRAME * 4))
    playout.pull()
    playout.pause()
    playout.pause()
    assert playout.is_paused
    assert sum(not frame.is_silence for frame in pulled(playout, 4)) == 1


def test_sound_that_arrives_during_a_pause_waits() -> None:
    playout = playing(ramp(FRAME))
    playout.pause()
    assert playout.push("a", ramp(FRAME), None)
    assert all(frame.is_silence for frame in pulled(playout, 3))
    assert playout.queued_ms == 40.0
    playout.resume()
    assert playout.pull().is_first


def test_a_pause_is_no_underrun() -> None:
    playout = playing(ramp(FRAME))
    playout.pull()
    playout.pause()
    pulled(playout, 5)
    assert playout.underruns == 0


# --- flush


def test_after_a_flush_only_a_5_ms_fade_leaves() -> None:
    playout = playing(ramp(FRAME * 20))
    pulled(playout, 3)
    assert playout.flush() == Flushed("a", 60.0, None)
    tail, *rest = pulled(playout, 5)
    assert tail.pcm[0] > 0
    assert not tail.pcm[FADE:].any()
    assert not sound(rest).any()
    assert playout.is_idle
    assert playout.queued_ms == 0.0


@given(st.lists(st.sampled_from(["pull", "push", "crumb", "pause", "resume", "finish"]), max_size=40))
@settings(deadline=None)
def test_a_flush_is_final_whatever_came_before(steps: list[str]) -> None:
    playout = Playout()
    playout.start("a")
    for step in steps:
        match step:
            case "pull":
                playout.pull()
            case "push":
                playout.push("a", ramp(FRAME * 2), None)
            case "crumb":
                playout.push("a", ramp(77), None)
            case "finish":
                playout.finish("a")
            case _:
                getattr(playout, step)()
    played_ms = playout.played_ms("a")
    playout.flush()
    assert not playout.push("a", ramp(FRAME), None)
    tail, *rest = pulled(playout, 4)
    assert not tail.pcm[FADE:].any()
    assert not sound(rest).any()
    assert not any(frame.is_last for frame in [tail, *rest])
    assert playout.played_ms("a") == played_ms
    assert not playout.is_paused
    assert playout.is_idle


def test_a_flush_after_a_pause_that_was_heard_is_silent_at_once() -> None:
    playout = playing(ramp(FRAME * 9))
    pulled(playout, 2)
    playout.pause()
    pulled(playout, 2)
    assert playout.flush().played_ms == pytest.approx(45.0)
    assert not sound(pulled(playout, 3)).any()


def test_a_flush_before_anything_sounded_is_silent() -> None:
    playout = playing(ramp(FRAME * 9))
    assert playout.flush() == Flushed("a", 0.0, None)
    assert not sound(pulled(playout, 3)).any()


def test_flushing_an_idle_playout_tells_so() -> None:
    assert Playout().flush() == Flushed(None, 0.0, None)
    playout = playing(ramp(FRAME), is_finished=True)
    pulled(playout, 2)
    assert playout.flush() == Flushed(None, 0.0, None)


def test_the_next_reply_starts_right_after_a_flush() -> None:
    playout = playing(ramp(FRAME * 9))
    pulled(playout, 2)
    playout.flush()
    playout.start("b")
    playout.push("b", ramp(FRAME, 5_000), None)
    _tail, frame = pulled(playout, 2)
    assert frame.is_first
    assert np.array_equal(frame.pcm, ramp(FRAME, 5_000))


# --- which words were heard


def test_the_text_position_is_interpolated_between_marks() -> None:
    playout = Playout()
    playout.start("a")
    playout.push("a", ramp(100 * 24), 10)
    playout.push("a", ramp(200 * 24), None)  # the engine does not know here
    playout.push("a", ramp(100 * 24), 40)
    assert [playout.text_end_at(ms) for ms in (0, 50, 100, 250, 400, 9_999)] == [0, 5, 10, 25, 40, 40]


def test_a_flush_tells_how_much_of_the_text_was_heard() -> None:
    playout = playing(ramp(FRAME * 10), text_end=50)
    pulled(playout, 5)
    assert playout.flush() == Flushed("a", 100.0, 25)


def test_history_stays_until_the_next_reply_starts() -> None:
    playout = playing(ramp(FRAME * 10), text_end=50, is_finished=True)
    pulled(playout, 12)
    assert playout.played_ms("a") == 200.0
    assert playout.text_end_at(100.0) == 25
    playout.start("b")
    assert playout.played_ms("a") == 0.0
    assert playout.text_end_at(100.0) is None


# --- pacing


def test_frames_are_due_every_20_ms_from_the_first_call() -> None:
    pacer = PlayoutPacer()
    assert [pacer.next_due(5.0 + 0.02 * i) for i in range(3)] == [(pytest.approx(5.0 + 0.02 * i), 0) for i in range(3)]


def test_a_short_delay_is_caught_up_without_losing_a_frame() -> None:
    pacer = PlayoutPacer()
    pacer.next_due(0.0)
    assert pacer.next_due(0.07) == (pytest.approx(0.02), 0)
    assert pacer.next_due(0.07) == (pytest.approx(0.04), 0)
    assert pacer.next_due(0.07) == (pytest.approx(0.06), 0)
    assert pacer.next_due(0.07) == (pytest.approx(0.08), 0)


def test_after_a_stall_it_skips_ahead_instead_of_sending_a_burst() -> None:
    pacer = PlayoutPacer()
    pacer.next_due(0.0)
    due, skipped = pacer.next_due(1.005)
    assert skipped == 49
    assert due == pytest.approx(1.0)
    assert pacer.next_due(1.005) == (pytest.approx(1.02), 0)


@given(st.lists(st.floats(0, 0.5), max_size=60))
@settings(deadline=None)
def test_frames_sent_and_skipped_always_add_up_to_the_time_that_passed(delays: list[float]) -> None:
    pacer, now, frames = PlayoutPacer(), 100.0, 0
    due, _ = pacer.next_due(now)
    for delay in delays:
        frames += 1
        now = max(now, due) + delay
        due, skipped = pacer.next_due(now)
        frames += skipped
        assert due == pytest.approx(100.0 + frames * 0.02)
        assert now - due <= 0.081
