"""What a data channel's packets must be like before aiortc sees them."""

from __future__ import annotations

import struct
import time

import google_crc32c
import pytest
from aiortc import rtcsctptransport as stock
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_server.network.sctp import MAX_ACKNOWLEDGED, MAX_AHEAD, MAX_CHUNKS, MAX_PARAMETERS, MAX_STREAMS, is_acceptable

RECEIVED = 0xFFFFFFF0  # close to where TSNs wrap
ROOM = 100_000


def packet(*chunks: bytes) -> bytes:
    header = struct.pack("!HHL", 5000, 5000, 1)
    body = b"".join(chunk + bytes(-len(chunk) % 4) for chunk in chunks)
    return header + struct.pack("<L", google_crc32c.value(header + bytes(4) + body)) + body


def chunk(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BBH", kind, 0, len(body) + 4 if length is None else length) + body


def data(tsn: int, payload: bytes = b"hello") -> bytes:
    return chunk(0, struct.pack("!LHHL", tsn & 0xFFFFFFFF, 1, 0, 51) + payload)


def sack(*gaps: tuple[int, int], duplicates: int = 0) -> bytes:
    body = struct.pack("!LLHH", 5, 1_000_000, len(gaps), duplicates)
    return chunk(3, body + b"".join(struct.pack("!HH", *gap) for gap in gaps) + bytes(4 * duplicates))


def parameter(kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!HH", kind, len(value) + 4 if length is None else length) + value + bytes(-len(value) % 4)


INIT = struct.pack("!LLHHL", 7, 100_000, 65_535, 65_535, 1)

GOOD = {
    "a message": packet(data(RECEIVED + 1)),
    "one that was received before": packet(data(RECEIVED - 5)),
    "one behind a hole": packet(data(RECEIVED + MAX_AHEAD)),
    "several": packet(sack((2, 3), (5, 9)), data(RECEIVED + 1), data(RECEIVED + 2)),
    "the first packet": packet(chunk(1, INIT + parameter(0x8008, b"\xc0\x82") + parameter(0xC000, b""))),
    "a heartbeat": packet(chunk(4, parameter(1, b"x" * 37))),
    "a stream reset": packet(chunk(130, parameter(13, struct.pack("!LLLH", 1, 2, 3, 4)))),
    "its response": packet(chunk(130, parameter(16, struct.pack("!LL", 1, 2)))),
    "an abort": packet(chunk(6, b"")),
    "a cookie": packet(chunk(10, b"c" * 24)),
    "a shutdown": packet(chunk(7, bytes(4))),
    "a skipped message": packet(chunk(192, struct.pack("!LHH", 9, 1, 2))),
    "a chunk that nobody knows": packet(chunk(77, b"whatever")),
}
BAD = {
    "nothing": b"",
    "a header alone": packet(),
    "a chunk shorter than its own header": packet(chunk(0, b"x" * 20, length=3)),
    "a chunk that ends outside": packet(chunk(0, b"x" * 20, length=60)),
    "a message without content": packet(chunk(0, struct.pack("!LHHL", 1, 1, 0, 51))),
    "a message cut short": packet(chunk(0, b"x" * 7)),
    "a message far ahead": packet(data(RECEIVED + MAX_AHEAD + 1)),
    "an INIT cut short": packet(chunk(1, INIT[:12])),
    "an INIT with company": packet(chunk(1, INIT), chunk(6, b"")),
    "a parameter of length 0": packet(chunk(4, parameter(1, b"", length=0))),
    "in an INIT": packet(chunk(1, INIT + parameter(5, b"", length=0))),
    "a parameter that ends outside": packet(chunk(4, parameter(1, b"abcd", length=40))),
    "too many parameters": packet(chunk(4, parameter(1, b"") * (MAX_PARAMETERS + 1))),
    "a reset cut short": packet(chunk(130, parameter(13, b"12345678"))),
    "a reset of half a stream": packet(chunk(130, parameter(13, bytes(15)))),
    "a response cut short": packet(chunk(130, parameter(16, b"1234"))),
    "an acknowledgement cut short": packet(chunk(3, bytes(8))),
    "one with fewer gaps than it says": packet(chunk(3, struct.pack("!LLHH", 1, 1, 9, 0))),
    "one with fewer duplicates than it says": packet(chunk(3, struct.pack("!LLHH", 1, 1, 0, 9))),
    "one with a gap backwards": packet(sack((9, 5))),
    "one with wide gaps": packet(sack(*[(1, MAX_ACKNOWLEDGED // 2)] * 3)),
    "a shutdown cut short": packet(chunk(7, b"")),
    "a skip cut short": packet(chunk(192, bytes(6))),
    "a skip of too many": packet(chunk(192, bytes(4 * (MAX_STREAMS + 2)))),
    "too many chunks": packet(*[chunk(77, b"")] * (MAX_CHUNKS + 1)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_clients_send_passes(name: str) -> None:
    assert is_acceptable(GOOD[name], RECEIVED, ROOM)
    stock.parse_packet(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_what_no_client_sends_is_refused(name: str) -> None:
    assert not is_acceptable(BAD[name], RECEIVED, ROOM)


def test_messages_wait_for_the_association_and_for_room() -> None:
    message = packet(data(RECEIVED + 1, b"x" * 900))
    assert not is_acceptable(message, None, ROOM)
    assert not is_acceptable(message, RECEIVED, 0)
    assert is_acceptable(message, RECEIVED, 1), "the window may be passed by less than a packet"
    assert not is_acceptable(packet(data(RECEIVED + 1, b"x" * 900), data(RECEIVED + 2)), RECEIVED, 800)


def test_every_kind_of_chunk_that_aiortc_writes_passes() -> None:
    for kind in stock.CHUNK_CLASSES:
        one = kind()
        if isinstance(one, stock.DataChunk):
            one.user_data = b"x"
            one.tsn = RECEIVED + 1
        written = stock.serialize_packet(5000, 5000, 1, one)
        # An empty body is what aiortc's constructor makes of nothing; it never sends one.
        assert is_acceptable(written, RECEIVED, ROOM), kind


kinds = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 130, 192, 255])
bodies = st.one_of(
    st.binary(max_size=60),
    st.lists(st.builds(parameter, st.integers(0, 20), st.binary(max_size=20)), max_size=4).map(b"".join),
    st.builds(lambda head, rest: head + rest, st.just(INIT), st.binary(max_size=24)),
)
lengths = st.one_of(st.none(), st.integers(0, 80))


@settings(max_examples=1_500, deadline=None)
@given(st.lists(st.builds(chunk, kinds, bodies, lengths), min_size=1, max_size=4))
def test_whatever_is_accepted_is_read_by_aiortc_without_a_fault(chunks: list[bytes]) -> None:
    made = packet(*chunks)
    if not is_acceptable(made, RECEIVED, ROOM):
        return
    begun = time.process_time()
    _, _, _, parsed = stock.parse_packet(made)  # no exception but what the test would show
    for one in parsed:
        if isinstance(one, stock.ReconfigChunk):
            for kind, value in one.params:
                reader = stock.RECONFIG_PARAM_TYPES.get(kind)
                if reader is not None:
                    reader.parse(value)
    assert time.process_time() - begun < 1.0, "an endless loop is what this is about, not speed"


@given(st.binary(max_size=200))
def test_no_bytes_raise(body: bytes) -> None:
    is_acceptable(body, RECEIVED, ROOM)
    is_acceptable(packet(body), None, ROOM)
