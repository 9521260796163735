"""Transport-wide feedback: tells the sender when each of its packets arrived, so that it can find out how much the path
carries (draft-holmer-rmcat-transport-wide-cc-extensions-01). Pure: times are given in.

Kept are the arrivals that are not reported yet and the latest that are: a packet that comes after it was reported lost
is reported again together with everything since, and nothing that was received is ever called lost.
"""

from __future__ import annotations

import struct

from .packet import find_extension

INTERVAL_SECONDS = 0.095  # five ticks of the pacer, one of which may be early; libwebrtc adapts 50-250 ms around 100
KEPT = 64  # sequence numbers before the next report: later than 1.3 s no estimate is waiting for a packet
MAX_ARRIVALS = 512  # unreported, 5 s of 10 ms packets: what a flood sends beyond is reported lost
MAX_GAP = 1_000  # sequence numbers missing in a row: 20 s of packets were not lost but never sent
MAX_RECEIVED = 180  # per report; each takes two chunks and a large delta at most, 1,100 bytes together
MAX_STATUSES = 0xFFFF
UNITS_PER_SECOND = 4_000  # deltas count 250 us
UNITS_PER_REFERENCE = 256  # the reference time counts 64 ms
MAX_LARGE_DELTA = 0x7FFF

_HEADER = struct.Struct("!BBHII")
_REPORT = struct.Struct("!HHI")
_PACKET_TYPE, _FORMAT = 205, 15  # RTPFB
_LOST, _SMALL, _LARGE = 0, 1, 2  # status symbols
_MAX_RUN, _ONE_BIT_SYMBOLS, _TWO_BIT_SYMBOLS = 0x1FFF, 14, 7

Run = tuple[int, int]
"""A status symbol, and how many times in a row."""


def transport_sequence(packet: bytes, identifier: int) -> int | None:
    """The transport-wide sequence number of an RTP packet, in the header extension `identifier`; None without one."""
    data = find_extension(packet, identifier)
    return data[0] << 8 | data[1] if data is not None and len(data) == 2 else None


