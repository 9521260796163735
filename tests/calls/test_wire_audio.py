"""Audio in events: every format both ways, whatever the pieces, and nothing lost at an end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from model.interface import Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.calls.wire_audio import LAWS, WireAudio
from rtc_server.codecs import g711
from rtc_server.errors import ProtocolError
from tests.support.recordings import recording

FORMATS = ("audio/pcm", "audio/pcmu", "audio/pcma")
ENGINE_RATES = (16_000, 24_000, 22_050)
RATE = 16_000


def on_the_wire(pcm: Pcm16, wire_format: str) -> bytes:
    """16 kHz samples as a client would send them."""
    law = LAWS.get(wire_format)
    resampler = StreamResampler(RATE, 8_000 if law else 24_000)
    samples = np.concatenate([resampler.resample(pcm), resampler.flush()])
    return g711.encode(law, samples) if law else samples.astype("<i2").tobytes()


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """Pieces of any length, odd ones and empty ones included."""
    random, start = np.random.default_rng(seed), 0
    while start < len(data):
        size = int(random.integers(0, 3_000))
        yield data[start : start + size]
        start += size


def likeness(a: Pcm16, b: Pcm16) -> float:
    """Correlation of two recordings of the same sound, at the best shift of up to 2 ms."""
    length = min(len(a), len(b)) - 64
    return max(float(np.corrcoef(a[32 : 32 + length], b[s : s + length])[0, 1]) for s in range(64))


@pytest.mark.parametrize("wire_format", FORMATS)
def test_input_sounds_like_what_was_said(wire_format: str) -> None:
    said = recording("f0_rms")
    heard = WireAudio(RATE, wire_format).decode(on_the_wire(said, wire_format))
    assert abs(len(heard) - len(said)) < 40
    assert likeness(said, heard) > (0.97 if wire_format in LAWS else 0.999)  # 8 kHz lacks the sibilants


@pytest.mark.parametrize("wire_format", FORMATS)
def test_pieces_joined_are_the_whole(wire_format: str) -> None:
    data = on_the_wire(recording("f1_rms"), wire_format)
    whole = WireAudio(RATE, wire_format).decode(data)
    for seed in range(3):
        wire = WireAudio(RATE, wire_format)
        assert np.array_equal(np.concatenate([wire.decode(piece) for piece in cut(data, seed)]), whole)


@pytest.mark.parametrize("wire_format", FORMATS)
def test_more_input_never_changes_earlier_output(wire_format: str) -> None:
    data = on_the_wire(recording("f1_rms"), wire_format)
    whole = WireAudio(RATE, wire_format).decode(data)
    for end in (1, 2, 999, 10_001):
        part = WireAudio(RATE, wire_format).decode(data[:end])
        assert np.array_equal(part, whole[: len(part)])


@pytest.mark.parametrize("engine_rate", ENGINE_RATES)
@pytest.mark.parametrize("wire_format", FORMATS)
def test_replies_joined_are_the_whole_and_keep_their_tail(engine_rate: int, wire_format: str) -> None:
    pcm = recording("f2_rms")
    whole = WireAudio(engine_rate, output_format=wire_format)
    expected = whole.encode("resp_1", pcm) + whole.finish("resp_1")
    wire, sent = WireAudio(engine_rate, output_format=wire_format), b""
    for start in range(0, len(pcm), 777):
        sent += wire.encode("resp_1", pcm[start : start + 777])
    sent += wire.finish("resp_1")
    assert sent == expected
    bytes_per_second = 8_000 if wire_format in LAWS else 48_000
    assert len(sent) / bytes_per_second == pytest.approx(len(pcm) / engine_rate, abs=0.001)


def test_a_new_response_is_a_new_stream() -> None:
    pcm = recording("f0_rms")[:8_000]
    wire = WireAudio(RATE)
    first = wire.encode("resp_1", pcm) + wire.finish("resp_1")
    assert wire.encode("resp_1", pcm) + wire.finish("resp_1") == first  # reset equals new
    assert wire.finish("resp_1") == b""


def test_two_responses_at_once_do_not_run_into_each_other() -> None:
    first, second = recording("f0_rms")[:8_000], recording("f1_slt")[:8_000]
    alone = [WireAudio(RATE), WireAudio(RATE)]
    expected = [wire.encode("r", pcm) + wire.finish("r") for wire, pcm in zip(alone, (first, second), strict=True)]
    wire, sent = WireAudio(RATE), {"a": b"", "b": b""}
    for start in range(0, 8_000, 500):
        sent["a"] += wire.encode("a", first[start : start + 500])
        sent["b"] += wire.encode("b", second[start : start + 500])
    assert [sent["a"] + wire.finish("a"), sent["b"] + wire.finish("b")] == expected


def test_an_input_format_changes_for_the_bytes_that_follow() -> None:
    said = recording("f3_rms")
    half = len(said) // 2
    wire = WireAudio(RATE)
    heard = [wire.decode(on_the_wire(said[:half], "audio/pcm"))]
    wire.set_formats("audio/pcmu", "audio/pcm")
    heard.append(wire.decode(on_the_wire(said[half:], "audio/pcmu")))
    joined = np.concatenate(heard)
    assert abs(len(joined) - len(said)) < 40
    assert likeness(said, joined) > 0.97


def test_a_cleared_input_begins_at_the_start_of_a_sample() -> None:
    data = on_the_wire(recording("f0_rms")[:4_000], "audio/pcm")
    wire = WireAudio(RATE)
    wire.decode(data[:1_001])
    wire.clear_input()
    assert np.array_equal(wire.decode(data), WireAudio(RATE).decode(data))  # reset equals new


@pytest.mark.parametrize("wire_format", FORMATS)
def test_a_clip_is_whole_and_leaves_the_stream_alone(wire_format: str) -> None:
    said = recording("f0_rms")
    data = on_the_wire(said, wire_format)
    wire, alone = WireAudio(RATE, wire_format), WireAudio(RATE, wire_format)
    heard = [wire.decode(data[:999])]
    clip = wire.decode_clip(data)
    heard.append(wire.decode(data[999:]))
    assert len(clip) == pytest.approx(len(said), abs=2)
    assert np.array_equal(np.concatenate(heard), alone.decode(data))


def test_a_clip_that_ends_inside_a_sample_is_refused() -> None:
    with pytest.raises(ProtocolError):
        WireAudio(RATE).decode_clip(b"\0\0\0")
    WireAudio(RATE, "audio/pcmu").decode_clip(bytes(801))


def test_the_same_format_again_keeps_half_a_sample() -> None:
    data = on_the_wire(recording("f0_rms")[:4_000], "audio/pcm")
    wire = WireAudio(RATE)
    heard = [wire.decode(data[:1_001])]
    wire.set_formats("audio/pcm", "audio/pcm")
    heard.append(wire.decode(data[1_001:]))
    assert np.array_equal(np.concatenate(heard), WireAudio(RATE).decode(data))


def test_an_output_format_changes_with_the_next_response() -> None:
    pcm = recording("f0_rms")[:8_000]
    wire = WireAudio(RATE)
    sent = wire.encode("resp_1", pcm)
    wire.set_formats("audio/pcm", "audio/pcma")
    sent += wire.encode("resp_1", pcm) + wire.finish("resp_1")
    assert len(sent) == pytest.approx(48_000, abs=100)
    assert len(wire.encode("resp_2", pcm) + wire.finish("resp_2")) == pytest.approx(4_000, abs=10)
