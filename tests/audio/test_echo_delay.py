"""The delay of an echo is found, and only where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.support.echo_paths import EchoPath, echo_of, to_pcm
from model.interface import Pcm16
from rtc_server.audio.echo_delay import EchoDelayFinder
from rtc_server.audio.resample import StreamResampler
from tests.support.recordings import recording

PIECE = 160


def reply() -> Pcm16:
    return np.concatenate([recording("librivox_0890"), recording("librivox_0870")])


def delays_found(microphone: Pcm16, sent: Pcm16, rate: int = 16_000) -> list[float]:
    finder, step, found = EchoDelayFinder(rate), rate // 100, []
    for i in range(min(len(microphone) // PIECE, len(sent) // step)):
        finder.sent(sent[i * step : (i + 1) * step])
        delay = finder.heard(microphone[i * PIECE : (i + 1) * PIECE])
        if delay is not None:
            found.append(delay)
    return found


@pytest.mark.parametrize("delay_ms", [0, 40, 333, 600, 900])
@pytest.mark.parametrize("path", [EchoPath(), EchoPath(codec="pcmu", distortion=1.0)], ids=lambda path: path.name)
def test_any_delay_up_to_a_second_is_found(path: EchoPath, delay_ms: int) -> None:
    late = echo_of(reply(), EchoPath(path.gain_db, delay_ms, path.codec, distortion=path.distortion))
    found = delays_found(to_pcm(late), reply())
    assert len(found) > 10
    assert all(abs(delay - delay_ms) < 20 for delay in found)


@pytest.mark.parametrize("rate", [8_000, 12_000, 24_000, 48_000])
def test_every_playout_rate_is_understood(rate: int) -> None:
    resampler = StreamResampler(16_000, rate)
    sent = np.concatenate([resampler.resample(reply()), resampler.flush()])
    found = delays_found(to_pcm(echo_of(reply(), EchoPath(delay_ms=500))), sent, rate)
    assert found
    assert all(abs(delay - 500) < 20 for delay in found)


@pytest.mark.parametrize(
    "microphone",
    [
        np.concatenate([recording(name) for name in ("f0_rms", "f3_rms", "librivox_0880", "f2_slt")]),
        np.zeros(90_000, np.int16),
        np.full(90_000, 32_767, np.int16),
        np.random.default_rng(0).integers(-32_768, 32_767, 90_000).astype(np.int16),
    ],
    ids=["other voices", "silence", "DC", "noise"],
)
def test_where_there_is_no_echo_none_is_found(microphone: Pcm16) -> None:
    assert delays_found(microphone, reply()) == []
    assert delays_found(reply(), np.zeros(len(reply()), np.int16)) == []
