"""The guard in front of aiortc's SCTP, and the private names of aiortc that it uses."""

from __future__ import annotations

import inspect
import struct

import google_crc32c
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSctpTransport
from aiortc.rtcdtlstransport import RTCDtlsTransport

from rtc_server import metrics
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
        if data == abort:
            raise ConnectionError

    sctp._handle_data = handle  # type: ignore[method-assign]
    guard_data_channel(pc)
    heartbeat, abort, cookie = packet(4, b""), packet(6, b""), packet(10, b"c")
    before = dropped()
    await sctp._handle_data(packet(4, struct.pack("!HH", 1, 0)))
    await sctp._handle_data(heartbeat)
    await sctp._handle_data(cookie)
    with pytest.raises(ConnectionError):
        await sctp._handle_data(abort)
    assert seen == [heartbeat, cookie, abort]
    assert dropped() - before == 2
    await pc.close()
