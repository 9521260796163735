"""A plain telephone: SIP over UDP with digest, G.711 over RTP, every packet timed. For measuring and for tests.

It does what a telephone must and no more, so that hundreds fit into one event loop. The sockets belong to the network
namespace of the thread that makes them.
"""

from __future__ import annotations

import asyncio
import re
import struct
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from .sip_words import Account, body_of, credentials, header, in_dialog, response, status_of
from .tone_bursts import FRAME, FRAME_SECONDS, Heard

RESEND_SECONDS = 0.5  # T1 of RFC 3261 17.1.1.2, doubled each time
PAYLOAD_TYPE = 0  # PCMU


class CallRefusedError(RuntimeError):
    """The call was not taken."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the call was answered with {status}" if status else "nobody answered the call")
        self.status = status
        """Of the final response; 0 = none came."""


@dataclass(slots=True)
class Line:
    """Where a telephone is and whom it calls."""

    host: str
    """Its own address."""
    edge: tuple[str, int]
    account: Account | None = None
    patience_seconds: float = 10.0
    """How long a request is repeated that nobody answers."""
    media_host: str = ""
    """What its session descriptions say in place of `host`, as behind a router that translates addresses."""
    hears_first: bool = False
    """It calls without an offer, and answers the one in the 200 (RFC 3261 section 13.2.1)."""

    @property
    def user(self) -> str:
        """In From: a proxy may insist that it is the name of the account."""
        return self.account.user if self.account else "caller"


class TelephoneCall(asyncio.DatagramProtocol):
    """One call; made by `telephone_call`."""

    def __init__(self, line: Line, target: str) -> None:
        self.heard: list[Heard] = []
        self.sent_at: list[float] = []
        """Of each packet of `say`, in monotonic seconds."""
        self.is_ended = asyncio.Event()
        """The other side has hung up."""
        self.requests: list[bytes] = []
        """Requests of the other side, such as b"BYE"."""
        self._line, self._target = line, target
        self._id, self._cseq = uuid.uuid4().hex[:16], 0
        self._responses: asyncio.Queue[bytes] = asyncio.Queue()  # bounded by what a server answers to few requests
        self._ok = b""
        self._signaling: asyncio.DatagramTransport | None = None
        self._media: asyncio.DatagramTransport | None = None
        self.answer = b""
        """The other side's latest description."""
        self.remote: tuple[str, int] | None = None
        """Where our media goes."""
        self._sequence = 0

    # -- sockets

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        if status_of(data) is not None:
            self._responses.put_nowait(data)
            return
        method = data.split(b" ", 1)[0]
        self.requests.append(method)
        if method == b"ACK":
            return
        if method == b"BYE":
            self.is_ended.set()
        self._send(response(data, b"200 OK", self.description() if method == b"INVITE" else b""))

    def _send(self, data: bytes) -> None:
        if self._signaling is not None and not self._signaling.is_closing():
            self._signaling.sendto(data, self._line.edge)

    def _name(self) -> tuple[str, int]:
        """Where it signals from, as in a URI."""
        assert self._signaling is not None
        host, port = self._signaling.get_extra_info("sockname")[:2]
        return f"[{host}]" if ":" in host else str(host), int(port)

    # -- signaling

    async def open(self) -> None:
        """Take sockets and call. Raises CallRefusedError."""
        loop = asyncio.get_running_loop()
        local = (self._line.host, 0)
        self._signaling, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=local)
        self._media, _ = await loop.create_datagram_endpoint(lambda: _Media(self), local_addr=local)
        final = await self._invite(b"")
        if status_of(final) in (401, 407) and self._line.account is not None:
            name = b"WWW-Authenticate" if status_of(final) == 401 else b"Proxy-Authenticate"
            answer = b"Authorization" if status_of(final) == 401 else b"Proxy-Authorization"
            value = credentials(header(final, name), self._line.account, "INVITE", self._target)
            final = await self._invite(answer + b": " + value + b"\r\n")
        status = status_of(final) or 0
        if not 200 <= status < 300:
            raise CallRefusedError(status)
        self._answered(final)

    def _answered(self, ok: bytes) -> None:
        self._ok = ok
        host, port = self._name()
        answer = self.description() if self._line.hears_first else b""
        self._send(in_dialog(ok, b"ACK", host, port, uuid.uuid4().hex[:12], answer))
        self.answer = sdp = body_of(ok)
        address, rtp = re.search(rb"(?m)^c=IN IP[46] ([\da-fA-F.:]+)", sdp), re.search(rb"(?m)^m=audio (\d+) ", sdp)
        self.remote = None if address is None or rtp is None else (address[1].decode(), int(rtp[1]))

    async def reinvite(self, direction: str = "sendrecv", *, sdp: bytes | None = None) -> int:
        """Offer again within the call, or answer where the line hears first; the final status, 0 without one. `sdp` in
        place of what it would say with that direction."""
        self._cseq += 1
        host, port = self._name()
        sdp, branch = self.description(direction) if sdp is None else sdp, uuid.uuid4().hex[:12]
        offer, answer = (b"", sdp) if self._line.hears_first else (sdp, b"")
        final = await self._transact(in_dialog(self._ok, b"INVITE", host, port, branch, offer, self._cseq))
        status = status_of(final) or 0
        if status >= 300:
            self._send(in_dialog(final, b"ACK", host, port, ""))
        elif status >= 200:  # on the way that the first answer showed: this one has no Record-Route
            self._send(in_dialog(self._ok, b"ACK", host, port, uuid.uuid4().hex[:12], answer, self._cseq))
            self.answer = body_of(final)
        return status

    async def hang_up(self) -> int:
        """Send BYE; its final status, 0 without one. Does nothing in a call that is over."""
        if not self._ok or self.is_ended.is_set():
            return 200
        self._cseq += 1
        host, port = self._name()
        final = await self._transact(in_dialog(self._ok, b"BYE", host, port, uuid.uuid4().hex[:12], cseq=self._cseq))
        self.is_ended.set()
        return status_of(final) or 0

    def close(self) -> None:
        """Let go of the sockets."""
        for transport in (self._signaling, self._media):
            if transport is not None:
                transport.close()

    async def _invite(self, extra: bytes) -> bytes:
        self._cseq += 1
        host, port = self._name()
        sdp = b"" if self._line.hears_first else self.description()
        head = (
            f"INVITE {self._target} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{uuid.uuid4().hex[:12]};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{self._line.user}@{host}>;tag={self._id}\r\nTo: <{self._target}>\r\n"
            f"Call-ID: {self._id}@{host}\r\nCSeq: {self._cseq} INVITE\r\n"
            f"Contact: <sip:{self._line.user}@{host}:{port}>\r\n"
            + ("Content-Type: application/sdp\r\n" if sdp else "")
            + f"Content-Length: {len(sdp)}\r\n"
        )
        final = await self._transact(head.encode() + extra + b"\r\n" + sdp)
        if (status_of(final) or 0) >= 300:
            self._send(in_dialog(final, b"ACK", host, port, ""))
        return final

    async def _transact(self, request: bytes) -> bytes:
        """Send until it is answered; the final response, b"" without one."""
        loop = asyncio.get_running_loop()
        cseq = header(request, b"CSeq")
        deadline, wait, is_known = loop.time() + self._line.patience_seconds, RESEND_SECONDS, False
        self._send(request)
        resend_at = loop.time() + wait
        while (now := loop.time()) < deadline:
            try:
                until = deadline if is_known else min(deadline, resend_at)
                reply = await asyncio.wait_for(self._responses.get(), until - now)
            except TimeoutError:
                if not is_known:
                    wait = min(2 * wait, 4.0)
                    self._send(request)
                    resend_at = loop.time() + wait
                continue
            if header(reply, b"CSeq") == cseq:
                is_known = True
                if (status_of(reply) or 0) >= 200:
                    return reply
        return b""

    def description(self, direction: str = "sendrecv") -> bytes:
        """Its side of the media (SDP)."""
        assert self._media is not None
        host, port = self._media.get_extra_info("sockname")[:2]
        host = self._line.media_host or host
        kind = "IP6" if ":" in host else "IP4"
        return (
            f"v=0\r\no=phone {self._cseq} {self._cseq} IN {kind} {host}\r\ns=-\r\nc=IN {kind} {host}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP {PAYLOAD_TYPE} 101\r\na=rtpmap:{PAYLOAD_TYPE} PCMU/8000\r\n"
            f"a=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\na={direction}\r\n"
        ).encode()

    # -- media

    async def say(self, payloads: Sequence[bytes]) -> None:
        """Send one payload every 20 ms. A short stall is caught up with."""
        assert self._media is not None
        assert self.remote is not None, "the answer holds no address for media"
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, payload in enumerate(payloads):
            await asyncio.sleep(max(0.0, start + number * FRAME_SECONDS - loop.time()))
            head = struct.pack(
                ">BBHII", 0x80, PAYLOAD_TYPE, self._sequence & 0xFFFF, self._sequence * FRAME & 0xFFFFFFFF, 0x7E1E
            )
            self._media.sendto(head + payload, self.remote)
            self.sent_at.append(loop.time())
            self._sequence += 1

    def on_media(self, data: bytes) -> None:
        """An RTP packet came (or something else, which is left out)."""
        if len(data) >= 12 and data[0] >> 6 == 2 and data[1] & 0x7F == PAYLOAD_TYPE:
            begin = 12 + 4 * (data[0] & 15)
            now = asyncio.get_running_loop().time()
            self.heard.append(Heard(now, int.from_bytes(data[2:4], "big"), data[begin:]))


class _Media(asyncio.DatagramProtocol):
    def __init__(self, call: TelephoneCall) -> None:
        self._call = call

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        self._call.on_media(data)


@asynccontextmanager
async def telephone_call(
    line: Line, target: str, kind: type[TelephoneCall] = TelephoneCall
) -> AsyncIterator[TelephoneCall]:
    """Call `target` ("sip:agent@192.0.2.1"); hung up at the end. Raises CallRefusedError."""
    call = kind(line, target)
    try:
        await call.open()
        yield call
    finally:
        try:
            await call.hang_up()
        finally:
            call.close()
