"""Hostile input beside a live call: the call must not notice, nothing may grow, no stranger gets an answer.

The gap that is allowed is for a machine that is busy with other tests. On an idle one it is below 60 ms:
RTC_SERVER_TEST_MAX_GAP_MS=60 pytest tests/abuse -s shows the figures and holds them to that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import psutil
import pytest
from aioice import stun

from tests.abuse.attacks import ATTACKS
from tests.support.live_call import LiveCall, live_call
from tests.support.server_process import ServerProcess, server_process

MAX_GAP_SECONDS = float(os.environ.get("RTC_SERVER_TEST_MAX_GAP_MS", "250")) / 1e3
MAX_GROWTH_BYTES = 30e6
FLOOD = 3_000


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("echo", settings={"turns.vad": "webrtcvad", "server.max_calls": 4}) as running:
        yield running
        assert "Traceback" not in running.log


def rss(server: ServerProcess) -> float:
    root = psutil.Process(server.process.pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def server_address(call: LiveCall) -> tuple[str, int]:
    connection = call.peer.pc.getTransceivers()[0].sender.transport.transport._connection
    return connection._nominated[1].remote_addr


@asynccontextmanager
async def untouched(server: ServerProcess) -> AsyncIterator[LiveCall]:
    """A call that must sound as if nothing happened."""
    async with live_call(server.url) as call:
        await asyncio.sleep(0.5)
        before, memory = len(call.heard_at), rss(server)
        yield call
        await asyncio.sleep(0.3)
        heard = call.heard_at[before - 1 :]
        gaps = [b - a for a, b in pairwise(heard)]
        assert gaps
        print(f"longest gap {max(gaps) * 1e3:.0f} ms, memory {(rss(server) - memory) / 1e6:+.1f} MB", end=" ")
        assert max(gaps) <= MAX_GAP_SECONDS, f"a hole of {max(gaps) * 1e3:.0f} ms"
        assert await call.is_alive()
        assert rss(server) - memory < MAX_GROWTH_BYTES
    assert "Traceback" not in server.log


class Stranger:
    """Sends to the server's port and counts what comes back."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self._target = target
        self.sent = 0
        self._rng = random.Random(1)

    async def send(self, packets: list[bytes]) -> None:
        for number, packet in enumerate(packets):
            with contextlib.suppress(BlockingIOError):
                self.sock.sendto(packet, self._target)
                self.sent += len(packet)
            if number % 50 == 49:
                await asyncio.sleep(0.005)

    def received(self) -> int:
        total = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                total += len(self.sock.recv(4096))
        return total


def stun_request(username: str, *, priority: bool = True) -> bytes:
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    message.attributes["USERNAME"] = username
    if priority:
        message.attributes["PRIORITY"] = 1
    message.add_message_integrity(b"wrong password here!!!")
    return bytes(message)


def odd_stun(rng: random.Random) -> bytes:
    body = b"".join(
        struct.pack("!HH", rng.choice([0x0006, 0x0008, 0x0020, 0x8028, 0x0025, 0x0009]), rng.randrange(0, 40))
        + rng.randbytes(rng.randrange(0, 12))
        for _ in range(rng.randrange(1, 5))
    )
    body += b"\x00" * (-len(body) % 4)
    return struct.pack("!HHI", rng.choice([1, 0x11, 0x101, 0x111]), len(body), 0x2112A442) + rng.randbytes(12) + body


RNG = random.Random(7)
STRANGERS: dict[str, list[bytes]] = {
    "empty datagrams": [b""] * 500,
    "random bytes": [RNG.randbytes(RNG.randrange(1, 1_400)) for _ in range(FLOOD)],
    "malformed STUN": [odd_stun(RNG) for _ in range(FLOOD)],
    "STUN with made-up names": [stun_request(f"{RNG.randrange(10**9)}:x") for _ in range(FLOOD)],
    "DTLS garbage": [bytes([RNG.randrange(20, 64)]) + RNG.randbytes(200) for _ in range(FLOOD)],
    "client hellos": [b"\x16\xfe\xff" + bytes(8) + b"\x00\x40\x01" + RNG.randbytes(63)] * FLOOD,
    "spoofed media": [b"\x80\x6f" + RNG.randbytes(170) for _ in range(FLOOD)],
    "spoofed RTCP": [b"\x80\xc8" + RNG.randbytes(60) for _ in range(FLOOD)],
    "oversized datagrams": [RNG.randbytes(9_000)] * 200,
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_stranger_is_neither_heard_nor_answered(server: ServerProcess, name: str) -> None:
    async with untouched(server) as call:
        stranger = Stranger(server_address(call))
        await stranger.send(STRANGERS[name])
        await asyncio.sleep(0.2)
        received = stranger.received()
        stranger.sock.close()
        assert received == 0, f"{received} bytes came back for {stranger.sent}"


async def test_the_right_name_without_the_password_is_not_answered(server: ServerProcess) -> None:
    async with untouched(server) as call:
        connection = call.peer.pc.getTransceivers()[0].sender.transport.transport._connection
        stranger = Stranger(server_address(call))
        name = f"{connection.remote_username}:{connection.local_username}"
        await stranger.send([stun_request(name), stun_request(name, priority=False)] * 500)
        await asyncio.sleep(0.2)
        assert stranger.received() == 0
        stranger.sock.close()


# --- from a caller's own address, with its own keys


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_hostile_caller_disturbs_nobody_else(server: ServerProcess, attack: str) -> None:
    async with untouched(server), asyncio.timeout(60):
        hostile = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.abuse.attacks", server.url, attack),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await hostile.communicate()
        assert hostile.returncode == 0, said.decode()
    await asyncio.to_thread(server.wait_for_calls, 0, 20.0)
    async with live_call(server.url) as fresh:
        assert await fresh.is_alive()


async def test_a_storm_of_offers_is_refused_politely(server: ServerProcess) -> None:
    async with untouched(server) as call:
        sdp = call.peer.pc.localDescription.sdp
        statuses: list[int] = []

        async def offer(http: aiohttp.ClientSession, body: str) -> None:
            headers = {"Content-Type": "application/sdp"}
            async with http.post(f"{server.url}/v1/realtime/calls", data=body.encode(), headers=headers) as reply:
                statuses.append(reply.status)
                if reply.status == 503:
                    assert int(reply.headers["Retry-After"]) >= 1
                await reply.read()

        begun = time.monotonic()
        async with aiohttp.ClientSession() as http:
            for burst in range(50):
                bodies = [sdp if number % 2 else "v=0\r\ngarbage" for number in range(10)]
                await asyncio.gather(*(offer(http, body) for body in bodies))
                await asyncio.sleep(max(0.0, begun + (burst + 1) * 0.1 - time.monotonic()))
        assert len(statuses) == 500
        assert statuses.count(400) == 250
        assert statuses.count(201) <= 3
        assert statuses.count(503) >= 247
    # The offers that were answered never connect: their slots come back by the set-up timer (15 s).
    await asyncio.to_thread(server.wait_for_calls, 0, 25.0)


def test_the_module_runs_the_server_as_users_do() -> None:
    assert "RTC_SERVER__SERVER__MEDIA_WORKERS" not in os.environ
