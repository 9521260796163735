"""Both directions stay in time, whatever is lost, late, silent or a lie."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.codecs.opus import OpusEncoder, OpusOptions
from rtc_server.recording.opus_packets import duration
from rtc_server.recording.track import (
    MAX_SURPLUS_SECONDS,
    OpusTrack,
    Timeline,
    WavTrack,
    with_known_size,
)

FIRST = 0xFFFFF000  # a timestamp that wraps soon


def voice(frames: int, mode: str = "celt") -> list[bytes]:
    encoder = OpusEncoder(OpusOptions(16_000, mode))  # type: ignore[arg-type]
    sound = (8_000 * np.sin(np.arange(320 * frames) * 0.08)).astype(np.int16)
    payloads = [encoder.encode(sound[start : start + 320]) for start in range(0, len(sound), 320)]
    encoder.close()
    return payloads


class Recorded:
    """A track that is fed with the packets of one sender, and what a player makes of it."""

    def __init__(self) -> None:
        self.track = OpusTrack(1, {})
        self.data = b""

    def add(self, payload: bytes, frame: float, at: float) -> None:
        self.data += self.track.add(payload, (FIRST + int(frame * 960)) & 0xFFFFFFFF, at)

    def finish(self, at: float) -> Recorded:
        self.data += self.track.finish(at)
        return self

    @property
    def packets(self) -> list[bytes]:
        with av.open(io.BytesIO(self.data)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    def position(self, payload: bytes) -> float:
        """Seconds at which a packet begins."""
        packets = self.packets
        return sum(duration(packet) or 0 for packet in packets[: packets.index(payload)]) / 48_000

    @property
    def seconds(self) -> float:
        return sum(duration(packet) or 0 for packet in self.packets) / 48_000

    def peaks(self, decoder: str) -> list[float]:
        """Of every 20 ms, by FFmpeg's own decoder ("opus") or by libopus ("libopus")."""
        context = av.CodecContext.create(decoder, "r")
        with av.open(io.BytesIO(self.data)) as container:
            context.extradata = container.streams.audio[0].codec_context.extradata
            resampler = av.AudioResampler(format="flt", layout="mono", rate=48_000)
            frames = [f for packet in self.packets for f in context.decode(av.Packet(packet))]
            pcm = np.concatenate([m.to_ndarray().reshape(-1) for f in frames for m in resampler.resample(f)])
        return [float(np.abs(pcm[i : i + 960]).max()) for i in range(0, len(pcm), 960)]


def test_packets_in_order_follow_each_other_unchanged() -> None:
    sent, recorded = voice(50), Recorded()
    for index, payload in enumerate(sent):
        recorded.add(payload, index, index * 0.02)
    assert recorded.finish(1.0).packets == sent


def test_a_hole_takes_the_time_of_what_was_lost() -> None:
    sent, recorded = voice(50), Recorded()
    for index in [*range(20), *range(23, 50)]:
        recorded.add(sent[index], index, index * 0.02)
    assert recorded.finish(1.0).position(sent[23]) == pytest.approx(0.46)
    assert recorded.seconds == pytest.approx(1.0)
    assert [packet for packet in recorded.packets if len(packet) > 3] == [*sent[:20], *sent[23:]]


@pytest.mark.parametrize("decoder", ["opus", "libopus"])
@pytest.mark.parametrize("mode", ["celt", "silk"])
def test_every_decoder_hears_silence_in_a_long_hole(decoder: str, mode: str) -> None:
    sent, recorded = voice(50, mode), Recorded()
    for index in range(25):
        recorded.add(sent[index], index, index * 0.02)
    for index in range(25, 50):
        recorded.add(sent[index], index + 100, (index + 100) * 0.02)
    peaks = recorded.finish(3.0).peaks(decoder)
    assert len(peaks) == 150
    assert min(peaks[5:24]) > 0.15
    assert max(peaks[60:120]) < 0.02
    assert min(peaks[130:148]) > 0.15


def test_what_began_later_is_later() -> None:
    sent, recorded = voice(5), Recorded()
    for index, payload in enumerate(sent):
        recorded.add(payload, index, 3.5 + index * 0.02)
    assert recorded.finish(4.0).position(sent[0]) == pytest.approx(3.5)
    assert recorded.seconds == pytest.approx(4.0)


