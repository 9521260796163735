"""The server hears itself over a speakerphone: its echo begins no turn, a user who talks over it does.

The echo path is gain, delay, a small room (RT60 0.2 s, direct sound 6 dB above the reverberation) and Opus. Larger or
emptier rooms defeat the guard in part: at RT60 0.3 s and 3 dB it lets one or two false turns pass in 20 s of reply.
"""

from __future__ import annotations

from functools import cache

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from model.interface import Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.turns.detector import TurnDetector, TurnDetectorConfig
from rtc_server.turns.echo_guard import MAX_DELAY_MS, WINDOW_MS, EchoGuard
from rtc_server.turns.events import SpeechStarted, TurnEvent
from rtc_server.turns.vad_factory import create_detector
from tests.support.recordings import pink_noise, recording, rms, silence, silero_path, to_pcm, voiced_range

MS = 16
FRAME = 320
PATHS = [(-6.0, 400), (-15.0, 150), (-25.0, 50)]  # echo gain in dB, delay in ms


@cache
def reply() -> Pcm16:
    return np.concatenate([recording(name) for name in ("librivox_0890", "f1_slt")])


def opus(pcm: Pcm16) -> Pcm16:
    """Through Opus at 24 kbit/s and back, same length."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = 48_000, "mono", "s16", 24_000
    decoder = av.CodecContext.create("libopus", "r")
    up, down = StreamResampler(16_000, 48_000), StreamResampler(48_000, 16_000)
    wide = np.concatenate([up.resample(pcm), up.flush()])
    pieces = []
    for at in range(0, len(wide) - 959, 960):
        frame = av.AudioFrame.from_ndarray(wide[at : at + 960].reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, at
        for packet in encoder.encode(frame):
            for decoded in decoder.decode(packet):
                samples = decoded.to_ndarray().reshape(-1, len(decoded.layout.channels))[:, 0]
                pieces.append(down.resample(np.ascontiguousarray(samples)))
    back = np.concatenate(pieces)
    return np.concatenate([back, np.zeros(max(0, len(pcm) - len(back)), np.int16)])[: len(pcm)]


@cache
def room() -> NDArray[np.float64]:
    """Impulse response, RT60 0.2 s, direct sound 6 dB above the rest."""
    t = np.arange(int(0.2 * 16_000)) / 16_000
    response = np.random.default_rng(0).standard_normal(len(t)) * 10 ** (-3 * t / 0.2)
    response[:16] = 0
    response *= 10 ** (-6 / 20) / np.sqrt((response**2).sum())
    response[0] = 1
    return response


@cache
def echo(gain_db: float, delay_ms: int) -> NDArray[np.float64]:
    """What the microphone picks up of `reply()`."""
    back = np.convolve(opus(reply()).astype(np.float64), room())[: len(reply())]
    back *= 10 ** (gain_db / 20) * rms(reply()) / rms(back)
    return np.concatenate([np.zeros(delay_ms * MS), back])[: len(reply())] + pink_noise(len(reply()), 10.0)


def events_of(microphone: Pcm16, *, with_guard: bool = True) -> list[TurnEvent]:
    guard = EchoGuard(16_000)
    turns = TurnDetector(
        create_detector("silero", 2, silero_path()), TurnDetectorConfig(), guard.is_echo if with_guard else None
    )
    events: list[TurnEvent] = []
    for at in range(0, len(microphone) - FRAME + 1, FRAME):
        guard.sent(reply()[at : at + FRAME])
        events += turns.receive_audio(microphone[at : at + FRAME])
    return events


def turns_begun(events: list[TurnEvent]) -> list[int]:
    return [event.start_sample for event in events if isinstance(event, SpeechStarted)]


@pytest.mark.parametrize(("gain_db", "delay_ms"), PATHS)
def test_an_echo_begins_no_turn(gain_db: float, delay_ms: int) -> None:
    assert turns_begun(events_of(opus(to_pcm(echo(gain_db, delay_ms))))) == []


def test_without_the_guard_the_same_echo_does() -> None:
    assert turns_begun(events_of(opus(to_pcm(echo(-15.0, 150))), with_guard=False))


@pytest.mark.parametrize(
    ("name", "gain_db", "delay_ms"),
    [("f0_rms", *PATHS[0]), ("f0_rms", *PATHS[2]), ("f3_rms", *PATHS[1]), ("go_forward_ten_meters", *PATHS[1])],
)
def test_a_user_who_talks_over_the_echo_begins_a_turn(name: str, gain_db: float, delay_ms: int) -> None:
    user = recording(name)
    first, end = voiced_range(user)
    microphone = echo(gain_db, delay_ms).copy()
    at = 3_000 * MS
    microphone[at : at + len(user)] += user * (rms(microphone) / rms(user))  # as loud as the echo
    begun = turns_begun(events_of(opus(to_pcm(microphone))))
    assert begun
    assert at + first - 700 * MS <= begun[0] <= at + end


# --- the guard by itself


def played(guard: EchoGuard, pcm: Pcm16, frame: int = FRAME) -> EchoGuard:
    for at in range(0, len(pcm) - frame + 1, frame):
        guard.sent(pcm[at : at + frame])
    return guard


@pytest.mark.parametrize("delay_ms", [0, 20, 333, MAX_DELAY_MS - 10])
def test_any_delay_up_to_the_greatest_is_found(delay_ms: int) -> None:
    pcm = reply()[:40_000]
    end = 40_000 - delay_ms * MS
    guard = played(EchoGuard(16_000), pcm)
    assert guard.explained(pcm[end - WINDOW_MS * MS : end]) > 0.9


@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 48_000])
def test_every_playout_rate_is_understood(sample_rate: int) -> None:
    pcm = reply()[:40_000]
    resampler = StreamResampler(16_000, sample_rate)
    guard = played(EchoGuard(sample_rate), resampler.resample(pcm), sample_rate // 50)
    assert guard.explained(pcm[30_000 : 30_000 + WINDOW_MS * MS]) > 0.8


def test_an_inverted_loudspeaker_is_an_echo_too() -> None:
    pcm = reply()[:40_000]
    assert played(EchoGuard(16_000), pcm).is_echo(-(pcm[30_000:34_096] // 4))


def test_another_voice_is_no_echo() -> None:
    guard = played(EchoGuard(16_000), reply()[:40_000])
    user = recording("f0_rms")
    found = [guard.explained(user[at : at + 4_096]) for at in range(4_000, 28_000, 2_000)]
    assert max(found) < 0.4


def test_when_nothing_was_sent_nothing_is_an_echo() -> None:
    guard = EchoGuard(24_000)
    assert guard.explained(reply()[:4_096]) == 0.0
    played(guard, silence(2_000))
    assert guard.explained(reply()[:4_096]) == 0.0


def test_what_was_sent_is_forgotten_when_it_can_not_come_back_any_more() -> None:
    pcm = reply()[:40_000]
    guard = played(EchoGuard(16_000), pcm)
    played(guard, silence(MAX_DELAY_MS + WINDOW_MS + 20))
    assert guard.explained(pcm[-4_096:]) == 0.0


def test_digital_silence_and_crumbs_are_no_echo() -> None:
    guard = played(EchoGuard(16_000), reply()[:40_000])
    assert guard.explained(silence(256)) == 0.0
    assert guard.explained(reply()[39_900:40_000]) == 0.0
