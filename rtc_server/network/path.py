"""The way of one call's media: where its packets are handed to, and where they are sent. It survives an ICE restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SendTo = Callable[[memoryview | bytes], None]


class MediaPath:
    """Owned by the call's transport; ICE sets its target, the socket delivers to it."""

    __slots__ = ("_loop", "_send", "on_media", "received_at", "sent", "unsent")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._send: SendTo | None = None
        self.on_media: Callable[[memoryview, float], None] | None = None
        """Called with every SRTP packet from an address that ICE has validated, and the time in monotonic seconds.
        The view is valid during the call only."""
        self.received_at = 0.0
        """When the latest media packet came; 0.0 before the first."""
        self.sent = 0
        self.unsent = 0
        """Packets that the socket would not take, or that had nowhere to go."""

    @property
    def is_open(self) -> bool:
        """ICE has chosen a pair: packets can be sent."""
        return self._send is not None

    def set_target(self, send: SendTo | None) -> None:
        """ICE nominated a pair, or lost its last one."""
        self._send = send

    def deliver(self, data: memoryview) -> bool:
        """One media packet from the peer; False while nobody takes media."""
        if self.on_media is None:
            return False
        now = self.received_at = self._loop.time()
        self.on_media(data, now)
        return True

    def send(self, data: memoryview | bytes) -> None:
        """Send one datagram to the peer. Never raises: what cannot be sent now is lost, as on any network."""
        if self._send is None:
            self.unsent += 1
            return
        try:
            self._send(data)
        except OSError:  # a full socket buffer (BlockingIOError), or no route at the moment
            self.unsent += 1
            return
        self.sent += 1
