"""When to decode and how much, on plain numbers."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.decoder.chunks import HEARD_SHARE, ChunkPlan, ReferenceOverlap
from model.decoder.config import RELEASED
from model.decoder.live_window import LiveOptions, LiveWindow, falling_weights, kept_frames, usual_lengths
from model.decoder.receptive_field import vocoder_frames

PLAN = ChunkPlan()


def test_planning_needs_no_torch() -> None:
    modules = "model.decoder.chunks, model.decoder.live_window, model.decoder.config_file, model.decoder.errors"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_clock_of_frames_is_exact() -> None:
    assert RELEASED.frames_per_token == Fraction(441, 64)
    assert [RELEASED.frames(tokens) for tokens in (0, 1, 10, 24, 64)] == [0, 6, 68, 165, 441]
    for frame in (0, 1, 6, 7, 440, 441, 10**6):
        token = RELEASED.token_of_frame(frame)
        assert token == int(frame * Fraction(256) * Fraction(25, 2) / 22_050)
        assert token * RELEASED.frames_per_token <= frame < (token + 1) * RELEASED.frames_per_token
    # every frame that some tokens give belongs to one of them
    assert all(RELEASED.token_of_frame(RELEASED.frames(tokens) - 1) == tokens - 1 for tokens in range(1, 500))


def test_the_reference_keeps_34_frames_and_weights_above_one() -> None:
    overlap = ReferenceOverlap.of(RELEASED)
    assert overlap.frames == 34
    sums = overlap.window[:34] + overlap.window[34:]
    assert sums.mean() == pytest.approx(1.07, abs=0.01)
    assert overlap.new_frames(165, is_final=False) == 131
    assert overlap.new_frames(20, is_final=True) == 20
    with pytest.raises(ValueError, match="leaves nothing beside the 34"):
        overlap.new_frames(34, is_final=False)


@pytest.mark.parametrize(("waiting", "units"), [(0, 0), (9, 0), (10, 10), (25, 10)])
def test_the_first_sound_comes_after_one_block(waiting: int, units: int) -> None:
    assert PLAN.next_units(0, waiting, buffered_ms=0, is_final=False) == units


@pytest.mark.parametrize(
    ("waiting", "buffered_ms", "units"),
    [
        (9, 0, 0),  # no block yet: nothing that could be decoded
        (10, 0, 10),  # the listener is about to run dry
        (10, 900, 10),  # ten more units take 800 ms, and 200 ms must be left
        (10, 1000, 0),  # there is time to wait for twenty
        (19, 300, 0),  # one more unit takes 80 ms
        (19, 270, 10),
        (20, 270, 20),
        (29, 10_000, 0),
        (30, 10_000, 30),  # never more than the largest piece
        (75, 10_000, 30),
    ],
)
def test_pieces_grow_with_what_is_buffered(waiting: int, buffered_ms: float, units: int) -> None:
    assert PLAN.next_units(10, waiting, buffered_ms, is_final=False) == units


@pytest.mark.parametrize("waiting", [0, 1, 10, 33, 500])
@pytest.mark.parametrize("decoded", [0, 10, 13])
def test_at_the_end_everything_is_decoded(decoded: int, waiting: int) -> None:
    assert PLAN.next_units(decoded, waiting, buffered_ms=0, is_final=True) == waiting


@given(
    blocks=st.integers(1, 30),
    waiting=st.integers(0, 200),
    buffered_ms=st.floats(0, 20_000),
    arrival_ms=st.floats(1, 200),
    margin_ms=st.floats(0, 500),
)
def test_waiting_never_outlasts_the_buffer(
    blocks: int, waiting: int, buffered_ms: float, arrival_ms: float, margin_ms: float
) -> None:
    plan = ChunkPlan(arrival_ms=arrival_ms, margin_ms=margin_ms)
    units = plan.next_units(10 * blocks, waiting, buffered_ms, is_final=False)
    assert units % plan.block_units == 0
    assert units <= min(waiting, plan.max_units)
    if units == 0 and waiting >= plan.block_units:
        next_block_ms = (plan.block_units - waiting % plan.block_units) * arrival_ms
        assert buffered_ms - next_block_ms >= margin_ms


def test_a_piece_that_ended_inside_a_block_is_completed() -> None:
    assert PLAN.next_units(13, 6, buffered_ms=0, is_final=False) == 0
    assert PLAN.next_units(13, 7, buffered_ms=0, is_final=False) == 7
    assert PLAN.next_units(13, 18, buffered_ms=0, is_final=False) == 17


@given(periods=st.lists(st.floats(5, 79), min_size=100, max_size=100))
def test_a_generator_faster_than_playing_never_lets_the_listener_run_dry(periods: list[float]) -> None:
    """Units arrive one by one; each piece is heard at once but for what is held back; decoding takes 100 ms."""
    options, now, waiting, decoded, heard_ms, dry_at = LiveOptions(), 0.0, 0, 0, 0.0, float("inf")
    for period in periods:
        now += period
        waiting += 1
        assert now <= dry_at
        units = PLAN.next_units(decoded, waiting, max(0.0, dry_at - now) if decoded else 0.0, is_final=False)
        if units:
            decoded, waiting = decoded + units, waiting - units
            end_ms = (RELEASED.frames(decoded) - options.hold_back_frames) * 256 / 22.05
            dry_at = (now + 100 if dry_at == float("inf") else dry_at) + end_ms - heard_ms
            heard_ms = end_ms


def test_a_plan_that_cannot_be_followed_is_refused() -> None:
    for arguments in ({"block_units": 0}, {"max_units": 5}, {"arrival_ms": 0}, {"margin_ms": -1}):
        with pytest.raises(ValueError, match="cannot be followed"):
            ChunkPlan(**arguments)
    for arguments in ({"hold_back_frames": -1}, {"left_context_frames": -1}, {"window_step": 0}, {"ode_steps": 0}):
        with pytest.raises(ValueError, match="cannot be used"):
            LiveOptions(**arguments)


@given(pieces=st.lists(st.integers(0, 40), min_size=1, max_size=12), hold=st.integers(0, 40))
def test_windows_join_without_gap_and_end_with_the_reply(pieces: list[int], hold: int) -> None:
    options, border, tokens = LiveOptions(left_context_frames=100, hold_back_frames=hold), 0, 0
    for number, piece in enumerate(pieces):
        tokens += piece
        window = LiveWindow.plan(RELEASED, options, border, tokens, number == len(pieces) - 1)
        if window is None:
            continue
        assert window.border == border
        assert window.end == RELEASED.frames(tokens)
        kept = kept_frames(RELEASED, options)
        for start, end, context in (
            (window.flow_start, window.end, options.left_context_frames),
            (window.vocoder_start, window.vocoder_end, vocoder_frames(RELEASED.vocoder)),
        ):
            assert max(0, border - kept) <= start <= max(0, border - context)
            assert start == 0 or (end - start) % options.window_step == 0
        assert window.next_border <= window.vocoder_end <= window.end
        border = window.next_border
    assert border == RELEASED.frames(tokens)


@pytest.mark.parametrize("length", [1, 2, 12, 256])
def test_blend_weights_fall_and_sum_to_one(length: int) -> None:
    old = falling_weights(length)
    assert all(0 < weight < 1 for weight in old)
    assert old == sorted(old, reverse=True)
    # the newer signal's weights are the same ones backwards
    assert [a + b for a, b in zip(old, reversed(old), strict=True)] == pytest.approx([1.0] * length)


def test_every_piece_of_a_long_reply_has_a_usual_length() -> None:
    options = LiveOptions()
    flow, vocoder = (set(lengths) for lengths in usual_lengths(RELEASED, options, PLAN))
    assert len(flow) + len(vocoder) < 64  # each is recorded before the server is ready
    for num_units in range(150, 400, 7):
        border = decoded = waiting = 0
        while decoded < num_units:
            waiting += 1
            is_final = decoded + waiting == num_units
            made_ms = border * 256 * 1000 / 22_050
            units = PLAN.next_units(decoded, waiting, (1 - HEARD_SHARE) * made_ms, is_final)
            decoded, waiting = decoded + units, waiting - units
            window = LiveWindow.plan(RELEASED, options, border, decoded, is_final) if units else None
            if window is not None:
                assert window.end - window.flow_start in flow
                assert window.vocoder_end - window.vocoder_start in vocoder
                border = window.next_border
