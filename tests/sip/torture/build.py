"""Makes SIP requests byte by byte, so that anything may be wrong with them.

Words in capitals between two `%` are filled in when a message is sent: HOST and PORT of the sender, EDGE (the address
of the server), ID (unique in each message), LENGTH (bytes of the body, or of what of it comes before END).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PHONE_SDP = (
    b"v=0\r\no=phone 4711 1 IN IP4 %HOST%\r\ns=-\r\nc=IN IP4 %HOST%\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\n"
    b"a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n"
    b"a=sendrecv\r\n"
)
"""What a plain telephone offers."""

CHALLENGED = frozenset({"401", "407"})
TAKEN = frozenset({"2xx"})
REFUSED = frozenset({"4xx", "5xx", "6xx"})
DROPPED = frozenset({"dropped"})
REFUSED_OR_DROPPED = REFUSED | DROPPED
TAKEN_OR_REFUSED = TAKEN | REFUSED
ANYTHING = TAKEN | REFUSED | DROPPED


@dataclass(frozen=True, slots=True)
class Message:
    """One message and what has to come of it."""

    name: str
    """What is special about it."""
    data: bytes
    stranger: frozenset[str]
    """What may come back to a sender that nobody knows: status codes, classes such as "4xx", or "dropped"."""
    trunk: frozenset[str]
    """What may come back to an address on the allow-list."""


def fill(data: bytes, host: str, port: int, edge: str, unique: str) -> bytes:
    """The message as it is sent from `host`:`port` to `edge`. The length comes last: it is that of the filled body."""
    words = {b"%HOST%": host, b"%PORT%": str(port), b"%EDGE%": edge, b"%ID%": unique}
    for word, value in words.items():
        data = data.replace(word, value.encode())
    body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")[2]
    length = len(body.partition(b"%END%")[0])
    return data.replace(b"%LENGTH%", str(length).encode()).replace(b"%END%", b"")


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is right but for what a test changes."""

    method: bytes = b"INVITE"
    target: bytes = b"sip:agent@%EDGE%"
    version: bytes = b"SIP/2.0"
    headers: Mapping[bytes, bytes | Sequence[bytes] | None] = field(default_factory=dict)
    """In place of the usual ones: None leaves one out, several values make as many headers; new names come last."""
    body: bytes = PHONE_SDP

    def encode(self) -> bytes:
        """The message, with words still to be filled in."""
        usual: dict[bytes, bytes | Sequence[bytes] | None] = {
            b"Via": b"SIP/2.0/UDP %HOST%:%PORT%;branch=z9hG4bK%ID%;rport",
            b"Max-Forwards": b"70",
            b"From": b'"Torture" <sip:caller@example.net>;tag=f%ID%',
            b"To": b"<sip:agent@%EDGE%>",
            b"Call-ID": b"%ID%@torture",
            b"CSeq": b"1 " + self.method,
            b"Contact": b"<sip:caller@%HOST%:%PORT%>",
        }
        if self.body:
            usual[b"Content-Type"] = b"application/sdp"
        usual[b"Content-Length"] = b"%LENGTH%"
        lines = [b" ".join((self.method, self.target, self.version))]
        for name, value in (usual | dict(self.headers)).items():
            values = [] if value is None else [value] if isinstance(value, bytes) else value
            lines.extend(name + b": " + one for one in values)
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


def invite(body: bytes = PHONE_SDP, **changed: bytes | Sequence[bytes] | None) -> bytes:
    """An INVITE with headers changed: `call_id=None` leaves out Call-ID, `x_note=b"1"` adds X-Note."""
    return Request(headers=headers_of(changed), body=body).encode()


def headers_of(changed: Mapping[str, bytes | Sequence[bytes] | None]) -> dict[bytes, bytes | Sequence[bytes] | None]:
    """Keyword arguments as header names."""
    special = {"call_id": b"Call-ID", "cseq": b"CSeq"}
    return {
        special.get(name) or b"-".join(p.capitalize().encode() for p in name.split("_")): value
        for name, value in changed.items()
    }
