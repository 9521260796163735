"""Is an SCTP packet one that aiortc may be shown? Cheap, bounded, never an exception (RFC 9260). Pure.

It comes out of DTLS, so it is the caller's own; but all calls of a process share its event loop. aiortc 1.16 loops for
ever over a parameter of length 0, spends seconds on one SACK with wide gaps, keeps whatever TSNs and bytes it is sent,
and ends the DTLS session of the call on a chunk that is too short.
"""

from __future__ import annotations

import struct

HEADER_BYTES, CHUNK_HEADER_BYTES = 12, 4
MAX_CHUNKS = 64  # in one packet; small messages come bundled, not in hundreds
MAX_AHEAD = 1_024  # TSNs beyond the first that is missing; further ones are dropped and sent again by the peer
MAX_ACKNOWLEDGED = 4_096  # TSNs inside a SACK's gap blocks: more than we ever have outstanding
MAX_PARAMETERS = 32
MAX_STREAMS = 64  # in one FORWARD-TSN; a client of ours has one stream
DATA, INIT, INIT_ACK, SACK, SHUTDOWN, FORWARD_TSN, RECONFIG = 0, 1, 2, 3, 7, 192, 130
_WITH_PARAMETERS = {4: 0, 5: 0, 6: 0, 9: 0, INIT: 16, INIT_ACK: 16, RECONFIG: 0}  # chunk type: bytes before them
_RECONFIG_BYTES = {13: 12, 16: 8, 17: 8}  # least length of the parameters that aiortc reads (RFC 6525 section 4)
_DATA_BYTES = 13  # TSN, stream, sequence, protocol, and at least one byte (RFC 9260 section 3.3.1)
_CHUNK = struct.Struct("!BBH")
_PARAMETER = struct.Struct("!HH")
_TSN = struct.Struct("!L")
_SACK = struct.Struct("!LLHH")


def is_acceptable(packet: bytes, last_received_tsn: int | None, room: int) -> bool:
    """`last_received_tsn`: the latest without a gap before it, None before the association; `room`: bytes that may
    still be kept for messages that are not complete."""
    position, end = HEADER_BYTES, len(packet)
    if end < HEADER_BYTES + CHUNK_HEADER_BYTES:
        return False
    chunks = inits = 0
    while position + CHUNK_HEADER_BYTES <= end:
        kind, _, length = _CHUNK.unpack_from(packet, position)
        body, next_chunk = position + CHUNK_HEADER_BYTES, position + length
        if length < CHUNK_HEADER_BYTES or next_chunk > end:
            return False
        chunks += 1
        inits += kind == INIT
        if chunks > MAX_CHUNKS or not _is_acceptable_chunk(packet, kind, body, next_chunk, last_received_tsn, room):
            return False
        if kind == DATA:
            room -= next_chunk - body - _DATA_BYTES + 1
        position = next_chunk + -length % 4
    return not inits or chunks == 1  # RFC 9260 section 6.10: INIT is never bundled


def _is_acceptable_chunk(
    packet: bytes, kind: int, body: int, end: int, last_received_tsn: int | None, room: int
) -> bool:
    size = end - body
    if kind == DATA:
        if size < _DATA_BYTES or last_received_tsn is None or room <= 0:
            return False
        tsn: int = _TSN.unpack_from(packet, body)[0]
        ahead = (tsn - last_received_tsn) & 0xFFFFFFFF
        return ahead <= MAX_AHEAD or ahead >= 0x80000000  # or one that was received before
    if kind == SACK:
        return _is_acceptable_sack(packet, body, size)
    if kind == SHUTDOWN:
        return size >= 4
    if kind == FORWARD_TSN:
        return size >= 4 and size % 4 == 0 and size // 4 - 1 <= MAX_STREAMS and last_received_tsn is not None
    fixed = _WITH_PARAMETERS.get(kind)
    if fixed is None:
        return True  # no content that is looked at
    return size >= fixed and _are_acceptable_parameters(packet, kind, body + fixed, end)


def _is_acceptable_sack(packet: bytes, body: int, size: int) -> bool:
    if size < _SACK.size:
        return False
    _, _, num_gaps, num_duplicates = _SACK.unpack_from(packet, body)
    if size < _SACK.size + 4 * (num_gaps + num_duplicates):
        return False
    acknowledged = 0
    for at in range(body + _SACK.size, body + _SACK.size + 4 * num_gaps, 4):
        first, last = _PARAMETER.unpack_from(packet, at)
        acknowledged += last - first + 1
        if last < first or acknowledged > MAX_ACKNOWLEDGED:
            return False
    return True


def _are_acceptable_parameters(packet: bytes, kind: int, position: int, end: int) -> bool:
    count = 0
    while position + CHUNK_HEADER_BYTES <= end:
        name, length = _PARAMETER.unpack_from(packet, position)
        least = CHUNK_HEADER_BYTES + (_RECONFIG_BYTES.get(name, 0) if kind == RECONFIG else 0)
        count += 1
        if length < least or position + length > end or count > MAX_PARAMETERS:
            return False
        if kind == RECONFIG and name == 13 and length % 2:
            return False  # a list of 16-bit stream numbers
        position += length + -length % 4
    return True
