"""Single SIP messages from any address of a stand's telephones, as bytes."""

from __future__ import annotations

import socket
import uuid

from benchmarks.support.sip_words import header, status_of
from tests.support.sip_stand import SERVER_ADDRESS, USER, EdgeAlone, Stand

ECHO = f"sip:echo@{SERVER_ADDRESS}"


def invite(host: str, *, user: str = USER, extra: bytes = b"", body: bytes | None = None) -> bytes:
    """An INVITE from that address."""
    mark = uuid.uuid4().hex[:12]
    sdp = b"v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n" % (
        2 * (host.encode(),)
    )
    content = sdp if body is None else body
    head = (
        f"INVITE {ECHO} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:5080;branch=z9hG4bK{mark};rport\r\nMax-Forwards: 70\r\n"
        f"From: <sip:{user}@{host}>;tag={mark}\r\nTo: <{ECHO}>\r\nCall-ID: {mark}\r\nCSeq: 1 INVITE\r\n"
        f"Contact: <sip:{user}@{host}:5080>\r\n"
    ).encode()
    kind = b"Content-Type: application/sdp\r\n" if content else b""
    return head + extra + kind + b"Content-Length: %d\r\n\r\n" % len(content) + content


def register(host: str, user: str, extra: bytes = b"") -> bytes:
    """A REGISTER from that address."""
    mark = uuid.uuid4().hex[:12]
    head = (
        f"REGISTER sip:{SERVER_ADDRESS} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:5080;branch=z9hG4bK{mark};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:{user}@{SERVER_ADDRESS}>;tag={mark}\r\nTo: <sip:{user}@{SERVER_ADDRESS}>\r\n"
        f"Call-ID: {mark}\r\nCSeq: 1 REGISTER\r\nContact: <sip:{user}@{host}:5080>\r\nExpires: 120\r\n"
    ).encode()
    return head + extra + b"Content-Length: 0\r\n\r\n"


def exchange(stand: Stand | EdgeAlone, message: bytes, host: str, wait: float = 0.7, port: int = 5080) -> list[bytes]:
    """Send one message from that address; all that came back."""
    replies: list[bytes] = []
    with stand.phone.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        sock.sendto(message, stand.edge)
        sock.settimeout(wait)
        while True:
            try:
                reply = sock.recv(65_536)
            except TimeoutError:
                return replies
            if header(reply, b"Call-ID") != header(message, b"Call-ID"):
                continue  # of an earlier message from here that was not acknowledged
            replies.append(reply)
            if (status_of(reply) or 0) >= 200:
                return replies
