"""The guard in front of aiortc's SCTP, and the private names of aiortc that it uses."""

from __future__ import annotations

import asyncio
import gc
import inspect
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import google_crc32c
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSctpTransport
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import AbortChunk

from rtc_server import metrics
from rtc_server.network.addresses import host_addresses
from rtc_server.transports.aiortc_sctp import guard_data_channel


def dropped() -> float:
    return metrics.DATA_CHANNEL_DROPPED._value.get()


def packet(kind: int, body: bytes) -> bytes:
    header = struct.pack("!HHL", 5000, 5000, 1)
    chunk = struct.pack("!BBH", kind, 0, len(body) + 4) + body
    return header + struct.pack("<L", google_crc32c.value(header + bytes(4) + chunk)) + chunk


def test_the_names_of_aiortc_exist() -> None:
    assert inspect.iscoroutinefunction(RTCSctpTransport._handle_data)
    source = inspect.getsource(RTCDtlsTransport._recv_next)
    assert "self._data_receiver._handle_data(data)" in source, "the instance's attribute is asked each time"
    assert inspect.iscoroutinefunction(RTCSctpTransport._send_chunk)
    assert "asyncio.ensure_future(self._send_chunk(" in inspect.getsource(RTCSctpTransport._t1_expired)
    assert "self.__sctp.start(" in inspect.getsource(RTCPeerConnection._RTCPeerConnection__connect)  # type: ignore[attr-defined]


async def test_without_a_data_channel_there_is_nothing_to_guard() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    guard_data_channel(pc)
    await pc.close()


async def test_what_is_malformed_is_dropped_and_the_rest_is_aiortcs() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.createDataChannel("oai-events")
    sctp = pc.sctp
    assert sctp is not None
    assert (sctp._last_received_tsn, sctp._advertised_rwnd) == (None, 1024 * 1024)
    seen: list[bytes] = []

    async def handle(data: bytes) -> None:
        seen.append(data)
        if data == heartbeat:
            raise AssertionError("one of aiortc's own")

    sctp._handle_data = handle  # type: ignore[method-assign]
    guard_data_channel(pc)
    heartbeat, cookie = packet(4, b""), packet(10, b"c")
    before = dropped()
    await sctp._handle_data(packet(4, struct.pack("!HH", 1, 0)))
    await sctp._handle_data(heartbeat)
    await sctp._handle_data(cookie)
    assert seen == [heartbeat, cookie]
    assert dropped() - before == 2
    await pc.close()


@asynccontextmanager
async def guarded_peer() -> AsyncIterator[RTCPeerConnection]:
    """One to which another peer has opened a channel."""
    caller, callee = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    channel = caller.createDataChannel("oai-events")
    opened = asyncio.Event()
    channel.on("open", lambda: opened.set())
    with host_addresses(["127.0.0.1"]):
        await caller.setLocalDescription(await caller.createOffer())
        await callee.setRemoteDescription(caller.localDescription)
        guard_data_channel(callee)
        await callee.setLocalDescription(await callee.createAnswer())
    await caller.setRemoteDescription(callee.localDescription)
    try:
        async with asyncio.timeout(10):
            await opened.wait()
        yield callee
    finally:
        await caller.close()
        await callee.close()


async def test_what_a_timer_sends_into_a_connection_that_is_gone_is_lost_in_silence() -> None:
    unhandled: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with guarded_peer() as callee:
        sctp = callee.sctp
        assert sctp is not None
        assert sctp.transport.state == "connected"

        async def gone(data: bytes) -> None:
            raise ConnectionError("Cannot send data, not connected")

        sctp.transport.transport._send = gone  # type: ignore[method-assign]
        sctp._t1_chunk = AbortChunk()
        sctp._t1_expired()  # tasks of aiortc's own
        sctp._t1_cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
    assert unhandled == []


async def test_a_channel_is_not_begun_on_a_peer_that_was_closed_while_dtls_connected() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.createDataChannel("oai-events")
    guard_data_channel(pc)
    sctp = pc.sctp
    assert sctp is not None
    await pc.close()
    await sctp.start(None, 5000)
    assert (sctp.state, sctp._t1_handle) == ("closed", None)