class TransportFeedback:
    """See the module's docstring. At most `KEPT` + `MAX_ARRIVALS` arrivals are held, whatever the peer sends."""

    __slots__ = ("_arrivals", "_begin", "_due_at", "_expected", "_floor", "_highest", "_num_reports")

    def __init__(self) -> None:
        self._arrivals: dict[int, int] = {}  # extended sequence number -> arrival in units of 250 us
        self._highest = -1  # extended sequence numbers; -1 before the first packet
        self._begin = 0  # where the next report begins
        self._floor = 0  # the oldest that may still arrive
        self._expected = -1  # 16-bit number that would confirm a restart of the sender's numbers
        self._due_at = 0.0
        self._num_reports = 0

    def add(self, sequence: int, now: float) -> None:
        """The packet with this 16-bit number arrived at `now` (monotonic seconds)."""
        highest = self._highest
        if highest < 0:
            highest = self._highest = self._begin = sequence + 0x10000  # room for packets that come before the first
            self._floor = highest - KEPT
        ahead = (sequence - highest) & 0xFFFF
        number = highest + ahead if ahead < 0x8000 else highest + ahead - 0x10000
        if number < self._floor:
            if number >= self._floor - MAX_GAP or not self._restarts(sequence):
                return
            number = highest + ahead
        arrivals = self._arrivals
        if number in arrivals or len(arrivals) >= KEPT + MAX_ARRIVALS:
            return
        arrivals[number] = int(now * UNITS_PER_SECOND + 0.5)
        if number > highest:
            self._highest = number
        elif number < self._begin:
            self._begin = number

    def build(self, now: float, sender_ssrc: int, media_ssrc: int) -> list[bytes]:
        """RTCP packets about what arrived since the previous ones: none when nothing did, or when those were sent less
        than `INTERVAL_SECONDS` ago. `media_ssrc` is any source of the peer.

        Each stands alone, without the report that RFC 3550 puts in front: so does every implementation's (RFC 5506)."""
        begin, arrivals = self._begin, self._arrivals
        if begin > self._highest or now < self._due_at:
            return []
        self._due_at = now + INTERVAL_SECONDS
        packets: list[bytes] = []
        received: list[int] = []
        previous = begin - 1
        for number in sorted(number for number in arrivals if number >= begin):
            is_jump = number - previous > MAX_GAP
            if received and (is_jump or self._is_full(begin, received, number)):
                packets.append(self._pack(begin, received, sender_ssrc, media_ssrc))
                received = []
                begin = previous + 1
            if is_jump:
                begin = number
            received.append(number)
            previous = number
        packets.append(self._pack(begin, received, sender_ssrc, media_ssrc))
        self._begin = self._highest + 1
        floor = self._floor = self._begin - KEPT
        self._arrivals = {number: at for number, at in arrivals.items() if number >= floor}
        return packets

    def _restarts(self, sequence: int) -> bool:
        """A jump far back: believed when the next packet confirms it, else ignored."""
        is_confirmed = sequence == self._expected
        self._expected = -1 if is_confirmed else (sequence + 1) & 0xFFFF
        return is_confirmed

    def _is_full(self, begin: int, received: list[int], number: int) -> bool:
        """Does `number` need a report of its own?"""
        delta = self._arrivals[number] - self._arrivals[received[-1]]
        return (
            len(received) == MAX_RECEIVED
            or number - begin >= MAX_STATUSES
            or not -MAX_LARGE_DELTA <= delta <= MAX_LARGE_DELTA
        )

    def _pack(self, begin: int, received: list[int], sender_ssrc: int, media_ssrc: int) -> bytes:
        """One report, from `begin` to the last of `received`."""
        reference = self._arrivals[received[0]] // UNITS_PER_REFERENCE
        clock = reference * UNITS_PER_REFERENCE
        runs: list[Run] = []
        deltas = bytearray()
        expected = begin
        for number in received:
            if number > expected:
                runs.append((_LOST, number - expected))
            expected = number + 1
            arrival = self._arrivals[number]
            delta, clock = arrival - clock, arrival
            if 0 <= delta <= 0xFF:
                symbol = _SMALL
                deltas.append(delta)
            else:
                symbol = _LARGE
                deltas += delta.to_bytes(2, "big", signed=True)
            if runs and runs[-1][0] == symbol:
                runs[-1] = (symbol, runs[-1][1] + 1)
            else:
                runs.append((symbol, 1))
        count_and_time = (reference & 0xFFFFFF) << 8 | self._num_reports
        self._num_reports = (self._num_reports + 1) & 0xFF
        body = _REPORT.pack(begin & 0xFFFF, expected - begin, count_and_time) + _chunks(runs) + deltas
        body += bytes(
            -len(body) % 4
        )  # the padding of the draft, without the P bit: aiortc discards packets that have it
        return _HEADER.pack(0x80 | _FORMAT, _PACKET_TYPE, 2 + len(body) // 4, sender_ssrc, media_ssrc) + body


def _chunks(runs: list[Run]) -> bytes:
    """Packet chunks, 16 bits each: a run length where it says more than a status vector. Never more chunks than runs
    (of at most 8191), for each takes in the whole run at the front."""
    chunks: list[int] = []
    index = taken = 0  # runs, and symbols of the one in front, that are done
    while index < len(runs):
        symbol, left = runs[index][0], runs[index][1] - taken
        window = [] if left >= _ONE_BIT_SYMBOLS or index == len(runs) - 1 else _window(runs, index, taken)
        if window and _LARGE not in window:
            chunks.append(0x8000 | sum(s << (13 - i) for i, s in enumerate(window)))
            taken += len(window)
        elif window and left < _TWO_BIT_SYMBOLS:
            window = window[:_TWO_BIT_SYMBOLS]
            chunks.append(0xC000 | sum(s << (12 - 2 * i) for i, s in enumerate(window)))
            taken += len(window)
        else:
            size = min(left, _MAX_RUN)
            chunks.append(symbol << 13 | size)
            taken += size
        while index < len(runs) and taken >= runs[index][1]:
            taken -= runs[index][1]
            index += 1
    return struct.pack(f"!{len(chunks)}H", *chunks)


def _window(runs: list[Run], index: int, taken: int) -> list[int]:
    """The next symbols, as many as a status vector holds; fewer at the end."""
    symbols: list[int] = []
    while index < len(runs) and len(symbols) < _ONE_BIT_SYMBOLS:
        symbol, length = runs[index]
        symbols += [symbol] * min(length - taken, _ONE_BIT_SYMBOLS - len(symbols))
        index += 1
        taken = 0
    return symbols
