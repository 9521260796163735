"""Two hundred calls, opened and dropped in every way there is, leave not one slot taken."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator

import aiohttp
import pytest

from tests.support.live_call import LiveCall
from tests.support.server_process import ServerProcess, server_process

AT_ONCE = 5  # connections that are made at the same time


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings = {
        "turns.vad": "webrtcvad",
        "server.max_calls": 250,
        "server.setup_timeout_seconds": 3.0,
        "limits.calls_per_address": 1_000,
        "limits.requests_per_minute": 60_000,
        "limits.burst": 10_000,
        "limits.address_requests_per_minute": 60_000,
        "limits.address_burst": 10_000,
    }
    with server_process("echo", settings) as running:
        yield running
        assert "Traceback" not in running.log, running.log


async def connected(url: str) -> LiveCall:
    call = LiveCall(url)
    await call.peer.connect(30)
    return call


async def closed(url: str, http: aiohttp.ClientSession) -> None:
    """The peer connection says goodbye; nobody asks over HTTP."""
    call = await connected(url)
    await call.peer.pc.close()
    call.peer._location = None
    await call.close()


async def aborted(url: str, http: aiohttp.ClientSession) -> None:
    """The network is gone: no goodbye of any kind leaves."""
    call = await connected(url)
    for transceiver in call.peer.pc.getTransceivers():
        await transceiver.sender.transport.transport.stop()
    call.peer._location = None
    await call.close()


async def deleted(url: str, http: aiohttp.ClientSession) -> None:
    call = await connected(url)
    async with http.delete(f"{url}/v1/realtime/calls/{call.peer.call_id}") as reply:
        assert reply.status == 200
    call.peer._location = None
    await call.close()


async def silent(url: str, http: aiohttp.ClientSession) -> None:
    """The answer is thrown away: media never comes."""
    call = LiveCall(url)
    await call.peer.pc.setLocalDescription(await call.peer.pc.createOffer())
    headers = {"Content-Type": "application/sdp"}
    sdp = call.peer.pc.localDescription.sdp
    async with http.post(f"{url}/v1/realtime/calls", data=sdp, headers=headers) as reply:
        assert reply.status == 201, await reply.text()
    await call.close()


async def socket_closed(url: str, http: aiohttp.ClientSession) -> None:
    socket = await http.ws_connect(f"{url}/v1/realtime")
    await socket.receive()
    await socket.close()


async def socket_aborted(url: str, http: aiohttp.ClientSession) -> None:
    """The TCP connection is reset, with a message half sent."""
    socket = await http.ws_connect(f"{url}/v1/realtime")
    await socket.send_str('{"type": "response.create", "response": {"instructions": "Hi."}}')
    connection = socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.abort()


WAYS: list[tuple[Callable[[str, aiohttp.ClientSession], Awaitable[None]], int]] = [
    (closed, 30),
    (aborted, 30),
    (deleted, 30),
    (silent, 30),
    (socket_closed, 30),
    (socket_aborted, 30),
]
KILLED = (5, 15)  # calls and sockets of a client that is killed


async def test_two_hundred_calls_dropped_in_every_way_leave_none(server: ServerProcess) -> None:
    assert sum(count for _, count in WAYS) + sum(KILLED) == 200
    command = [sys.executable, "-m", "tests.support.doomed_client", server.url, *map(str, KILLED)]
    doomed = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert doomed.stdout is not None
    gate = asyncio.Semaphore(AT_ONCE)

    async def drop(way: Callable[[str, aiohttp.ClientSession], Awaitable[None]], http: aiohttp.ClientSession) -> None:
        async with gate:
            await way(server.url, http)

    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(drop(way, http) for way, count in WAYS for _ in range(count)))
    assert (await doomed.stdout.readline()).startswith(b"ready")
    assert server.num_calls >= sum(KILLED)
    doomed.kill()
    await doomed.wait()
    server.wait_for_calls(0, 90.0)
    started = metric(server, "rtc_server_calls_started_total")
    assert started == 200
    assert metric(server, "rtc_server_calls_ended_total") == 200


def metric(server: ServerProcess, name: str) -> float:
    """All samples of a metric together."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
