"""Opus packets into an Ogg stream (RFC 3533 pages, RFC 7845 headers), as they are: nothing is decoded. Pure.

A page is complete in itself, so what was written before a crash can be played.
"""

from __future__ import annotations

import struct
import zlib

PAGE_SAMPLES = 48_000  # a page per second: what a crash may cost, at 0.5 % of overhead
MAX_SEGMENTS = 255
HEADER_BYTES = 27
_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def checksum(page: bytes) -> int:
    """Ogg's CRC-32: polynomial 0x04c11db7, most significant bit first, starting at 0 (RFC 3533 section 6).

    zlib's is the same with the bits of every byte and of the result reversed, which makes it run at C's speed."""
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")


class OpusStream:
    """One logical stream: a file of its own. Every method returns the bytes to append."""

    def __init__(self, serial: int, channels: int, comments: dict[str, str], vendor: str = "rtc-server") -> None:
        """`serial`: any 32 bits; `channels`: 1 or 2; `comments`: tags such as {"TITLE": "..."}."""
        self._serial = serial
        self._channels = channels
        self._comments = comments
        self._vendor = vendor
        self._number = 0
        self._position = 0  # samples at 48 kHz at the end of the last packet
        self._page_start = 0
        self._packets: list[bytes] = []
        self._lacing = bytearray()

    def begin(self) -> bytes:
        """OpusHead and OpusTags (RFC 7845 section 5), a page each."""
        # No pre-skip: the recording begins where a decoder joins, and all of it counts.
        head = struct.pack("<8sBBHIhB", b"OpusHead", 1, self._channels, 0, 48_000, 0, 0)
        vendor = self._vendor.encode()
        tags = [f"{name}={value}".encode() for name, value in self._comments.items()]
        body = struct.pack("<8sI", b"OpusTags", len(vendor)) + vendor + struct.pack("<I", len(tags))
        body += b"".join(struct.pack("<I", len(tag)) + tag for tag in tags)
        return self._page([head], _lacing(head), 0, _FIRST) + self._page([body], _lacing(body), 0, 0)

    def add(self, packet: bytes, samples: int) -> bytes:
        """The next packet of `samples` at 48 kHz. Usually returns nothing: pages are written when they are full."""
        lacing = _lacing(packet)
        is_full = len(self._lacing) + len(lacing) > MAX_SEGMENTS or self._position - self._page_start >= PAGE_SAMPLES
        written = self._flush(0) if is_full and self._packets else b""
        self._packets.append(packet)
        self._lacing += lacing
        self._position += samples
        return written

    def finish(self) -> bytes:
        """The last page, marked as such. There was at least one packet."""
        return self._flush(_LAST)

    def _flush(self, flags: int) -> bytes:
        page = self._page(self._packets, bytes(self._lacing), self._position, flags)
        self._packets, self._lacing, self._page_start = [], bytearray(), self._position
        return page

    def _page(self, packets: list[bytes], lacing: bytes, position: int, flags: int) -> bytes:
        header = _HEADER.pack(b"OggS", 0, flags, position, self._serial, self._number, 0, len(lacing))
        page = bytearray(header + lacing + b"".join(packets))
        struct.pack_into("<I", page, 22, checksum(bytes(page)))
        self._number += 1
        return bytes(page)


def _lacing(packet: bytes) -> bytes:
    return b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])


def whole_pages(data: bytes) -> int:
    """Bytes at the start of `data` that are whole, undamaged pages: what a crash has left of a file."""
    end = 0
    while end + HEADER_BYTES <= len(data) and data[end : end + 4] == b"OggS":
        num_segments = data[end + 26]
        body = end + HEADER_BYTES + num_segments
        next_end = body + sum(data[end + HEADER_BYTES : body])
        if body > len(data) or next_end > len(data):
            break
        page = bytearray(data[end:next_end])
        expected = int.from_bytes(page[22:26], "little")
        page[22:26] = bytes(4)
        if checksum(bytes(page)) != expected:
            break
        end = next_end
    return end
