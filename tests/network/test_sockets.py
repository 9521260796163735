"""The process's sockets against strangers: who is let in, what is answered, what stays bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from aioice import stun as aioice_stun
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtc_server.errors import NetworkError
from rtc_server.network import stun
from rtc_server.network.sockets import MAX_ADDRESSES_PER_CALL, Address, MediaSocket, MediaSockets


class RecordingEndpoint:
    """Takes what is handed to a call."""

    def __init__(self, *, is_signed: bool = True, admitted: int = 1_000) -> None:
        self.datagrams: list[bytes] = []
        self.requests: list[Address] = []
        self.responses: list[Address] = []
        self.got = asyncio.Event()
        self.admitted = admitted
        self._is_signed = is_signed

    def on_datagram(self, data: memoryview) -> None:
        self.datagrams.append(bytes(data))
        self.got.set()

    def admits(self) -> bool:
        return self.admitted > len(self.requests)

    def on_request(self, message: aioice_stun.Message, source: Address) -> bool:
        self.requests.append(source)
        self.got.set()
        return self._is_signed

    def on_response(self, message: aioice_stun.Message, source: Address) -> None:
        self.responses.append(source)
        self.got.set()


@pytest.fixture
async def sockets() -> AsyncIterator[MediaSockets]:
    made = MediaSockets()
    yield made
    made.close()


@contextmanager
def stranger(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.setblocking(False)
        yield sock


def request(username: str, transaction_id: bytes = b"0123456789ab") -> bytes:
    message = aioice_stun.Message(
        message_method=aioice_stun.Method.BINDING,
        message_class=aioice_stun.Class.REQUEST,
        transaction_id=transaction_id,
    )
    message.attributes["USERNAME"] = username
    message.attributes["PRIORITY"] = 1
    message.add_message_integrity(b"p" * 22)
    return bytes(message)


async def until(endpoint: RecordingEndpoint) -> None:
    async with asyncio.timeout(5):
        await endpoint.got.wait()
    endpoint.got.clear()


async def settle(sock: MediaSocket, dropped: int) -> None:
    async with asyncio.timeout(5):
        while sock.dropped < dropped:  # noqa: ASYNC110 - a counter in the socket
            await asyncio.sleep(0.005)


async def test_media_is_taken_only_from_an_address_that_was_validated(sockets: MediaSockets) -> None:
    (sock,) = sockets.lend(["127.0.0.1"])
    endpoint = RecordingEndpoint()
    sock.add("ours", endpoint)
    with stranger() as peer, stranger() as other:
        target = ("127.0.0.1", sock.port)
        other.sendto(b"\x80\x6f from a stranger", target)
        await settle(sock, 1)
        peer.sendto(request("ours:theirs"), target)
        await until(endpoint)
        peer.sendto(b"\x80\x6f media", target)
        await until(endpoint)
        other.sendto(b"\x80\x6f spoofed", target)
        await settle(sock, 2)
    assert endpoint.datagrams == [b"\x80\x6f media"]


async def test_an_unsigned_request_validates_nothing_and_gets_no_answer(sockets: MediaSockets) -> None:
    (sock,) = sockets.lend(["127.0.0.1"])
    endpoint = RecordingEndpoint(is_signed=False)
    sock.add("ours", endpoint)
    with stranger() as peer:
        target = ("127.0.0.1", sock.port)
        peer.sendto(request("ours:theirs"), target)
        await until(endpoint)
        peer.sendto(b"\x16\xfe\xff dtls", target)
        await settle(sock, 2)
        with pytest.raises(BlockingIOError):
            peer.recv(2048)
    assert endpoint.datagrams == []


async def test_a_call_that_asks_too_often_is_not_read_any_more(sockets: MediaSockets) -> None:
    (sock,) = sockets.lend(["127.0.0.1"])
    endpoint = RecordingEndpoint(admitted=3)
    sock.add("ours", endpoint)
    with stranger() as peer:
        for _ in range(10):
            peer.sendto(request("ours:theirs"), ("127.0.0.1", sock.port))
        await settle(sock, 7)
    assert len(endpoint.requests) == 3


async def test_nothing_that_a_stranger_sends_is_answered(sockets: MediaSockets) -> None:
    (sock,) = sockets.lend(["127.0.0.1"])
    sock.add("ours", RecordingEndpoint())
    sent = [b"\x00", b"\x00\x01", request("nobody:knows"), request("x" * 500), b"\x16" * 1200, b"\x80" * 40, b"\xff"]
    with stranger() as peer:
        for data in sent:
            peer.sendto(data, ("127.0.0.1", sock.port))
        peer.sendto(b"", ("127.0.0.1", sock.port))
        await settle(sock, len(sent) + 1)
        with pytest.raises(BlockingIOError):
            peer.recv(2048)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_all_calls_share_one_port_on_each_address(sockets: MediaSockets, host: str) -> None:
    first, second = sockets.lend([host]), sockets.lend([host])
    assert first == second
    endpoints = [RecordingEndpoint() for _ in range(20)]
    for number, endpoint in enumerate(endpoints):
        first[0].add(f"call{number}", endpoint)
    with stranger(host) as peer:
        for number, endpoint in enumerate(endpoints):
            peer.sendto(request(f"call{number}:x", b"transact%04d" % number), (host, first[0].port))
            await until(endpoint)
    assert all(len(endpoint.requests) == 1 for endpoint in endpoints)


async def test_a_range_gives_each_call_its_port_and_says_when_it_is_used_up() -> None:
    probe = MediaSockets()
    port = probe.lend(["127.0.0.1"])[0].port
    probe.close()
    ranged = MediaSockets(port_range=(port, port + 1))
    lent = [ranged.lend(["127.0.0.1"]) for _ in range(2)]
    assert {one[0].port for one in lent} == {port, port + 1}
    with pytest.raises(NetworkError, match=f"from {port} to {port + 1} are taken"):
        ranged.lend(["127.0.0.1"])
    ranged.give_back(lent[0])
    (again,) = ranged.lend(["127.0.0.1"])
    ranged.give_back([again])
    ranged.give_back(lent[1])


async def test_an_address_that_is_not_this_machines_is_left_out(sockets: MediaSockets) -> None:
    assert [sock.host for sock in sockets.lend(["203.0.113.7", "127.0.0.1"])] == ["127.0.0.1"]
    with pytest.raises(NetworkError, match=r"203\.0\.113\.7"):
        sockets.lend(["203.0.113.7"])


async def test_one_call_cannot_fill_the_table_of_addresses(sockets: MediaSockets) -> None:
    (sock,) = sockets.lend(["127.0.0.1"])
    endpoint = RecordingEndpoint()
    sock.add("ours", endpoint)
    for port in range(1, 500):
        sock.validate(("192.0.2.1", port), endpoint)
    assert len(sock._by_address) == MAX_ADDRESSES_PER_CALL
    sock.remove("ours", endpoint)
    assert not sock._by_address
    assert not sock._by_ufrag


async def test_a_response_reaches_the_call_that_asked_and_only_once(sockets: MediaSockets) -> None:
    (sock,) = sockets.lend(["127.0.0.1"])
    endpoint = RecordingEndpoint()
    sock.add("ours", endpoint)
    sock.expect(b"0123456789ab", endpoint)
    response = aioice_stun.Message(
        message_method=aioice_stun.Method.BINDING,
        message_class=aioice_stun.Class.RESPONSE,
        transaction_id=b"0123456789ab",
    )
    with stranger() as peer:
        peer.sendto(bytes(response), ("127.0.0.1", sock.port))
        await until(endpoint)
        peer.sendto(bytes(response), ("127.0.0.1", sock.port))
        await settle(sock, 1)
    assert len(endpoint.responses) == 1


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_stun_reader_raise(data: bytes) -> None:
    view = memoryview(data)
    stun.message_type(view)
    if len(data) >= stun.HEADER_BYTES:
        stun.local_ufrag(view)
    stun.parse(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 0xFFFF), st.integers(0, 64), st.binary(max_size=64))
def test_short_and_odd_attributes_do_not_raise(kind: int, length: int, value: bytes) -> None:
    body = kind.to_bytes(2, "big") + length.to_bytes(2, "big") + value
    header = b"\x00\x01" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + b"t" * 12
    data = header + body
    stun.local_ufrag(memoryview(data))
    stun.parse(data)
