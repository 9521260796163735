"""Channels between a WebSocket in signaling and a call, wherever it lives: the window that makes the client wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from rtc_server.transports.websocket import weight_of

from .node import ChannelPeer

WINDOW = 128 * 1024  # unread by the call: 2.7 s of 24 kHz PCM; beyond it the socket is not read, and TCP makes it wait


class Line(Protocol):
    """The call's end of a channel, here or behind a socket: `transports.websocket` has both kinds."""

    def receive(self, data: str | bytes) -> None:
        """One message of the client."""

    def acknowledge(self, size: int) -> None:
        """A message of that length has reached the client."""

    def disconnect(self, *, is_lost: bool = False) -> None:
        """The client is gone; `is_lost`: without having said so. Idempotent."""


class WindowedChannel:
    """A `Channel` for signaling, and the `SocketPeer` of its line. `connect` it once there is a call."""

    def __init__(self, peer: ChannelPeer, on_over: Callable[[], None] | None = None) -> None:
        """`on_over` is called once, when the channel is over for whatever reason."""
        self._peer = peer
        self._on_over = on_over
        self._call_id = ""
        self._line: Line | None = None
        self._unread = 0
        self._is_over = False
        self._has_room = asyncio.Event()
        self._has_room.set()

    def connect(self, call_id: str, line: Line) -> None:
        """The call is there."""
        self._call_id, self._line = call_id, line

    # --- Channel

    @property
    def call_id(self) -> str:
        """See `Channel`."""
        return self._call_id

    async def send(self, data: str | bytes) -> None:
        """See `Channel.send`."""
        await self._has_room.wait()
        if self._is_over or self._line is None:
            return
        self._unread += weight_of(data)
        if self._unread >= WINDOW:
            self._has_room.clear()
        self._line.receive(data)

    def acknowledge(self, size: int) -> None:
        """See `Channel.acknowledge`."""
        if not self._is_over and self._line is not None:
            self._line.acknowledge(size)

    def close(self, *, is_lost: bool = False) -> None:
        """See `Channel.close`."""
        if not self._is_over:
            self._finish()
            if self._line is not None:
                self._line.disconnect(is_lost=is_lost)

    # --- SocketPeer

    def on_data(self, data: str | bytes) -> None:
        if not self._is_over:
            self._peer.on_data(data)

    def on_read(self, weight: int) -> None:
        self._unread -= weight
        if self._unread < WINDOW:
            self._has_room.set()

    def on_closed(self, code: int, reason: str) -> None:
        if not self._is_over:
            self._finish()
            self._peer.on_closed(code, reason)

    def _finish(self) -> None:
        self._is_over = True
        self._has_room.set()
        if self._on_over is not None:
            self._on_over()
