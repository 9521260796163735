"""Keys pressed during a call (RFC 4733), received and sent: several packets per key, the last one three times."""

from __future__ import annotations

from typing import NamedTuple

DIGITS = "0123456789*#ABCD"  # events 0..15, RFC 4733 section 3.2
FRAME_MS = 20
VOLUME = 10  # -10 dBm0, what telephones send
MAX_DIGITS = 64
_PAYLOAD_BYTES = 4


class Digit(NamedTuple):
    """One key press."""

    digit: str
    duration_ms: int


class TelephoneEvents:
    """Turns packets into key presses, each told once: at its end, or when the next begins and its end was lost."""

    __slots__ = ("_clock_rate", "_pending", "_timestamp")

    def __init__(self, clock_rate: int) -> None:
        self._clock_rate = clock_rate
        self._timestamp: int | None = None
        self._pending: Digit | None = None

    def receive(self, timestamp: int, payload: bytes) -> list[Digit]:
        """The key presses that this packet completes. Malformed payloads complete none."""
        if len(payload) < _PAYLOAD_BYTES or payload[0] >= len(DIGITS):
            return []
        done: list[Digit] = []
        if timestamp != self._timestamp:
            if self._pending is not None:
                done.append(self._pending)
            self._timestamp = timestamp
            self._pending = Digit("", 0)
        if self._pending is not None:
            duration_ms = int.from_bytes(payload[2:4], "big") * 1_000 // self._clock_rate
            self._pending = Digit(DIGITS[payload[0]], duration_ms)
            if payload[1] & 0x80:
                done.append(self._pending)
                self._pending = None
        return done

    def flush(self) -> list[Digit]:
        """The key whose end never came; call it when nothing more came for a while."""
        done = [] if self._pending is None else [self._pending]
        self._pending = None
        return done


class TonePacket(NamedTuple):
    """One packet of a key that is sent."""

    payload: bytes
    is_first: bool
    """Of its key: with the marker bit, and its timestamp is the timestamp of all packets of the key."""


class ToneSender:
    """Sends keys, one after the other: `next` once per frame of 20 ms."""

    __slots__ = ("_clock_rate", "_elapsed", "_queue")

    def __init__(self, clock_rate: int) -> None:
        """`clock_rate` of the RTP timestamps, which the durations count in."""
        self._clock_rate = clock_rate
        self._queue: list[tuple[int, int, int]] = []  # event, its frames, frames until the next; at most MAX_DIGITS
        self._elapsed = 0

    @property
    def is_active(self) -> bool:
        """There is something to send, or a pause between keys; voice waits meanwhile."""
        return bool(self._queue)

    def add(self, digits: str, duration_ms: int, gap_ms: int) -> None:
        """Keys after those that are being sent. Raises ValueError for other characters, or more than MAX_DIGITS."""
        if len(self._queue) + len(digits) > MAX_DIGITS:
            raise ValueError(f"At most {MAX_DIGITS} keys can be sent at once.")
        frames, gap = max(1, round(duration_ms / FRAME_MS)), max(1, round(gap_ms / FRAME_MS))
        self._queue += [(DIGITS.index(digit), frames, gap) for digit in digits]

    def next(self) -> list[TonePacket]:
        """The packets of the next frame; none in a pause. Call it only while `is_active`."""
        event, frames, gap = self._queue[0]
        self._elapsed += 1
        if self._elapsed > frames:
            if self._elapsed == frames + gap:
                self._queue.pop(0)
                self._elapsed = 0
            return []
        ticks = min(0xFFFF, self._elapsed * FRAME_MS * self._clock_rate // 1_000)
        is_last = self._elapsed == frames
        payload = bytes((event, VOLUME | (0x80 if is_last else 0))) + ticks.to_bytes(2, "big")
        packets = [TonePacket(payload, self._elapsed == 1)]
        return packets + [TonePacket(payload, False)] * 2 if is_last else packets  # section 2.5.1.4
