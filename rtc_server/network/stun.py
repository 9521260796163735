"""Reading STUN from strangers: cheap, bounded, and never an exception (RFC 8489 section 5). Pure."""

from __future__ import annotations

import struct

from aioice import stun

HEADER_BYTES = 20
MAGIC_COOKIE = 0x2112A442
REQUEST, INDICATION, RESPONSE, ERROR = 0x0001, 0x0011, 0x0101, 0x0111
MAX_USERNAME = 513  # RFC 8489 section 14.3
MAX_ATTRIBUTES = 32
_USERNAME = 0x0006
_HEADER = struct.Struct("!HHI")
_ATTRIBUTE = struct.Struct("!HH")


def message_type(data: memoryview) -> int | None:
    """The type of a well-framed binding message, or None: wrong length, wrong cookie, not a binding."""
    if len(data) < HEADER_BYTES:
        return None
    kind, length, cookie = _HEADER.unpack_from(data)
    if cookie != MAGIC_COOKIE or length != len(data) - HEADER_BYTES or length % 4:
        return None
    return kind if kind in (REQUEST, RESPONSE, ERROR) else None


def local_ufrag(data: memoryview) -> str | None:
    """The part of USERNAME in front of the colon: ours, in a request to us. Reads nothing else."""
    position, end = HEADER_BYTES, len(data)
    for _ in range(MAX_ATTRIBUTES):
        if position + 4 > end:
            return None
        kind, length = _ATTRIBUTE.unpack_from(data, position)
        position += 4
        if position + length > end:
            return None
        if kind == _USERNAME:
            name = bytes(data[position : position + min(length, MAX_USERNAME)])
            ours, colon, _ = name.partition(b":")
            return ours.decode("ascii", "replace") if colon else None
        position += length + (-length % 4)
    return None


def parse(data: bytes) -> stun.Message | None:
    """The whole message, or None. aioice 0.13 raises struct.error, IndexError and more on short attributes."""
    try:
        return stun.parse_message(data)
    except (ValueError, struct.error, IndexError, KeyError, TypeError):  # UnicodeDecodeError is a ValueError
        return None
