"""An engine whose host belongs to this process: started with one end of a socket pair and told what to be."""

from __future__ import annotations

import asyncio
import socket
from abc import abstractmethod

from .client import SupervisedEngineClient
from .wire import Configure


class HostingEngineClient(SupervisedEngineClient):
    """Starts a host at every opening. How is the business of the subclasses in `process` and `thread`."""

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        await self._start_host(theirs)
        settings = self._settings
        self._send(
            Configure(
                settings.backend,
                dict(settings.options),
                settings.nice,
                settings.cpu_affinity,
                settings.max_pending,
                settings.listen_path,
                settings.huge_pages,
                settings.log_style,
                settings.step_timeout_seconds,
                settings.trace_style,
            )
        )
        return reader, self._writer

    @abstractmethod
    async def _start_host(self, sock: socket.socket) -> None:
        """Run an `EngineHost` on `sock` (its end of the pair, which the host or this method closes)."""
