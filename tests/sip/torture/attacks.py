"""Floods of SIP, media and connections, from one machine."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import cycle
from typing import Any

from benchmarks.support.sip_words import Account, credentials, header, in_dialog, status_of
from tests.sip.torture.build import Request, fill, invite
from tests.sip.torture.wire import addresses

Edge = tuple[str, int]


def _socket(host: str, port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, port))
    return made


def flood(data: bytes, edge: Edge, hosts: Sequence[str], count: int) -> None:
    """`count` fresh copies of a message as fast as they go, from each address in turn."""
    with ExitStack() as stack:
        sockets = [(host, stack.enter_context(_socket(host))) for host in hosts]
        for number in range(count):
            host, ours = sockets[number % len(sockets)]
            ours.sendto(fill(data, host, ours.getsockname()[1], edge[0], uuid.uuid4().hex[:16]), edge)


def flood_of_invites(edge: Edge, hosts: Sequence[str], count: int) -> None:
    """New calls by people without an account."""
    flood(invite(), edge, hosts, count)


def flood_of_strays(edge: Edge, hosts: Sequence[str], count: int) -> None:
    """Responses nobody waits for, and requests of calls that are not there, mixed."""
    nobody = {b"To": b"<sip:agent@%EDGE%>;tag=nobody"}
    answer = b"SIP/2.0 200 OK" + invite(b"")[invite(b"").index(b"\r\n") :]
    kinds = (
        answer,
        answer.replace(b"Via: SIP/2.0/UDP %HOST%:%PORT%", b"Via: SIP/2.0/UDP %EDGE%:5060"),
        Request(b"ACK", headers=nobody, body=b"").encode(),
        Request(b"BYE", headers=nobody, body=b"").encode(),
        Request(b"CANCEL", body=b"").encode(),
        Request(b"INVITE", headers=nobody).encode(),
    )
    for data in kinds:
        flood(data, edge, hosts, count // len(kinds))


def guess_passwords(edge: Edge, host: str, user: str, method: bytes, count: int) -> list[int]:
    """Try `count` passwords one after the other as a scanner does; the statuses that came back, 0 = none."""
    statuses = []
    with _socket(host) as ours:
        for number in range(count):
            statuses.append(log_in(ours, edge, Account(user, f"guess-{number}"), method))
    return statuses


def log_in(ours: socket.socket, edge: Edge, account: Account, method: bytes) -> int:
    """One attempt with one password: the status at its end, 0 without an answer."""
    host, port = ours.getsockname()[:2]
    target = f"sip:agent@{edge[0]}" if method == b"INVITE" else f"sip:{edge[0]}"
    tag = uuid.uuid4().hex[:12].encode()
    headers: dict[bytes, bytes | Sequence[bytes] | None] = {
        b"From": b"<sip:" + account.user.encode() + b"@%EDGE%>;tag=" + tag
    }
    challenge = b""
    for cseq in (1, 2):
        headers[b"CSeq"] = b"%d %s" % (cseq, method)
        request = Request(method, target.encode(), headers=headers).encode()
        ours.sendto(fill(request, host, port, edge[0], uuid.uuid4().hex[:16]), edge)
        final = _final(ours, headers[b"CSeq"])
        status = status_of(final) or 0
        if status >= 200 and method == b"INVITE":
            for word in (b"ACK", b"BYE") if status < 300 else (b"ACK",):
                ours.sendto(in_dialog(final, word, host, port, uuid.uuid4().hex[:12]), edge)
        if status not in (401, 407) or challenge:
            return status
        challenge = header(final, b"WWW-Authenticate" if status == 401 else b"Proxy-Authenticate")
        name = b"Authorization" if status == 401 else b"Proxy-Authorization"
        headers[name] = credentials(challenge, account, method.decode(), target)
    return status


def _final(ours: socket.socket, cseq: object, patience: float = 0.25) -> bytes:
    ours.settimeout(patience)
    try:
        while True:
            message = ours.recv(65_536)
            if header(message, b"CSeq") == cseq and (status_of(message) or 0) >= 200:
                return message
    except TimeoutError:
        return b""


@contextmanager
def half_open(edge: Edge, network: str, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """`count` TCP connections that say `first` and then nothing, from as many addresses; those that were accepted."""
    with ExitStack() as stack:
        held = []
        hosts = addresses(network)
        for _ in range(count):
            ours = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            stack.callback(ours.close)
            ours.settimeout(0.3)
            ours.bind((next(hosts), 0))
            try:
                ours.connect(edge)
                ours.sendall(first)
            except OSError:
                continue  # refused, or not taken: as it may be
            held.append(ours)
        yield held


def send_over_tcp(edge: Edge, host: str, pieces: Sequence[bytes], patience: float = 1.0) -> bytes:
    """One connection that sends `pieces` one by one; what came back until it was closed or quiet."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.settimeout(patience)
        ours.bind((host, 0))
        received = b""
        try:
            ours.connect(edge)
            port = ours.getsockname()[1]
            for piece in pieces:
                ours.sendall(piece.replace(b"%HOST%", host.encode()).replace(b"%PORT%", str(port).encode()))
            while data := ours.recv(65_536):
                received += data
        except OSError:
            pass  # closed on us, or nothing more came
        return received


def client_hello() -> bytes:
    """The first flight of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="edge.test")
    with suppress(ssl.SSLWantReadError):  # it waits for the server, of course
        connection.do_handshake()
    return outgoing.read()


@asynccontextmanager
async def media_of_a_stranger(remote: Edge, host: str, payloads: Sequence[bytes]) -> AsyncIterator[list[bytes]]:
    """Twice as many packets as a telephone sends go to the port of somebody else's call until the block ends: PCMU of
    20 ms, and what is no RTP at all. Yields what comes back."""
    came: list[bytes] = []
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Trap(came), local_addr=(host, 0))

    async def send() -> None:
        rng = random.Random(1)
        for number, payload in enumerate(cycle(payloads)):
            head = b"\x80\x00" + struct.pack(">HI", number & 0xFFFF, 160 * number & 0xFFFFFFFF) + b"evil"
            transport.sendto(head + payload, remote)
            if number % 10 == 0:
                transport.sendto(rng.randbytes(rng.randint(0, 300)), remote)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(send())
    try:
        yield came
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        transport.close()


class _Trap(asyncio.DatagramProtocol):
    def __init__(self, came: list[bytes]) -> None:
        self._came = came

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        self._came.append(data)
