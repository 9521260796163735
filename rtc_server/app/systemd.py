"""What systemd is told by a service of `Type=notify`: ready, alive, reloading, stopping. See sd_notify(3).

The protocol is one datagram of lines to a Unix socket; the packages for it are unmaintained or need a compiler. Without
`NOTIFY_SOCKET` in the environment nobody listens, and nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)


class Notifier:
    """Owns the socket."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        self._status = ""
        self._is_ready = False
        self.watchdog_seconds: float | None = None
        """systemd restarts a service that it has not heard of for so long; None = it does not watch."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return
        if address[0] not in "/@":
            log.warning("NOTIFY_SOCKET is not a Unix socket; systemd is told nothing", extra={"address": address})
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._address = "\0" + address[1:] if address[0] == "@" else address
        usec = environment.get("WATCHDOG_USEC", "")
        if usec.isdecimal() and int(usec) and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self.watchdog_seconds = int(usec) / 1e6

    def ready(self) -> None:
        """The start is over."""
        self._is_ready = True
        self._send("READY=1")

    def reloading(self) -> None:
        """The settings are read again; `reloaded` follows. Before the start is over, systemd is not told of it."""
        if self._is_ready:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}")

    def reloaded(self) -> None:
        """The settings have been read, of use or not."""
        if self._is_ready:
            self._send("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._is_ready = False
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    async def watchdog(self) -> None:
        """Be heard of for as long as the event loop turns. Returns at once when nobody watches."""
        while self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / 2)

    def close(self) -> None:
        """Idempotent."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:  # systemd is busy or gone; the calls go on
            log.warning("systemd cannot be told", extra={"reason": error.strerror or str(error)})
