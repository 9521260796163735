"""Keys pressed during a call (RFC 4733): several packets per key, the last one sent three times."""

from __future__ import annotations

from typing import NamedTuple

DIGITS = "0123456789*#ABCD"  # events 0..15, RFC 4733 section 3.2
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
