"""The engine in a thread of the server: for tests and for engines that do no Python work of their own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

from .client import EngineSettings
from .host import EngineHost
from .hosting import HostingEngineClient

log = logging.getLogger(__name__)

LEAVE_SECONDS = 5.0  # a step of any backend is far shorter; a thread that does not leave by then never will


class ThreadEngineClient(HostingEngineClient):
    """Runs an `EngineHost` in a thread named "engine"."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._thread: threading.Thread | None = None

    async def _start_host(self, sock: socket.socket) -> None:
        self._thread = threading.Thread(target=EngineHost(sock).serve, name="engine", daemon=True)
        self._thread.start()

    async def _wait_host(self) -> None:
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, LEAVE_SECONDS)
        self._thread = None

    async def _kill_host(self) -> None:
        # A thread cannot be killed; it is a daemon and ends with the process.
        log.error("engine thread does not leave")
        self._thread = None
