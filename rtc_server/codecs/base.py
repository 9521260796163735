"""What every audio codec offers the media path: payloads in, 16 kHz mono out, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from model.interface import Pcm16
from rtc_server.errors import RtcServerError

Payload: TypeAlias = bytes | memoryview


class CodecError(RtcServerError):
    """A payload that is not valid for its codec, or a codec that cannot be had. The peer's fault unless at start-up."""


@dataclass(frozen=True, slots=True)
class PayloadFormat:
    """One payload type of a session description (RFC 8866 sections 6.6 and 6.15)."""

    payload_type: int
    """0..127."""
    name: str
    """"opus", "PCMU", "PCMA", "G722", "telephone-event", "CN" or "red"."""
    clock_rate: int
    """RTP timestamp ticks per second."""
    channels: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The peer's `a=fmtp`, names in lower case."""


class AudioDecoder(Protocol):
    """Payloads of one stream in order; always gives int16 mono at 16 kHz."""

    def decode(self, payload: Payload) -> Pcm16:
        """The payload's samples. Raises CodecError when it is corrupt."""

    def duration(self, payload: Payload) -> int:
        """Samples at 16 kHz that the payload stands for, without decoding it. Raises CodecError."""

    def recover(self, next_payload: Payload, samples: int) -> Pcm16 | None:
        """The lost frame before `next_payload`, from its in-band FEC; None when it carries none."""

    def conceal(self, samples: int) -> Pcm16:
        """What a lost stretch may have sounded like, fading to silence when it goes on."""

    def close(self) -> None:
        """Free the native state. Idempotent."""


class AudioEncoder(Protocol):
    """20 ms frames of int16 mono in, one payload each out."""

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the frames it takes."""

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""

    @property
    def rtp_clock_rate(self) -> int:
        """RTP timestamp ticks per second."""

    @property
    def rtp_frame_ticks(self) -> int:
        """RTP timestamp ticks of one frame: 960 for Opus, 160 for G.711 and G.722."""

    def encode(self, pcm: Pcm16) -> bytes:
        """One frame, int16 [frame_samples]."""

    def silent_payload(self) -> bytes:
        """20 ms of silence, encoded in advance and safe to repeat."""

    def dtx_payload(self) -> bytes | None:
        """The payload that means "silence from here on"; None when the codec has none."""

    def report_loss(self, fraction_lost: float) -> None:
        """What the peer lost of our packets, 0..1: adapts redundancy and mode."""

    def set_max_bitrate(self, bits_per_second: int) -> None:
        """Never encode above this."""

    def close(self) -> None:
        """Free the native state. Idempotent."""
