"""A telephone behind its proxy and relay, as the adapter sees the three: SIP over UDP from the one address that it
listens to, and the media of a WebRTC peer."""

from __future__ import annotations

import asyncio
import re
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from benchmarks.support.sip_words import header, in_dialog, response, status_of
from tests.sip.torture.build import fill

HOST = "127.0.0.1"
WAIT_SECONDS = 20.0


def free_udp_port() -> int:
    """One that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class ProxyPeer(asyncio.DatagramProtocol):
    """See the module's docstring; made by `proxy_peer`. Requests of the server get a 200, but for INVITE."""

    def __init__(self, adapter_port: int) -> None:
        self._adapter = (HOST, adapter_port)
        self._news = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self.statuses = {b"REFER": b"202 Accepted"}
        """What requests are answered with, by their method, in place of 200."""
        self.name = "agent"
        """Whom it calls."""
        self.received: list[bytes] = []
        """Responses and requests, as they came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, _address: object) -> None:
        self.received.append(data)
        if status_of(data) is None and not data.startswith((b"ACK", b"INVITE")):
            self._send(response(data, self.statuses.get(data.partition(b" ")[0], b"200 OK")))
        self._news.set()

    @property
    def port(self) -> int:
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    async def until_ready(self) -> None:
        """Ask with OPTIONS, as a proxy does, until calls are taken."""
        for number in range(400):
            identity = uuid.uuid4().hex
            lines = [
                b"OPTIONS sip:%s SIP/2.0" % HOST.encode(),
                b"Via: SIP/2.0/UDP %s:%d;branch=z9hG4bK%s;rport" % (HOST.encode(), self.port, identity[:12].encode()),
                b"Max-Forwards: 69",
                b"From: <sip:proxy@example.org>;tag=" + identity[:8].encode(),
                b"To: <sip:agent@example.org>",
                b"Call-ID: " + identity.encode(),
                b"CSeq: %d OPTIONS" % (number + 1),
                b"Content-Length: 0",
            ]
            self._send(b"\r\n".join(lines) + b"\r\n\r\n")
            await asyncio.sleep(0.05)
            if any(status_of(message) == 200 for message in self.received):
                self.received.clear()
                return
        raise AssertionError("no calls are taken")

    def invite(self, sdp: str, extra: bytes = b"") -> bytes:
        """Call the server, with an offer or with ""; the INVITE."""
        body = sdp.encode()
        identity = uuid.uuid4().hex
        lines = [
            b"INVITE sip:%s@%s SIP/2.0" % (self.name.encode(), HOST.encode()),
            b"Via: SIP/2.0/UDP %s:%d;branch=z9hG4bK%s;rport" % (HOST.encode(), self.port, identity[:12].encode()),
            b"Max-Forwards: 69",
            b'From: "Ann" <sip:ann@example.org>;tag=' + identity[:8].encode(),
            b"To: <sip:%s@example.org>" % self.name.encode(),
            b"Call-ID: " + identity.encode(),
            b"CSeq: 1 INVITE",
            b"Contact: <sip:ann@%s:%d>" % (HOST.encode(), self.port),
            *([extra] if extra else []),
            *([b"Content-Type: application/sdp"] if body else []),
            b"Content-Length: %d" % len(body),
        ]
        request = fill(b"\r\n".join(lines) + b"\r\n\r\n" + body, HOST, self.port, HOST, identity)
        self._send(request)
        return request

    def ring(self, invite: bytes) -> None:
        """180 to an INVITE of the server."""
        self._send(response(invite, b"180 Ringing").replace(b"\r\nCall-ID", b";tag=them\r\nCall-ID", 1))

    def accept(self, invite: bytes, sdp: bytes) -> None:
        """200 to an INVITE of the server, with an answer."""
        ok = response(invite, b"200 OK", sdp).replace(b"\r\nCall-ID", b";tag=them\r\nCall-ID", 1)
        more = b"Contact: <sip:bob@%s:%d>\r\nContent-Type: application/sdp\r\n" % (HOST.encode(), self.port)
        self._send(ok.replace(b"Content-Length", more + b"Content-Length", 1))

    def refuse(self, invite: bytes, status: bytes, extra: bytes = b"") -> None:
        """A final response to an INVITE of the server; `extra` is a header of it."""
        refusal = response(invite, status).replace(b"\r\nCall-ID", b";tag=them\r\nCall-ID", 1)
        self._send(
            refusal.replace(b"\r\nContent-Length", b"\r\n" + extra + b"\r\nContent-Length", 1) if extra else refusal
        )

    def cancel(self, invite: bytes) -> None:
        """Give the call up before it is answered (RFC 3261 section 9.1)."""
        lines = [b"CANCEL sip:agent@%s SIP/2.0" % HOST.encode()]
        lines += [name + b": " + header(invite, name) for name in (b"Via", b"Max-Forwards", b"From", b"To", b"Call-ID")]
        self._send(b"\r\n".join([*lines, b"CSeq: 1 CANCEL", b"Content-Length: 0"]) + b"\r\n\r\n")

    async def answered(self) -> bytes:
        """The 200 to the INVITE, which is acknowledged."""
        ok = await self.status(200, b"INVITE")
        self.send_in_dialog(ok, b"ACK")
        return ok

    async def refused(self) -> bytes:
        """The refusal of the INVITE, acknowledged."""
        final = await self.until(lambda m: (status_of(m) or 0) >= 300 and header(m, b"CSeq").endswith(b"INVITE"))
        self.send_in_dialog(final, b"ACK")
        return final

    def send_in_dialog(
        self, ok: bytes, method: bytes, extra: tuple[bytes, ...] = (), body: bytes = b"", cseq: int | None = None
    ) -> None:
        """A request of the telephone."""
        request = in_dialog(ok, method, HOST, self.port, uuid.uuid4().hex[:12], body, cseq)
        if extra:
            head, _, rest = request.partition(b"\r\n\r\n")
            head = re.sub(rb"(?m)^Content-Type: .*\r\n", b"", head)
            request = b"\r\n".join([head, *extra]) + b"\r\n\r\n" + rest
        self._send(request)

    async def status(self, code: int, method: bytes) -> bytes:
        """A response, waited for."""
        return await self.until(lambda m: status_of(m) == code and header(m, b"CSeq").endswith(method))

    async def request(self, method: bytes) -> bytes:
        """A request of the server, waited for."""
        return await self.until(lambda m: m.startswith(method + b" "))

    async def until(self, condition: Callable[[bytes], bool]) -> bytes:
        """The first message for which the condition holds."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    self._news.clear()
                    for message in self.received:
                        if condition(message):
                            return message
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it did not come; what came: {[m[:60] for m in self.received]}") from None

    def _send(self, message: bytes) -> None:
        assert self._transport is not None
        self._transport.sendto(message, self._adapter)


@asynccontextmanager
async def proxy_peer(adapter_port: int, port: int) -> AsyncIterator[ProxyPeer]:
    """On the port that `sip.proxy` names; closed at the end."""
    peer = ProxyPeer(adapter_port)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: peer, local_addr=(HOST, port))
    try:
        yield peer
    finally:
        transport.close()
