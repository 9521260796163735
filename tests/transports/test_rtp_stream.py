"""A call's stream with a socket and a timer of the test's own: the feedback that it gives, and that it obeys."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
from pylibsrtp import Error, Policy, Session

from model.interface import Pcm16
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.codecs.base import PayloadFormat
from rtc_server.codecs.factory import create_decoder
from rtc_server.codecs.opus import MIN_BITRATE, OpusEncoder
from rtc_server.rtp.telephone_event import TelephoneEvents
from rtc_server.transports.pacer import Pacer
from rtc_server.transports.rtp_stream import RtpStream

OPUS = PayloadFormat(111, "opus", 48_000, 2)
KEYS = PayloadFormat(110, "telephone-event", 48_000)
OURS, THEIRS = 0x11111111, 0x22222222
EXTENSION = 3
KEY = bytes(range(30))


def session(ssrc_type: int) -> Session:
    return Session(Policy(key=KEY, ssrc_type=ssrc_type))


class Peer:
    """The other end of the path: sends packets into the stream, reads what it sends. Time is the test's."""

    def __init__(
        self,
        *,
        obey_remb: bool = False,
        transport_sequence_id: int | None = None,
        is_heard: bool = True,
        takes_keys: bool = False,
    ) -> None:
        self.on_media: Callable[[memoryview, float], None] | None = None
        self.now = 100.0
        self.sent: list[bytes] = []
        self.errors: list[Exception] = []
        self.encoder = OpusEncoder()
        self._out = session(Policy.SSRC_ANY_OUTBOUND)
        self._in = session(Policy.SSRC_ANY_INBOUND)
        self.stream = RtpStream(
            self,
            Pacer(),
            formats=[OPUS, KEYS] if takes_keys else [OPUS],
            make_decoder=create_decoder,
            encoder=self.encoder,
            use_dtx=True,
            answer_nacks=False,
            obey_remb=obey_remb,
            transport_sequence_id=transport_sequence_id,
            on_error=self.errors.append,
            is_heard=is_heard,
        )
        self.stream.start_receiving(session(Policy.SSRC_ANY_INBOUND), lambda ssrc: None)
        if is_heard:
            self.stream.start_sending(session(Policy.SSRC_ANY_OUTBOUND), OURS, 111)

    def send(self, data: memoryview | bytes) -> None:
        self.sent.append(bytes(data))

    def speaks(self, sequence: int, extension: bytes | None) -> None:
        """One packet of silence."""
        header = struct.pack("!BBHII", 0x80, 111, sequence, sequence * 960, THEIRS)
        if extension is not None:
            extension += bytes(-len(extension) % 4)
            header = b"\x90" + header[1:] + struct.pack("!HH", 0xBEDE, len(extension) // 4) + extension
        assert self.on_media is not None
        self.on_media(memoryview(self._out.protect(header + b"\xf8\xff\xfe")), self.now)

    def passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.now += 0.02
            self.stream.tick(self.now, self.now, 0)

    def presses(self, sequence: int, timestamp: int, payload: bytes) -> None:
        """One packet of a key."""
        header = struct.pack("!BBHII", 0x80, KEYS.payload_type, sequence, timestamp, THEIRS)
        assert self.on_media is not None
        self.on_media(memoryview(self._out.protect(header + payload)), self.now)

    @property
    def heard(self) -> list[bytes]:
        """RTP that was received since this was read last, decrypted."""
        sent, self.sent = self.sent, []
        return [self._in.unprotect(packet) for packet in sent if not 200 <= packet[1] <= 207]

    @property
    def feedback(self) -> list[bytes]:
        """RTCP that was received since this was read last, decrypted."""
        sent, self.sent = self.sent, []
        return [self._in.unprotect_rtcp(packet) for packet in sent if packet[1] == 205]


@pytest.fixture
def make_peer() -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(**options: Any) -> Peer:
        made.append(Peer(**options))
        return made[-1]

    yield make
    for peer in made:
        peer.stream.close()
        assert peer.errors == []


def numbered(sequence: int) -> bytes:
    return bytes([EXTENSION << 4 | 1]) + sequence.to_bytes(2, "big")


async def test_the_peer_is_told_when_its_packets_arrived(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(transport_sequence_id=EXTENSION)
    for sequence in range(10):
        peer.speaks(sequence, b"\x10\x80" + numbered(500 + sequence))
        peer.passes(1)
    first, second = peer.feedback
    assert struct.unpack("!BBHIIHH", first[:16]) == (0x8F, 205, 5, OURS, THEIRS, 500, 1)
    assert struct.unpack("!BBHIIHH", second[:16]) == (0x8F, 205, 6, OURS, THEIRS, 501, 5)
    assert second[20:22] == b"\x20\x05"
    assert list(second[23:27]) == [80] * 4
    peer.passes(5)
    assert len(peer.feedback) == 1
    peer.passes(100)
    assert peer.feedback == [], "nothing arrives, nothing is told"


async def test_a_peer_that_did_not_ask_is_told_nothing(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer()
    for sequence in range(10):
        peer.speaks(sequence, numbered(sequence))
        peer.passes(1)
    assert peer.feedback == []
    assert peer.stream.packets_sent == 10


@pytest.mark.parametrize("extension", [None, b"", b"\x30", b"\x3f", b"\x32abc", b"\xff\xff\xff\xff"])
async def test_packets_without_a_number_are_heard_all_the_same(
    make_peer: Callable[..., Peer], extension: bytes | None
) -> None:
    peer = make_peer(transport_sequence_id=EXTENSION)
    for sequence in range(10):
        peer.speaks(sequence, extension)
        peer.passes(1)
    assert peer.feedback == []
    assert peer.stream.receiver.statistics.received == 10


async def test_a_forged_packet_is_not_reported(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(transport_sequence_id=EXTENSION)
    peer.speaks(1, numbered(1))
    assert peer.on_media is not None
    peer.on_media(memoryview(b"\x90\x6f" + bytes(10) + b"\xbe\xde\0\1" + numbered(2) + bytes(40)), peer.now)
    peer.passes(1)
    (report,) = peer.feedback
    assert struct.unpack("!HH", report[12:16]) == (1, 1)


async def test_feedback_and_reports_do_not_repeat_each_others_indices(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(transport_sequence_id=EXTENSION)
    peer.speaks(1, numbered(1))
    peer.passes(1)
    (packet,) = [packet for packet in peer.sent if packet[1] == 205]
    assert len(peer.feedback) == 1
    with pytest.raises(Error):
        peer._in.unprotect_rtcp(packet)  # a replay; the next is not
    peer.speaks(2, numbered(2))
    peer.passes(5)
    assert len(peer.feedback) == 1


def loud(peer: Peer) -> float:
    """Bit rate of a second of noise."""
    noise: Pcm16 = np.random.default_rng(1).normal(0, 6_000, peer.encoder.frame_samples).astype(np.int16)
    return sum(len(peer.encoder.encode(noise)) for _ in range(50)) * 8


async def test_the_peers_estimate_limits_the_encoder_and_its_rise_frees_it(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(obey_remb=True)
    free = loud(peer)
    peer.stream.limit_bitrate(36_000)
    assert loud(peer) < 40_000 < free
    peer.stream.limit_bitrate(1 << 80)
    assert loud(peer) == pytest.approx(free, rel=0.1)


async def test_an_estimate_below_the_encoders_minimum_is_the_minimum(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(obey_remb=True)
    peer.stream.limit_bitrate(1)
    assert MIN_BITRATE / 2 < loud(peer) < MIN_BITRATE * 2


@pytest.mark.parametrize(("obey_remb", "bits_per_second"), [(True, 0), (False, 8_000)])
async def test_an_estimate_of_nothing_or_not_agreed_on_is_ignored(
    make_peer: Callable[..., Peer], obey_remb: bool, bits_per_second: int
) -> None:
    peer = make_peer(obey_remb=obey_remb)
    free = loud(peer)
    peer.stream.limit_bitrate(bits_per_second)
    assert loud(peer) == pytest.approx(free, rel=0.1)


async def test_an_estimate_after_the_end_is_ignored(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(obey_remb=True)
    peer.stream.close()
    peer.stream.limit_bitrate(20_000)


async def test_a_bug_in_the_encoder_reaches_the_call(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(obey_remb=True)
    error = RuntimeError("bug")

    def fail(bits_per_second: int) -> None:
        raise error

    cast(Any, peer.encoder).set_max_bitrate = fail
    peer.stream.limit_bitrate(20_000)
    assert peer.errors == [error]
    peer.errors.clear()


class CountingSink:
    """Counts what is pulled from it."""

    def __init__(self) -> None:
        self.pulled = 0
        self.heard = 0
        self.digits = ""

    def on_digit(self, digit: str, now: float) -> None:
        self.digits += digit

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None:
        self.heard += len(pcm)

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        self.pulled += 1
        return PlayoutFrame(np.full(480, 1_000, np.int16), "resp_1", is_silence=False)


async def test_a_reply_that_nobody_takes_passes_in_real_time(make_peer: Callable[..., Peer]) -> None:
    peer, sink = make_peer(is_heard=False), CountingSink()
    peer.stream.attach(sink)
    peer.passes(50)
    assert sink.pulled == 50
    assert peer.sent == []
    peer.speaks(1, None)
    peer.passes(10)
    assert sink.heard > 0


async def test_an_outlet_pulls_in_place_of_a_peer_that_takes_nothing(make_peer: Callable[..., Peer]) -> None:
    muted, outlet, sink = make_peer(is_heard=False), make_peer(), CountingSink()
    muted.stream.attach(sink)
    outlet.stream.attach(sink)
    muted.stream.outlet = outlet.stream
    muted.passes(10)
    assert sink.pulled == 0
    outlet.passes(10)
    assert sink.pulled == 10
    outlet.stream.detach()
    outlet.passes(10)
    assert sink.pulled == 10
    outlet.stream.stop_sending()
    muted.passes(10)
    assert sink.pulled == 20


async def test_a_bug_in_an_unheard_call_ends_it(make_peer: Callable[..., Peer]) -> None:
    peer = make_peer(is_heard=False)

    class Broken(CountingSink):
        def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
            raise RuntimeError("a bug")

    peer.stream.attach(Broken())
    peer.passes(1)
    assert [str(error) for error in peer.errors] == ["a bug"]
    peer.errors.clear()


class Tap:
    """A `MediaTap` that keeps everything."""

    def __init__(self) -> None:
        self.received: list[tuple[int, bytes]] = []
        self.sent: list[tuple[int, bytes]] = []

    def on_received(self, payload: bytes, timestamp: int, now: float) -> None:
        self.received.append((timestamp, payload))

    def on_sent(self, payload: bytes, timestamp: int, now: float) -> None:
        self.sent.append((timestamp, payload))


async def test_a_tap_gets_the_payloads_of_both_directions(make_peer: Callable[..., Peer]) -> None:
    peer, tap = make_peer(), Tap()
    assert peer.stream.tap(tap, "opus") == ("opus", "opus")
    for sequence in range(5):
        peer.speaks(sequence, None)
        peer.passes(1)
    assert tap.received == [(sequence * 960, b"\xf8\xff\xfe") for sequence in range(5)]
    packets = [peer._in.unprotect(packet) for packet in peer.sent if packet[1] & 0x7F == 111]
    assert tap.sent == [(int.from_bytes(packet[4:8], "big"), packet[12:]) for packet in packets]
    peer.stream.tap(None, "opus")
    peer.speaks(5, None)
    peer.passes(1)
    assert len(tap.received) == len(tap.sent) == 5


async def test_what_cannot_be_kept_as_it_is_is_not_tapped(make_peer: Callable[..., Peer]) -> None:
    tap = Tap()
    assert make_peer().stream.tap(tap, "G722") == (None, None)
    assert make_peer(is_heard=False).stream.tap(tap, "opus") == ("opus", None)


async def test_another_codec_than_the_agreed_one_is_left_out(make_peer: Callable[..., Peer]) -> None:
    peer, tap = make_peer(), Tap()
    assert peer.stream.tap(tap, "PCMU") == ("PCMU", "PCMU")
    peer.speaks(0, None)
    assert tap.received == []


async def test_on_hold_nothing_is_sent_or_heard_and_a_reply_waits(make_peer: Callable[..., Peer]) -> None:
    peer, sink = make_peer(), CountingSink()
    peer.stream.attach(sink)
    peer.passes(10)
    pulled = sink.pulled
    peer.stream.hold(True)
    peer.sent.clear()
    peer.speaks(1, None)
    peer.passes(50)
    assert (sink.pulled, sink.heard, peer.sent) == (pulled, 0, [])
    peer.stream.hold(False)
    for sequence in range(52, 62):
        peer.speaks(sequence, None)
        peer.passes(1)
    assert sink.pulled == pulled + 10
    assert sink.heard > 0
    first = peer.heard[0]
    assert first[1] & 0x80, "after a gap the marker is set (RFC 3551 section 4.1)"


async def test_keys_are_sent_in_place_of_the_voice_which_waits(make_peer: Callable[..., Peer]) -> None:
    peer, sink = make_peer(takes_keys=True), CountingSink()
    peer.stream.attach(sink)
    peer.passes(3)
    assert peer.heard
    assert peer.stream.send_digits("15", 100, 60)
    before = sink.pulled
    peer.passes(2 * (5 + 3))
    assert sink.pulled == before
    packets = peer.heard
    receiver = TelephoneEvents(48_000)
    types = {packet[1] & 0x7F for packet in packets}
    pressed = [k.digit for p in packets for k in receiver.receive(int.from_bytes(p[4:8], "big"), p[12:])]
    assert (types, pressed) == ({KEYS.payload_type}, ["1", "5"])
    sequences = [int.from_bytes(packet[2:4], "big") for packet in packets]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    peer.passes(5)
    assert sink.pulled == before + 5


async def test_a_peer_that_takes_no_keys_gets_none(make_peer: Callable[..., Peer]) -> None:
    assert not make_peer().stream.send_digits("1", 100, 100)


async def test_a_key_whose_end_is_lost_is_told_all_the_same(make_peer: Callable[..., Peer]) -> None:
    peer, sink = make_peer(takes_keys=True), CountingSink()
    peer.stream.attach(sink)
    peer.presses(1, 960, b"\x07\x0a\x03\xc0")
    peer.presses(2, 960, b"\x07\x0a\x07\x80")
    peer.passes(10)
    assert sink.digits == ""
    peer.passes(40)
    assert sink.digits == "7"
