"""Voice is found to the sample, whatever the frames it arrives in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.interface import Pcm16
from rtc_server.client.listener import Listener, voice_bounds, window_levels
from tests.client.standin import RATE, tone


def silence(ms: float) -> Pcm16:
    return np.zeros(int(RATE * ms / 1000), np.int16)


def noise(ms: float, dbfs: float) -> Pcm16:
    generator = np.random.default_rng(7)
    amplitude = 32_768 * 10 ** (dbfs / 20)
    return np.round(generator.normal(0.0, amplitude, int(RATE * ms / 1000))).astype(np.int16)


def listen(pcm: Pcm16, frame: int = 960, start_at: float = 100.0, lag: float = 0.0) -> Listener:
    """Feed `pcm` in frames that come out at the pace of the stream, `lag` seconds late."""
    listener = Listener(RATE)
    for position in range(0, len(pcm), frame):
        listener.receive(pcm[position : position + frame], position, start_at + lag + position / RATE)
    return listener


class TestRecordings:
    @pytest.mark.parametrize("lead_ms", [0, 3, 10, 257])
    def test_the_first_and_last_voiced_sample_are_exact(self, lead_ms: float) -> None:
        pcm = np.concatenate([silence(lead_ms), tone(200), silence(500)])
        lead = len(silence(lead_ms))
        assert voice_bounds(pcm, RATE) == (lead, lead + len(tone(200)) - 1)

    def test_noise_below_the_voice_is_not_voice(self) -> None:
        pcm = noise(2_000, -40.0)
        pcm[RATE : RATE + len(tone(500))] += tone(500)
        bounds = voice_bounds(pcm, RATE)
        assert bounds is not None
        assert bounds[0] == pytest.approx(RATE, abs=RATE // 100)
        assert bounds[1] == pytest.approx(RATE * 1.5, abs=RATE // 100)

    def test_a_recording_without_a_pause_is_all_voice(self) -> None:
        assert voice_bounds(tone(300), RATE) == (0, len(tone(300)) - 1)

    @pytest.mark.parametrize("pcm", [silence(0), silence(1_000), noise(1_000, -60.0)], ids=["empty", "zero", "quiet"])
    def test_a_recording_without_voice_has_no_bounds(self, pcm: Pcm16) -> None:
        assert voice_bounds(pcm, RATE) is None

    def test_a_click_is_not_voice(self) -> None:
        pcm = np.concatenate([silence(500), tone(2), silence(300), tone(200), silence(300)])
        bounds = voice_bounds(pcm, RATE)
        assert bounds is not None
        assert bounds[0] == len(silence(500)) + len(tone(2)) + len(silence(300))


class TestListening:
    @pytest.mark.parametrize("frame", [480, 960, 700, 1_920, 100_000])
    def test_a_stretch_has_its_samples_and_its_times(self, frame: int) -> None:
        pcm = np.concatenate([silence(333), tone(200), silence(400)])
        (stretch,) = listen(pcm, frame).stretches
        first = len(silence(333))
        assert (stretch.start, stretch.end) == (first, first + len(tone(200)))
        assert stretch.start_at == pytest.approx(100.0 + first / RATE)
        assert stretch.end_at == pytest.approx(100.0 + (stretch.end - 1) / RATE)

    def test_time_is_when_the_frame_came_out_plus_the_offset_in_it(self) -> None:
        pcm = np.concatenate([silence(25), tone(100), silence(100)])
        (stretch,) = listen(pcm, lag=0.5).stretches
        assert stretch.start_at == pytest.approx(100.5 + 0.025)

    def test_a_short_gap_joins_and_a_long_one_parts(self) -> None:
        joined = np.concatenate([tone(100), silence(90), tone(100), silence(200)])
        parted = np.concatenate([tone(100), silence(110), tone(100), silence(200)])
        assert len(listen(joined).stretches) == 1
        assert len(listen(parted).stretches) == 2

    def test_a_click_is_left_out(self) -> None:
        pcm = np.concatenate([silence(100), tone(3), silence(200), tone(100), silence(200)])
        (stretch,) = listen(pcm).stretches
        assert stretch.start == len(silence(100)) + len(tone(3)) + len(silence(200))

    def test_a_hole_in_the_stream_is_silence_in_its_place(self) -> None:
        listener = Listener(RATE)
        voice = tone(100)
        listener.receive(voice, 0, 0.0)
        listener.receive(voice, len(voice) * 3, 0.3)
        assert [(s.start, s.end) for s in listener.stretches] == [
            (0, len(voice)),
            (len(voice) * 3, len(voice) * 4),
        ]
        assert listener.stretches[1].start_at == pytest.approx(0.3)

    def test_samples_that_were_heard_already_are_dropped(self) -> None:
        listener = Listener(RATE)
        listener.receive(tone(100), 0, 0.0)
        listener.receive(tone(100), 0, 5.0)
        (stretch,) = listener.stretches
        assert stretch.end == len(tone(100))

    def test_silence_is_counted_from_the_last_voiced_sample(self) -> None:
        assert listen(silence(100)).silence_ms == math.inf
        assert listen(tone(100)).silence_ms == 0
        assert listen(np.concatenate([tone(100), silence(250)])).silence_ms == pytest.approx(250)


def test_the_level_of_a_full_scale_square_wave_is_zero() -> None:
    square = np.full(960, -32_768, np.int16)
    assert window_levels(square, 480) == pytest.approx([0.0, 0.0])
    assert window_levels(np.zeros(480, np.int16), 480)[0] == -math.inf
