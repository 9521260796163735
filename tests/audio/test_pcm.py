"""The small helpers that every other module counts on."""

from __future__ import annotations

import numpy as np
import pytest

from rtc_server.audio.pcm import SILENCE_DBFS, fade_in, fade_out, ms_to_samples, rms_dbfs, samples_to_ms


def test_milliseconds_and_samples_convert_both_ways() -> None:
    assert ms_to_samples(20, 24_000) == 480
    assert ms_to_samples(2.5, 16_000) == 40
    assert samples_to_ms(441, 44_100) == 10.0


def test_the_level_of_a_full_scale_square_wave_is_zero_and_half_of_it_six_decibels_less() -> None:
    square = np.array([-32_768, 32_767] * 100, np.int16)
    assert rms_dbfs(square) == pytest.approx(0.0, abs=0.01)
    assert rms_dbfs(square // 2) == pytest.approx(-6.02, abs=0.01)


@pytest.mark.parametrize("pcm", [np.zeros(0, np.int16), np.zeros(480, np.int16)], ids=["empty", "zeros"])
def test_silence_has_a_finite_level(pcm: np.ndarray) -> None:
    assert rms_dbfs(pcm) == SILENCE_DBFS


def test_fades_leave_their_input_alone_and_reach_zero() -> None:
    pcm = np.full(100, 1_000, np.int16)
    out, into = fade_out(pcm, 10), fade_in(pcm, 10)
    assert (pcm == 1_000).all()
    assert out[0] == 1_000
    assert out[9] == 0
    assert not out[10:].any()
    assert into[0] == 0
    assert into[9] == 1_000
    assert (into[9:] == 1_000).all()


def test_a_fade_longer_than_the_sound_uses_all_of_it() -> None:
    assert fade_out(np.full(4, 900, np.int16), 100).tolist() == [900, 600, 300, 0]
