"""TCP handed on from one machine of a box to the next, as a reverse proxy does: how a page comes to a browser."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

START_SECONDS = 10.0


@contextmanager
def forwarded(listen: tuple[str, int], target: tuple[str, int]) -> Iterator[None]:
    """TCP connections on this thread's machine are handed on: how the page comes to the browser."""
    listener = socket.create_server(listen)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*target)
        # Cancelled at the end: asyncio's own callback on this task would complain of that.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    async def serve(stop: asyncio.Event) -> None:
        server = await asyncio.start_server(connect, sock=listener)
        started.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    stop = asyncio.Event()
    # A thread begins on the machine of the one that starts it.
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)), name="forwarding")
    thread.start()
    started.wait(START_SECONDS)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