def test_a_burst_after_a_stall_lies_where_it_was_spoken() -> None:
    sent, recorded = voice(100), Recorded()
    for index, payload in enumerate(sent):
        recorded.add(payload, index, index * 0.02 if index < 30 else max(2.0, index * 0.02))
    assert recorded.finish(2.0).packets == sent


def test_a_late_beginning_is_made_up_for_in_the_first_pause() -> None:
    sent, recorded = voice(40), Recorded()
    for index in range(20):
        recorded.add(sent[index], index, 0.2 if index < 10 else index * 0.02)  # the first ten were held up
    for index in range(20, 40):
        recorded.add(sent[index], index + 30, (index + 30) * 0.02)
    assert recorded.finish(1.4).position(sent[20]) == pytest.approx(1.0, abs=0.011)


def test_another_source_is_placed_by_the_clock() -> None:
    sent, recorded = voice(20), Recorded()
    for index in range(10):
        recorded.add(sent[index], index, index * 0.02)
    for index in range(10, 20):
        recorded.add(sent[index], 1_000_000 + index, 1.0 + index * 0.02)
    assert recorded.finish(1.5).position(sent[10]) == pytest.approx(1.2)


def test_timestamps_that_run_ahead_do_not_make_time() -> None:
    sent, recorded = voice(20), Recorded()
    for index, payload in enumerate(sent):
        recorded.add(payload, index * 500, index * 0.02)  # ten seconds each
    assert recorded.finish(0.4).seconds < 0.4 + MAX_SURPLUS_SECONDS


def test_a_peer_that_says_more_than_time_allows_is_cut_off() -> None:
    (payload,), recorded = voice(1), Recorded()
    for _ in range(1_000):
        recorded.add(payload, 0, 0.5)
    assert recorded.finish(1.0).seconds <= 0.5 + MAX_SURPLUS_SECONDS + 0.02


def test_nothing_at_all_is_silence_of_that_length() -> None:
    assert Recorded().finish(2.0).seconds == pytest.approx(2.0)
    assert Recorded().finish(0.0).seconds == pytest.approx(0.02)


@given(st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.floats(0, 100)), max_size=50))
def test_no_timestamps_make_a_file_longer_than_the_call(packets: list[tuple[int, float]]) -> None:
    track = OpusTrack(1, {})
    data = b"".join(track.add(b"\xf8\xff\xfe", timestamp, at) for timestamp, at in packets) + track.finish(100.0)
    with av.open(io.BytesIO(data)) as container:
        assert container.duration is not None
        assert 99.9e6 <= container.duration <= (100 + MAX_SURPLUS_SECONDS + 0.1) * 1e6


def test_the_timeline_wraps_with_the_timestamps() -> None:
    timeline = Timeline(48_000)
    positions = [timeline.place((FIRST + 960 * i) & 0xFFFFFFFF, i * 0.02) for i in range(2_000)]
    assert positions == [960 * i for i in range(2_000)]


@pytest.mark.parametrize(
    ("coding", "silence", "codec"), [("PCMU", b"\xff", "pcm_mulaw"), ("PCMA", b"\xd5", "pcm_alaw")]
)
def test_g711_is_kept_as_it_came(coding: str, silence: bytes, codec: str) -> None:
    track = WavTrack(coding, 8_000)
    data = (
        track.add(bytes(range(160)), 1_000, 0.1) + track.add(bytes(range(160)), 1_000 + 320, 0.14) + track.finish(0.2)
    )
    data = with_known_size(data[:64], len(data)) + data[58:]
    expected = silence * 800 + bytes(range(160)) + silence * 160 + bytes(range(160)) + silence * 320
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.audio[0].codec_context.name == codec
        assert b"".join(bytes(packet) for packet in container.demux(audio=0) if packet.size) == expected


def test_samples_follow_each_other_until_the_clock_says_otherwise() -> None:
    track = WavTrack("PCM", 16_000)
    frame = np.full(320, 7, "<i2").tobytes()
    data = b"".join(track.add(frame, None, 0.02 + index * 0.02 + (0.03 if index % 2 else 0)) for index in range(10))
    data += track.add(frame, None, 1.0) + track.finish(1.0)
    with wave.open(io.BytesIO(with_known_size(data[:64], len(data)) + data[58:])) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(pcm) == 16_000
    assert set(np.flatnonzero(pcm)) == {*range(3_200), *range(15_680, 16_000)}
