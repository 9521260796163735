"""RTP packets as they are read on the hot path (RFC 3550 section 5.1, header extensions by RFC 8285 on request)."""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER_BYTES = 12
MAX_EXTENSION_BYTES = 256  # voice carries some 20; a longer block is not searched, it may be 1,400 bytes of padding
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


def find_extension(packet: bytes, identifier: int) -> bytes | None:
    """The data of the header extension element `identifier` of a whole packet, in the one-byte or the two-byte form;
    None when it has none or is malformed."""
    if len(packet) < HEADER_BYTES or not packet[0] & 0x10:
        return None
    position = HEADER_BYTES + 4 * (packet[0] & 0x0F) + 4
    if position > len(packet):
        return None
    profile = packet[position - 4] << 8 | packet[position - 3]
    size = 4 * (packet[position - 2] << 8 | packet[position - 1])
    end = position + size
    if size > MAX_EXTENSION_BYTES or end > len(packet):
        return None
    if profile == 0xBEDE:
        while position < end:
            first = packet[position]
            if not first:  # padding
                position += 1
                continue
            element = first >> 4
            data, position = position + 1, position + 2 + (first & 0x0F)
            if element == identifier:
                return packet[data:position] if position <= end else None
            if element in (0, 15):  # ends the extensions (RFC 8285 section 4.2)
                return None
    elif profile & 0xFFF0 == 0x1000:
        while position + 1 < end:
            element = packet[position]
            if not element:  # padding
                position += 1
                continue
            data, position = position + 2, position + 2 + packet[position + 1]
            if element == identifier:
                return packet[data:position] if position <= end else None
    return None


def sequence_difference(a: int, b: int) -> int:
    """`a - b` for 16-bit sequence numbers, -32768..32767: positive when `a` comes after `b`."""
    return ((a - b + 0x8000) & 0xFFFF) - 0x8000


def timestamp_difference(a: int, b: int) -> int:
    """`a - b` for 32-bit timestamps, -2^31..2^31-1."""
    return ((a - b + 0x80000000) & 0xFFFFFFFF) - 0x80000000
