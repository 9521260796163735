"""Transport-wide feedback on virtual time, read back by a parser of the test's own."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.rtp.packet import find_extension
from rtc_server.rtp.transport_feedback import (
    INTERVAL_SECONDS,
    KEPT,
    MAX_ARRIVALS,
    MAX_GAP,
    TransportFeedback,
    transport_sequence,
)

OURS, THEIRS = 0x11111111, 0x22222222
UNIT = 0.00025
WRAP = (1 << 24) * 0.064  # of the reference time
MAX_PACKET_BYTES = 1_200


@dataclass
class Report:
    """One RTCP packet: `arrivals` by 16-bit sequence number, None for lost."""

    number: int
    base: int
    words: list[int]
    deltas: list[int]
    arrivals: list[tuple[int, float | None]]


def read(packet: bytes) -> Report:
    """Written from the draft, section 3.1."""
    first, kind, length, sender, media, base, count = struct.unpack_from("!BBHIIHH", packet)
    assert (first, kind, sender, media) == (0x8F, 205, OURS, THEIRS)
    assert len(packet) == 4 * (length + 1) <= MAX_PACKET_BYTES
    assert count > 0
    reference, number = int.from_bytes(packet[16:19], "big"), packet[19]
    position, symbols, words = 20, list[int](), list[int]()
    while len(symbols) < count:
        (word,) = struct.unpack_from("!H", packet, position)
        words.append(word)
        position += 2
        if not word & 0x8000:
            assert word & 0x1FFF, "an empty run"
            symbols += [word >> 13] * (word & 0x1FFF)
        elif not word & 0x4000:
            symbols += [word >> (13 - i) & 1 for i in range(14)]
        else:
            symbols += [word >> (12 - 2 * i) & 3 for i in range(7)]
    assert not any(symbols[count:]), "beyond the end nothing is received"
    time, arrivals, deltas = reference * 0.064, list[tuple[int, float | None]](), list[int]()
    for index, symbol in enumerate(symbols[:count]):
        assert symbol < 3
        if symbol:
            delta = packet[position] if symbol == 1 else struct.unpack_from("!h", packet, position)[0]
            position += symbol
            time += delta * UNIT
            deltas.append(delta)
        arrivals.append(((base + index) & 0xFFFF, time if symbol else None))
    assert arrivals[-1][1] is not None, "the last one was received"
    assert len(packet) - position < 4
    assert not any(packet[position:])
    return Report(number, base, words, deltas, arrivals)


def reports(feedback: TransportFeedback, now: float) -> list[Report]:
    return [read(packet) for packet in feedback.build(now, OURS, THEIRS)]


def after(arrivals: Iterable[tuple[int, float]]) -> list[Report]:
    """What is reported after these (sequence number, milliseconds)."""
    feedback = TransportFeedback()
    last = 0.0
    for sequence, at_ms in arrivals:
        last = 64.0 + at_ms / 1_000
        feedback.add(sequence, last)
    return reports(feedback, last)


ONE, TWO = 0x8000, 0xC000
REPORTED = {
    "in order": ([(100 + i, 20 * i) for i in range(5)], 100, [0x2005], [0, 80, 80, 80, 80]),
    "one lost": (
        [(1, 0), (2, 20), (4, 60), (5, 80)],
        1,
        [ONE | 0b11011 << 9],
        [0, 80, 160, 80],
    ),
    "many lost": ([(1, 0), (2, 1), (300, 2)], 1, [ONE | 0b11 << 12, 285, 0x2001], [0, 4, 4]),
    "half a second late": ([(1, 0), (2, 500), (3, 520)], 1, [TWO | 0b01_10_01 << 8], [0, 2_000, 80]),
    "overtaken": ([(1, 0), (3, 40), (2, 50), (4, 60)], 1, [TWO | 0b01_01_10_01 << 6], [0, 200, -40, 80]),
    "before the first": ([(2, 10), (1, 30)], 1, [TWO | 0b01_10 << 10], [120, -80]),
    "the longest small delta": ([(1, 0), (2, 63.75), (3, 127.75)], 1, [TWO | 0b01_01_10 << 8], [0, 255, 256]),
    "across the wrap": ([(0xFFFF, 0), (0, 20), (1, 40)], 0xFFFF, [0x2003], [0, 80, 80]),
    "twice": ([(7, 0), (7, 5), (8, 20)], 7, [0x2002], [0, 80]),
    "all late": ([(i, 500 * i) for i in range(9)], 0, [TWO | 0b01_10_10_10_10_10_10, 0x4002], [0, *[2_000] * 8]),
}


@pytest.mark.parametrize(("arrivals", "base", "words", "deltas"), REPORTED.values(), ids=REPORTED)
def test_arrivals_are_reported(
    arrivals: list[tuple[int, float]], base: int, words: list[int], deltas: list[int]
) -> None:
    (report,) = after(arrivals)
    assert (report.base, report.words, report.deltas) == (base, words, deltas)


def test_a_report_of_five_packets_takes_28_bytes() -> None:
    feedback = TransportFeedback()
    for number in range(5):
        feedback.add(number, 1 + number * 0.02)
    assert [len(packet) for packet in feedback.build(2.0, OURS, THEIRS)] == [28]


def test_reports_leave_every_100_ms_and_only_while_packets_arrive() -> None:
    feedback = TransportFeedback()
    sent_at = []
    for tick in range(100):
        now = 5 + tick * 0.02
        if tick < 50:
            feedback.add(tick, now - 0.003)
        sent_at += [tick] * len(reports(feedback, now))
    assert sent_at == list(range(0, 51, 5))
    feedback.add(50, 10.0)
    assert len(reports(feedback, 10.001)) == 1, "after a pause the first is reported at once"


def test_reports_are_numbered_and_go_on_where_the_one_before_ended() -> None:
    feedback = TransportFeedback()
    found = []
    for sequence in (*range(300), 303):
        feedback.add(sequence, sequence * 0.1)
        found += reports(feedback, sequence * 0.1)
    assert [report.number for report in found] == [i & 0xFF for i in range(301)]
    assert [sequence for sequence, _ in found[-1].arrivals] == [300, 301, 302, 303]
    assert [at for _, at in found[-1].arrivals[:3]] == [None] * 3


def test_a_packet_that_was_reported_lost_is_reported_again_with_those_after_it() -> None:
    feedback = TransportFeedback()
    for sequence in (1, 2, 4, 5):
        feedback.add(sequence, 1.0)
    assert dict(reports(feedback, 1.0)[0].arrivals)[3] is None
    feedback.add(3, 1.2)
    feedback.add(6, 1.2)
    (report,) = reports(feedback, 1.2)
    assert report.base == 3
    assert dict(report.arrivals) == pytest.approx({3: 1.2, 4: 1.0, 5: 1.0, 6: 1.2})


def test_a_packet_of_long_ago_is_not_reported() -> None:
    feedback = TransportFeedback()
    for sequence in (100, 300):
        feedback.add(sequence, 1.0)
    reports(feedback, 1.0)
    for sequence in range(300 - KEPT - 5, 300 - KEPT + 1):
        feedback.add(sequence, 2.0)
    assert reports(feedback, 2.0) == []


@pytest.mark.parametrize("restart", [40_000, 5_000, 19_000 - KEPT - MAX_GAP, 21_005])
def test_numbers_that_start_anew_are_reported_without_the_gap(restart: int) -> None:
    feedback = TransportFeedback()
    feedback.add(20_000, 1.0)
    reports(feedback, 1.0)
    for i in range(3):
        feedback.add(restart + i, 2.0)
    (report,) = reports(feedback, 2.0)
    assert report.arrivals[-1][0] == restart + 2
    assert 2 <= len(report.arrivals) <= 3, "a jump back is believed when the second packet confirms it"


def test_a_single_stray_number_changes_nothing() -> None:
    feedback = TransportFeedback()
    for sequence in (20_000, 5_000, 20_001, 7_000, 20_002):
        feedback.add(sequence, 1.0)
    (report,) = reports(feedback, 1.0)
    assert [sequence for sequence, _ in report.arrivals] == [20_000, 20_001, 20_002]


def test_a_pause_longer_than_a_delta_begins_another_report() -> None:
    found = after([(1, 0), (2, 20), (3, 20_000), (4, 20_020)])
    assert [[sequence for sequence, _ in report.arrivals] for report in found] == [[1, 2], [3, 4]]


def test_more_losses_than_a_report_can_count_begin_another() -> None:
    first, second = after([(MAX_GAP * i & 0xFFFF, i) for i in range(70)])
    assert len(first.arrivals) == 65_001
    assert len(second.arrivals) == 4_000


def test_a_flood_is_reported_in_datagrams_and_the_rest_is_dropped() -> None:
    feedback = TransportFeedback()
    for sequence in range(5_000):
        feedback.add(sequence * 2, 1 + sequence * 10 * UNIT * (sequence % 3))
    found = reports(feedback, 20.0)
    assert len(found) == -(-(KEPT + MAX_ARRIVALS) // 180)
    assert sum(at is not None for report in found for _, at in report.arrivals) == KEPT + MAX_ARRIVALS
    assert [report.base for report in found[1:]] == [report.base + len(report.arrivals) for report in found[:-1]], (
        "losses at the seams are told"
    )


# --- any pattern

SECONDS = st.floats(0, 0.3) | st.floats(0, 12)
STEPS = st.sampled_from([1, 1, 1, 1, 2, 3, 20, MAX_GAP])


@given(
    first=st.integers(0, 0xFFFF),
    start=st.floats(0, 3 * WRAP),
    steps=st.lists(st.tuples(STEPS, SECONDS, st.integers(0, 8), st.booleans()), min_size=1, max_size=120),
)
def test_reports_reproduce_the_arrivals(first: int, start: float, steps: list[tuple[int, float, int, bool]]) -> None:
    """Each step: how far the sender's numbers go on, after how long, how many sends later it arrives, and whether a
    report is due then."""
    feedback = TransportFeedback()
    sent = first
    queue: list[tuple[int, int]] = []  # (arrives at this send, number)
    numbers: dict[int, int] = {}  # 16-bit number -> number: no more than 0xFFFF are sent in a test
    arrived: dict[int, float] = {}
    told: dict[int, float | None] = {}
    now = start
    span = 0
    for index, (step, seconds, delay, has_report) in enumerate([*steps, *[(1, 0.1, 0, True)] * 10]):
        if span + step > 0x7000:
            step = 1
        span += step
        sent += step
        now += seconds
        queue.append((index + delay, sent))
        numbers.update({n & 0xFFFF: n for n in range(sent - step, sent + 1)})
        for _, number in sorted(entry for entry in queue if entry[0] <= index):
            newest = max(arrived, default=number)
            if number <= newest - KEPT or number > newest + MAX_GAP:
                continue
            arrived[number] = now
            feedback.add(number & 0xFFFF, now)
        queue = [entry for entry in queue if entry[0] > index]
        if has_report:
            now += INTERVAL_SECONDS
            for report in reports(feedback, now):
                for sequence, at in report.arrivals:
                    number = numbers[sequence]
                    assert (at is None) == (number not in arrived)
                    told[number] = at
    assert set(told) == set(range(min(arrived), max(arrived) + 1))
    for number, arrival in arrived.items():
        at = told[number]
        assert at is not None
        assert abs((at - arrival + WRAP / 2) % WRAP - WRAP / 2) <= UNIT


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.sampled_from([0.0, 0.001, 0.1, 30.0])), max_size=300))
def test_any_numbers_give_true_reports_of_bounded_size(arrivals: list[tuple[int, float]]) -> None:
    feedback = TransportFeedback()
    arrived: dict[int, list[float]] = {}
    now = 10.0
    for sequence, seconds in arrivals:
        now += seconds
        feedback.add(sequence, now)
        arrived.setdefault(sequence, []).append(now)
        assert len(feedback._arrivals) <= KEPT + MAX_ARRIVALS
        for report in reports(feedback, now):
            for number, at in report.arrivals:
                assert at is None or any(abs(at - t) <= UNIT for t in arrived[number])


# --- the header extension


def with_extension(profile: int, block: bytes, *, csrcs: int = 0, words: int | None = None) -> bytes:
    block += bytes(-len(block) % 4)
    size = len(block) // 4 if words is None else words
    header = struct.pack("!BBHII", 0x90 | csrcs, 111, 1, 2, 3) + bytes(4 * csrcs)
    return header + struct.pack("!HH", profile, size) + block + b"payload"


FOUND = {
    "one byte": (with_extension(0xBEDE, b"\x51\x12\x34"), 0x1234),
    "one byte, behind others": (with_extension(0xBEDE, b"\x40a\x10\x80\0\0\x51\x12\x34"), 0x1234),
    "one byte, behind sources": (with_extension(0xBEDE, b"\x51\x12\x34", csrcs=3), 0x1234),
    "two bytes": (with_extension(0x1000, b"\x05\x02\x12\x34"), 0x1234),
    "two bytes, application bits": (with_extension(0x100F, b"\x05\x02\x12\x34"), 0x1234),
    "two bytes, behind others": (with_extension(0x1000, b"\x04\x00\0\0\x07\x05abcde\x05\x02\x12\x34"), 0x1234),
    "no extension": (struct.pack("!BBHII", 0x80, 111, 1, 2, 3) + b"payload", None),
    "another number": (with_extension(0xBEDE, b"\x61\x12\x34"), None),
    "another length": (with_extension(0xBEDE, b"\x52\x12\x34\x56"), None),
    "two bytes, no data": (with_extension(0x1000, b"\x05\x00\0\0"), None),
    "behind number 15": (with_extension(0xBEDE, b"\xf0a\x51\x12\x34"), None),
    "behind a padding with a length": (with_extension(0xBEDE, b"\x01ab\x51\x12\x34"), None),
    "cut off": (with_extension(0xBEDE, b"\0\0\0\x51"), None),
    "two bytes, cut off": (with_extension(0x1000, b"\0\0\x05\x02"), None),
    "two bytes, half a header": (with_extension(0x1000, b"\0\0\0\x05"), None),
    "longer than the packet": (with_extension(0xBEDE, b"\x51\x12\x34", words=9), None),
    "another profile": (with_extension(0xABAC, b"\x51\x12\x34"), None),
    "longer than voice needs": (with_extension(0xBEDE, bytes(1_300) + b"\x51\x12\x34"), None),
    "short": (b"\x90\x6f", None),
    "header only": (with_extension(0xBEDE, b"\x51\x12\x34")[:14], None),
}


@pytest.mark.parametrize(("packet", "sequence"), FOUND.values(), ids=FOUND)
def test_the_transport_sequence_number_is_found(packet: bytes, sequence: int | None) -> None:
    assert transport_sequence(packet, 5) == sequence


@given(st.binary(max_size=80), st.sampled_from([0xBEDE, 0x1000, 0x1005]), st.integers(1, 255), st.integers(0, 30))
def test_no_extension_raises(block: bytes, profile: int, identifier: int, words: int) -> None:
    packet = with_extension(profile, block, words=words)
    for end in range(len(packet) + 1):
        found = find_extension(packet[:end], identifier)
        assert found is None or found in packet[:end]
