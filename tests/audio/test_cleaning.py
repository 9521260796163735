"""The echo is taken out, the user stays; noise is taken out; streams keep their laws; whatever comes in is survived."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.support.echo_paths import EchoPath, echo_of, level, to_pcm, white
from model.interface import Pcm16
from rtc_server.audio.cleaning import (
    CANCELLER_DELAY,
    JITTER_PIECES,
    PIECE,
    SUPPRESSOR_DELAY,
    EchoCanceller,
    NoiseSuppressor,
    is_cleaning_available,
)
from rtc_server.audio.resample import StreamResampler
from tests.support.recordings import recording

pytestmark = pytest.mark.skipif(not is_cleaning_available(), reason="the extra `cleaning` is not installed")

MS = 16
FRAME = 20 * MS
SECOND = 1_000 * MS


def reply(seconds: float = 6.0) -> Pcm16:
    return np.concatenate([recording("librivox_0890"), recording("librivox_0870")])[: round(seconds * SECOND)]


def cancelled(microphone: Pcm16, sent: Pcm16, canceller: EchoCanceller | None = None) -> Pcm16:
    canceller = canceller or EchoCanceller(16_000)
    pieces = []
    for at in range(0, len(microphone) - FRAME + 1, FRAME):
        canceller.sent(sent[at : at + FRAME])
        pieces.append(canceller.clean(microphone[at : at + FRAME]))
    return np.concatenate(pieces)


def suppressed(pcm: Pcm16) -> Pcm16:
    return NoiseSuppressor().suppress(pcm)


def cleaned(pcm: Pcm16) -> Pcm16:
    canceller = EchoCanceller(16_000)
    canceller.sent(reply(0.5))
    return canceller.clean(pcm)


def quieter_db(before: Pcm16, after: Pcm16) -> float:
    return 20 * float(np.log10((level(before) + 0.1) / (level(after) + 0.1)))


@pytest.mark.parametrize(
    "path",
    [
        EchoPath(),
        EchoPath(delay_ms=40, gain_db=-25, codec="pcmu"),
        EchoPath(delay_ms=400, gain_db=-6),
        EchoPath(gain_db=-10, distortion=1.0, codec="pcmu"),
    ],
    ids=lambda path: path.name,
)
def test_an_echo_is_gone_after_two_seconds(path: EchoPath) -> None:
    echo = to_pcm(echo_of(reply(), path))
    rest = cancelled(echo, reply())
    assert quieter_db(echo[2 * SECOND :], rest[2 * SECOND :]) > 20


@pytest.mark.parametrize("delay_ms", [600, 800])
def test_an_echo_that_comes_too_late_for_the_library_is_found_all_the_same(delay_ms: int) -> None:
    sent = np.concatenate([reply(9.0)] * 2)
    echo = to_pcm(echo_of(sent, EchoPath(delay_ms=delay_ms)))
    assert quieter_db(echo[6 * SECOND :], cancelled(echo, sent)[6 * SECOND :]) > 20


def test_an_echo_out_of_reach_passes_as_it_is_for_the_guard_to_recognise() -> None:
    echo = to_pcm(echo_of(reply(), EchoPath(delay_ms=700)))
    heard = cancelled(echo, reply())
    looked_at = slice(int(1.4 * SECOND), int(1.6 * SECOND))  # found, and what was sent is held back only from now on
    np.testing.assert_array_equal(
        heard[looked_at], echo[looked_at.start - CANCELLER_DELAY : looked_at.stop - CANCELLER_DELAY]
    )


def test_a_path_that_gets_shorter_again_is_followed() -> None:
    sent = np.concatenate([reply(9.0)] * 2)
    half = 9 * SECOND
    late, soon = (echo_of(sent, EchoPath(delay_ms=delay_ms)) for delay_ms in (700, 100))
    echo = to_pcm(np.concatenate([late[:half], soon[half:]]))
    assert quieter_db(echo[half + 5 * SECOND :], cancelled(echo, sent)[half + 5 * SECOND :]) > 15


@pytest.mark.parametrize("rate", [8_000, 12_000, 16_000, 24_000, 48_000])
def test_every_playout_rate_is_understood(rate: int) -> None:
    resampler = StreamResampler(16_000, rate)
    sent = np.concatenate([resampler.resample(reply()), resampler.flush()])
    echo = to_pcm(echo_of(reply(), EchoPath(codec="pcmu")))
    canceller, step, pieces = EchoCanceller(rate), rate // 50, []
    for i in range(len(echo) // FRAME):
        canceller.sent(sent[i * step : (i + 1) * step])
        pieces.append(canceller.clean(echo[i * FRAME : (i + 1) * FRAME]))
    assert quieter_db(echo[2 * SECOND :], np.concatenate(pieces)[2 * SECOND :]) > 15


def test_a_user_who_talks_over_the_echo_stays() -> None:
    echo = echo_of(reply(), EchoPath())
    user = recording("f0_rms")
    at = 3 * SECOND
    microphone = echo.copy()
    microphone[at : at + len(user)] += user[: len(echo) - at]
    heard = cancelled(to_pcm(microphone), reply())
    assert quieter_db(user, heard[at : at + len(user)]) < 6


def test_without_echo_the_input_passes_unchanged_and_10_ms_late() -> None:
    user = recording("f0_rms")
    heard = cancelled(user, np.zeros(len(user), np.int16))
    np.testing.assert_array_equal(heard[CANCELLER_DELAY:], user[: len(heard) - CANCELLER_DELAY])


def test_after_the_reply_the_input_passes_unchanged_again() -> None:
    user = np.concatenate([recording("f0_rms"), recording("f3_rms")])
    sent = np.concatenate([reply(1.0), np.zeros(len(user), np.int16)])
    heard = cancelled(user, sent)
    start = 3 * SECOND
    np.testing.assert_array_equal(heard[start + CANCELLER_DELAY :], user[start : len(heard) - CANCELLER_DELAY])


def test_what_waits_inside_is_given_back_when_cancelling_ends() -> None:
    user = recording("f0_rms")[: SECOND + 77]
    canceller = EchoCanceller(16_000)
    given = np.concatenate([canceller.clean(user), canceller.close()])
    np.testing.assert_array_equal(given[CANCELLER_DELAY:], user)
    assert not len(canceller.close())


def test_white_noise_is_suppressed_and_speech_stays() -> None:
    noise = to_pcm(white(4 * SECOND) * 500)
    assert quieter_db(noise[2 * SECOND :], suppressed(noise)[2 * SECOND :]) > 6
    speech = recording("librivox_0880")
    assert abs(quieter_db(speech, suppressed(speech))) < 3.5


def test_the_suppressor_is_no_later_than_it_says() -> None:
    speech = recording("librivox_0880")
    whole = suppressed(speech).astype(np.float64)
    late = [float(np.dot(whole[lag:], speech[: len(speech) - lag].astype(np.float64))) for lag in range(600)]
    assert abs(int(np.argmax(late)) - SUPPRESSOR_DELAY) <= 3 * MS  # by the kind of sound
    assert SUPPRESSOR_DELAY <= 20 * MS


# --- the three laws of streams


@pytest.mark.parametrize("process", [cleaned, suppressed])
def test_later_input_never_changes_earlier_output(process: Callable[[Pcm16], Pcm16]) -> None:
    speech = recording("f1_rms")
    part = process(speech[:SECOND])
    np.testing.assert_array_equal(process(speech)[: len(part)], part)


@pytest.mark.parametrize("process", [cleaned, suppressed])
def test_a_new_one_remembers_nothing(process: Callable[[Pcm16], Pcm16]) -> None:
    speech = recording("f1_rms")
    process(reply(2.0))
    np.testing.assert_array_equal(process(speech), process(speech))


def test_pieces_joined_equal_the_whole() -> None:
    speech = recording("f1_rms")
    random = np.random.default_rng(4)
    cuts = [0, *np.cumsum(random.integers(1, 700, 40)), len(speech)]
    cuts = [cut for cut in cuts if cut <= len(speech)]
    canceller, suppressor = EchoCanceller(16_000), NoiseSuppressor()
    canceller.sent(reply(0.5))
    pieces = [(canceller.clean(speech[a:b]), suppressor.suppress(speech[a:b])) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in pieces]), cleaned(speech))
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces]), suppressed(speech))


# --- hostile input


@pytest.mark.parametrize(
    "pcm",
    [
        np.zeros(SECOND, np.int16),
        np.full(SECOND, 32_767, np.int16),
        np.full(SECOND, -32_768, np.int16),
        np.where(np.arange(SECOND) // 8 % 2, 32_767, -32_768).astype(np.int16),
        np.random.default_rng(0).integers(-32_768, 32_767, SECOND).astype(np.int16),
    ],
    ids=["silence", "DC", "negative DC", "clipping", "full noise"],
)
def test_whatever_comes_in_something_of_its_length_comes_out(pcm: Pcm16) -> None:
    heard = cancelled(pcm, pcm)
    assert heard.dtype == np.int16
    assert len(heard) == len(pcm)
    assert len(suppressed(pcm)) == len(pcm)
    user = recording("f0_rms")  # and it is over: speech is heard as before
    canceller = EchoCanceller(16_000)
    cancelled(pcm, pcm, canceller)
    later = cancelled(np.concatenate([np.zeros(2 * SECOND, np.int16), user]), np.zeros(9 * SECOND, np.int16), canceller)
    assert quieter_db(user, later[2 * SECOND :]) < 3


def test_no_samples_and_one_sample_at_a_time_are_taken() -> None:
    canceller, suppressor = EchoCanceller(16_000), NoiseSuppressor()
    empty = np.zeros(0, np.int16)
    assert not len(canceller.clean(empty))
    assert not len(suppressor.suppress(empty))
    canceller.sent(empty)
    one = [len(canceller.clean(np.ones(1, np.int16))) for _ in range(2 * PIECE)]
    assert sum(one) == 2 * PIECE
    assert max(one) == PIECE


@pytest.mark.parametrize("gap_ms", [100, 300, 450, 3_000])
def test_a_gap_in_the_input_does_not_bring_the_echo_back_for_long(gap_ms: int) -> None:
    sent = np.concatenate([reply(9.0)] * 2)
    echo = to_pcm(echo_of(sent, EchoPath()))
    canceller = EchoCanceller(16_000)
    gap = range(4 * SECOND, 4 * SECOND + gap_ms * MS)
    left = []
    for at in range(0, len(sent) - FRAME + 1, FRAME):
        canceller.sent(sent[at : at + FRAME])
        left.append(np.zeros(FRAME, np.int16) if at in gap else canceller.clean(echo[at : at + FRAME]))
    end = gap.stop + 2 * SECOND
    assert quieter_db(echo[end : end + 3 * SECOND], np.concatenate(left)[end : end + 3 * SECOND]) > 15


def test_input_that_comes_in_bursts_is_cleaned_all_the_same() -> None:
    sent = reply()
    echo = to_pcm(echo_of(sent, EchoPath()))
    canceller, pieces, burst = EchoCanceller(16_000), [], 5 * FRAME
    assert burst < JITTER_PIECES * PIECE
    for at in range(0, len(sent) - burst + 1, burst):
        for frame in range(at, at + burst, FRAME):
            canceller.sent(sent[frame : frame + FRAME])
        pieces.append(canceller.clean(echo[at : at + burst]))
    heard = np.concatenate(pieces)
    assert quieter_db(echo[3 * SECOND : len(heard)], heard[3 * SECOND :]) > 15
