"""A client that makes calls and waits to be killed: `python -m tests.support.doomed_client URL CALLS SOCKETS`."""

from __future__ import annotations

import asyncio
import sys

import aiohttp

from tests.support.live_call import LiveCall


async def main(url: str, num_calls: int, num_sockets: int) -> None:
    """Print "ready" once everything is connected, then do nothing."""
    calls = [LiveCall(url) for _ in range(num_calls)]
    for call in calls:
        await call.peer.connect(15)
    async with aiohttp.ClientSession() as http:
        sockets = [await http.ws_connect(f"{url}/v1/realtime") for _ in range(num_sockets)]
        print("ready", len(calls), len(sockets), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
