"""Resampling a stream: the size of the pieces must not be audible."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.interface import Pcm16
from rtc_server.audio.resample import StreamResampler

RATES = [(24_000, 48_000), (22_050, 48_000), (24_000, 16_000), (48_000, 16_000), (44_100, 24_000)]


def sweep(rate: int, ms: int = 400) -> Pcm16:
    t = np.arange(rate * ms // 1_000) / rate
    return (12_000 * np.sin(2 * np.pi * (200 + 1_500 * t) * t)).astype(np.int16)


def resampled(pcm: Pcm16, rates: tuple[int, int], cuts: list[int]) -> Pcm16:
    resampler = StreamResampler(*rates)
    pieces = [resampler.resample(piece) for piece in np.split(pcm, sorted(cuts))]
    return np.concatenate([*pieces, resampler.flush()])


@given(data=st.data(), rates=st.sampled_from(RATES))
@settings(max_examples=40, deadline=None)
def test_pieces_joined_equal_the_whole(data: st.DataObject, rates: tuple[int, int]) -> None:
    pcm = sweep(rates[0])
    cuts = data.draw(st.lists(st.integers(0, len(pcm)), max_size=30))
    whole, pieces = resampled(pcm, rates, []), resampled(pcm, rates, cuts)
    assert len(whole) == len(pieces)
    assert np.abs(whole.astype(int) - pieces).max() <= 1


@pytest.mark.parametrize("rates", RATES)
def test_more_input_never_changes_earlier_output(rates: tuple[int, int]) -> None:
    pcm = sweep(rates[0])
    half = len(pcm) // 2
    short, long = StreamResampler(*rates), StreamResampler(*rates)
    first = short.resample(pcm[:half])
    both = np.concatenate([long.resample(pcm[:half]), long.resample(pcm[half:])])
    assert np.array_equal(first, both[: len(first)])


@pytest.mark.parametrize("rates", RATES)
def test_after_a_flush_it_is_as_new(rates: tuple[int, int]) -> None:
    pcm = sweep(rates[0])
    resampler = StreamResampler(*rates)
    first = np.concatenate([resampler.resample(pcm), resampler.flush()])
    again = np.concatenate([resampler.resample(pcm), resampler.flush()])
    assert np.array_equal(first, again)


@pytest.mark.parametrize("rates", RATES)
def test_duration_and_pitch_are_kept(rates: tuple[int, int]) -> None:
    in_rate, out_rate = rates
    t = np.arange(in_rate) / in_rate
    out = resampled((10_000 * np.sin(2 * np.pi * 1_000 * t)).astype(np.int16), rates, [])
    assert len(out) == pytest.approx(out_rate, abs=out_rate // 500)  # within 2 ms of a second
    peak_hz = np.argmax(np.abs(np.fft.rfft(out, out_rate)))
    assert peak_hz == pytest.approx(1_000, abs=2)


def test_little_is_held_back() -> None:
    resampler = StreamResampler(24_000, 48_000)
    assert len(resampler.resample(sweep(24_000, 20))) >= 48 * 18  # at most 2 ms of delay before the first sound


def test_equal_rates_hand_the_input_through() -> None:
    resampler = StreamResampler(24_000, 24_000)
    pcm = sweep(24_000)
    assert resampler.resample(pcm) is pcm
    assert len(resampler.flush()) == 0


def test_flushing_before_any_input_gives_nothing() -> None:
    resampler = StreamResampler(24_000, 48_000)
    assert len(resampler.resample(np.zeros(0, np.int16))) == 0
    assert len(resampler.flush()) == 0


def test_a_resampler_starts_no_thread() -> None:
    before = psutil.Process().num_threads()
    resamplers = [StreamResampler(16_000, 48_000) for _ in range(4)]
    for resampler in resamplers:
        resampler.resample(np.zeros(320, np.int16))
    assert psutil.Process().num_threads() == before
