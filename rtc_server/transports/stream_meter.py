"""What one stream adds to the process's metrics while it runs, once a second; nothing of it is kept until the end."""

from __future__ import annotations

from typing import Protocol

from model.interface import INPUT_SAMPLE_RATE
from rtc_server import metrics
from rtc_server.rtp.receiver import AudioReceiver

FRAMES = 50
"""Ticks of 20 ms between two updates."""

_PACKETS = {
    kind: metrics.RTP_PACKETS_IN.labels(kind.removesuffix("_packets"))
    for kind in ("received", "lost", "late", "duplicates", "reordered", "corrupt", "recovered_packets")
}
_REJECTED = metrics.RTP_PACKETS_IN.labels("rejected")
_AUDIO = {
    f"{kind}_samples": metrics.INPUT_AUDIO_SECONDS.labels(kind)
    for kind in ("decoded", "recovered", "concealed", "filled", "skipped")
}


class MeteredStream(Protocol):
    """`RtpStream`, as far as it is counted."""

    packets_sent: int
    skipped_frames: int

    @property
    def receiver(self) -> AudioReceiver: ...

    @property
    def rejected_packets(self) -> int: ...


class StreamMeter:
    """Belongs to one stream."""

    def __init__(self) -> None:
        self._counted: dict[str, int] = {}
        self._delay_ms: float | None = None

    def emitted(self, delay_ms: float) -> None:
        """Audio left the receive buffer after `delay_ms`."""
        if self._delay_ms is None or delay_ms > self._delay_ms:
            self._delay_ms = delay_ms

    def reported(self, fraction_lost: float, jitter_ms: float, round_trip_seconds: float | None) -> None:
        """The peer sent a receiver report."""
        metrics.RTP_REMOTE_LOSS.observe(fraction_lost)
        metrics.RTP_REMOTE_JITTER.observe(jitter_ms / 1e3)
        if round_trip_seconds is not None:
            metrics.RTP_ROUND_TRIP.observe(round_trip_seconds)

    def update(self, stream: MeteredStream) -> None:
        """Count what happened since the last time."""
        statistics = stream.receiver.statistics
        for name, packets in _PACKETS.items():
            packets.inc(self._news(name, getattr(statistics, name)))
        _REJECTED.inc(self._news("rejected", stream.rejected_packets))
        metrics.RTP_PACKETS_OUT.inc(self._news("sent", stream.packets_sent))
        for name, seconds in _AUDIO.items():
            seconds.inc(self._news(name, getattr(statistics, name)) / INPUT_SAMPLE_RATE)
        metrics.PLAYOUT_SKIPPED.inc(self._news("skipped_frames", stream.skipped_frames))
        if self._delay_ms is not None:
            metrics.JITTER_BUFFER_DELAY.observe(self._delay_ms / 1e3)
            self._delay_ms = None
        reception = stream.receiver.reception
        if reception is not None:
            metrics.RTP_JITTER.observe(reception.jitter_ms / 1e3)

    def _news(self, name: str, count: int) -> int:
        before = self._counted.get(name, 0)
        self._counted[name] = count
        return max(0, count - before)
