"""Our own offer, for calls that we make: what aiortc needs to be the offerer although the audio is ours, and is made
only once the answer has chosen its codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pylibsrtp import Session

from rtc_server.codecs.base import PayloadFormat

from .rtp_stream import RtpStream

OFFERED = (
    PayloadFormat(111, "opus", 48_000, 2, {"minptime": "10", "useinbandfec": "1"}),
    PayloadFormat(9, "G722", 8_000),
    PayloadFormat(0, "PCMU", 8_000),
    PayloadFormat(8, "PCMA", 8_000),
    PayloadFormat(110, "telephone-event", 48_000, 1, {"0-15": ""}),
    PayloadFormat(101, "telephone-event", 8_000, 1, {"0-15": ""}),
)
"""What a telephone may choose from; the best first."""

_CODEC_LINES = ("a=rtpmap:", "a=fmtp:", "a=rtcp-fb:", "a=extmap:")


class LateStream:
    """A `ReceiveBinding` and `SendBinding` whose stream comes with the answer, before DTLS starts either."""

    def __init__(self) -> None:
        self.stream: RtpStream | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound, name)

    @property
    def _bound(self) -> RtpStream:
        if self.stream is None:
            raise RuntimeError("the answer has not come yet")
        return self.stream

    @property
    def remote_streams(self) -> dict[int, Any]:
        return {} if self.stream is None else self.stream.remote_streams

    @property
    def packets_sent(self) -> int:
        return 0 if self.stream is None else self.stream.packets_sent

    @property
    def octets_sent(self) -> int:
        return 0 if self.stream is None else self.stream.octets_sent

    @property
    def latest_rtp_timestamp(self) -> int:
        return 0 if self.stream is None else self.stream.latest_rtp_timestamp

    @property
    def latest_sent_ntp(self) -> int:
        return 0 if self.stream is None else self.stream.latest_sent_ntp

    def start_receiving(self, session: Session, add_source: Callable[[int], None]) -> None:
        self._bound.start_receiving(session, add_source)

    def receive_plain(self, packet: bytes) -> None:
        self._bound.receive_plain(packet)

    def stop_receiving(self) -> None:
        if self.stream is not None:
            self.stream.stop_receiving()

    def start_sending(self, session: Session, ssrc: int, payload_type: int) -> None:
        self._bound.start_sending(session, ssrc, payload_type)

    def stop_sending(self) -> None:
        if self.stream is not None:
            self.stream.stop_sending()

    def on_receiver_report(self, fraction_lost: float, jitter_ticks: int, round_trip_seconds: float | None) -> None:
        self._bound.on_receiver_report(fraction_lost, jitter_ticks, round_trip_seconds)

    def retransmit(self, sequence: int) -> None:
        self._bound.retransmit(sequence)

    def limit_bitrate(self, bits_per_second: int) -> None:
        self._bound.limit_bitrate(bits_per_second)


def with_formats(sdp: str, formats: Sequence[PayloadFormat]) -> str:
    """A description of ours whose one m-section, audio, has these formats."""
    head, separator, section = sdp.partition("\r\nm=audio ")
    lines = section.split("\r\n")
    port, profile = lines[0].split(" ")[:2]
    numbers = " ".join(str(f.payload_type) for f in formats)
    described: list[str] = []
    for payload_format in formats:
        channels = f"/{payload_format.channels}" if payload_format.channels > 1 else ""
        name = f"{payload_format.name}/{payload_format.clock_rate}{channels}"
        described.append(f"a=rtpmap:{payload_format.payload_type} {name}")
        if payload_format.parameters:
            fields = ";".join(f"{key}={value}" if value else key for key, value in payload_format.parameters.items())
            described.append(f"a=fmtp:{payload_format.payload_type} {fields}")
    kept = [line for line in lines[1:] if not line.startswith(_CODEC_LINES)]
    end = kept.index("") if "" in kept else len(kept)
    kept[end:end] = described
    return head + separator + "\r\n".join([f"{port} {profile} {numbers}", *kept])
