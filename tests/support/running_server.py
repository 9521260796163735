"""The whole server inside the test's event loop: real HTTP, real engine host, one call to take it down."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rtc_server.app.server import serve
from rtc_server.config import load_settings

# Loopback only, no TLS, calls and engine in this process, and the voice detector that needs no model file.
DEFAULTS: Mapping[str, object] = {
    "server.host": "127.0.0.1",
    "auth.keys_file": "",  # not the developer's own
    "server.tls": False,
    "server.realtime_port": 0,  # a fixed port belongs to one server of the machine
    "engine.backend": "echo",
    "engine.isolation": "thread",
    "server.media_workers": 0,  # calls in this process too
    "turns.vad": "webrtcvad",
    "webrtc.host_addresses": ["127.0.0.1"],
}


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A TCP port, or one of another kind, that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running_server(**overrides: object) -> AsyncIterator[str]:
    """`async with running_server(**{"server.max_calls": 1}) as url:` is a warm server; it is gone afterwards."""
    port = free_port()
    flags = {**DEFAULTS, "server.http_port": port, **overrides}
    settings = load_settings(Path("config/server.toml"), flags)
    ready, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve(settings, lambda line: ready.set(), stop), name="server")
    waiting = asyncio.create_task(ready.wait(), name="server-ready")
    try:
        await asyncio.wait({task, waiting}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set(), "the server did not become ready"
        yield f"http://127.0.0.1:{port}"
    finally:
        waiting.cancel()
        stop.set()
        await task
