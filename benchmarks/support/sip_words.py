"""The SIP that a telephone of our own needs, as bytes: headers, requests within a dialog, digest. Pure.

It is a client to measure and to attack with; the server's side is `rtc_server.sip`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_STATUS = re.compile(rb"SIP/2\.0 (\d{3}) ")
_ADDRESS = re.compile(rb"<([^>]+)>|(sips?:[^;\s]+)")


@dataclass(frozen=True, slots=True)
class Account:
    """How a caller proves itself."""

    user: str
    password: str


def status_of(message: bytes) -> int | None:
    """The status of a response; None for a request."""
    found = _STATUS.match(message)
    return None if found is None else int(found[1])


def header(message: bytes, name: bytes) -> bytes:
    """The first value of a header, b"" without one."""
    return next(iter(headers(message, name)), b"")


def headers(message: bytes, name: bytes) -> list[bytes]:
    """All values of a header, in order."""
    head = message.partition(b"\r\n\r\n")[0]
    return re.findall(rb"(?im)^" + re.escape(name) + rb"[ \t]*:[ \t]*(.*?)\r?$", head)


def body_of(message: bytes) -> bytes:
    """What comes after the headers."""
    return message.partition(b"\r\n\r\n")[2]


def in_dialog(
    final: bytes, method: bytes, host: str, port: int, branch: str, body: bytes = b"", cseq: int | None = None
) -> bytes:
    """A request of the caller within the dialog that the response `final` to its INVITE made (RFC 3261 12.2.1.1); for a
    refusal, the ACK of that hop (17.1.1.3). `cseq`: None = that of an ACK, or the next one."""
    digits = re.match(rb"\d{1,10}", header(final, b"CSeq"))
    number = int(digits[0]) if digits else 1  # of a message that was wrong in just this
    is_refused = (status_of(final) or 0) >= 300
    contact = _ADDRESS.search(header(final, b"Contact")) or _ADDRESS.search(header(final, b"To"))
    target = b"sip:nobody@invalid" if contact is None else contact[1] or contact[2]
    via = b"SIP/2.0/UDP %s:%d;branch=z9hG4bK%s;rport" % (host.encode(), port, branch.encode())
    if is_refused:
        via = re.sub(rb";(received|rport)=[^;,]*", b"", header(final, b"Via"))
    if cseq is None:
        cseq = number if method == b"ACK" else number + 1
    lines = [
        method + b" " + target + b" SIP/2.0",
        b"Via: " + via,
        b"Max-Forwards: 70",
        *(b"Route: " + route for route in reversed([] if is_refused else headers(final, b"Record-Route"))),
        b"From: " + header(final, b"From"),
        b"To: " + header(final, b"To"),
        b"Call-ID: " + header(final, b"Call-ID"),
        b"CSeq: %d %s" % (cseq, method),
        b"Contact: <sip:caller@%s:%d>" % (host.encode(), port),
        *([b"Content-Type: application/sdp"] if body else []),
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def response(request: bytes, status: bytes, body: bytes = b"") -> bytes:
    """To a request that came in; `status` such as b"200 OK"."""
    copied = [
        name + b": " + value
        for name in (b"Via", b"Record-Route", b"From", b"To", b"Call-ID", b"CSeq")
        for value in headers(request, name)
    ]
    return b"\r\n".join([b"SIP/2.0 " + status, *copied, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body


def credentials(challenge: bytes, account: Account, method: str, uri: str) -> bytes:
    """The value of (Proxy-)Authorization that answers a digest challenge (RFC 2617, MD5, with or without qop)."""
    fields = dict(re.findall(r'(\w+)\s*=\s*"?([^",]*)"?', challenge.decode("latin-1")))

    def md5(*parts: str) -> str:
        return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()

    realm, nonce = fields.get("realm", ""), fields.get("nonce", "")
    secret, what = md5(account.user, realm, account.password), md5(method, uri)
    values = f'username="{account.user}", realm="{realm}", nonce="{nonce}", uri="{uri}", algorithm=MD5'
    if "auth" in fields.get("qop", ""):
        values += ', qop=auth, nc=00000001, cnonce="0a4f113b", response="'
        values += md5(secret, nonce, "00000001", "0a4f113b", "auth", what) + '"'
    else:
        values += f', response="{md5(secret, nonce, what)}"'
    return b"Digest " + values.encode()
