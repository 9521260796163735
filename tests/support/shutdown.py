"""What tests of a server's end have in common."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.support.live_call import LiveCall
from tests.support.sdp_peer import sdp_peer
from tests.support.server_process import ServerProcess


async def refused_call(url: str) -> tuple[int, str, int]:
    """Status, error code and Retry-After of a new call."""
    async with sdp_peer() as peer, aiohttp.ClientSession() as http:
        offer, kind = await peer.offer(), {"Content-Type": "application/sdp"}
        async with http.post(f"{url}/v1/realtime/calls", data=offer, headers=kind) as reply:
            return reply.status, (await reply.json())["error"]["code"], int(reply.headers["Retry-After"])


async def ended(call: LiveCall, timeout_s: float = 10.0) -> None:
    """Until the server has ended the call. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while call.ended is None:  # noqa: ASYNC110 - set by a callback of aiortc
            await asyncio.sleep(0.02)


async def exit_code(server: ServerProcess) -> int:
    """Of a server that ends by itself. Raises subprocess.TimeoutExpired."""
    return await asyncio.to_thread(server.process.wait, 20)
