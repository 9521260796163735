"""Lets the media workers of a machine use an engine client of the signaling process, as if it were an engine.

An engine process listens for them itself (`host`). Where the engines are those of a cluster, nobody does, so the
process that knows the way there listens in their place. Media workers notice no difference (`remote`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress

from model.interface import EngineEvent, ResponseDone

from .client import EngineClient
from .wire import Cancel, EngineEvents, EngineReady, FrameReader, Grant, Release, Submit, encode

log = logging.getLogger(__name__)

READ_BYTES = 1 << 18
MAX_UNSENT_BYTES = 16 * 1024 * 1024  # minutes of audio: that worker does not read any more


class EngineGateway:
    """Listens on a Unix-domain socket while `client` is ready; when it is not, the workers see a lost engine."""

    def __init__(self, client: EngineClient, path: str) -> None:
        self._client = client
        self._path = path
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._changing = asyncio.Lock()

    async def follow(self) -> None:
        """Open or close, as the client is now. Call it after every change."""
        async with self._changing:
            if self._client.is_ready and self._server is None:
                with suppress(FileNotFoundError):
                    os.unlink(self._path)
                self._server = await asyncio.start_unix_server(self._accept, self._path)
            elif not self._client.is_ready:
                await self._close()

    async def close(self) -> None:
        """Idempotent."""
        async with self._changing:
            await self._close()

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in self._connections.values():
            writer.close()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="engine-gateway")
        self._connections[task] = writer
        task.add_done_callback(lambda task: self._connections.pop(task, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        live: set[str] = set()

        def on_event(event: EngineEvent) -> None:
            if isinstance(event, ResponseDone):
                live.discard(event.response_id)
            if writer.is_closing():
                return
            writer.write(encode(EngineEvents((event,))))
            if writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
                log.error("a media worker does not read its events; its connection is closed")
                writer.transport.abort()

        frames = FrameReader()
        try:
            writer.write(encode(EngineReady(self._client.info, self._client.load_seconds)))
            while data := await reader.read(READ_BYTES):
                for command in frames.feed(data):
                    match command:
                        case Submit(request):
                            live.add(request.response_id)
                            self._client.submit(request, on_event)
                        case Cancel(response_id):
                            live.discard(response_id)
                            self._client.cancel(response_id)
                        case Grant(response_id, audio_ms):
                            self._client.grant(response_id, audio_ms)
                        case Release(response_id):
                            self._client.release(response_id)
        except OSError:  # the worker is gone
            pass
        finally:
            for response_id in live:  # nobody waits for them
                self._client.cancel(response_id)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
