"""What the caller hears: the server's packets through our own receiver, without the 80 ms of aiortc's.

A measuring client must not add a delay of its own to what it measures; browsers hold back 30 to 40 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pylibsrtp import Session

from model.interface import Pcm16
from rtc_server.codecs.base import PayloadFormat
from rtc_server.codecs.factory import create_decoder
from rtc_server.rtp.receiver import AudioReceiver

HEARD_RATE = 16_000
"""Rate in Hz of what is heard."""
OPUS = PayloadFormat(96, "opus", 48_000, 2)  # the payload type that aiortc offers
TICK_SECONDS = 0.02


class Hearing:
    """A `ReceiveBinding`. `on_audio(pcm, position, at)` gets int16 mono at `HEARD_RATE`, the position of its first
    sample in all that was heard, and the monotonic time."""

    def __init__(self, on_audio: Callable[[Pcm16, int, float], None]) -> None:
        self._on_audio = on_audio
        self._loop = asyncio.get_running_loop()
        self._receiver = AudioReceiver([OPUS], create_decoder, self._emit)
        self._position = 0
        self._now = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._add_source: Callable[[int], None] | None = None
        self._source: int | None = None

    @property
    def remote_streams(self) -> dict[int, Any]:
        """See `ReceiveBinding`."""
        source = self._receiver.source
        return {} if source is None else {source: self._receiver.reception}

    def start_receiving(self, session: Session, add_source: Callable[[int], None]) -> None:
        """See `ReceiveBinding`; aiortc goes on decrypting."""
        self._add_source = add_source
        self._timer = self._loop.call_later(TICK_SECONDS, self._on_tick)

    def receive_plain(self, packet: bytes) -> None:
        """See `ReceiveBinding`."""
        self._now = self._loop.time()
        self._receiver.receive(packet, self._now)
        source = self._receiver.source
        if source is not None and source != self._source and self._add_source is not None:
            self._source = source
            self._add_source(source)

    def stop_receiving(self) -> None:
        """See `ReceiveBinding`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_tick(self) -> None:
        self._now = self._loop.time()
        self._receiver.handle_deadline(self._now)
        self._timer = self._loop.call_later(TICK_SECONDS, self._on_tick)

    def _emit(self, pcm: Pcm16, delay_ms: float) -> None:
        position = self._position
        self._position += len(pcm)
        self._on_audio(pcm, position, self._now)
