"""Redundant audio data (RFC 2198): earlier payloads repeated in front of the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MAX_BLOCKS = 8  # browsers send one or two; more than this repeats audio nobody waits for


class RedBlock(NamedTuple):
    """One redundant payload."""

    payload_type: int
    offset: int
    """Timestamp ticks before the packet's own timestamp."""
    payload: bytes


class RedPacket(NamedTuple):
    """What a RED payload holds."""

    payload_type: int
    payload: bytes
    redundant: tuple[RedBlock, ...]
    """Oldest first, as sent."""


def parse_red(payload: bytes) -> RedPacket | None:
    """The blocks of a RED payload, or None when its lengths do not fit."""
    headers: list[tuple[int, int, int]] = []
    position = 0
    while True:
        if position >= len(payload):
            return None
        first = payload[position]
        if not first & 0x80:
            position += 1
            break
        if position + 4 > len(payload) or len(headers) >= MAX_BLOCKS:
            return None
        rest = int.from_bytes(payload[position + 1 : position + 4], "big")
        headers.append((first & 0x7F, rest >> 10, rest & 0x3FF))
        position += 4
    blocks = []
    for payload_type, offset, length in headers:
        if position + length > len(payload):
            return None
        blocks.append(RedBlock(payload_type, offset, payload[position : position + length]))
        position += length
    return RedPacket(first & 0x7F, payload[position:], tuple(blocks))


def pack_red(payload_type: int, payload: bytes, redundant: Sequence[RedBlock]) -> bytes:
    """A RED payload. Raises ValueError for a block of 1024 bytes or more, or older than 16383 ticks."""
    headers = b""
    for block in redundant:
        if len(block.payload) > 0x3FF or not 0 <= block.offset < 1 << 14:
            raise ValueError("a redundant block has at most 1023 bytes and 16383 ticks of age")
        rest = block.offset << 10 | len(block.payload)
        headers += bytes([0x80 | block.payload_type]) + rest.to_bytes(3, "big")
    return headers + bytes([payload_type]) + b"".join(block.payload for block in redundant) + payload
