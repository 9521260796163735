"""A telephone whose media is SRTP with keys in its descriptions (SDES, RFC 4568)."""

from __future__ import annotations

import base64
import os
import re
from contextlib import suppress
from typing import Any

from pylibsrtp import Error, Policy, Session

from benchmarks.support.sip_words import body_of
from benchmarks.support.telephone import Line, TelephoneCall

SUITE = b"AES_CM_128_HMAC_SHA1_80"
KEY_BYTES = 30


class EncryptedCall(TelephoneCall):
    """For `telephone_call(line, target, EncryptedCall)`."""

    def __init__(self, line: Line, target: str) -> None:
        super().__init__(line, target)
        self._key = os.urandom(KEY_BYTES)
        self._incoming: Session | None = None

    def description(self, direction: str = "sendrecv") -> bytes:
        crypto = b"a=crypto:1 " + SUITE + b" inline:" + base64.b64encode(self._key) + b"\r\n"
        return super().description(direction).replace(b"RTP/AVP", b"RTP/SAVP") + crypto

    def _answered(self, ok: bytes) -> None:
        super()._answered(ok)
        found = re.search(rb"(?m)^a=crypto:1 " + SUITE + rb" inline:([A-Za-z0-9+/=]+)", body_of(ok))
        assert found, "the answer holds no key"
        key = base64.b64decode(found[1])
        self._incoming = Session(Policy(key=key, ssrc_type=Policy.SSRC_ANY_INBOUND))
        assert self._media is not None
        self._media = _Encrypting(self._media, self._key)  # type: ignore[assignment]

    def on_media(self, data: bytes) -> None:
        assert self._incoming is not None
        with suppress(Error):  # not for us, or not from there
            super().on_media(self._incoming.unprotect(data))


class _Encrypting:
    """The part of a transport that a telephone uses."""

    def __init__(self, transport: Any, key: bytes) -> None:
        self._transport = transport
        self._outgoing = Session(Policy(key=key, ssrc_type=Policy.SSRC_ANY_OUTBOUND))

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        self._transport.sendto(self._outgoing.protect(data), address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
