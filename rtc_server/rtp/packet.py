"""RTP packets as they are read on the hot path (RFC 3550 section 5.1, RFC 8285 extensions are skipped)."""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER_BYTES = 12
_HEADER = struct.Struct("!BBHII")


class RtpHeader(NamedTuple):
    """One packet: its header, and where its payload lies."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    start: int
    end: int


def parse_header(packet: memoryview | bytes) -> RtpHeader | None:
    """The header of a whole packet, or None when it is malformed: wrong version, lengths that point outside it."""
    size = len(packet)
    if size < HEADER_BYTES:
        return None
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(packet)
    if first & 0xC0 != 0x80:
        return None
    start, end = HEADER_BYTES, size
    if first != 0x80:
        start += 4 * (first & 0x0F)
        if first & 0x10:
            if start + 4 > size:
                return None
            start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
        if first & 0x20:
            padding = packet[size - 1]
            if not padding:
                return None
            end -= padding
        if start > end:
            return None
    return RtpHeader(second & 0x7F, second >= 0x80, sequence, timestamp, ssrc, start, end)


def sequence_difference(a: int, b: int) -> int:
    """`a - b` for 16-bit sequence numbers, -32768..32767: positive when `a` comes after `b`."""
    return ((a - b + 0x8000) & 0xFFFF) - 0x8000


def timestamp_difference(a: int, b: int) -> int:
    """`a - b` for 32-bit timestamps, -2^31..2^31-1."""
    return ((a - b + 0x80000000) & 0xFFFFFFFF) - 0x80000000
