"""The engine of another process: a media worker's connection to the engine that the signaling process supervises."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from .client import EngineSettings, SupervisedEngineClient

CONNECT_INTERVAL_SECONDS = 0.05  # while the engine loads or restarts: a file look-up each time


class RemoteEngineClient(SupervisedEngineClient):
    """Connects to the Unix-domain socket at `path`; comes back by itself when the engine was restarted."""

    is_supervisor = False

    def __init__(self, settings: EngineSettings, path: str) -> None:
        super().__init__(settings)
        self._path = path

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            with suppress(OSError):  # not there yet, or not any more
                return await asyncio.open_unix_connection(self._path)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), CONNECT_INTERVAL_SECONDS)
                raise ConnectionResetError("closed while the engine was away")

    async def _wait_host(self) -> None:
        """It is somebody else's."""

    async def _kill_host(self) -> None:
        """It is somebody else's."""
