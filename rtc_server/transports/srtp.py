"""SRTP on the hot path: libsrtp called directly on one preallocated buffer, one packet at a time (RFC 3711).

pylibsrtp's own methods allocate and raise for every bad packet; a flood of forged packets must cost as little as
possible. The sessions, with their keys, are aiortc's. One event loop per process, so the buffers are shared.
"""

from __future__ import annotations

from typing import Any

import pylibsrtp
from pylibsrtp import Session

# pylibsrtp's own binding to libsrtp, which it does not export; the contract test of the seams covers both names.
_ffi: Any = vars(pylibsrtp)["ffi"]
_lib: Any = vars(pylibsrtp)["lib"]

MAX_PACKET_BYTES = 1_500  # an Ethernet frame; larger datagrams are not voice
MAX_SOURCES = 8  # SSRCs per peer: libsrtp keeps some kilobytes for each it has seen, for as long as the call lasts
RTP_HEADER_BYTES = 12
_TRAILER_BYTES = 148  # SRTP_MAX_SRTCP_TRAILER_LEN, what `protect_rtcp` may add; `protect` 144

_BUFFER = _ffi.new("unsigned char[]", MAX_PACKET_BYTES + _TRAILER_BYTES)
_LENGTH = _ffi.new("int *")
_unprotect = _lib.srtp_unprotect
_protect = _lib.srtp_protect
_protect_rtcp = _lib.srtp_protect_rtcp

BUFFER = memoryview(_ffi.buffer(_BUFFER))
"""Where a packet is built before `SrtpSender.protect`, uint8 [1648]; overwritten by every packet in or out."""


class SrtpReceiver:
    """Authenticates and decrypts the packets of one peer; forged, replayed and excess sources are counted."""

    __slots__ = ("_keep_alive", "_session", "_sources", "excess_sources", "rejected")

    def __init__(self, session: Session) -> None:
        self._keep_alive = session
        self._session = session._srtp[0]
        self._sources: set[bytes] = set()
        self.rejected = 0
        """Packets that failed authentication or were replayed."""
        self.excess_sources = 0
        """Packets of an SSRC beyond `MAX_SOURCES`, dropped unread."""

    def unprotect(self, data: memoryview) -> bytes | None:
        """The plain RTP packet, or None when it is not authentic, a replay or malformed."""
        length = len(data)
        if not RTP_HEADER_BYTES <= length <= MAX_PACKET_BYTES:
            self.rejected += 1
            return None
        source = bytes(data[8:12])
        is_new = source not in self._sources
        if is_new and len(self._sources) >= MAX_SOURCES:
            self.excess_sources += 1
            return None
        BUFFER[:length] = data
        _LENGTH[0] = length
        if _unprotect(self._session, _BUFFER, _LENGTH):
            self.rejected += 1
            return None
        if is_new:
            self._sources.add(source)
        return bytes(BUFFER[: _LENGTH[0]])


class SrtpSender:
    """Encrypts RTP packets that were built in `BUFFER`, and RTCP packets."""

    __slots__ = ("_keep_alive", "_session")

    def __init__(self, session: Session) -> None:
        self._keep_alive = session
        self._session = session._srtp[0]

    def protect(self, length: int) -> memoryview | None:
        """Protect the RTP packet in `BUFFER[:length]` in place. The view is valid until the next packet; None when
        libsrtp refuses (its key has expired: 2^48 packets)."""
        _LENGTH[0] = length
        if _protect(self._session, _BUFFER, _LENGTH):
            return None
        return BUFFER[: _LENGTH[0]]

    def protect_rtcp(self, packet: bytes) -> memoryview | None:
        """The RTCP packet, protected in `BUFFER`; valid and None as above. aiortc's own RTCP shares the session, which
        numbers both."""
        BUFFER[: len(packet)] = packet
        _LENGTH[0] = len(packet)
        if _protect_rtcp(self._session, _BUFFER, _LENGTH):
            return None
        return BUFFER[: _LENGTH[0]]
