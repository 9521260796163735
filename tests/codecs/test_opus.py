"""Opus by libopus: what comes out of a round trip, a loss, a silence, a change of mode, and hostile bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.interface import Pcm16
from rtc_server.codecs.base import CodecError
from rtc_server.codecs.libopus import version
from rtc_server.codecs.opus import CALM_REPORTS, OpusDecoder, OpusEncoder, OpusOptions
from tests.support.recordings import recording

FRAME = 320


def speech(seconds: float = 3.0) -> Pcm16:
    pcm = recording("f0_rms")[: int(16_000 * seconds)]
    return pcm[: len(pcm) // FRAME * FRAME]


def frames(pcm: Pcm16, size: int = FRAME) -> list[Pcm16]:
    return [pcm[i : i + size] for i in range(0, len(pcm) - size + 1, size)]


def similarity(a: Pcm16, b: Pcm16, max_lag: int = 320) -> float:
    """Highest normalised correlation over the codec's delay."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    best = 0.0
    for lag in range(max_lag):
        p, q = x[: len(x) - lag], y[lag:]
        scale = np.sqrt(np.dot(p, p) * np.dot(q, q))
        if scale:
            best = max(best, float(np.dot(p, q) / scale))
    return best


def test_a_current_libopus_is_used() -> None:
    assert tuple(int(part) for part in version().split()[1].split(".")[:2]) >= (1, 3)


@pytest.mark.parametrize("mode", ["celt", "silk"])
def test_speech_survives_the_round_trip(mode: str) -> None:
    pcm = speech()
    encoder, decoder = OpusEncoder(OpusOptions(16_000, mode)), OpusDecoder()  # type: ignore[arg-type]
    out = np.concatenate([decoder.decode(encoder.encode(frame)) for frame in frames(pcm)])
    assert len(out) == len(pcm)
    assert similarity(pcm, out) > 0.8  # SILK keeps the sound rather than the waveform


def test_in_band_redundancy_is_closer_to_the_lost_frame_than_concealment() -> None:
    encoder = OpusEncoder(OpusOptions(16_000, "silk", use_fec=True))
    for _ in range(10):
        encoder.report_loss(0.2)
    pcm = speech()
    packets = [encoder.encode(frame) for frame in frames(pcm)]
    reference = OpusDecoder()
    truth = [reference.decode(packet) for packet in packets]
    better = total = 0
    for lost in range(10, len(packets) - 1, 7):
        if np.abs(truth[lost]).max() < 1_000:
            continue
        recovering, concealing = OpusDecoder(), OpusDecoder()
        for packet in packets[:lost]:
            recovering.decode(packet)
            concealing.decode(packet)
        recovered = recovering.recover(packets[lost + 1], FRAME)
        if recovered is None:
            continue
        concealed = concealing.conceal(FRAME)
        total += 1
        error = [float(np.sum((truth[lost].astype(float) - guess) ** 2)) for guess in (recovered, concealed)]
        better += error[0] < error[1]
    assert total >= 5
    assert better / total >= 0.7


def test_a_packet_without_redundancy_recovers_nothing() -> None:
    encoder, decoder = OpusEncoder(OpusOptions(16_000, "celt")), OpusDecoder()
    packets = [encoder.encode(frame) for frame in frames(speech(0.2))]
    assert decoder.recover(packets[1], FRAME) is None


@pytest.mark.parametrize("mode", ["celt", "silk"])
def test_silence_repeated_from_a_can_stays_silent_after_speech(mode: str) -> None:
    encoder, decoder = OpusEncoder(OpusOptions(24_000, mode)), OpusDecoder()  # type: ignore[arg-type]
    tone = (8_000 * np.sin(2 * np.pi * 300 * np.arange(480 * 20) / 24_000)).astype(np.int16)
    for frame in frames(tone, 480):
        decoder.decode(encoder.encode(frame))
    for _ in range(5):
        decoder.decode(encoder.encode(np.zeros(480, np.int16)))
    canned = encoder.silent_payload()
    peaks = [int(np.abs(decoder.decode(canned)).max()) for _ in range(10)]
    assert max(peaks) <= 20
    discontinuous = encoder.dtx_payload()
    assert discontinuous is not None
    assert len(discontinuous) == 1
    assert int(np.abs(decoder.decode(discontinuous)).max()) <= 20
    out = np.concatenate([decoder.decode(encoder.encode(frame)) for frame in frames(tone, 480)])
    assert similarity(out[3_200:4_800], out[3_200:4_800]) == pytest.approx(1.0)
    assert np.abs(out[3_200:]).max() < 12_000, "no click when the voice comes back"


