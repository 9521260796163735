"""Pages that every player reads, made without decoding anything."""

from __future__ import annotations

import io

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.codecs.opus import OpusDecoder
from rtc_server.recording import opus_packets
from rtc_server.recording.ogg import OpusStream, checksum, whole_pages


def stream(packets: list[bytes], samples: int = 960) -> bytes:
    ogg = OpusStream(0x12345678, 1, {"TITLE": "rtc_1"})
    return ogg.begin() + b"".join(ogg.add(packet, samples) for packet in packets) + ogg.finish()


def bitwise(page: bytes) -> int:
    """RFC 3533 section 6, as it is written."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_the_standard(data: bytes) -> None:
    assert checksum(data) == bitwise(data)


@given(st.lists(st.binary(min_size=2, max_size=1_300).map(lambda data: b"\x78" + data), min_size=1, max_size=200))
def test_packets_come_out_as_they_went_in(packets: list[bytes]) -> None:
    data = stream(packets)
    assert whole_pages(data) == len(data)
    with av.open(io.BytesIO(data)) as container:
        read = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
        assert container.streams.audio[0].codec_context.name == "opus"
    assert read == packets


def test_the_positions_add_up_to_the_duration() -> None:
    with av.open(io.BytesIO(stream([b"\xf8\xff\xfe"] * 500))) as container:
        assert container.duration == 10_000_000
        assert sum(frame.samples for frame in container.decode(audio=0)) == 480_000


@given(st.integers(0, 4_000), st.integers(0, 255))
def test_what_a_crash_leaves_is_found(cut: int, change: int) -> None:
    data = stream([bytes([0x78]) + bytes(99)] * 200)
    torn = data[: len(data) - cut]
    end = whole_pages(torn)
    assert end <= len(torn) < end + 27 + 255 + 50 * 100 + 100
    assert whole_pages(torn[:end]) == end
    if change and end:
        damaged = bytearray(torn[:end])
        damaged[-1] ^= change
        assert whole_pages(bytes(damaged)) < end


@pytest.mark.parametrize("first", range(0, 256, 4))
def test_durations_are_those_of_libopus(first: int) -> None:
    decoder = OpusDecoder()
    for payload in (bytes([first]), bytes([first | 1]), bytes([first | 3, 3])):
        ours = opus_packets.duration(payload)
        if ours is not None:
            assert decoder.duration(payload) == ours // 3
        else:
            assert payload[0] & 3 == 3  # more than 120 ms
    decoder.close()


def test_what_is_no_packet_has_no_duration() -> None:
    assert [opus_packets.duration(payload) for payload in (b"", b"\x03", b"\x03\x00", b"\x1b\x3f")] == [None] * 4


@pytest.mark.parametrize("first", range(0, 256, 4))
def test_a_filler_lasts_20_ms_in_the_mode_of_its_neighbour(first: int) -> None:
    filler = opus_packets.filler(bytes([first]))
    assert opus_packets.duration(filler) == 960
    assert (first < 0x60, first < 0x80) == (filler[0] < 0x60, filler[0] < 0x80)
    assert opus_packets.is_stereo(filler) == opus_packets.is_stereo(bytes([first]))