def test_loss_brings_redundancy_and_calm_brings_clarity_back() -> None:
    encoder = OpusEncoder(OpusOptions(24_000, "auto", use_fec=True))
    assert encoder.mode == "celt"
    for _ in range(5):
        encoder.report_loss(0.08)
    assert encoder.mode == "silk"
    for _ in range(CALM_REPORTS * 3):
        encoder.report_loss(0.0)
    assert encoder.mode == "celt"
    encoder.set_max_bitrate(20_000)
    assert encoder.mode == "silk"


def test_a_limit_set_in_one_mode_holds_in_the_other() -> None:
    noise = np.random.default_rng(1).integers(-8_000, 8_000, 480).astype(np.int16)
    encoder = OpusEncoder(OpusOptions(24_000, "auto", 48_000, use_fec=True))
    assert len(encoder.encode(noise)) > 100, "48 kb/s"
    for _ in range(5):
        encoder.report_loss(0.08)
    encoder.set_max_bitrate(34_000)
    for _ in range(CALM_REPORTS * 3):
        encoder.report_loss(0.0)
    assert encoder.mode == "celt"
    sizes = [len(encoder.encode(noise)) for _ in range(50)]
    assert np.mean(sizes[10:]) * 8 * 50 <= 36_000


def test_a_change_of_mode_does_not_click() -> None:
    tone = (8_000 * np.sin(2 * np.pi * 300 * np.arange(480 * 60) / 24_000)).astype(np.int16)
    encoder, decoder = OpusEncoder(OpusOptions(24_000, "auto", use_fec=True)), OpusDecoder()
    out = []
    for number, frame in enumerate(frames(tone, 480)):
        if number == 30:
            for _ in range(5):
                encoder.report_loss(0.2)
            assert encoder.mode == "silk"
        out.append(decoder.decode(encoder.encode(frame)))
    pcm = np.concatenate(out)[4_800:].astype(np.int32)
    assert np.abs(np.diff(pcm)).max() < 3_000, "a 300 Hz tone of this level moves by 942 a sample at most"
    assert np.abs(pcm).max() < 14_000


@pytest.mark.parametrize(
    ("parameters", "rate", "bitrate", "fec"),
    [
        ({}, 24_000, 48_000, False),
        ({"useinbandfec": "1"}, 24_000, 48_000, True),
        ({"maxplaybackrate": "16000", "maxaveragebitrate": "20000"}, 16_000, 20_000, False),
        ({"maxplaybackrate": "junk", "maxaveragebitrate": "-5"}, 24_000, 48_000, False),
        ({"maxaveragebitrate": "1"}, 24_000, 6_000, False),
        ({"maxplaybackrate": "99999999999"}, 24_000, 48_000, False),
    ],
)
def test_the_peers_parameters_are_honoured(parameters: dict[str, str], rate: int, bitrate: int, fec: bool) -> None:
    options = OpusOptions().limited_by(parameters)
    assert (options.sample_rate, options.bitrate, options.use_fec) == (rate, bitrate, fec)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_no_bytes_crash_the_decoder(payloads: list[bytes]) -> None:
    decoder = OpusDecoder()
    for payload in payloads:
        try:
            pcm = decoder.decode(payload)
        except CodecError:
            pcm = decoder.conceal(FRAME)
        assert 0 < len(pcm) <= 1_920
        recovered = decoder.recover(payload, FRAME)
        assert recovered is None or len(recovered) == FRAME
    decoder.close()
    decoder.close()


def test_a_frame_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="480"):
        OpusEncoder(OpusOptions(24_000)).encode(np.zeros(320, np.int16))
